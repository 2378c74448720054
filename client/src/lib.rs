#![doc = include_str!("../README.md")]

pub mod connector;
pub mod connectors;
mod error;
pub mod executor;
pub mod factory;
mod future;
mod http;
mod key;
pub mod lifetime;
mod object;
mod ownership;
mod proxy;
mod runtime;
pub mod serialize;
mod store;
mod stores;
pub mod stream;
#[cfg(any(feature = "globus", feature = "object-storage", feature = "redis"))]
mod tls;

pub use connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
pub use error::{ResolveError, StoreError};
pub use factory::Factory;
pub use future::ProxyFuture;
pub use key::Key;
pub use object::Object;
pub use ownership::{BorrowError, OwnedProxy, RefMutProxy, RefProxy};
pub use proxy::{LockedProxy, Proxy};
pub use runtime::block_on;
pub use serialize::{SerializeError, Standard};
pub use store::{
    OperationMetrics, Store, StoreConfig, StoreFactory, StoreMetrics, get_or_create_store, get_store,
    register_store, unregister_store,
};
#[cfg(feature = "globus")]
pub use stores::GlobusStore;
#[cfg(feature = "redis")]
pub use stores::RedisStore;
pub use stores::{EndpointStore, FileStore, LocalStore};
