//! A store for code that is not asynchronous.

use std::sync::Arc;

use super::{Store, StoreFactory};
use crate::runtime::block_on;
use crate::serialize::{Deserializer, Serializer, Standard};
use crate::{Key, Proxy, StoreError};

/// The methods of [`Store`], each of which waits for its result. Works anywhere, also inside a runtime.
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector};
///
/// let store = Store::new("notes", LocalConnector::new()).blocking();
/// let key = store.put("hello")?;
/// assert_eq!(store.get::<String>(&key)?.as_deref(), Some(&"hello".to_owned()));
/// # Ok::<(), proxystore::StoreError>(())
/// ```
#[derive(Debug)]
pub struct BlockingStore<S = Standard> {
    store: Store<S>,
}

impl<S> BlockingStore<S> {
    pub(super) fn new(store: Store<S>) -> Self {
        Self { store }
    }

    /// See [`Store::exists`].
    pub fn exists(&self, key: &Key) -> Result<bool, StoreError> {
        block_on(self.store.exists(key))
    }

    /// See [`Store::evict`].
    pub fn evict(&self, key: &Key) -> Result<(), StoreError> {
        block_on(self.store.evict(key))
    }

    /// See [`Store::close`].
    pub fn close(&self) -> Result<(), StoreError> {
        block_on(self.store.close())
    }

    /// See [`Store::put`].
    pub fn put<T: ?Sized + Sync>(&self, value: &T) -> Result<Key, StoreError>
    where
        S: Serializer<T>,
    {
        block_on(self.store.put(value))
    }

    /// See [`Store::put_batch`].
    pub fn put_batch<T: Sync>(&self, values: &[T]) -> Result<Vec<Key>, StoreError>
    where
        S: Serializer<T>,
    {
        block_on(self.store.put_batch(values))
    }

    /// See [`Store::get`].
    pub fn get<T>(&self, key: &Key) -> Result<Option<Arc<T>>, StoreError>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        block_on(self.store.get(key))
    }

    /// See [`Store::get_batch`].
    pub fn get_batch<T>(&self, keys: &[Key]) -> Result<Vec<Option<Arc<T>>>, StoreError>
    where
        S: Deserializer<T>,
        T: Send + Sync + 'static,
    {
        block_on(self.store.get_batch(keys))
    }

    /// See [`Store::proxy`].
    pub fn proxy<T>(&self, value: &T) -> Result<Proxy<T, StoreFactory<T, S>>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        block_on(self.store.proxy(value))
    }

    /// See [`Store::proxy_batch`].
    pub fn proxy_batch<T>(&self, values: &[T]) -> Result<Vec<Proxy<T, StoreFactory<T, S>>>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        block_on(self.store.proxy_batch(values))
    }
}

impl<S> Clone for BlockingStore<S> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}
