//! How long objects stay: until the end of a scope, of a lease, or of the program.
//!
//! Nothing evicts an object by itself. A lifetime remembers keys, of one or several stores, and evicts their
//! objects when it ends.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::runtime;
use crate::store::{Store, StoreFactory};
use crate::{Key, Proxy, StoreError};

/// Objects evicted at once.
const EVICTIONS_AT_ONCE: usize = 16;

/// The lifetime is over, so it takes no more objects; whoever has this one must evict it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lifetime has ended: {key} is not part of it and stays until it is evicted")]
pub struct LifetimeEnded {
    /// The object.
    pub key: Key,
}

/// The objects of a lifetime; none once it ended.
#[derive(Default)]
struct Members(Mutex<Option<Vec<(Store, Key)>>>);

impl Members {
    fn new() -> Self {
        Self(Mutex::new(Some(Vec::new())))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<(Store, Key)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add<S>(&self, store: &Store<S>, key: Key) -> Result<(), LifetimeEnded> {
        match &mut *self.lock() {
            Some(members) => {
                members.push((store.clone().with_format(), key));
                Ok(())
            }
            None => Err(LifetimeEnded { key }),
        }
    }

    fn add_proxy<T, S>(&self, proxy: &Proxy<T, StoreFactory<T, S>>) -> Result<(), AddProxyError> {
        let factory = proxy.get_factory();
        Ok(self.add(&factory.store()?, factory.key().clone())?)
    }

    fn has_ended(&self) -> bool {
        self.lock().is_none()
    }

    /// Evicts everything, also after an error, of which the first is returned.
    async fn end(&self) -> Result<(), StoreError> {
        let members = self.lock().take().unwrap_or_default();
        let evictions = members.into_iter().map(|(store, key)| async move { store.evict(&key).await });
        let outcomes: Vec<_> = stream::iter(evictions).buffer_unordered(EVICTIONS_AT_ONCE).collect().await;
        outcomes.into_iter().collect()
    }

    /// For when nobody asks for the outcome.
    async fn end_quietly(&self) {
        if let Err(error) = self.end().await {
            tracing::warn!(%error, "an object outlives its lifetime");
        }
    }
}

/// Why a proxy's object did not become part of a lifetime.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddProxyError {
    /// Too late.
    #[error(transparent)]
    Ended(#[from] LifetimeEnded),
    /// The proxy's store cannot be made here.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Evicts its objects when it is closed or dropped.
///
/// Dropping waits for the evictions, and only logs what fails; in asynchronous code call
/// [`close`](Self::close).
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector, lifetime::ContextLifetime};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let store = Store::new("scratch", LocalConnector::new());
/// let lifetime = ContextLifetime::new();
/// let proxy = store.proxy(&vec![1, 2, 3]).await?;
/// lifetime.add_proxy(&proxy)?;
/// assert_eq!(proxy.resolve_async().await?.len(), 3);
/// lifetime.close().await?;
/// assert!(!store.exists(proxy.key()).await?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ContextLifetime {
    members: Members,
}

impl ContextLifetime {
    /// Of no objects yet.
    pub fn new() -> Self {
        Self { members: Members::new() }
    }

    /// Makes an object part of this lifetime.
    pub fn add_key<S>(&self, store: &Store<S>, key: Key) -> Result<(), LifetimeEnded> {
        self.members.add(store, key)
    }

    /// Makes the object of a proxy part of this lifetime.
    pub fn add_proxy<T, S>(&self, proxy: &Proxy<T, StoreFactory<T, S>>) -> Result<(), AddProxyError> {
        self.members.add_proxy(proxy)
    }

    /// Ends the lifetime. After an error the other objects are evicted all the same.
    pub async fn close(self) -> Result<(), StoreError> {
        self.members.end().await
    }
}

