use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use proxystore::connectors::LocalConnector;
use proxystore::serialize::{Deserializer, Serializer};
use proxystore::{
    LockedProxy, Object, ObjectStream, Proxy, SerializeError, Standard, Store, StoreError, block_on,
    get_or_create_store, unregister_store,
};
use serde::{Deserialize, Serialize};

use crate::{elsewhere, file_store, sent};

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
struct Simulation {
    name: String,
    steps: u64,
    energy: Vec<f64>,
}

fn simulation() -> Simulation {
    Simulation { name: "dimer".to_owned(), steps: 3, energy: vec![-1.0, -1.5, -1.75] }
}

#[tokio::test]
async fn a_proxy_is_resolved_where_it_arrives() {
    let (_directory, store) = file_store("arrives");
    let proxy = store.proxy(&simulation()).await.unwrap();
    let received: Proxy<Simulation> = sent(&proxy);
    assert!(!received.is_resolved());
    assert_eq!(received.resolve_async().await.unwrap(), &simulation());
    assert_eq!(received.steps, 3);
    unregister_store("arrives");
}

#[tokio::test]
async fn proxies_that_arrive_share_a_store_and_its_cache() {
    let (_directory, store) = file_store("shared-by-proxies");
    let proxy = store.proxy(&simulation()).await.unwrap();
    let first: Proxy<Simulation> = sent(&proxy);
    first.resolve_async().await.unwrap();
    store.connector().evict(proxy.key()).await.unwrap();
    let second: Proxy<Simulation> = sent(&proxy);
    assert_eq!(*second.resolve_async().await.unwrap(), simulation());
    let shared = get_or_create_store(&store.config()).unwrap();
    assert!(shared.is_cached(proxy.key()));
    assert_eq!(shared.metrics().cache_hits, 1);
    unregister_store("shared-by-proxies");
}

#[tokio::test]
async fn the_cache_keeps_values_and_forgets_what_is_evicted() {
    let (_directory, store) = file_store("cached");
    let key = store.put("text").await.unwrap();
    assert!(!store.is_cached(&key));
    let first = store.get::<String>(&key).await.unwrap().unwrap();
    let second = store.get::<String>(&key).await.unwrap().unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    let metrics = store.metrics();
    assert_eq!((metrics.cache_hits, metrics.operations["get"].count), (1, 1));
    assert_eq!((metrics.bytes_sent, metrics.bytes_received), (7, 7));
    store.evict(&key).await.unwrap();
    assert!(!store.is_cached(&key));
    assert_eq!(store.get::<String>(&key).await.unwrap(), None);

    let none = elsewhere(&store).cache_size(0);
    let key = none.put("text").await.unwrap();
    none.get::<String>(&key).await.unwrap().unwrap();
    assert!(!none.is_cached(&key));
    assert_eq!(none.config().cache_size, 0);
}

#[tokio::test]
async fn batches_of_values_and_of_proxies() {
    let (_directory, store) = file_store("batches");
    let values: Vec<String> = (0..50).map(|n| format!("value {n}")).collect();
    let keys = store.put_batch(&values).await.unwrap();
    let received = store.get_batch::<String>(&keys).await.unwrap();
    assert!(received.iter().flatten().map(|value| &**value).eq(&values));
    let proxies = store.proxy_batch(&values).await.unwrap();
    for (proxy, value) in proxies.iter().zip(&values) {
        assert_eq!(sent(proxy).resolve_async().await.unwrap(), value);
    }
    unregister_store("batches");
}

#[tokio::test]
async fn a_proxy_may_take_its_object_along() {
    let (_directory, store) = file_store("evicting");
    let proxy = store.proxy(&5_u8).await.unwrap().evicting();
    assert_eq!(*sent(&proxy).resolve_async().await.unwrap(), 5);
    assert!(!store.exists(proxy.key()).await.unwrap());
    unregister_store("evicting");
}

#[tokio::test]
async fn a_locked_proxy_is_passed_on_and_unlocked() {
    let (_directory, store) = file_store("locked");
    let locked = store.locked_proxy(&"value".to_owned()).await.unwrap();
    let received: LockedProxy<String> = sent(&locked);
    assert_eq!(*received.unlock().resolve_async().await.unwrap(), "value");
    unregister_store("locked");
}

#[tokio::test]
async fn bytes_are_streamed_in_and_out() {
    let (_directory, store) = file_store("streams");
    let pieces = (0..100_u8).map(|n| Ok(Bytes::from(vec![n; 10_000])));
    let stream = ObjectStream { len: Some(1_000_000), chunks: futures_util::stream::iter(pieces).boxed() };
    let key = store.put_stream(stream).await.unwrap();
    let whole = store.get::<Bytes>(&key).await.unwrap().unwrap();
    assert_eq!((whole.len(), whole[0], whole[999_999]), (1_000_000, 0, 99));
    let stream = store.get_stream(&key).await.unwrap().unwrap();
    assert_eq!(stream.len, Some(1_000_000));
    assert_eq!(stream.collect().await.unwrap().into_bytes(), *whole);
    let text = store.put("text").await.unwrap();
    assert!(matches!(store.get_stream(&text).await.unwrap_err(), StoreError::Serialize { .. }));
}

#[test]
fn everything_works_without_a_runtime() {
    let (_directory, store) = file_store("blocking");
    let key = block_on(store.put(&simulation())).unwrap();
    assert_eq!(*block_on(store.get::<Simulation>(&key)).unwrap().unwrap(), simulation());
    let proxy = block_on(store.proxy(&simulation())).unwrap();
    assert_eq!(proxy.name, "dimer");
    block_on(store.close()).unwrap();
}

/// Text upside down, as an example of a format of one's own.
struct Reversed;

impl Serializer<String> for Reversed {
    fn serialize(value: &String) -> Result<Object, SerializeError> {
        Ok(value.chars().rev().collect::<String>().into_bytes().into())
    }
}

impl Deserializer<String> for Reversed {
    fn deserialize(object: Object) -> Result<String, SerializeError> {
        Ok(String::from_utf8_lossy(&object.into_bytes()).chars().rev().collect())
    }
}

#[tokio::test]
async fn a_store_may_have_a_format_of_its_own() {
    let (directory, store) = file_store("reversed");
    let store = store.with_format::<Reversed>();
    let proxy = store.proxy(&"stressed".to_owned()).await.unwrap();
    let proxystore::Key::File { filename } = proxy.key() else { panic!("{}", proxy.key()) };
    assert_eq!(std::fs::read(directory.path().join(filename)).unwrap(), b"desserts");
    let received = sent(&proxy);
    assert_eq!(received.resolve_async().await.unwrap(), "stressed");
    unregister_store("reversed");
}

#[tokio::test]
async fn one_store_serves_several_runtimes_and_many_tasks() {
    let store = Store::new("tasks", LocalConnector::new());
    let future = store.future::<u64>(Duration::from_secs(30)).await.unwrap();
    let proxy = future.proxy();
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let proxy = proxy.clone();
            std::thread::spawn(move || *proxy)
        })
        .collect();
    future.set_result(&7).await.unwrap();
    let sum: u64 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert_eq!(sum, 7 * 64);
    assert_eq!(store.metrics().operations["get"].count, 1);
}

#[test]
fn the_standard_format_takes_maps_and_tuples() {
    let value: (BTreeMap<String, u8>, Option<i64>) = (BTreeMap::from([("a".to_owned(), 1)]), None);
    let object = Standard::serialize(&value).unwrap();
    let read: (BTreeMap<String, u8>, Option<i64>) = Standard::deserialize(object).unwrap();
    assert_eq!(read, value);
}
