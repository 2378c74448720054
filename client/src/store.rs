//! Typed objects in one place: a connector, a serializer, a cache, and a name.

mod cache;
mod factory;
mod metrics;
mod registry;

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};

pub use factory::StoreFactory;
pub use metrics::{OperationMetrics, StoreMetrics};
pub use registry::{get_or_create_store, get_store, register_store, unregister_store};

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::error::StoreError;
use crate::serialize::{self, Deserializer, SerializeError, Serializer, Standard};
use crate::{Key, LockedProxy, Object, Proxy, connectors};
use cache::Cache;
use metrics::{Meters, Operation};

/// Objects kept in the cache unless told otherwise, as in Python.
const DEFAULT_CACHE_SIZE: usize = 16;

/// Serialized bytes of the objects kept in the cache unless told otherwise. Python has no such limit; sixteen
/// objects of any size could take all memory.
const DEFAULT_CACHE_BYTES: usize = 1 << 30;

/// Puts values somewhere and gets them back; makes proxies of them.
///
/// Cheap to clone: clones are the same store. Values that were fetched are kept, deserialized, in a cache, since
/// objects never change. `S` is the format; see [`Standard`] for what it takes.
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Store::new("notes", LocalConnector::new());
/// let key = store.put(&vec![1.5, 2.5]).await?;
/// let values = store.get::<Vec<f64>>(&key).await?.expect("it was just put");
/// assert_eq!(*values, [1.5, 2.5]);
/// store.evict(&key).await?;
/// assert!(!store.exists(&key).await?);
/// # Ok::<(), proxystore::StoreError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Store<S = Standard> {
    core: Arc<Core>,
    options: PutOptions,
    format: PhantomData<fn() -> S>,
}

/// What clones of a store, and stores of other formats on it, share.
struct Core {
    name: String,
    connector: Arc<dyn Connector>,
    meters: Meters,
    state: Mutex<State>,
}

struct State {
    cache: Cache,
    /// Made at first use; every proxy carries it.
    config: Option<Arc<StoreConfig>>,
}

/// Makes a store again, in this process or another one. Carries no secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The store's name.
    pub name: String,
    /// Its connector.
    pub connector: ConnectorConfig,
    /// Objects that the cache keeps.
    pub cache_size: usize,
    /// Serialized bytes of the objects that the cache keeps.
    pub cache_bytes: usize,
}

impl Core {
    fn new(name: String, connector: Arc<dyn Connector>, cache: Cache) -> Self {
        let state = Mutex::new(State { cache, config: None });
        Self { name, connector, meters: Meters::default(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self) -> Arc<StoreConfig> {
        let mut state = self.state();
        let (cache_size, cache_bytes) = state.cache.limits();
        let make = || {
            let connector = self.connector.config();
            Arc::new(StoreConfig { name: self.name.clone(), connector, cache_size, cache_bytes })
        };
        state.config.get_or_insert_with(make).clone()
    }
}

impl Store {
    /// A store in the [`Standard`] format, known by `name` in messages and, once [registered](register_store),
    /// in this process.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// assert_eq!(store.name(), "docs");
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn new(name: impl Into<String>, connector: impl Connector) -> Self {
        Self::on(name.into(), Arc::new(connector), Cache::new(DEFAULT_CACHE_SIZE, DEFAULT_CACHE_BYTES))
    }

    /// The store that a configuration describes, unregistered.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let config = store.config();
    /// let text = serde_json::to_string(&config).expect("configurations are plain data");
    /// let config = serde_json::from_str(&text).expect("it was one");
    /// let same = Store::from_config(&config)?;
    /// let key = store.put("hello").await?;
    /// assert!(same.exists(&key).await?);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn from_config(config: &StoreConfig) -> Result<Self, StoreError> {
        let connector = connectors::from_config(&config.connector)
            .map_err(|error| StoreError::Connector { store: config.name.clone(), error })?;
        Ok(Self::on(config.name.clone(), connector, Cache::new(config.cache_size, config.cache_bytes)))
    }
}

impl<S> Store<S> {
    fn on(name: String, connector: Arc<dyn Connector>, cache: Cache) -> Self {
        Self::of(Arc::new(Core::new(name, connector, cache)))
    }

    fn of(core: Arc<Core>) -> Self {
        Self { core, options: PutOptions::default(), format: PhantomData }
    }

    /// The same store, in another format.
    pub fn with_format<R>(self) -> Store<R> {
        Store { core: self.core, options: self.options, format: PhantomData }
    }

    /// Keeps up to `count` objects in the cache; 0 for none.
    ///
    /// ```
    /// use proxystore::{Store, connectors::LocalConnector};
    ///
    /// let store = Store::new("docs", LocalConnector::new()).cache_size(100).cache_bytes(1 << 20);
    /// assert_eq!((store.config().cache_size, store.config().cache_bytes), (100, 1 << 20));
    /// ```
    pub fn cache_size(self, count: usize) -> Self {
        self.change_cache(|(_, bytes)| (count, bytes))
    }

