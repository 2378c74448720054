//! What every storage promises, as tests that each implementation runs through [`contract_tests`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use proxystore_shared::digest::{GROUP_LEN, group_count, group_digest};
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{Digest, ObjectId};

use super::{Expected, Storage, StorageError, StoredObject};

/// `max_object_size` of the storages under test.
pub const MAX_OBJECT_SIZE: u64 = 4 << 20;

const GROUP: usize = GROUP_LEN as usize;

/// Turns the promises into tests of the storage that `$open` makes, beside what must live as long as it.
macro_rules! contract_tests {
    ($open:expr; $($promise:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let (storage, _kept) = $open;
                $crate::storage::contract::$promise(storage).await;
            }
        )+
    };
    ($open:expr) => {
        $crate::storage::contract::contract_tests! {
            $open;
            sizes_around_group_boundaries, frames_of_every_size, missing_objects, an_evicted_object_is_gone,
            listing_is_sorted_and_paged, a_reader_keeps_its_version, create_only_refuses_what_exists,
            create_only_is_checked_again_at_commit, expectations_are_checked, a_dropped_upload_leaves_nothing,
            large_objects_are_refused, a_refused_upload_cannot_be_committed, concurrent_puts_never_mix,
        }

        #[test]
        fn behaves_like_a_map() {
            $crate::storage::contract::behaves_like_a_map(|| $open);
        }
    };
}
pub(super) use contract_tests;

pub fn id(text: &str) -> ObjectId {
    text.parse().expect("valid id")
}

/// Bytes that differ from group to group and from seed to seed.
pub fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ (i >> 16) as u8 ^ seed).collect()
}

/// Stores `data` in frames of `frame` bytes.
pub async fn put_frames(storage: &dyn Storage, id: &ObjectId, data: &[u8], frame: usize) -> ObjectMeta {
    let mut upload = storage.begin(id, Some(data.len() as u64), false).await.expect("begins");
    for piece in data.chunks(frame) {
        upload.write(Bytes::copy_from_slice(piece)).await.expect("writes");
    }
    upload.commit(None).await.expect("commits")
}

pub async fn put(storage: &dyn Storage, id: &ObjectId, data: &[u8]) -> ObjectMeta {
    put_frames(storage, id, data, 300_000).await
}

/// All bytes of an object, whose groups and digests are checked on the way.
pub async fn read(object: &dyn StoredObject) -> Result<Vec<u8>, StorageError> {
    let meta = object.meta();
    let count = group_count(meta.size);
    let mut bytes = Vec::new();
    for index in 0..count {
        let group = object.group(index).await?;
        let left = meta.size - index * GROUP_LEN;
        assert_eq!(group.len(), left.min(GROUP_LEN), "length of group {index}");
        assert_eq!(group.is_empty(), meta.size == 0);
        let segments = group.segments.iter().map(|segment| &segment[..]);
        assert_eq!(group.digest, group_digest(index, count == 1, segments), "digest of group {index}");
        group.segments.iter().for_each(|segment| bytes.extend_from_slice(segment));
    }
    assert!(matches!(object.group(count).await, Err(StorageError::NoSuchGroup(index)) if index == count));
    assert!(matches!(object.group(u64::MAX).await, Err(StorageError::NoSuchGroup(_))));
    assert_eq!(meta.digest, Digest::of(&bytes));
    Ok(bytes)
}

pub async fn get(storage: &dyn Storage, id: &ObjectId) -> Option<Vec<u8>> {
    let object = storage.open(id).await.expect("opens")?;
    Some(read(object.as_ref()).await.expect("reads"))
}

/// Waits for what a storage may do a little later.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not: {what}");
}

pub async fn sizes_around_group_boundaries(storage: Arc<dyn Storage>) {
    for size in [0, 1, GROUP - 1, GROUP, GROUP + 1, 3 * GROUP + 7] {
        let (id, data) = (id("an object"), content(size, 1));
        let meta = put(storage.as_ref(), &id, &data).await;
        assert_eq!((meta.size, meta.digest), (size as u64, Digest::of(&data)));
        assert_eq!(storage.stat(&id).await.expect("stat"), Some(meta));
        assert_eq!(get(storage.as_ref(), &id).await, Some(data), "{size} bytes");
        assert_eq!((storage.usage().objects, storage.usage().bytes), (1, size as u64));
    }
}

