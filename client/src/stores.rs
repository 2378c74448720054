//! The stores by their usual names: each a [`Store`] with its connector.

use std::ops::Deref;
use std::path::Path;

use proxystore_shared::EndpointId;

#[cfg(feature = "globus")]
use crate::connectors::GlobusConnector;
#[cfg(feature = "redis")]
use crate::connectors::RedisConnector;
use crate::connectors::{EndpointConnector, FileConnector, LocalConnector};
use crate::serialize::Serializer;
use crate::{ConnectorError, Key, Standard, Store, StoreError};

macro_rules! named_store {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(Store);

        impl $name {
            /// Stores a value and returns the key that it got; the same as [`Store::put`].
            pub async fn set<T: ?Sized>(&self, value: &T) -> Result<Key, StoreError>
            where
                Standard: Serializer<T>,
            {
                self.0.put(value).await
            }

            /// Keeps up to `count` objects in the cache; 0 for none.
            pub fn cache_size(self, count: usize) -> Self {
                Self(self.0.cache_size(count))
            }

            fn open(name: &str, connector: impl crate::Connector) -> Self {
                Self(Store::new(name, connector))
            }
        }

        impl Deref for $name {
            type Target = Store;

            fn deref(&self) -> &Store {
                &self.0
            }
        }
    };
}

named_store! {
    /// Objects as files in a directory.
    ///
    /// ```
    /// use proxystore::{FileStore, Key};
    ///
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let parent = tempfile::tempdir().expect("a directory");
    /// # let directory = parent.path().join("objects");
    /// let store = FileStore::new("mystore", &directory)?.cache_size(16);
    /// let key = store.set("hello").await?;
    ///
    /// let Key::File { filename } = &key else { unreachable!("a file store has file keys") };
    /// let file = directory.join(filename);
    /// assert_eq!(std::fs::read(&file).expect("a file"), b"US\nhello");
    ///
    /// assert_eq!(store.get::<String>(&key).await?.as_deref(), Some(&"hello".to_owned()));
    /// store.evict(&key).await?;
    /// assert!(!file.exists());
    /// # Ok::<(), proxystore::StoreError>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    FileStore
}

impl FileStore {
    /// In `directory`, which is made if it is missing.
    pub fn new(name: &str, directory: impl AsRef<Path>) -> Result<Self, StoreError> {
        Ok(Self::open(name, FileConnector::new(directory).map_err(of_store(name))?))
    }
}

named_store! {
    /// Objects in the memory of this process.
    ///
    /// ```
    /// use proxystore::{LocalStore, block_on};
    ///
    /// let store = LocalStore::new("scratch");
    /// let key = block_on(store.set("hello"))?;
    /// assert!(block_on(store.exists(&key))?);
    /// # Ok::<(), proxystore::StoreError>(())
    /// ```
    LocalStore
}

impl LocalStore {
    /// An empty one.
    pub fn new(name: &str) -> Self {
        Self::open(name, LocalConnector::new())
    }
}

named_store! {
    /// Objects at endpoints: put at the one of this site, got from any.
    EndpointStore
}

impl EndpointStore {
    /// For whoever has one of these endpoints at their site; it is looked for at the first use.
    pub fn new(name: &str, endpoints: impl IntoIterator<Item = EndpointId>) -> Result<Self, StoreError> {
        Ok(Self::open(name, EndpointConnector::new(endpoints).map_err(of_store(name))?))
    }
}

#[cfg(feature = "redis")]
named_store! {
    /// Objects in a Redis server. For one with a password or TLS, and for a cluster, make the connector.
    ///
    /// ```no_run
    /// use proxystore::{RedisStore, block_on};
    ///
    /// let store = RedisStore::new("shared", "redis.example.org", 6379).cache_size(0);
    /// let key = block_on(store.set("hello"))?;
    /// # Ok::<(), proxystore::StoreError>(())
    /// ```
    RedisStore
}

#[cfg(feature = "redis")]
impl RedisStore {
    /// At this host and port; connects at the first use.
    pub fn new(name: &str, hostname: &str, port: u16) -> Self {
        Self::open(name, RedisConnector::new(hostname, port))
    }
}

#[cfg(feature = "globus")]
named_store! {
    /// Objects as files in directories of several sites, which Globus keeps alike.
    GlobusStore
}

#[cfg(feature = "globus")]
impl GlobusStore {
    /// With the endpoint that is for this host; see [`GlobusConnector`].
    pub fn new(name: &str, settings: crate::connectors::globus::Settings) -> Result<Self, StoreError> {
        Ok(Self::open(name, GlobusConnector::new(settings).map_err(of_store(name))?))
    }
}

fn of_store(name: &str) -> impl FnOnce(ConnectorError) -> StoreError {
    move |error| StoreError::Connector { store: name.to_owned(), error }
}