    /// Keeps objects of up to `bytes`, serialized, in the cache; a larger one is not kept at all.
    pub fn cache_bytes(self, bytes: usize) -> Self {
        self.change_cache(|(count, _)| (count, bytes))
    }

    fn change_cache(self, change: impl FnOnce((usize, usize)) -> (usize, usize)) -> Self {
        let mut state = self.core.state();
        let (count, bytes) = change(state.cache.limits());
        state.cache.set_limits(count, bytes);
        state.config = None;
        drop(state);
        self
    }

    /// The same store, which puts new objects only where all of these are among the policy's subset tags (see
    /// [`Policy`](crate::connectors::multi::Policy)).
    pub fn with_subset_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.options.subset_tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// The same store, which puts new objects only where the policy's superset tags are all among these. Without
    /// any, no policy that has superset tags takes them.
    pub fn with_superset_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.options.superset_tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// As given to [`Store::new`].
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Where the objects are.
    pub fn connector(&self) -> &dyn Connector {
        &*self.core.connector
    }

    /// Makes this store again elsewhere; every proxy carries it.
    pub fn config(&self) -> StoreConfig {
        self.core.config().as_ref().clone()
    }

    /// What was done so far, and how long it took.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// store.put("hello").await?;
    /// let metrics = store.metrics();
    /// assert_eq!(metrics.operations["put"].count, 1);
    /// assert_eq!(metrics.bytes_sent, 8);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn metrics(&self) -> StoreMetrics {
        self.core.meters.snapshot()
    }

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

    /// Closes connections and forgets the cache. Objects stay, unless the connector was told to clear them. A
    /// registered store is unregistered.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector, get_store, register_store};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// register_store(&store)?;
    /// store.close().await?;
    /// assert!(get_store("docs").is_none());
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn close(&self) -> Result<(), StoreError> {
        registry::forget(&self.core);
        self.core.state().cache.clear();
        self.connector_result(self.core.connector.close().await)
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

    /// Puts a value and returns a proxy of it.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let proxy = store.proxy(&vec![1, 2, 3]).await?;
    /// assert_eq!(proxy.iter().sum::<i32>(), 6);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn proxy<T>(&self, value: &T) -> Result<Proxy<T, StoreFactory<T, S>>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        Ok(self.proxy_from_key(self.put(value).await?))
    }

    /// Puts values in one go and returns proxies of them.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let proxies = store.proxy_batch(&["a".to_owned(), "b".to_owned()]).await?;
    /// assert_eq!(*proxies[1], "b");
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn proxy_batch<T>(&self, values: &[T]) -> Result<Vec<Proxy<T, StoreFactory<T, S>>>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        let keys = self.put_batch(values).await?;
        Ok(keys.into_iter().map(|key| self.proxy_from_key(key)).collect())
    }

    /// A proxy of an object that is in the store.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let key = store.put("hello").await?;
    /// let proxy = store.proxy_from_key::<String>(key);
    /// assert_eq!(proxy.len(), 5);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn proxy_from_key<T>(&self, key: Key) -> Proxy<T, StoreFactory<T, S>>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        Proxy::new(StoreFactory::new(key, self.clone()))
    }

    /// Puts a value and returns a proxy of it that is only to be passed on.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let locked = store.locked_proxy(&5).await?;
    /// assert_eq!(*locked.unlock(), 5);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub async fn locked_proxy<T>(&self, value: &T) -> Result<LockedProxy<T, StoreFactory<T, S>>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        self.proxy(value).await.map(LockedProxy::new)
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

    async fn metered<R>(
        &self,
        operation: Operation,
        len: usize,
        request: impl Future<Output = Result<R, ConnectorError>>,
    ) -> Result<R, StoreError> {
        let start = Instant::now();
        let result = request.await;
        self.core.meters.count(operation, start.elapsed(), len, result.is_err());
        self.connector_result(result)
    }

    fn connector_result<R>(&self, result: Result<R, ConnectorError>) -> Result<R, StoreError> {
        result.map_err(|error| StoreError::Connector { store: self.core.name.clone(), error })
    }

    fn serialize_error(&self, key: Option<&Key>, error: SerializeError) -> StoreError {
        StoreError::Serialize { store: self.core.name.clone(), key: key.cloned().map(Box::new), error }
    }
}

impl<S> Clone for Store<S> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), options: self.options.clone(), format: PhantomData }
    }
}

impl<S> fmt::Debug for Store<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.core.name)
            .field("connector", &self.core.connector)
            .finish_non_exhaustive()
    }
}
