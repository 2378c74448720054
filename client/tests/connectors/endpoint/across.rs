//! The contract between two sites: what is stored at one is asked for at the other.

use async_trait::async_trait;
use proxystore::ConnectorConfig;

use super::*;

/// Puts objects at the home endpoint of one site, and does everything else with them from another.
#[derive(Debug)]
struct Across {
    from: EndpointConnector,
    to: EndpointConnector,
}

#[async_trait]
impl Connector for Across {
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.from.put(object, options).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        self.to.get(key).await
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        self.to.exists(key).await
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        self.to.evict(key).await
    }

    /// The twin that is made of it is at the site of the objects, and must see what the other site did to them.
    fn config(&self) -> ConnectorConfig {
        self.from.config()
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        self.from.new_key().await
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        self.to.set(key, object).await
    }

    async fn put_batch(
        &self,
        objects: Vec<Object>,
        options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        self.from.put_batch(objects, options).await
    }

    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        self.to.get_batch(keys).await
    }

    async fn put_stream(&self, stream: ObjectStream, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.from.put_stream(stream, options).await
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        self.to.get_stream(key).await
    }
}

#[test]
fn contract_between_two_sites() {
    let runtime = runtime();
    let (_relay, a, b) = runtime.block_on(async {
        let relay = relay().await.unwrap();
        let a = Site::start("a", &url(&relay)).await.unwrap();
        let b = Site::start("b", &url(&relay)).await.unwrap();
        (relay, a, b)
    });
    let (home_a, home_b) = (home_with(&[&a]), home_with(&[&b]));
    let from = connector(home_a.path(), [a.id(), b.id()]);
    let to = connector(home_b.path(), [a.id(), b.id()]);
    contract::check(&runtime, Arc::new(Across { from, to }));
    for site in [a, b] {
        assert_eq!(runtime.block_on(site.server().endpoint().storage().list(None, 10)).unwrap(), []);
    }
}
