//! Objects in memory, gone with the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::{DashMap, Entry};
use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{Digest, ObjectId};

use super::intake::Intake;
use super::meter::{Meter, Reservation};
use super::segments::Segments;
use super::{Expected, Group, Storage, StorageError, StoredObject, Upload, Usage};

/// Bounds of a [`MemoryStorage`].
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Largest object in bytes.
    pub max_object_size: u64,
    /// Bytes of all objects and uploads; none for no bound. While an object is replaced both versions count.
    pub memory_limit: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct MemoryStorage {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    max_object_size: u64,
    meter: Arc<Meter>,
    objects: DashMap<ObjectId, Stored>,
}

/// The current version of an object. What readers of an earlier version still hold does not count as used.
#[derive(Debug)]
struct Stored {
    object: Arc<MemoryObject>,
    _reservation: Reservation,
}

impl MemoryStorage {
    /// An empty store.
    pub fn new(limits: MemoryLimits) -> Self {
        let inner = Inner {
            max_object_size: limits.max_object_size,
            meter: Meter::new(limits.memory_limit),
            objects: DashMap::new(),
        };
        Self { inner: Arc::new(inner) }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn begin(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        create_only: bool,
    ) -> Result<Box<dyn Upload>, StorageError> {
        if create_only && self.inner.objects.contains_key(id) {
            return Err(StorageError::Exists);
        }
        Ok(Box::new(MemoryUpload {
            store: self.inner.clone(),
            id: id.clone(),
            create_only,
            intake: Intake::begin(&self.inner.meter, self.inner.max_object_size, size)?,
            segments: Segments::new(size),
        }))
    }

    async fn open(&self, id: &ObjectId) -> Result<Option<Arc<dyn StoredObject>>, StorageError> {
        Ok(self.inner.objects.get(id).map(|stored| stored.object.clone() as Arc<dyn StoredObject>))
    }

    async fn stat(&self, id: &ObjectId) -> Result<Option<ObjectMeta>, StorageError> {
        Ok(self.inner.objects.get(id).map(|stored| stored.object.meta.clone()))
    }

    async fn evict(&self, id: &ObjectId) -> Result<bool, StorageError> {
        Ok(self.inner.objects.remove(id).is_some())
    }

    /// Looks at every object, but holds on to `limit` of them only.
    async fn list(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, ObjectMeta)>, StorageError> {
        let mut smallest = BTreeMap::new();
        for stored in &self.inner.objects {
            let id = stored.key();
            let full = smallest.len() == limit;
            let too_late = full && smallest.last_key_value().is_none_or(|(last, _)| id > last);
            if too_late || after.is_some_and(|after| id <= after) {
                continue;
            }
            smallest.insert(id.clone(), stored.object.meta.clone());
            if smallest.len() > limit {
                smallest.pop_last();
            }
        }
        Ok(smallest.into_iter().collect())
    }

    fn usage(&self) -> Usage {
        Usage {
            objects: self.inner.objects.len() as u64,
            bytes: self.inner.meter.used(),
            limit: self.inner.meter.limit(),
        }
    }
}

struct MemoryUpload {
    store: Arc<Inner>,
    id: ObjectId,
    create_only: bool,
    intake: Intake,
    segments: Segments,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.intake.admit(bytes.len())?;
        self.intake.hash(&bytes);
        self.segments.extend(bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>, expected: Option<Expected>) -> Result<ObjectMeta, StorageError> {
        let Self { store, id, create_only, intake, segments } = *self;
        let received = intake.finish(expected)?;
        let meta = received.meta.clone();
        let object = Arc::new(MemoryObject::new(received.meta, received.groups, segments.finish()));
        let stored = Stored { object, _reservation: received.reservation };
        if create_only {
            match store.objects.entry(id) {
                Entry::Occupied(_) => return Err(StorageError::Exists),
                Entry::Vacant(vacant) => drop(vacant.insert(stored)),
            }
        } else {
            drop(store.objects.insert(id, stored));
        }
        Ok(meta)
    }
}

/// One version of an object.
#[derive(Debug)]
struct MemoryObject {
    meta: ObjectMeta,
    groups: Box<[Digest]>,
    /// The bytes in order; none of them is empty.
    segments: Box<[Segment]>,
}

#[derive(Debug)]
struct Segment {
    /// Where in the object it begins.
    start: u64,
    bytes: Bytes,
}

impl MemoryObject {
    fn new(meta: ObjectMeta, groups: Box<[Digest]>, segments: Vec<Bytes>) -> Self {
        let mut start = 0;
        let locate = |bytes: Bytes| {
            let segment = Segment { start, bytes };
            start += segment.bytes.len() as u64;
            segment
        };
        Self { meta, groups, segments: segments.into_iter().map(locate).collect() }
    }

