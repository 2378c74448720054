//! How a proxy gets its target.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use crate::error::ResolveError;

/// Makes the target of a proxy, when it is asked for. A factory that serde serializes makes a proxy that can be
/// sent elsewhere.
///
/// ```
/// use std::sync::Arc;
///
/// use proxystore::{Factory, Proxy, ResolveError};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Squares(u64);
///
/// impl Factory<Vec<u64>> for Squares {
///     async fn resolve(&self) -> Result<Arc<Vec<u64>>, ResolveError> {
///         Ok(Arc::new((0..self.0).map(|n| n * n).collect()))
///     }
/// }
///
/// let message = serde_json::to_string(&Proxy::new(Squares(4))).unwrap();
/// assert_eq!(message, "4");
/// let received: Proxy<Vec<u64>, Squares> = serde_json::from_str(&message).unwrap();
/// assert_eq!(*received, [0, 1, 4, 9]);
/// ```
pub trait Factory<T>: Send + Sync + 'static {
    /// The target. Runs on the library's own threads, at most once for each proxy.
    fn resolve(&self) -> impl Future<Output = Result<Arc<T>, ResolveError>> + Send;
}

/// A factory that calls a function, which may block; see [`from_fn`].
#[derive(Debug, Clone, Copy)]
pub struct FromFn<F>(F);

/// A factory that calls `make`. Its proxy stays in this process, since functions do not serialize.
///
/// ```
/// let proxy = proxystore::Proxy::new(proxystore::factory::from_fn(|| "3".parse::<i32>()));
/// assert_eq!(*proxy, 3);
/// ```
pub fn from_fn<T, E, F>(make: F) -> FromFn<F>
where
    F: Fn() -> Result<T, E> + Send + Sync + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    FromFn(make)
}

impl<T, E, F> Factory<T> for FromFn<F>
where
    F: Fn() -> Result<T, E> + Send + Sync + 'static,
    E: Into<Box<dyn Error + Send + Sync>>,
    T: Send,
{
    async fn resolve(&self) -> Result<Arc<T>, ResolveError> {
        match tokio::task::block_in_place(&self.0) {
            Ok(target) => Ok(Arc::new(target)),
            Err(error) => Err(ResolveError::Factory(error.into().into())),
        }
    }
}
