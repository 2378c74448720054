//! A value to come: its proxy can be sent before it exists.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::factory::Factory;
use crate::serialize::{Deserializer, Serializer, Standard};
use crate::store::{Store, StoreFactory};
use crate::{Key, Proxy, ResolveError, StoreError};

/// A value that somebody will set, here or wherever a copy of this was sent.
///
/// Its proxy resolves when the value is there: a task can be started with the results of tasks that still run.
/// (Python calls this `Future`.)
///
/// ```
/// use std::time::Duration;
///
/// use proxystore::{Store, connectors::LocalConnector};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Store::new("results", LocalConnector::new());
/// let future = store.future::<String>(Duration::from_secs(10)).await?;
/// let proxy = future.proxy();
/// let consumer = tokio::spawn(async move { proxy.resolve_async().await.map(String::len) });
/// future.set_result(&"done".to_owned()).await?;
/// assert_eq!(consumer.await.expect("the task ends")?, 4);
/// # Ok::<(), proxystore::ResolveError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Serialize, Deserialize)]
#[serde(bound = "", transparent)]
pub struct ProxyFuture<T, S = Standard> {
    factory: StoreFactory<T, S>,
}

impl<S> Store<S> {
    /// A value to come, for which [`ProxyFuture::result`] and its proxies wait up to `patience`. Only stores whose
    /// connector makes keys beforehand have this.
    pub async fn future<T>(&self, patience: Duration) -> Result<ProxyFuture<T, S>, StoreError> {
        let key = self.new_key().await?;
        Ok(ProxyFuture { factory: StoreFactory::new(key, self.clone()).patient(patience) })
    }
}

impl<T, S> ProxyFuture<T, S>
where
    T: Send + Sync + 'static,
    S: Serializer<T> + Deserializer<T>,
{
    /// The key that the value has, or will have.
    pub fn key(&self) -> &Key {
        self.factory.key()
    }

    /// Whether the value is there.
    pub async fn is_done(&self) -> Result<bool, StoreError> {
        self.factory.store()?.exists(self.key()).await
    }

    /// Stores the value. To be done once: a second value is refused if the first is seen in time.
    pub async fn set_result(&self, value: &T) -> Result<(), StoreError> {
        let store = self.factory.store()?;
        if store.exists(self.key()).await? {
            return Err(StoreError::AlreadySet { store: store.name().to_owned(), key: self.key().clone() });
        }
        store.set(self.key(), value).await
    }

    /// The value; waits for it.
    pub async fn result(&self) -> Result<Arc<T>, ResolveError> {
        self.factory.resolve().await
    }

    /// A proxy of the value, which waits for it when it is resolved.
    pub fn proxy(&self) -> Proxy<T, StoreFactory<T, S>> {
        Proxy::new(self.factory.clone())
    }
}

impl<T, S> Clone for ProxyFuture<T, S> {
    fn clone(&self) -> Self {
        Self { factory: self.factory.clone() }
    }
}

impl<T, S> fmt::Debug for ProxyFuture<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyFuture({})", self.factory.key())
    }
}
