//! Asynchronous work inside a namespace, such as HTTP requests to a program there.

use std::thread;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::namespace::Namespace;

/// A runtime on a thread in a namespace; dropping it ends both.
#[derive(Debug)]
pub struct Inside {
    runtime: Handle,
    _stop: oneshot::Sender<()>,
}

impl Inside {
    /// Starts the thread in `namespace`.
    pub fn new(namespace: &Namespace) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        // A thread is in the namespace of the one that started it.
        let runtime = namespace.within(|| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            thread::spawn(move || runtime.block_on(stopped));
            Ok(handle)
        })?;
        Ok(Self { runtime, _stop: stop })
    }

    /// Runs `work` in the namespace.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runtime.spawn(work).await.context("work in a namespace ended early")
    }
}
