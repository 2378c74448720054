//! What every connector must do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proxystore::{Connector, ConnectorError, Key, Object, ObjectStream, PutOptions, connectors};
use tokio::runtime::Runtime;
use tokio::time::Instant;

type Shared = Arc<dyn Connector>;

/// Sequences of operations tried against the model; each is up to [`OPERATIONS`] long.
const SEQUENCES: u32 = 16;
const OPERATIONS: usize = 30;

/// Everything, in one go: starting what is behind a connector may take long.
pub fn check(runtime: &Runtime, connector: Shared) {
    runtime.block_on(async {
        an_object_comes_back_as_it_was(&connector).await;
        what_is_not_there_is_not_an_error(&connector).await;
        batches_keep_their_order(&connector).await;
        streams_are_objects_too(&connector).await;
        a_failed_stream_leaves_nothing_readable(&connector).await;
        an_object_to_come_can_be_waited_for(&connector).await;
        the_configuration_makes_the_same_connector(&connector).await;
        a_foreign_key_is_refused(&connector).await;
        many_tasks_at_once(&connector).await;
    });
    it_behaves_as_a_map(runtime, &connector);
}

fn object(len: usize, seed: usize) -> Object {
    let byte = |index: usize| (index.wrapping_mul(31).wrapping_add(seed * 7) >> 2) as u8;
    // Two segments, as a serialized object has.
    let bytes: Bytes = (0..len).map(byte).collect::<Vec<_>>().into();
    let cut = len.min(3);
    Object::from_iter([bytes.slice(..cut), bytes.slice(cut..)])
}

async fn put(connector: &Shared, object: Object) -> Key {
    connector.put(object, &PutOptions::default()).await.unwrap()
}

async fn an_object_comes_back_as_it_was(connector: &Shared) {
    for len in [1, 3, 1000, (3 << 20) + 5] {
        let put_object = object(len, len);
        let key = put(connector, put_object.clone()).await;
        assert!(connector.exists(&key).await.unwrap());
        assert_eq!(connector.get(&key).await.unwrap(), Some(put_object.clone()));
        assert_eq!(connector.get(&key).await.unwrap(), Some(put_object), "a second time");
        connector.evict(&key).await.unwrap();
    }
}

async fn what_is_not_there_is_not_an_error(connector: &Shared) {
    let key = put(connector, object(10, 0)).await;
    for _ in 0..2 {
        connector.evict(&key).await.unwrap();
        assert!(!connector.exists(&key).await.unwrap());
        assert_eq!(connector.get(&key).await.unwrap(), None);
        assert!(connector.get_stream(&key).await.unwrap().is_none());
    }
}

async fn batches_keep_their_order(connector: &Shared) {
    let options = PutOptions::default();
    assert_eq!(connector.put_batch(vec![], &options).await.unwrap(), []);
    assert_eq!(connector.get_batch(&[]).await.unwrap(), []);
    let objects: Vec<_> = (0..100).map(|n| object(1 + n * 50, n)).collect();
    let keys = connector.put_batch(objects.clone(), &options).await.unwrap();
    connector.evict(&keys[7]).await.unwrap();
    let received = connector.get_batch(&keys).await.unwrap();
    for (n, (received, object)) in received.into_iter().zip(objects).enumerate() {
        assert_eq!(received, (n != 7).then_some(object), "number {n}");
    }
    for key in &keys {
        connector.evict(key).await.unwrap();
    }
}

