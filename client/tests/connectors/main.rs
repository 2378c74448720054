//! Every connector against one contract, each with the real thing behind it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

mod contract;
mod endpoint;
mod file;
#[cfg(feature = "globus")]
mod globus;
mod local;
mod multi;
#[cfg(feature = "object-storage")]
mod object_storage;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;

use proxystore::Connector;
use tokio::runtime::Runtime;

/// Several threads, as programs have.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs the whole contract, property tests included.
fn check_contract(connector: impl Connector) {
    contract::check(&runtime(), Arc::new(connector));
}