impl Default for ContextLifetime {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for ContextLifetime {
    fn drop(&mut self) {
        if !self.members.has_ended() {
            runtime::block_on(self.members.end_quietly());
        }
    }
}

/// Evicts its objects when a time has passed, even if this handle was dropped before. A program that ends earlier
/// leaves them behind.
///
/// ```
/// use std::time::Duration;
///
/// use proxystore::{Store, block_on, connectors::LocalConnector, lifetime::LeaseLifetime};
///
/// let store = Store::new("leased", LocalConnector::new());
/// let lease = LeaseLifetime::new(Duration::from_secs(60));
/// let key = block_on(store.put("hello"))?;
/// lease.add_key(&store, key.clone())?;
/// assert!(lease.extend(Duration::from_secs(60)));
/// block_on(lease.close())?;
/// assert!(!block_on(store.exists(&key))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LeaseLifetime {
    lease: Arc<Lease>,
    timer: AbortHandle,
}

struct Lease {
    members: Members,
    expiry: Mutex<Instant>,
}

impl Lease {
    fn expiry(&self) -> MutexGuard<'_, Instant> {
        self.expiry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) {
        loop {
            let expiry = *self.expiry();
            if Instant::now() >= expiry {
                return self.members.end_quietly().await;
            }
            tokio::time::sleep_until(expiry).await;
        }
    }
}

impl LeaseLifetime {
    /// Ends after `lease`.
    pub fn new(lease: Duration) -> Self {
        let expiry = Mutex::new(Instant::now() + lease);
        let lease = Arc::new(Lease { members: Members::new(), expiry });
        let timed = lease.clone();
        let timer = runtime::handle().spawn(async move { timed.run().await }).abort_handle();
        Self { lease, timer }
    }

    /// Makes an object part of this lifetime.
    pub fn add_key<S>(&self, store: &Store<S>, key: Key) -> Result<(), LifetimeEnded> {
        self.lease.members.add(store, key)
    }

    /// Makes the object of a proxy part of this lifetime.
    pub fn add_proxy<T, S>(&self, proxy: &Proxy<T, StoreFactory<T, S>>) -> Result<(), AddProxyError> {
        self.lease.members.add_proxy(proxy)
    }

    /// Lengthens the lease by `more`; false if it has ended already.
    pub fn extend(&self, more: Duration) -> bool {
        *self.lease.expiry() += more;
        !self.has_ended()
    }

    /// Whether the lease has run out, or was closed.
    pub fn has_ended(&self) -> bool {
        self.lease.members.has_ended()
    }

    /// Ends the lease now.
    pub async fn close(self) -> Result<(), StoreError> {
        self.timer.abort();
        self.lease.members.end().await
    }
}

static STATIC: LazyLock<Members> = LazyLock::new(Members::new);

/// Keeps its objects until the program ends, which the program announces by dropping the guard that
/// [`until_end_of_main`](Self::until_end_of_main) gave.
///
/// ```
/// use proxystore::{Store, block_on, connectors::LocalConnector, lifetime::StaticLifetime};
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let _guard = StaticLifetime::until_end_of_main();
///     let store = Store::new("constants", LocalConnector::new());
///     StaticLifetime::add_proxy(&block_on(store.proxy(&3.14))?)?;
///     Ok(())
/// }
/// ```
pub struct StaticLifetime;

impl StaticLifetime {
    /// Evicts the objects of the static lifetime when it is dropped: hold it in `main`. (Rust runs nothing after
    /// `main`, so there is no other way to be asked.)
    #[must_use = "dropping it ends the static lifetime"]
    pub fn until_end_of_main() -> EndOfMain {
        EndOfMain(())
    }

    /// Makes an object part of this lifetime.
    pub fn add_key<S>(store: &Store<S>, key: Key) -> Result<(), LifetimeEnded> {
        STATIC.add(store, key)
    }

    /// Makes the object of a proxy part of this lifetime.
    pub fn add_proxy<T, S>(proxy: &Proxy<T, StoreFactory<T, S>>) -> Result<(), AddProxyError> {
        STATIC.add_proxy(proxy)
    }
}

/// Ends the static lifetime when it is dropped.
pub struct EndOfMain(());

impl Drop for EndOfMain {
    fn drop(&mut self) {
        runtime::block_on(STATIC.end_quietly());
    }
}

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )*};
}
opaque_debug!(ContextLifetime, LeaseLifetime, StaticLifetime, EndOfMain);
