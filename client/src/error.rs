//! What can go wrong with stores and proxies.

use std::sync::Arc;

use crate::connector::ConnectorError;
use crate::key::Key;
use crate::serialize::SerializeError;

/// Why a store could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The connector failed; [`ConnectorError::is_transient`] tells whether trying again may help.
    #[error("store {store:?}: {error}")]
    Connector {
        /// The store's name.
        store: String,
        /// What the connector said.
        #[source]
        error: ConnectorError,
    },
    /// The value cannot be written, or the object is not such a value.
    #[error("store {store:?}: {error}")]
    Serialize {
        /// The store's name.
        store: String,
        /// Which object, unless it is a new one.
        key: Option<Box<Key>>,
        /// What the serializer said.
        #[source]
        error: SerializeError,
    },
    /// Another store of this process has the name.
    #[error("there is a store called {name:?} already: give this one another name, or unregister that one")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The future has its value already; objects never change.
    #[error("store {store:?}: the future {key} has its value already")]
    AlreadySet {
        /// The store's name.
        store: String,
        /// The key of the value.
        key: Key,
    },
    /// No object came in time.
    #[error("store {store:?}: no object was stored under {key} in time")]
    NotInTime {
        /// The store's name.
        store: String,
        /// The key that was waited for.
        key: Key,
    },
}

impl StoreError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connector { error, .. } => error.is_transient(),
            Self::NotInTime { .. } => true,
            Self::Serialize { .. } | Self::NameTaken { .. } | Self::AlreadySet { .. } => false,
        }
    }
}

/// Why a proxy has no target. The proxy keeps it; [`Proxy::new`](crate::Proxy::new) with the same factory tries
/// again.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The object was evicted, or never was.
    #[error("store {store:?} has no object {key}: it was evicted, or never stored")]
    Missing {
        /// The store's name.
        store: String,
        /// The key of the object.
        key: Key,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A factory of the program's own failed.
    #[error("the factory failed: {0}")]
    Factory(Arc<dyn std::error::Error + Send + Sync>),
    /// The factory panicked.
    #[error("the factory panicked: {0}")]
    Panicked(String),
    /// Too late: the library's threads have stopped.
    #[error("the program is shutting down")]
    ShuttingDown,
}
