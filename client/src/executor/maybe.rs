//! An argument or a result, however it travelled.

use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Proxy, ResolveError};

/// What arguments and results must be: values that serde reads and writes.
pub trait Transferable: Serialize + DeserializeOwned + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Transferable for T {}

/// A value, or a proxy of one. Dereferences to the value either way, as a [`Proxy`] does: use
/// [`resolve_async`](Self::resolve_async) in asynchronous code.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", bound = "T: Transferable")]
pub enum MaybeProxy<T> {
    /// It travelled in the message.
    Value(T),
    /// It is in a store.
    Proxy(Proxy<T>),
}

impl<T> MaybeProxy<T> {
    /// Whether it is in a store.
    pub fn is_proxy(&self) -> bool {
        matches!(self, Self::Proxy(_))
    }
}

impl<T: Transferable> MaybeProxy<T> {
    /// The value, fetched if it is elsewhere; waits for it.
    pub fn resolve(&self) -> Result<&T, ResolveError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Proxy(proxy) => proxy.resolve(),
        }
    }

    /// The value, fetched if it is elsewhere.
    pub async fn resolve_async(&self) -> Result<&T, ResolveError> {
        match self {
            Self::Value(value) => Ok(value),
            Self::Proxy(proxy) => proxy.resolve_async().await,
        }
    }
}

impl<T: Transferable> Deref for MaybeProxy<T> {
    type Target = T;

    /// Panics if it is a proxy whose target cannot be had.
    fn deref(&self) -> &T {
        match self {
            Self::Value(value) => value,
            Self::Proxy(proxy) => proxy,
        }
    }
}

impl<T: Clone> Clone for MaybeProxy<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Value(value) => Self::Value(value.clone()),
            Self::Proxy(proxy) => Self::Proxy(proxy.clone()),
        }
    }
}

/// Fetches nothing.
impl<T: fmt::Debug> fmt::Debug for MaybeProxy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.debug_tuple("Value").field(value).finish(),
            Self::Proxy(proxy) => f.debug_tuple("Proxy").field(proxy.get_factory()).finish(),
        }
    }
}
