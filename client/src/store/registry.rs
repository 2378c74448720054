//! The stores of this process by name, so that proxies that arrive share one store, its connections and its cache.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::{Core, Store, StoreConfig};
use crate::StoreError;

/// Stores kept that proxies made although another store has their name.
const NAMESAKES_KEPT: std::num::NonZeroUsize = std::num::NonZeroUsize::new(64).unwrap();

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(|| {
    Mutex::new(Registry { by_name: HashMap::new(), namesakes: LruCache::new(NAMESAKES_KEPT) })
});

struct Registry {
    by_name: HashMap<String, Arc<Core>>,
    /// By configuration.
    namesakes: LruCache<String, Arc<Core>>,
}

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a store known by its name: [`get_store`] finds it, and proxies of its objects that come from elsewhere
/// use it. Registering a store again changes nothing; the name of another one is refused.
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector, get_store, register_store, unregister_store};
///
/// let store = Store::new("registered", LocalConnector::new());
/// register_store(&store)?;
/// assert!(get_store("registered").is_some());
/// let namesake = Store::new("registered", LocalConnector::new());
/// assert!(register_store(&namesake).is_err());
/// unregister_store("registered");
/// register_store(&namesake)?;
/// # Ok::<(), proxystore::StoreError>(())
/// ```
pub fn register_store<S>(store: &Store<S>) -> Result<(), StoreError> {
    let mut registry = registry();
    match registry.by_name.get(store.name()) {
        Some(known) if !Arc::ptr_eq(known, &store.core) => {
            Err(StoreError::NameTaken { name: store.name().to_owned() })
        }
        _ => {
            registry.by_name.insert(store.name().to_owned(), store.core.clone());
            Ok(())
        }
    }
}

/// The store that was registered under this name.
pub fn get_store(name: &str) -> Option<Store> {
    registry().by_name.get(name).cloned().map(Store::of)
}

/// Frees a name. The store goes on working for those who have it.
pub fn unregister_store(name: &str) {
    registry().by_name.remove(name);
}

/// The store that was registered with this name and connector, or else a new one, which is registered if the
/// name is free.
///
/// ```
/// use proxystore::{Store, connectors::LocalConnector, get_or_create_store, get_store, unregister_store};
///
/// let config = Store::new("created", LocalConnector::new()).config();
/// get_or_create_store(&config)?;
/// assert!(get_store("created").is_some());
/// unregister_store("created");
/// # Ok::<(), proxystore::StoreError>(())
/// ```
pub fn get_or_create_store(config: &StoreConfig) -> Result<Store, StoreError> {
    let same_connector = |core: &Core| core.config().connector == config.connector;
    let mut registry = registry();
    match registry.by_name.get(&config.name) {
        Some(core) if same_connector(core) => return Ok(Store::of(core.clone())),
        Some(_) => {}
        None => {
            let store = Store::from_config(config)?;
            registry.by_name.insert(config.name.clone(), store.core.clone());
            return Ok(store);
        }
    }
    let identity = serde_json::to_string(config).unwrap_or_default();
    if let Some(core) = registry.namesakes.get(&identity) {
        return Ok(Store::of(core.clone()));
    }
    let store = Store::from_config(config)?;
    registry.namesakes.put(identity, store.core.clone());
    Ok(store)
}

pub(super) fn forget(core: &Arc<Core>) {
    let mut registry = registry();
    registry.by_name.retain(|_, known| !Arc::ptr_eq(known, core));
    let closed: Vec<_> = registry
        .namesakes
        .iter()
        .filter(|(_, known)| Arc::ptr_eq(known, core))
        .map(|(identity, _)| identity.clone())
        .collect();
    closed.iter().for_each(|identity| {
        registry.namesakes.pop(identity);
    });
}
