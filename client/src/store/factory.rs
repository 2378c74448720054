//! The factory of a proxy whose target is in a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Store, StoreConfig, get_or_create_store};
use crate::serialize::{Deserializer, Standard};
use crate::{Factory, Key, Proxy, ResolveError, StoreError};

/// Fetches an object from a store. Serializes as the key and the store's configuration; where it arrives, the
/// store of that name is used, or made.
#[derive(Serialize, Deserialize)]
#[serde(bound = "", deny_unknown_fields)]
pub struct StoreFactory<T, S = Standard> {
    key: Key,
    store: Arc<StoreConfig>,
    /// Forget the object once it was fetched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    evict: bool,
    /// Wait so long for an object that is to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patience: Option<Duration>,
    /// Do not use the cache, since the object may change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    past_cache: bool,
    /// The store itself, where the proxy was made.
    #[serde(skip, default = "Option::default")]
    home: Option<Store<S>>,
    #[serde(skip)]
    target: std::marker::PhantomData<fn() -> T>,
}

impl<T, S> StoreFactory<T, S> {
    pub(crate) fn new(key: Key, store: Store<S>) -> Self {
        let config = store.core.config();
        Self {
            key,
            store: config,
            evict: false,
            patience: None,
            past_cache: false,
            home: Some(store),
            target: std::marker::PhantomData,
        }
    }

    /// Waits up to `patience` for an object that is to come.
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Always asks the connector: the object may be changed by who borrowed it.
    pub(crate) fn past_cache(mut self) -> Self {
        self.past_cache = true;
        self
    }

    /// Names the object.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Makes the store.
    pub fn store_config(&self) -> &StoreConfig {
        &self.store
    }

    /// The store: the one that made the proxy, or else the one that its configuration describes.
    pub fn store(&self) -> Result<Store<S>, StoreError> {
        match &self.home {
            Some(store) => Ok(store.clone()),
            None => get_or_create_store(&self.store).map(Store::with_format),
        }
    }

    async fn wait(&self, store: &Store<S>, patience: Duration) -> Result<(), StoreError> {
        let arrived = store.core.connector.wait(&self.key, Instant::now() + patience).await;
        if store.connector_result(arrived)? {
            Ok(())
        } else {
            Err(StoreError::NotInTime { store: store.name().to_owned(), key: self.key.clone() })
        }
    }
}

impl<T, S> Factory<T> for StoreFactory<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    async fn resolve(&self) -> Result<Arc<T>, ResolveError> {
        let store = self.store()?;
        if let Some(patience) = self.patience {
            self.wait(&store, patience).await?;
        }
        let target = store
            .get(&self.key)
            .await?
            .ok_or_else(|| ResolveError::Missing { store: store.name().to_owned(), key: self.key.clone() })?;
        if self.evict {
            store.evict(&self.key).await?;
        }
        Ok(target)
    }
}

impl<T, S> Clone for StoreFactory<T, S> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            store: self.store.clone(),
            evict: self.evict,
            patience: self.patience,
            past_cache: self.past_cache,
            home: self.home.clone(),
            target: std::marker::PhantomData,
        }
    }
}

impl<T, S> fmt::Debug for StoreFactory<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreFactory({} in {:?})", self.key, self.store.name)
    }
}

impl<T, S> Proxy<T, StoreFactory<T, S>>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    /// The same proxy, which forgets the object in the store once it was resolved: for an object that one reader
    /// takes.
    ///
    /// ```
    /// # use proxystore::{Store, StoreError, block_on, connectors::LocalConnector};
    /// # block_on(async {
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let proxy = store.proxy(&5).await?.evicting();
    /// assert_eq!(*proxy, 5);
    /// assert!(!store.exists(proxy.key()).await?);
    /// # Ok::<(), StoreError>(())
    /// # })?;
    /// # Ok::<(), StoreError>(())
    /// ```
    pub fn evicting(self) -> Self {
        let factory = StoreFactory { evict: true, ..self.get_factory().clone() };
        Self::new(factory)
    }

    /// The key of the object.
    pub fn key(&self) -> &Key {
        self.get_factory().key()
    }
}
