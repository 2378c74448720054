//! Objects with an owner: evicted when the owner goes, changed only by who borrowed them alone.
//!
//! The rules are Rust's, kept at run time because borrowers may be in other processes: an [`OwnedProxy`] is to an
//! object in a store what a `RefCell` is to a value.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::runtime;
use crate::serialize::{Deserializer, Serializer, Standard};
use crate::store::{Store, StoreFactory};
use crate::{Key, Proxy, ResolveError, StoreError};

/// A borrow that the rules forbid. Return the other borrows first, by dropping them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BorrowError {
    /// Somebody has borrowed the object to change it.
    #[error("the object {key} is borrowed mutably")]
    MutablyBorrowed {
        /// The object.
        key: Key,
    },
    /// Somebody has borrowed the object to read it.
    #[error("the object {key} is borrowed ({count} times)")]
    Borrowed {
        /// The object.
        key: Key,
        /// Borrows that were not returned.
        count: usize,
    },
}

/// Owns an object: evicts it when this and all borrows are dropped. There should be one owner of an object only.
///
/// Dropping waits for the eviction and only logs its failure.
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Store::new("shared", LocalConnector::new());
/// let owner = store.owned_proxy(&1_u64).await?;
/// assert_eq!(*owner.borrow()?, 1);
///
/// let mut writer = owner.mut_borrow()?;
/// assert!(owner.borrow().is_err());
/// writer.update(2).await?;
/// drop(writer);
/// assert_eq!(*owner.borrow()?, 2);
///
/// let key = owner.key().clone();
/// drop(owner);
/// assert!(!store.exists(&key).await?);
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// # }).unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct OwnedProxy<T, S = Standard>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    title: Arc<Title<T, S>>,
}

/// What owner and borrowers share.
struct Title<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    factory: StoreFactory<T, S>,
    state: Mutex<State<T, S>>,
}

struct State<T, S> {
    /// Shared by all who read, until somebody changes the object.
    proxy: Proxy<T, StoreFactory<T, S>>,
    readers: usize,
    writer: bool,
    /// Evict the object at the end.
    owned: bool,
}

impl<T, S> Title<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    fn state(&self) -> MutexGuard<'_, State<T, S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, S> Drop for Title<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    fn drop(&mut self) {
        if !self.state().owned {
            return;
        }
        let evicted = runtime::block_on(async { self.factory.store()?.evict(self.factory.key()).await });
        if let Err(error) = evicted {
            tracing::warn!(%error, "an object outlives its owner");
        }
    }
}

impl<S> Store<S> {
    /// Puts a value and returns its owner.
    pub async fn owned_proxy<T>(&self, value: &T) -> Result<OwnedProxy<T, S>, StoreError>
    where
        S: Serializer<T> + Deserializer<T>,
        T: Send + Sync + 'static,
    {
        Ok(OwnedProxy::own(self.proxy(value).await?))
    }
}

impl<T, S> OwnedProxy<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    /// Takes ownership of a proxy's object, which nobody else must own.
    pub fn own(proxy: Proxy<T, StoreFactory<T, S>>) -> Self {
        let factory = proxy.get_factory().clone().past_cache();
        let proxy = Proxy::new(factory.clone());
        let state = Mutex::new(State { proxy, readers: 0, writer: false, owned: true });
        Self { title: Arc::new(Title { factory, state }) }
    }

    /// Gives up ownership, as to pass it on: whoever gets the proxy calls [`own`](Self::own). While the object is
    /// borrowed the owner stays what it is and comes back as the error.
    ///
    /// ```
    /// # use proxystore::{OwnedProxy, Store, block_on, connectors::LocalConnector};
    /// # let store = Store::new("docs", LocalConnector::new());
    /// let owner = block_on(store.owned_proxy(&5))?;
    /// let reader = owner.borrow()?;
    /// let owner = owner.release().expect_err("it is borrowed");
    /// drop(reader);
    /// let proxy = owner.release().expect("nobody has borrowed it");
    /// let new_owner = OwnedProxy::own(proxy);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<Proxy<T, StoreFactory<T, S>>, Self> {
        let released = {
            let mut state = self.title.state();
            let is_free = state.readers == 0 && !state.writer;
            state.owned = !is_free;
            is_free.then(|| state.proxy.clone())
        };
        released.ok_or(self)
    }

    /// The key of the object.
    pub fn key(&self) -> &Key {
        self.title.factory.key()
    }

    /// Borrows the object to read it. Any number of readers may have it at a time.
    pub fn borrow(&self) -> Result<RefProxy<T, S>, BorrowError> {
        let mut state = self.title.state();
        if state.writer {
            return Err(BorrowError::MutablyBorrowed { key: self.key().clone() });
        }
        state.readers += 1;
        Ok(RefProxy { proxy: state.proxy.clone(), title: Some(self.title.clone()) })
    }

    /// Borrows the object to change it. Nobody else may have it at that time.
    pub fn mut_borrow(&self) -> Result<RefMutProxy<T, S>, BorrowError> {
        let mut state = self.title.state();
        let key = || self.key().clone();
        match (state.writer, state.readers) {
            (true, _) => Err(BorrowError::MutablyBorrowed { key: key() }),
            (false, 0) => {
                state.writer = true;
                Ok(RefMutProxy { proxy: state.proxy.clone(), title: Some(self.title.clone()) })
            }
            (false, count) => Err(BorrowError::Borrowed { key: key(), count }),
        }
    }

    /// Stores a copy of the object, with an owner of its own.
    pub async fn try_clone(&self) -> Result<Self, ResolveError>
    where
        S: Serializer<T>,
    {
        let reader = self.borrow().map_err(|error| ResolveError::Factory(Arc::new(error)))?;
        let value = reader.proxy.resolve_async().await?;
        Ok(self.title.factory.store()?.owned_proxy(value).await?)
    }
}

