//! Proxies of objects in a store.

use super::{Store, StoreFactory};
use crate::error::StoreError;
use crate::serialize::{Deserializer, Serializer};
use crate::{Key, LockedProxy, Proxy};

impl<S> Store<S> {
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
}
