//! A stand-in for an object that is elsewhere, or not made yet.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::OnceCell;

use crate::error::ResolveError;
use crate::factory::Factory;
use crate::runtime;
use crate::store::StoreFactory;

/// Behaves as the `T` that its factory makes, which it does at the first use.
///
/// A proxy is small and serializes as its factory only, so it can be sent in a message where its target could
/// not; whoever uses it there fetches the target then, once, however many threads ask. Clones share the target.
///
/// # Use without asking
///
/// A proxy dereferences to its target, and compares, prints, hashes, and borrows as it does. These cannot return
/// an error: **if the target cannot be had they panic** with the [`ResolveError`] (`Debug` prints it instead). Call
/// [`resolve`](Self::resolve) first where that is not wanted.
///
/// # In asynchronous code
///
/// Use [`resolve_async`](Self::resolve_async); after that, dereferencing costs no more than a plain reference.
/// Dereferencing an unresolved proxy blocks the calling thread until the target is there. The work happens on
/// the library's own threads, so that never deadlocks; on a runtime of several threads the other tasks move on
/// meanwhile, on a runtime of one thread they wait.
///
/// # Trust
///
/// A proxy of an object in a store names that store: whoever resolves it connects to where the message says, with
/// the credentials of its environment. Resolve proxies only of senders that may cause that.
///
/// ```
/// use proxystore::{Proxy, factory};
///
/// let proxy = Proxy::new(factory::from_fn(|| Ok::<_, std::io::Error>(vec![1, 2, 3])));
/// assert!(!proxy.is_resolved());
/// assert_eq!(proxy.len(), 3);
/// assert!(proxy.is_resolved());
/// ```
pub struct Proxy<T, F = StoreFactory<T>> {
    shared: Arc<Shared<T, F>>,
}

struct Shared<T, F> {
    factory: F,
    target: OnceCell<Result<Arc<T>, ResolveError>>,
}

impl<T, F> Proxy<T, F>
where
    T: Send + Sync + 'static,
    F: Factory<T>,
{
    /// Unresolved, of the target that `factory` will make.
    ///
    /// ```
    /// use proxystore::{Proxy, factory::from_fn};
    ///
    /// let proxy = Proxy::new(from_fn(|| "3".parse::<u8>()));
    /// assert!(!proxy.is_resolved());
    /// ```
    pub fn new(factory: F) -> Self {
        Self { shared: Arc::new(Shared { factory, target: OnceCell::new() }) }
    }

    /// The target, made now if it was not before; waits for it.
    ///
    /// ```
    /// use proxystore::{Proxy, ResolveError, factory::from_fn};
    ///
    /// let proxy = Proxy::new(from_fn(|| "many".parse::<u8>()));
    /// assert!(matches!(proxy.resolve(), Err(ResolveError::Factory(_))));
    /// ```
    pub fn resolve(&self) -> Result<&T, ResolveError> {
        if self.shared.target.get().is_none() {
            runtime::block_on(self.make());
        }
        self.target()
    }

    /// The target, made now if it was not before. Dropping this future does not stop the making.
    ///
    /// ```
    /// # use proxystore::{Proxy, block_on, factory::from_fn};
    /// # block_on(async {
    /// let proxy = Proxy::new(from_fn(|| "3".parse::<u8>()));
    /// assert_eq!(proxy.resolve_async().await?, &3);
    /// assert_eq!(*proxy, 3); // costs nothing now
    /// # Ok::<(), proxystore::ResolveError>(())
    /// # })?;
    /// # Ok::<(), proxystore::ResolveError>(())
    /// ```
    pub async fn resolve_async(&self) -> Result<&T, ResolveError> {
        if self.shared.target.get().is_none() {
            self.make().await;
        }
        self.target()
    }

    /// Begins to make the target in the background, to have it sooner.
    ///
    /// ```
    /// use proxystore::{Proxy, factory::from_fn};
    ///
    /// let proxy = Proxy::new(from_fn(|| std::fs::read("/proc/version")));
    /// proxy.prefetch();
    /// // Something else meanwhile.
    /// assert!(proxy.starts_with(b"Linux"));
    /// ```
    pub fn prefetch(&self) {
        drop(self.spawn());
    }

    /// The target itself, shared with other clones of this proxy.
    ///
    /// ```
    /// use proxystore::{Proxy, factory::from_fn};
    ///
    /// let proxy = Proxy::new(from_fn(|| "3".parse::<u8>()));
    /// let target: std::sync::Arc<u8> = proxy.extract()?;
    /// assert_eq!(*target, 3);
    /// # Ok::<(), proxystore::ResolveError>(())
    /// ```
    pub fn extract(self) -> Result<Arc<T>, ResolveError> {
        self.resolve()?;
        self.outcome()
    }

    async fn make(&self) {
        // The task keeps its errors in the cell; it can only fail to run when the runtime is gone.
        let _ = self.spawn().await;
    }

    fn spawn(&self) -> tokio::task::JoinHandle<()> {
        let shared = self.shared.clone();
        runtime::handle().spawn(async move {
            shared.target.get_or_init(|| shared.ask_factory()).await;
        })
    }
}

impl<T, F> Shared<T, F>
where
    F: Factory<T>,
{
    async fn ask_factory(&self) -> Result<Arc<T>, ResolveError> {
        let outcome = AssertUnwindSafe(self.factory.resolve()).catch_unwind().await;
        outcome.unwrap_or_else(|panic| Err(ResolveError::Panicked(words_of(&*panic))))
    }
}

