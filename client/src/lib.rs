//! Move a tiny proxy first and the data later.

pub mod connector;
pub mod connectors;
mod error;
pub mod executor;
pub mod factory;
mod key;
mod object;
mod proxy;
mod runtime;
pub mod serialize;
mod store;

pub use connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
pub use error::{ResolveError, StoreError};
pub use factory::Factory;
pub use key::Key;
pub use object::Object;
pub use proxy::{LockedProxy, Proxy};
pub use serialize::{SerializeError, Standard};
pub use store::{
    BlockingStore, OperationMetrics, Store, StoreConfig, StoreFactory, StoreMetrics, get_or_create_store,
    get_store, register_store, unregister_store,
};