pub async fn frames_of_every_size(storage: Arc<dyn Storage>) {
    let data = content(2 * GROUP + 11, 2);
    for frame in [1200, 65_535, 65_536, 65_537, GROUP - 1, GROUP + 1, 3 * GROUP] {
        let id = id(&format!("in frames of {frame}"));
        put_frames(storage.as_ref(), &id, &data, frame).await;
        assert_eq!(get(storage.as_ref(), &id).await.as_ref(), Some(&data), "frames of {frame}");
    }
    let mut upload = storage.begin(&id("mixed"), None, false).await.expect("begins");
    let mut rest = Bytes::from(data.clone());
    for frame in [1, 70_000, 0, 3, 65_536, 2, 900_000].into_iter().cycle() {
        upload.write(rest.split_to(frame.min(rest.len()))).await.expect("writes");
        if rest.is_empty() {
            break;
        }
    }
    upload.commit(None).await.expect("commits");
    assert_eq!(get(storage.as_ref(), &id("mixed")).await, Some(data));
}

pub async fn missing_objects(storage: Arc<dyn Storage>) {
    assert!(storage.open(&id("none")).await.expect("opens").is_none());
    assert_eq!(storage.stat(&id("none")).await.expect("stat"), None);
    assert!(!storage.evict(&id("none")).await.expect("evicts"));
    assert_eq!(storage.list(None, 10).await.expect("lists"), []);
    assert_eq!((storage.usage().objects, storage.usage().bytes), (0, 0));
}

pub async fn an_evicted_object_is_gone(storage: Arc<dyn Storage>) {
    let data = content(GROUP + 5, 3);
    put(storage.as_ref(), &id("a"), &data).await;
    let reader = storage.open(&id("a")).await.expect("opens").expect("there");
    assert!(storage.evict(&id("a")).await.expect("evicts"));
    assert!(!storage.evict(&id("a")).await.expect("evicts"));
    assert_eq!(get(storage.as_ref(), &id("a")).await, None);
    assert_eq!((storage.usage().objects, storage.usage().bytes), (0, 0));
    assert_eq!(read(reader.as_ref()).await.expect("an open reader goes on"), data);
}

pub async fn listing_is_sorted_and_paged(storage: Arc<dyn Storage>) {
    let ids: Vec<ObjectId> = (0..25).map(|i| id(&format!("{:02}", i * 7 % 25))).collect();
    for id in &ids {
        put(storage.as_ref(), id, id.as_str().as_bytes()).await;
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list(after.as_ref(), 10).await.expect("lists");
        assert!(page.len() <= 10);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page);
    }
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(listed.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), sorted);
    for (id, meta) in listed {
        assert_eq!(meta.digest, Digest::of(id.as_str().as_bytes()));
    }
    assert_eq!(storage.list(None, 0).await.expect("lists"), []);
    assert_eq!(storage.list(Some(&id("24")), 10).await.expect("lists"), []);
    assert_eq!(storage.list(Some(&id("235")), usize::MAX).await.expect("lists").len(), 1);
}

pub async fn a_reader_keeps_its_version(storage: Arc<dyn Storage>) {
    let (old, new) = (content(3 * GROUP + 7, 4), content(2 * GROUP, 5));
    put(storage.as_ref(), &id("a"), &old).await;
    let reader = storage.open(&id("a")).await.expect("opens").expect("there");
    reader.group(0).await.expect("the first group");
    put(storage.as_ref(), &id("a"), &new).await;
    assert_eq!(read(reader.as_ref()).await.expect("the old version"), old);
    assert_eq!(get(storage.as_ref(), &id("a")).await, Some(new.clone()));
    assert_eq!((storage.usage().objects, storage.usage().bytes), (1, new.len() as u64));
}