async fn streams_are_objects_too(connector: &Shared) {
    let whole = object(5 << 20, 1);
    for len in [None, Some(whole.len() as u64)] {
        let pieces: Vec<_> =
            whole.clone().into_bytes().chunks(300_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let stream = ObjectStream { len, chunks: futures_util::stream::iter(pieces).boxed() };
        let key = connector.put_stream(stream, &PutOptions::default()).await.unwrap();
        assert_eq!(connector.get(&key).await.unwrap(), Some(whole.clone()));
        let stream = connector.get_stream(&key).await.unwrap().unwrap();
        assert!(stream.len.is_none_or(|len| len == whole.len() as u64));
        assert_eq!(stream.collect().await.unwrap(), whole);
        connector.evict(&key).await.unwrap();
    }
}

async fn a_failed_stream_leaves_nothing_readable(connector: &Shared) {
    let failure = ConnectorError::Closed;
    let chunks = [Ok(Bytes::from_static(b"BS\nhalf")), Err(failure.clone())];
    let stream = ObjectStream { len: None, chunks: futures_util::stream::iter(chunks).boxed() };
    let outcome = connector.put_stream(stream, &PutOptions::default()).await;
    assert!(outcome.is_err(), "half an object was taken for a whole one: {outcome:?}");
}

async fn an_object_to_come_can_be_waited_for(connector: &Shared) {
    let key = match connector.new_key().await {
        Err(ConnectorError::Unsupported { .. }) => return,
        key => key.unwrap(),
    };
    assert!(!connector.exists(&key).await.unwrap());
    let soon = Instant::now() + Duration::from_millis(20);
    assert!(!connector.wait(&key, soon).await.unwrap());
    let waiter = tokio::spawn({
        let (connector, key) = (connector.clone(), key.clone());
        async move { connector.wait(&key, Instant::now() + Duration::from_secs(30)).await }
    });
    connector.set(&key, object(100, 3)).await.unwrap();
    assert!(waiter.await.unwrap().unwrap());
    assert_eq!(connector.get(&key).await.unwrap(), Some(object(100, 3)));
    connector.evict(&key).await.unwrap();
}

async fn the_configuration_makes_the_same_connector(connector: &Shared) {
    let config = connector.config();
    let text = serde_json::to_string(&config).unwrap();
    assert!(text.len() < 1500, "proxies carry it: {text}");
    let twin = connectors::from_config(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(twin.config(), config);
    let key = put(connector, object(100, 5)).await;
    assert_eq!(twin.get(&key).await.unwrap(), Some(object(100, 5)));
    twin.evict(&key).await.unwrap();
    assert!(!connector.exists(&key).await.unwrap());
}

async fn a_foreign_key_is_refused(connector: &Shared) {
    let key = Key::Custom { kind: "foreign".to_owned(), fields: BTreeMap::new() };
    let is_foreign = |error: ConnectorError| matches!(error, ConnectorError::ForeignKey { .. });
    assert!(is_foreign(connector.get(&key).await.unwrap_err()));
    assert!(is_foreign(connector.exists(&key).await.unwrap_err()));
    assert!(is_foreign(connector.evict(&key).await.unwrap_err()));
}

async fn many_tasks_at_once(connector: &Shared) {
    let tasks = (0..64).map(|n| {
        let connector = connector.clone();
        tokio::spawn(async move {
            let key = put(&connector, object(2000, n)).await;
            assert_eq!(connector.get(&key).await.unwrap(), Some(object(2000, n)));
            connector.evict(&key).await.unwrap();
            assert!(!connector.exists(&key).await.unwrap());
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Put(usize),
    PutBatch(Vec<usize>),
    /// Of the keys so far, the one at this place.
    Get(prop::sample::Index),
    Exists(prop::sample::Index),
    Evict(prop::sample::Index),
    GetAll,
}

fn operation() -> impl Strategy<Value = Operation> {
    let len = 1..5000_usize;
    prop_oneof![
        len.clone().prop_map(Operation::Put),
        prop::collection::vec(len, 0..8).prop_map(Operation::PutBatch),
        any::<prop::sample::Index>().prop_map(Operation::Get),
        any::<prop::sample::Index>().prop_map(Operation::Exists),
        any::<prop::sample::Index>().prop_map(Operation::Evict),
        Just(Operation::GetAll),
    ]
}

fn it_behaves_as_a_map(runtime: &Runtime, connector: &Shared) {
    let config = Config { cases: SEQUENCES, failure_persistence: None, ..Config::default() };
    let sequences = prop::collection::vec(operation(), 1..OPERATIONS);
    let outcome = TestRunner::new(config).run(&sequences, |operations| {
        runtime.block_on(compare_with_model(connector, operations));
        Ok(())
    });
    outcome.unwrap();
}

async fn compare_with_model(connector: &Shared, operations: Vec<Operation>) {
    let mut model: BTreeMap<Key, Option<Object>> = BTreeMap::new();
    for (n, operation) in operations.into_iter().enumerate() {
        let chosen = |index: prop::sample::Index| {
            (!model.is_empty()).then(|| model.iter().nth(index.index(model.len())).unwrap())
        };
        match operation {
            Operation::Put(len) => {
                let key = put(connector, object(len, n)).await;
                assert!(model.insert(key, Some(object(len, n))).is_none(), "a key was given twice");
            }
            Operation::PutBatch(lens) => {
                let objects: Vec<_> = lens.iter().map(|len| object(*len, n)).collect();
                let keys = connector.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
                model.extend(keys.into_iter().zip(objects.into_iter().map(Some)));
            }
            Operation::Get(index) => {
                let Some((key, expected)) = chosen(index) else { continue };
                assert_eq!(connector.get(key).await.unwrap(), *expected);
            }
            Operation::Exists(index) => {
                let Some((key, expected)) = chosen(index) else { continue };
                assert_eq!(connector.exists(key).await.unwrap(), expected.is_some());
            }
            Operation::Evict(index) => {
                let Some((key, _)) = chosen(index) else { continue };
                let key = key.clone();
                connector.evict(&key).await.unwrap();
                model.insert(key, None);
            }
            Operation::GetAll => {
                let (keys, expected): (Vec<_>, Vec<_>) = model.clone().into_iter().unzip();
                assert_eq!(connector.get_batch(&keys).await.unwrap(), expected);
            }
        }
    }
    for key in model.keys() {
        connector.evict(key).await.unwrap();
    }
}