/// What a panic said.
pub(crate) fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no words".to_owned())
}

impl<T, F> Proxy<T, F> {
    /// A proxy that has its target already.
    pub(crate) fn with_target(factory: F, target: Arc<T>) -> Self {
        Self { shared: Arc::new(Shared { factory, target: OnceCell::new_with(Some(Ok(target))) }) }
    }

    /// Whether the target is there. Also false if the factory failed.
    pub fn is_resolved(&self) -> bool {
        matches!(self.shared.target.get(), Some(Ok(_)))
    }

    /// What makes the target.
    pub fn get_factory(&self) -> &F {
        &self.shared.factory
    }

    fn outcome(&self) -> Result<Arc<T>, ResolveError> {
        self.shared.target.get().cloned().unwrap_or(Err(ResolveError::ShuttingDown))
    }

    fn target(&self) -> Result<&T, ResolveError> {
        match self.shared.target.get() {
            Some(Ok(target)) => Ok(target),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ResolveError::ShuttingDown),
        }
    }
}

impl<T, F> Deref for Proxy<T, F>
where
    T: Send + Sync + 'static,
    F: Factory<T>,
{
    type Target = T;

    /// Panics if the target cannot be had; see [`Proxy`].
    fn deref(&self) -> &T {
        match self.shared.target.get() {
            Some(Ok(target)) => target,
            _ => self.resolve().unwrap_or_else(|error| panic!("cannot resolve a proxy: {error}")),
        }
    }
}

impl<T, F> Clone for Proxy<T, F> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T, F, U> AsRef<U> for Proxy<T, F>
where
    T: AsRef<U> + Send + Sync + 'static,
    F: Factory<T>,
    U: ?Sized,
{
    fn as_ref(&self) -> &U {
        (**self).as_ref()
    }
}

impl<T, F> Borrow<T> for Proxy<T, F>
where
    T: Send + Sync + 'static,
    F: Factory<T>,
{
    fn borrow(&self) -> &T {
        self
    }
}

impl<T, F> fmt::Debug for Proxy<T, F>
where
    T: fmt::Debug + Send + Sync + 'static,
    F: Factory<T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.resolve() {
            Ok(target) => target.fmt(f),
            Err(error) => write!(f, "Proxy({error})"),
        }
    }
}

impl<T, F> fmt::Display for Proxy<T, F>
where
    T: fmt::Display + Send + Sync + 'static,
    F: Factory<T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T, F, G> PartialEq<Proxy<T, G>> for Proxy<T, F>
where
    T: PartialEq + Send + Sync + 'static,
    F: Factory<T>,
    G: Factory<T>,
{
    fn eq(&self, other: &Proxy<T, G>) -> bool {
        **self == **other
    }
}

impl<T, F> PartialEq<T> for Proxy<T, F>
where
    T: PartialEq + Send + Sync + 'static,
    F: Factory<T>,
{
    fn eq(&self, other: &T) -> bool {
        **self == *other
    }
}

impl<T, F> Eq for Proxy<T, F>
where
    T: Eq + Send + Sync + 'static,
    F: Factory<T>,
{
}

impl<T, F, G> PartialOrd<Proxy<T, G>> for Proxy<T, F>
where
    T: PartialOrd + Send + Sync + 'static,
    F: Factory<T>,
    G: Factory<T>,
{
    fn partial_cmp(&self, other: &Proxy<T, G>) -> Option<Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T, F> Ord for Proxy<T, F>
where
    T: Ord + Send + Sync + 'static,
    F: Factory<T>,
{
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl<T, F> Hash for Proxy<T, F>
where
    T: Hash + Send + Sync + 'static,
    F: Factory<T>,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a, T, F> IntoIterator for &'a Proxy<T, F>
where
    &'a T: IntoIterator,
    T: Send + Sync + 'static,
    F: Factory<T>,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (**self).into_iter()
    }
}

impl<T, F: Serialize> Serialize for Proxy<T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.shared.factory.serialize(serializer)
    }
}

impl<'de, T, F> Deserialize<'de> for Proxy<T, F>
where
    T: Send + Sync + 'static,
    F: Factory<T> + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        F::deserialize(deserializer).map(Self::new)
    }
}

/// A proxy that cannot be used by mistake: it only passes on, until it is unlocked.
///
/// ```
/// # use proxystore::{LockedProxy, Proxy, factory};
/// let locked = LockedProxy::new(Proxy::new(factory::from_fn(|| Ok::<_, std::io::Error>(5))));
/// assert_eq!(*locked.unlock(), 5);
/// ```
pub struct LockedProxy<T, F = StoreFactory<T>>(Proxy<T, F>);

impl<T, F> LockedProxy<T, F> {
    /// Locks a proxy.
    pub fn new(proxy: Proxy<T, F>) -> Self {
        Self(proxy)
    }

    /// The proxy.
    pub fn unlock(self) -> Proxy<T, F> {
        self.0
    }
}

impl<T, F> Clone for LockedProxy<T, F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, F> fmt::Debug for LockedProxy<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockedProxy")
    }
}

impl<T, F: Serialize> Serialize for LockedProxy<T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T, F> Deserialize<'de> for LockedProxy<T, F>
where
    T: Send + Sync + 'static,
    F: Factory<T> + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Proxy::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests;
