//! Stores, and the patterns on them, as a program uses them.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

mod bad_input;
mod futures;
mod lifetimes;
mod ownership;
mod registry;
mod store;

use proxystore::connectors::FileConnector;
use proxystore::{Store, StoreConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A store in a directory that lasts as long as the test.
fn file_store(name: &str) -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(name, FileConnector::new(directory.path()).unwrap());
    (directory, store)
}

/// As it arrives in another process, where no store of this name is known yet.
fn sent<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let message = serde_json::to_string(value).unwrap();
    assert!(message.len() < 2000, "{} bytes are no small message", message.len());
    serde_json::from_str(&message).unwrap()
}

/// The same store as another process has it.
fn elsewhere(store: &Store) -> Store {
    Store::from_config(&sent::<StoreConfig>(&store.config())).unwrap()
}