pub async fn create_only_refuses_what_exists(storage: Arc<dyn Storage>) {
    put(storage.as_ref(), &id("a"), b"first").await;
    let refused = storage.begin(&id("a"), None, true).await;
    assert!(matches!(refused.err(), Some(StorageError::Exists)));
    assert_eq!(get(storage.as_ref(), &id("a")).await, Some(b"first".to_vec()));
}

pub async fn create_only_is_checked_again_at_commit(storage: Arc<dyn Storage>) {
    let mut uploads = Vec::new();
    for n in 0..8u8 {
        let mut upload = storage.begin(&id("a"), None, true).await.expect("begins");
        upload.write(Bytes::from(vec![n; 70_000])).await.expect("writes");
        uploads.push(upload);
    }
    let commits: Vec<_> = uploads.into_iter().map(|upload| tokio::spawn(upload.commit(None))).collect();
    let mut stored = Vec::new();
    for commit in commits {
        match commit.await.expect("joins") {
            Ok(meta) => stored.push(meta),
            Err(error) => assert!(matches!(error, StorageError::Exists), "{error}"),
        }
    }
    assert_eq!(stored.len(), 1, "exactly one upload creates the object");
    assert_eq!(storage.stat(&id("a")).await.expect("stat"), stored.pop());
    eventually("the others released their bytes", || storage.usage().bytes == 70_000).await;
}

pub async fn expectations_are_checked(storage: Arc<dyn Storage>) {
    let data = Bytes::from(content(GROUP + 1, 6));
    let right = Expected { size: data.len() as u64, digest: Digest::of(&data) };
    let commit = async |expected| {
        let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
        upload.write(data.clone()).await.expect("writes");
        upload.commit(Some(expected)).await
    };
    for wrong in [Expected { size: 1, ..right }, Expected { digest: Digest::of(b"other"), ..right }] {
        assert!(matches!(commit(wrong).await, Err(StorageError::Mismatch(_))));
        assert_eq!(storage.stat(&id("a")).await.expect("stat"), None);
        assert_eq!((storage.usage().objects, storage.usage().bytes), (0, 0));
    }
    assert_eq!(commit(right).await.expect("commits").digest, right.digest);
}

pub async fn a_dropped_upload_leaves_nothing(storage: Arc<dyn Storage>) {
    put(storage.as_ref(), &id("a"), b"kept").await;
    let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
    upload.write(content(2 * GROUP + 3, 7).into()).await.expect("writes");
    assert_eq!(storage.usage().bytes, 4 + 2 * GROUP_LEN + 3);
    drop(upload);
    eventually("its bytes are released", || storage.usage().bytes == 4).await;
    assert_eq!(get(storage.as_ref(), &id("a")).await, Some(b"kept".to_vec()));
}

pub async fn large_objects_are_refused(storage: Arc<dyn Storage>) {
    let too_large = |error| matches!(error, Some(StorageError::TooLarge { limit: MAX_OBJECT_SIZE }));
    assert!(too_large(storage.begin(&id("a"), Some(MAX_OBJECT_SIZE + 1), false).await.err()));
    let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
    upload.write(vec![0; MAX_OBJECT_SIZE as usize].into()).await.expect("the largest object fits");
    assert!(too_large(upload.write(Bytes::from_static(b"x")).await.err()));
    drop(upload);
    eventually("its bytes are released", || storage.usage().bytes == 0).await;
    let largest = vec![1; MAX_OBJECT_SIZE as usize];
    put(storage.as_ref(), &id("a"), &largest).await;
    assert_eq!(get(storage.as_ref(), &id("a")).await, Some(largest));
}

pub async fn a_refused_upload_cannot_be_committed(storage: Arc<dyn Storage>) {
    let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
    upload.write(Bytes::from_static(b"begin")).await.expect("writes");
    upload.write(vec![0; MAX_OBJECT_SIZE as usize].into()).await.expect_err("too large");
    upload.write(Bytes::from_static(b"end")).await.expect("writes");
    assert!(matches!(upload.commit(None).await, Err(StorageError::Mismatch(_))));
    assert_eq!((storage.usage().objects, storage.usage().bytes), (0, 0));
}

