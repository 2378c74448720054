use std::time::Duration;

use proxystore::connectors::FileConnector;
use proxystore::{
    Connector, ConnectorConfig, ConnectorError, Key, Object, Proxy, ProxyFuture, PutOptions, ResolveError,
    Store, StoreError, unregister_store,
};

use crate::{file_store, sent};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_proxy_waits_for_a_value_that_is_set_elsewhere() {
    let (_directory, store) = file_store("future");
    let future = store.future::<Vec<u64>>(PATIENCE).await.unwrap();
    assert!(!future.is_done().await.unwrap());
    let there: ProxyFuture<Vec<u64>> = sent(&future);
    let proxy: Proxy<Vec<u64>> = sent(&future.proxy());
    let consumer =
        tokio::spawn(async move { proxy.resolve_async().await.map(|value| value.iter().sum::<u64>()) });
    there.set_result(&vec![1, 2, 3]).await.unwrap();
    assert_eq!(consumer.await.unwrap().unwrap(), 6);
    assert_eq!(*future.result().await.unwrap(), [1, 2, 3]);
    assert!(future.is_done().await.unwrap());
    unregister_store("future");
}

#[tokio::test]
async fn a_value_is_set_once() {
    let (_directory, store) = file_store("future-twice");
    let future = store.future::<u8>(PATIENCE).await.unwrap();
    future.set_result(&1).await.unwrap();
    let error = future.set_result(&2).await.unwrap_err();
    assert!(matches!(&error, StoreError::AlreadySet { key, .. } if key == future.key()), "{error}");
    assert_eq!(*future.result().await.unwrap(), 1);
}

#[tokio::test]
async fn patience_ends_with_an_error_that_names_the_key() {
    let (_directory, store) = file_store("future-late");
    let future = store.future::<u8>(Duration::from_millis(20)).await.unwrap();
    let error = future.proxy().resolve_async().await.cloned().unwrap_err();
    let ResolveError::Store(StoreError::NotInTime { key, .. }) = error else { panic!("{error}") };
    assert_eq!(&key, future.key());
}

/// Knows no keys beforehand.
#[derive(Debug)]
struct Keyless(FileConnector);

#[async_trait::async_trait]
impl Connector for Keyless {
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.0.put(object, options).await
    }
    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        self.0.get(key).await
    }
    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        self.0.exists(key).await
    }
    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        self.0.evict(key).await
    }
    fn config(&self) -> ConnectorConfig {
        ConnectorConfig { kind: "keyless".to_owned(), ..self.0.config() }
    }
}

#[tokio::test]
async fn a_connector_of_ones_own_may_lack_keys_of_objects_to_come() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new("keyless", Keyless(FileConnector::new(directory.path()).unwrap()));
    proxystore::connectors::register_kind("keyless", |config| {
        Ok(std::sync::Arc::new(Keyless(FileConnector::from_config(config)?)))
    });
    let error = store.future::<u8>(PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("a keyless store has no keys of objects to come"), "{error}");
    let proxy = store.proxy(&"value".to_owned()).await.unwrap();
    assert_eq!(sent(&proxy).resolve_async().await.unwrap(), "value");
    unregister_store("keyless");
}
