//! Objects in the memory of this process: for tests, and for threads and tasks of one program.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, PutOptions};
use crate::{Key, Object};

/// In configurations.
pub const KIND: &str = "local";

/// Every space in use, so that a configuration finds it again within this process.
static SPACES: LazyLock<Mutex<HashMap<Uuid, Weak<Space>>>> = LazyLock::new(Mutex::default);

#[derive(Debug, Default)]
struct Space {
    objects: Mutex<HashMap<String, Object>>,
    stored: Notify,
}

impl Space {
    fn objects(&self) -> MutexGuard<'_, HashMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps objects in memory. Connectors made from one configuration within a process share their objects, which
/// last as long as any of them; in another process the same configuration gives an empty one.
///
/// ```
/// use proxystore::connectors::LocalConnector;
/// use proxystore::{Store, block_on};
///
/// let store = Store::new("scratch", LocalConnector::new());
/// let key = block_on(store.put("hello"))?;
/// assert!(block_on(store.exists(&key))?);
/// # Ok::<(), proxystore::StoreError>(())
/// ```
#[derive(Debug)]
pub struct LocalConnector {
    id: Uuid,
    space: Arc<Space>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    id: Uuid,
}

impl LocalConnector {
    /// An empty one.
    pub fn new() -> Self {
        Self::open(Uuid::new_v4())
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        Ok(Self::open(config.settings::<Settings>()?.id))
    }

    fn open(id: Uuid) -> Self {
        let mut spaces = SPACES.lock().unwrap_or_else(PoisonError::into_inner);
        let space = spaces.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            spaces.retain(|_, space| space.strong_count() > 0);
            let space = Arc::<Space>::default();
            spaces.insert(id, Arc::downgrade(&space));
            space
        });
        Self { id, space }
    }
}

impl Default for LocalConnector {
    fn default() -> Self {
        Self::new()
    }
}

fn id_of(key: &Key) -> Result<&String, ConnectorError> {
    match key {
        Key::Local { id } => Ok(id),
        key => Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() }),
    }
}

#[async_trait]
impl Connector for LocalConnector {
    async fn put(&self, object: Object, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        self.set(&key, object).await?;
        Ok(key)
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        Ok(self.space.objects().get(id_of(key)?).cloned())
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        Ok(self.space.objects().contains_key(id_of(key)?))
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        self.space.objects().remove(id_of(key)?);
        Ok(())
    }

    fn config(&self) -> ConnectorConfig {
        ConnectorConfig::new(KIND, &Settings { id: self.id })
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Ok(Key::Local { id: Uuid::new_v4().to_string() })
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        self.space.objects().insert(id_of(key)?.clone(), object);
        self.space.stored.notify_waiters();
        Ok(())
    }

    async fn wait(&self, key: &Key, deadline: Instant) -> Result<bool, ConnectorError> {
        loop {
            let stored = self.space.stored.notified();
            if self.exists(key).await? {
                return Ok(true);
            }
            if tokio::time::timeout_at(deadline, stored).await.is_err() {
                return self.exists(key).await;
            }
        }
    }
}