/// Each version is one byte, repeated as often as its value says.
pub async fn concurrent_puts_never_mix(storage: Arc<dyn Storage>) {
    let size_of = |value: u8| 100_000 + usize::from(value) * 20_000;
    let check = move |bytes: &[u8]| {
        let value = bytes.first().copied().expect("not empty");
        assert_eq!(bytes.len(), size_of(value), "a whole version");
        assert!(bytes.iter().all(|byte| *byte == value), "versions are not mixed");
    };
    let writers: Vec<_> = (0..8u8)
        .map(|writer| {
            let storage = storage.clone();
            tokio::spawn(async move {
                for round in 0..5 {
                    let value = writer * 5 + round;
                    put_frames(storage.as_ref(), &id("a"), &vec![value; size_of(value)], 90_000).await;
                    check(&get(storage.as_ref(), &id("a")).await.expect("there"));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no version was mixed");
    }
    let last = get(storage.as_ref(), &id("a")).await.expect("there");
    check(&last);
    assert_eq!((storage.usage().objects, storage.usage().bytes), (1, last.len() as u64));
}

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, size: usize, seed: u8, create_only: bool },
    Abandon { key: u8, size: usize },
    Evict { key: u8 },
    Get { key: u8 },
    List { after: Option<u8>, limit: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..6u8;
    let size = || prop_oneof![8 => 0..200usize, 2 => 60_000..200_000usize, 1 => GROUP - 1..=GROUP + 1];
    let put = (key(), size(), any::<u8>(), any::<bool>());
    let step = prop_oneof![
        4 => put.prop_map(|(key, size, seed, create_only)| Step::Put { key, size, seed, create_only }),
        1 => (key(), size()).prop_map(|(key, size)| Step::Abandon { key, size }),
        2 => key().prop_map(|key| Step::Evict { key }),
        2 => key().prop_map(|key| Step::Get { key }),
        1 => (proptest::option::of(key()), 0..5usize).prop_map(|(after, limit)| Step::List { after, limit }),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A storage does what a map does, whatever is asked of it in whatever order.
pub fn behaves_like_a_map<K>(open: impl Fn() -> (Arc<dyn Storage>, K)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            let (storage, _kept) = open();
            runtime.block_on(async {
                let mut model = BTreeMap::new();
                for step in steps {
                    apply(storage.as_ref(), &mut model, step).await;
                }
                let bytes = model.values().map(|data| data.len() as u64).sum::<u64>();
                assert_eq!(storage.usage().objects, model.len() as u64);
                eventually("only objects count", || storage.usage().bytes == bytes).await;
            });
            Ok(())
        })
        .expect("like a map");
}

async fn apply(storage: &dyn Storage, model: &mut BTreeMap<ObjectId, Vec<u8>>, step: Step) {
    let name = |key: u8| id(&format!("key {key}"));
    match step {
        Step::Put { key, create_only: true, .. } if model.contains_key(&name(key)) => {
            let refused = storage.begin(&name(key), None, true).await;
            assert!(matches!(refused.err(), Some(StorageError::Exists)));
        }
        Step::Put { key, size, seed, create_only } => {
            let data = content(size, seed);
            let mut upload = storage.begin(&name(key), None, create_only).await.expect("begins");
            upload.write(data.clone().into()).await.expect("writes");
            upload.commit(None).await.expect("commits");
            model.insert(name(key), data);
        }
        Step::Abandon { key, size } => {
            let mut upload = storage.begin(&name(key), None, false).await.expect("begins");
            upload.write(vec![0; size].into()).await.expect("writes");
        }
        Step::Evict { key } => {
            let was_there = model.remove(&name(key)).is_some();
            assert_eq!(storage.evict(&name(key)).await.expect("evicts"), was_there);
        }
        Step::Get { key } => assert_eq!(get(storage, &name(key)).await.as_ref(), model.get(&name(key))),
        Step::List { after, limit } => {
            let after = after.map(name);
            let listed = storage.list(after.as_ref(), limit).await.expect("lists");
            let beyond = model.keys().filter(|id| after.as_ref().is_none_or(|after| *id > after));
            let expected: Vec<_> = beyond.take(limit).collect();
            assert_eq!(listed.iter().map(|(id, _)| id).collect::<Vec<_>>(), expected);
        }
    }
}
