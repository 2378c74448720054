//! The connectors, and how a configuration finds its own.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use crate::connector::{Connector, ConnectorConfig, ConnectorError};

pub mod endpoint;
pub mod file;
#[cfg(feature = "globus")]
pub mod globus;
mod host;
pub mod local;
pub mod multi;
#[cfg(feature = "object-storage")]
pub mod object_storage;
#[cfg(feature = "redis")]
pub mod redis;

pub use endpoint::EndpointConnector;
pub use file::FileConnector;
#[cfg(feature = "globus")]
pub use globus::GlobusConnector;
pub use local::LocalConnector;
pub use multi::MultiConnector;
#[cfg(feature = "object-storage")]
pub use object_storage::ObjectStorageConnector;
#[cfg(feature = "redis")]
pub use redis::RedisConnector;

/// Makes a connector from its configuration.
pub type FromConfig = fn(&ConnectorConfig) -> Result<Arc<dyn Connector>, ConnectorError>;

static KINDS: LazyLock<RwLock<BTreeMap<String, FromConfig>>> = LazyLock::new(|| {
    let built_in: [(&str, FromConfig); _] = [
        (endpoint::KIND, |config| Ok(Arc::new(EndpointConnector::from_config(config)?))),
        (file::KIND, |config| Ok(Arc::new(FileConnector::from_config(config)?))),
        #[cfg(feature = "globus")]
        (globus::KIND, |config| Ok(Arc::new(GlobusConnector::from_config(config)?))),
        (local::KIND, |config| Ok(Arc::new(LocalConnector::from_config(config)?))),
        (multi::KIND, |config| Ok(Arc::new(MultiConnector::from_config(config)?))),
        #[cfg(feature = "redis")]
        (redis::KIND, |config| Ok(Arc::new(RedisConnector::from_config(config)?))),
        #[cfg(feature = "object-storage")]
        (object_storage::KIND, |config| Ok(Arc::new(ObjectStorageConnector::from_config(config)?))),
    ];
    RwLock::new(built_in.into_iter().map(|(kind, make)| (kind.to_owned(), make)).collect())
});

/// Makes another kind of connector known to this process, so that proxies of its objects resolve here. A kind
/// that is known already is replaced.
///
/// ```
/// use std::sync::Arc;
///
/// use proxystore::connectors::{FileConnector, from_config, register_kind};
/// use proxystore::{Connector, ConnectorConfig};
///
/// // A connector of one's own: here, files in the directory that this machine has for such things.
/// register_kind("scratch", |_| Ok(Arc::new(FileConnector::new(std::env::temp_dir().join("scratch"))?)));
/// let config = ConnectorConfig { kind: "scratch".to_owned(), settings: serde_json::json!({}) };
/// assert_eq!(from_config(&config)?.config().kind, "file");
/// # Ok::<(), proxystore::ConnectorError>(())
/// ```
pub fn register_kind(kind: &str, from_config: FromConfig) {
    KINDS.write().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned(), from_config);
}

/// The connector that a configuration describes.
pub fn from_config(config: &ConnectorConfig) -> Result<Arc<dyn Connector>, ConnectorError> {
    let make = {
        let kinds = KINDS.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&config.kind).copied().ok_or_else(|| ConnectorError::UnknownKind {
            kind: config.kind.clone(),
            known: kinds.keys().cloned().collect::<Vec<_>>().join(", "),
        })?
    };
    make(config)
}
