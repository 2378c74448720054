//! Objects in and out of a store, whole and as streams.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt};

use super::Store;
use super::metrics::Operation;
use crate::connector::ObjectStream;
use crate::error::StoreError;
use crate::serialize::{self, Deserializer, Serializer};
use crate::{Key, Object};

impl<S> Store<S> {
    /// Whether the object is in the cache.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put("hello").await?;
    /// assert!(!store.is_cached(&key));
    /// store.get::<String>(&key).await?;
    /// assert!(store.is_cached(&key));
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn is_cached(&self, key: &Key) -> bool {
        self.core.state().cache.contains(key)
    }

    /// Fetches the object anew next time.
    pub(crate) fn forget_cached(&self, key: &Key) {
        self.core.state().cache.remove(key);
    }

    /// Whether there is an object under this key: in the cache or where the objects are.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put("hello").await?;
    /// assert!(store.exists(&key).await?);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn exists(&self, key: &Key) -> Result<bool, StoreError> {
        if self.is_cached(key) {
            return Ok(true);
        }
        self.metered(Operation::Exists, 0, self.core.connector.exists(key)).await
    }

    /// Forgets the object. No error if there is none. Values that were fetched before stay what they are.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put("hello").await?;
    /// store.evict(&key).await?;
    /// assert_eq!(store.get::<String>(&key).await?, None);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn evict(&self, key: &Key) -> Result<(), StoreError> {
        self.forget_cached(key);
        self.metered(Operation::Evict, 0, self.core.connector.evict(key)).await
    }

    /// Puts a value and returns the key that it got.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let text = store.put("hello").await?;
    /// let bytes = store.put(&bytes::Bytes::from_static(b"hello")).await?;
    /// let numbers = store.put(&vec![1.5, 2.5]).await?;
    /// let array = store.put(&ndarray::array![[1.0, 2.0], [3.0, 4.0]]).await?;
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn put<T: ?Sized>(&self, value: &T) -> Result<Key, StoreError>
    where
        S: Serializer<T>,
    {
        let object = self.serialize(value)?;
        let len = object.len();
        self.metered(Operation::Put, len, self.core.connector.put(object, &self.options)).await
    }

    /// Puts values in one go, which is faster where the connector has batches.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let keys = store.put_batch(&[1, 2, 3]).await?;
    /// let values = store.get_batch::<i32>(&keys).await?;
    /// assert_eq!(values.iter().flatten().map(|value| **value).sum::<i32>(), 6);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn put_batch<T>(&self, values: &[T]) -> Result<Vec<Key>, StoreError>
    where
        S: Serializer<T>,
    {
        let objects = values.iter().map(|value| self.serialize(value)).collect::<Result<Vec<_>, _>>()?;
        let len = objects.iter().map(Object::len).sum();
        self.metered(Operation::PutBatch, len, self.core.connector.put_batch(objects, &self.options)).await
    }

    /// A key for a value to come.
    pub(crate) async fn new_key(&self) -> Result<Key, StoreError> {
        self.connector_result(self.core.connector.new_key().await)
    }

    /// Stores a value under a key of [`Connector::new_key`], or in place of another one.
    pub(crate) async fn set<T>(&self, key: &Key, value: &T) -> Result<(), StoreError>
    where
        S: Serializer<T>,
    {
        let object = self.serialize(value)?;
        let len = object.len();
        self.forget_cached(key);
        self.metered(Operation::Put, len, self.core.connector.set(key, object)).await
    }

    /// The value, or none if there is no object under this key. The cache shares it with others who asked.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put("hello").await?;
    /// let text = store.get::<String>(&key).await?.expect("it was just put");
    /// assert_eq!(*text, "hello");
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn get<T>(&self, key: &Key) -> Result<Option<Arc<T>>, StoreError>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        if let Some(value) = self.core.state().cache.get(key) {
            self.core.meters.hit();
            return Ok(Some(value));
        }
        let object = self.metered(Operation::Get, 0, self.core.connector.get(key)).await?;
        object.map(|object| self.receive(key, object)).transpose()
    }

    /// The values, in the order of the keys; past the cache.
    pub async fn get_batch<T>(&self, keys: &[Key]) -> Result<Vec<Option<Arc<T>>>, StoreError>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        let objects = self.metered(Operation::GetBatch, 0, self.core.connector.get_batch(keys)).await?;
        let received = keys.iter().zip(objects);
        received.map(|(key, object)| object.map(|object| self.receive(key, object)).transpose()).collect()
    }

    /// Puts bytes as they come, without holding all of them if the connector can do that.
    ///
    /// ```
    /// # use futures_util::StreamExt as _;
    /// # use proxystore::{ObjectStream, Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let pieces = ["Hello", ", ", "world"].map(|piece| Ok(bytes::Bytes::from_static(piece.as_bytes())));
    /// let stream = ObjectStream { len: None, chunks: futures_util::stream::iter(pieces).boxed() };
    /// let key = store.put_stream(stream).await?;
    /// assert_eq!(*store.get::<bytes::Bytes>(&key).await?.expect("it was just put"), "Hello, world");
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn put_stream(&self, bytes: ObjectStream) -> Result<Key, StoreError> {
        let identifier = stream::once(future::ready(Ok(Bytes::from_static(serialize::BYTES))));
        let stream = ObjectStream {
            len: bytes.len.map(|len| len + serialize::BYTES.len() as u64),
            chunks: identifier.chain(bytes.chunks).boxed(),
        };
        self.metered(Operation::Put, 0, self.core.connector.put_stream(stream, &self.options)).await
    }

    /// The bytes of an object that holds bytes, as they arrive, or none if there is none under this key.
    ///
    /// ```
    /// # use futures_util::StreamExt as _;
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put(&vec![7_u8; 1000]).await?;
    /// let mut stream = store.get_stream(&key).await?.expect("it was just put");
    /// assert_eq!(stream.len, Some(1000));
    /// let mut sum = 0;
    /// while let Some(chunk) = stream.chunks.next().await {
    ///     sum += chunk.map_or(0, |chunk| chunk.iter().map(|byte| u64::from(*byte)).sum());
    /// }
    /// assert_eq!(sum, 7000);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, StoreError> {
        let stream = self.metered(Operation::Get, 0, self.core.connector.get_stream(key)).await?;
        let Some(mut stream) = stream else { return Ok(None) };
        let mut start = Object::new();
        while start.len() < serialize::BYTES.len() {
            let Some(chunk) = stream.chunks.next().await else { break };
            start.push(self.connector_result(chunk)?);
        }
        let refuse = |error| self.serialize_error(Some(key), error);
        let (format, first) = serialize::split_identifier(start).map_err(refuse)?;
        if &format != serialize::BYTES {
            return Err(refuse(serialize::unreadable(&format, first.len())));
        }
        let len = stream.len.map(|len| len - serialize::BYTES.len() as u64);
        let first = stream::iter(first.into_segments().into_iter().map(Ok));
        Ok(Some(ObjectStream { len, chunks: first.chain(stream.chunks).boxed() }))
    }

    fn serialize<T: ?Sized>(&self, value: &T) -> Result<Object, StoreError>
    where
        S: Serializer<T>,
    {
        S::serialize(value).map_err(|error| self.serialize_error(None, error))
    }

    fn receive<T>(&self, key: &Key, object: Object) -> Result<Arc<T>, StoreError>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        let len = object.len();
        self.core.meters.received(len);
        let value = S::deserialize(object).map_err(|error| self.serialize_error(Some(key), error))?;
        let value = Arc::new(value);
        self.core.state().cache.insert(key, value.clone() as Arc<dyn Any + Send + Sync>, len);
        Ok(value)
    }
}
