//! Typed objects in one place: a connector, a serializer, a cache, and a name.

mod cache;
mod factory;
mod metrics;
mod objects;
mod proxies;
mod registry;

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use factory::StoreFactory;
pub use metrics::{OperationMetrics, StoreMetrics};
pub use registry::{get_or_create_store, get_store, register_store, unregister_store};

use crate::connector::{Connector, ConnectorConfig, ConnectorError, PutOptions};
use crate::error::StoreError;
use crate::serialize::{SerializeError, Standard};
use crate::{Key, connectors};
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
