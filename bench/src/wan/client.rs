//! The client of HTTP and of Redis: the same for both, so that it makes no difference between them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use proxystore_bench::load::{Connection, Request};
use proxystore_tests::net::Namespace;
use tokio::runtime::{Builder, Runtime};

/// A connection to a port of loopback within a site.
pub struct Client {
    namespace: Arc<Namespace>,
    runtime: Runtime,
    connection: Mutex<Connection>,
}

impl Client {
    /// Connects.
    pub fn open(namespace: &Arc<Namespace>, port: u16) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let connection = namespace.within(|| runtime.block_on(Connection::open(port)))?;
        Ok(Self { namespace: namespace.clone(), runtime, connection: Mutex::new(connection) })
    }

    /// Repeats a request that goes to a peer until there is a session with it.
    pub fn meet(&self, request: &Request) -> Result<()> {
        self.namespace.within(|| self.runtime.block_on(self.connection().meet(request)))
    }

    /// Sends a request; returns the length of the answer's body.
    pub fn exchange(&self, request: &Request) -> Result<usize> {
        self.namespace.within(|| self.runtime.block_on(self.connection().exchange(request)))
    }

    /// Sends a request that is answered with `len` bytes.
    pub fn fetch(&self, request: &Request, len: usize) -> Result<()> {
        let received = self.exchange(request)?;
        ensure!(received == len, "{received} bytes of {len}");
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