    /// The bytes `start..end`, which lie within the object.
    fn slice(&self, start: u64, end: u64) -> Vec<Bytes> {
        let first = self.segments.partition_point(|segment| segment.start <= start).saturating_sub(1);
        self.segments[first..]
            .iter()
            .take_while(|segment| segment.start < end)
            .map(|segment| {
                let to = (end - segment.start).min(segment.bytes.len() as u64);
                segment.bytes.slice(start.saturating_sub(segment.start) as usize..to as usize)
            })
            .collect()
    }
}

#[async_trait]
impl StoredObject for MemoryObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    async fn group(&self, index: u64) -> Result<Group, StorageError> {
        let digest = usize::try_from(index).ok().and_then(|index| self.groups.get(index));
        let digest = *digest.ok_or(StorageError::NoSuchGroup(index))?;
        let start = index * GROUP_LEN;
        Ok(Group { segments: self.slice(start, self.meta.size.min(start + GROUP_LEN)), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::contract::{MAX_OBJECT_SIZE, content, contract_tests, id, put, put_frames};

    fn storage(memory_limit: Option<u64>) -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new(MemoryLimits { max_object_size: MAX_OBJECT_SIZE, memory_limit }))
    }

    contract_tests!((storage(None), ()));

    #[tokio::test]
    async fn memory_is_bounded() {
        let storage = storage(Some(1000));
        assert_eq!(storage.usage().limit, Some(1000));
        put(storage.as_ref(), &id("a"), &[0; 600]).await;
        let announced = storage.begin(&id("b"), Some(401), false).await;
        assert!(matches!(announced.err(), Some(StorageError::Full { used: 600, limit: 1000 })));
        let mut upload = storage.begin(&id("b"), None, false).await.expect("begins");
        upload.write(vec![0; 400].into()).await.expect("fits");
        let error = upload.write(Bytes::from_static(b"x")).await.expect_err("full");
        assert!(matches!(error, StorageError::Full { used: 1000, limit: 1000 }));
        drop(upload);
        assert_eq!(storage.usage().bytes, 600);
    }

    #[tokio::test]
    async fn room_is_released_by_evicting_and_replacing() {
        let storage = storage(Some(1000));
        for _ in 0..10 {
            put(storage.as_ref(), &id("a"), &[0; 500]).await;
        }
        assert_eq!(storage.usage().bytes, 500);
        let reader = storage.open(&id("a")).await.expect("opens");
        assert!(storage.evict(&id("a")).await.expect("evicts"));
        assert_eq!(storage.usage().bytes, 0, "what a reader holds does not count");
        put(storage.as_ref(), &id("b"), &[0; 1000]).await;
        drop(reader);
        assert_eq!(storage.usage().bytes, 1000);
    }

    async fn segments(storage: &dyn Storage, name: &str) -> Vec<Bytes> {
        let object = storage.open(&id(name)).await.expect("opens").expect("there");
        object.group(0).await.expect("group").segments
    }

    #[tokio::test]
    async fn large_frames_are_not_copied() {
        let storage = storage(None);
        let frame = Bytes::from(content(GROUP_LEN as usize, 1));
        let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
        upload.write(Bytes::from_static(b"small")).await.expect("writes");
        upload.write(frame.clone()).await.expect("writes");
        upload.commit(None).await.expect("commits");
        let segments = segments(storage.as_ref(), "a").await;
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[1].as_ptr(), frame.as_ptr());
    }

    #[tokio::test]
    async fn small_frames_are_gathered_and_do_not_hold_their_buffers() {
        let storage = storage(None);
        let buffer = Bytes::from(content(100_000, 1));
        let mut upload = storage.begin(&id("a"), None, false).await.expect("begins");
        upload.write(buffer.slice(..1000)).await.expect("writes");
        upload.commit(None).await.expect("commits");
        assert!(buffer.is_unique(), "the object has a copy of its own");
        put_frames(storage.as_ref(), &id("b"), &content(GROUP_LEN as usize + 9, 2), 1200).await;
        assert_eq!(segments(storage.as_ref(), "b").await.len(), 1);
    }
}