/// An object borrowed to read. Dereferences to it, as a [`Proxy`] does; returned by dropping it.
///
/// Serializes so that a task elsewhere can read the object; keep this one until that task has ended.
#[derive(Serialize, Deserialize)]
#[serde(bound = "", transparent)]
pub struct RefProxy<T, S = Standard>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    proxy: Proxy<T, StoreFactory<T, S>>,
    /// None where it was sent to: the one that was borrowed is counted.
    #[serde(skip, default = "Option::default")]
    title: Option<Arc<Title<T, S>>>,
}

impl<T, S> Drop for RefProxy<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    fn drop(&mut self) {
        if let Some(title) = &self.title {
            title.state().readers -= 1;
        }
    }
}

/// An object borrowed to change. Dereferences to it, as a [`Proxy`] does; returned by dropping it.
///
/// Serializes so that a task elsewhere can change the object; keep this one until that task has ended.
#[derive(Serialize, Deserialize)]
#[serde(bound = "", transparent)]
pub struct RefMutProxy<T, S = Standard>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    proxy: Proxy<T, StoreFactory<T, S>>,
    #[serde(skip, default = "Option::default")]
    title: Option<Arc<Title<T, S>>>,
}

impl<T, S> RefMutProxy<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    /// Stores another value in place of the object. Who reads it next, wherever that is, finds this one.
    pub async fn update(&mut self, value: T) -> Result<(), StoreError>
    where
        S: Serializer<T>,
    {
        let factory = self.proxy.get_factory().clone();
        factory.store()?.set(factory.key(), &value).await?;
        self.proxy = Proxy::with_target(factory, Arc::new(value));
        Ok(())
    }
}

impl<T, S> Drop for RefMutProxy<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    fn drop(&mut self) {
        if let Some(title) = &self.title {
            let mut state = title.state();
            state.writer = false;
            // The object may have been changed here, or by a task that this was sent to.
            state.proxy = Proxy::new(title.factory.clone());
        }
    }
}

macro_rules! like_its_target {
    ($($name:ident),*) => {$(
        impl<T, S> $name<T, S>
        where
            T: Send + Sync + 'static,
            S: Deserializer<T>,
        {
            /// See [`Proxy::resolve_async`].
            pub async fn resolve_async(&self) -> Result<&T, ResolveError> {
                self.proxy.resolve_async().await
            }
        }

        impl<T, S> Deref for $name<T, S>
        where
            T: Send + Sync + 'static,
            S: Deserializer<T>,
        {
            type Target = T;

            /// Panics if the object cannot be had; see [`Proxy`].
            fn deref(&self) -> &T {
                &self.proxy
            }
        }

        impl<T, S> fmt::Debug for $name<T, S>
        where
            T: Send + Sync + 'static,
            S: Deserializer<T>,
        {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.proxy.key())
            }
        }
    )*};
}
like_its_target!(RefProxy, RefMutProxy);

impl<T, S> fmt::Debug for OwnedProxy<T, S>
where
    T: Send + Sync + 'static,
    S: Deserializer<T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedProxy({})", self.key())
    }
}
