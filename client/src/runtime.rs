//! Where asynchronous work runs when the caller has no runtime, or must wait without one.
//!
//! Three needs meet here. Dereferencing a proxy is synchronous and may happen anywhere, also on a worker of the
//! caller's runtime: proxies therefore resolve on a small runtime of this library's own, whose threads nobody
//! else can block. Blocking calls drive their future from the calling thread. And connections, which belong to
//! the runtime that opened them, are kept apart by runtime ([`PerRuntime`]).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle, Id, Runtime, RuntimeFlavor};

/// Enough for sockets; blocking file operations have threads of their own.
const WORKERS: usize = 2;

/// Runtimes whose connections are kept at most. Programs have one or two; tests make one each.
const RUNTIMES_KEPT: usize = 16;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("proxystore")
        .enable_all()
        .build()
        .expect("the system starts two threads")
});

/// The library's own runtime.
pub(crate) fn handle() -> &'static Handle {
    RUNTIME.handle()
}

/// Runs a future to its end on the calling thread, wherever that is: the way from code that is not asynchronous
/// into this library.
///
/// Inside a runtime of several threads the other tasks of this thread move to another one meanwhile; inside a
/// runtime of one thread they wait.
///
/// ```
/// use proxystore::{Store, block_on, connectors::LocalConnector};
///
/// let store = Store::new("notes", LocalConnector::new());
/// let key = block_on(store.put("hello"))?;
/// assert_eq!(block_on(store.get::<String>(&key))?.as_deref(), Some(&"hello".to_owned()));
/// # Ok::<(), proxystore::StoreError>(())
/// ```
pub fn block_on<F>(future: F) -> F::Output
where
    F: Future + Send,
    F::Output: Send,
{
    match Handle::try_current() {
        Err(_) => handle().block_on(future),
        Ok(current) => {
            // A thread that is already inside a runtime cannot enter another one.
            let on_own_thread = || {
                thread::scope(|scope| match scope.spawn(|| handle().block_on(future)).join() {
                    Ok(output) => output,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
            };
            if current.runtime_flavor() == RuntimeFlavor::MultiThread {
                tokio::task::block_in_place(on_own_thread)
            } else {
                on_own_thread()
            }
        }
    }
}

/// Runs a blocking operation, such as on files, without holding up other tasks.
pub(crate) async fn blocking<T, F>(operation: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    if Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread {
        // Saves the way to another thread and back, which takes longer than a small file.
        return tokio::task::block_in_place(operation);
    }
    match tokio::task::spawn_blocking(operation).await {
        Ok(output) => output,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// One value for each runtime, made at first use.
///
/// A socket works only as long as the runtime that registered it. Values of runtimes not seen lately are dropped.
#[derive(Debug)]
pub(crate) struct PerRuntime<T> {
    values: Mutex<Values<T>>,
}

#[derive(Debug)]
struct Values<T> {
    by_runtime: HashMap<Id, (u64, Arc<T>)>,
    clock: u64,
}

impl<T> PerRuntime<T> {
    /// Of no runtime yet.
    pub fn new() -> Self {
        Self { values: Mutex::new(Values { by_runtime: HashMap::new(), clock: 0 }) }
    }

    /// The value of the current runtime. Panics outside of one.
    pub fn current(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let runtime = Handle::current().id();
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.clock += 1;
        let now = values.clock;
        if !values.by_runtime.contains_key(&runtime) {
            values.make_room();
            values.by_runtime.insert(runtime, (now, Arc::new(make())));
        }
        let (used, value) = values.by_runtime.get_mut(&runtime).expect("inserted above");
        *used = now;
        value.clone()
    }

    /// Forgets all values.
    pub fn clear(&self) {
        self.values.lock().unwrap_or_else(PoisonError::into_inner).by_runtime.clear();
    }
}

impl<T> Values<T> {
    fn make_room(&mut self) {
        if self.by_runtime.len() < RUNTIMES_KEPT {
            return;
        }
        let oldest = self.by_runtime.iter().min_by_key(|(_, (used, _))| *used).map(|(runtime, _)| *runtime);
        if let Some(runtime) = oldest {
            self.by_runtime.remove(&runtime);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime_of_one_thread() -> Runtime {
        Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn blocking_works_in_and_out_of_runtimes() {
        let answer = || {
            block_on(async {
                tokio::task::yield_now().await;
                42
            })
        };
        assert_eq!(answer(), 42);
        assert_eq!(runtime_of_one_thread().block_on(async { answer() }), 42);
        let threads = Builder::new_multi_thread().worker_threads(1).build().unwrap();
        assert_eq!(threads.block_on(async { tokio::spawn(async move { answer() }).await.unwrap() }), 42);
    }

    #[test]
    fn each_runtime_has_its_own_value_and_few_are_kept() {
        let values = PerRuntime::new();
        let runtimes: Vec<_> = (0..RUNTIMES_KEPT + 1).map(|_| runtime_of_one_thread()).collect();
        for (number, runtime) in runtimes.iter().enumerate() {
            let value = || runtime.block_on(async { *values.current(|| number) });
            assert_eq!((value(), value()), (number, number));
        }
        let first_again = runtimes[0].block_on(async { *values.current(|| 99) });
        assert_eq!(first_again, 99);
    }
}
