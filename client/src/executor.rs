//! Functions that run elsewhere, whose large arguments and results travel as proxies.
//!
//! Services that run functions (Globus Compute, a queue, a scheduler) move small messages well and large ones badly
//! or not at all. A [`StoreExecutor`] wraps whatever moves the messages, an [`Executor`]: values that a
//! [`ProxyRule`] picks go into a store, and a proxy of each goes into the message. Where the functions run, a
//! [`Functions`] reads the message, calls the function, and treats the result by the same rule.
//!
//! ```
//! use proxystore::executor::{Functions, MaybeProxy, ProxyRule, StoreExecutor};
//! use proxystore::{Store, connectors::LocalConnector};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! // Where the functions run.
//! let mut functions = Functions::new();
//! functions.register("scale", |values: MaybeProxy<Vec<f64>>, factor: MaybeProxy<f64>| async move {
//!     let values = values.resolve_async().await?;
//!     Ok::<Vec<f64>, proxystore::ResolveError>(values.iter().map(|value| value * *factor).collect())
//! });
//!
//! // Where they are called from. Here nothing is in between: `Functions` is an executor too.
//! let store = Store::new("walkthrough", LocalConnector::new());
//! let executor = StoreExecutor::new(functions, store).proxy_if(ProxyRule::over(1000));
//! let many = vec![1.0; 1_000_000];
//! let scaled: MaybeProxy<Vec<f64>> = executor.call("scale").arg(&many)?.arg(&2.0)?.submit().await?;
//! assert!(scaled.is_proxy());
//! assert_eq!(scaled.resolve_async().await?[0], 2.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod functions;
mod maybe;
mod message;
mod rule;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{ExecutorError, TaskError};
pub use functions::{Arguments, BlockingFunction, Function, Functions};
pub use maybe::{MaybeProxy, Transferable};
pub use rule::ProxyRule;

use crate::{Key, Store};
use message::{Passed, Raw, Request, Results, Serialized};

/// Moves a small message to where a function runs, and the answer back: a function service, a queue, a channel.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Has [`Functions::call`] called elsewhere with these, and returns what it returned. An error is about
    /// the way there and back; [`ExecutorError::Transport`] is meant for it. Implementations have deadlines of
    /// their own.
    async fn execute(&self, function: &str, message: Bytes) -> Result<Bytes, ExecutorError>;
}

/// An executor whose messages stay small; see the [module](self).
#[derive(Debug, Clone)]
pub struct StoreExecutor<E> {
    executor: E,
    store: Store,
    rule: ProxyRule,
    keep_arguments: bool,
    evict_results: bool,
}

impl<E: Executor> StoreExecutor<E> {
    /// Sends messages through `executor` and proxies through them, of objects in `store`. Everything travels by value
    /// until [`proxy_if`](Self::proxy_if) says otherwise.
    pub fn new(executor: E, store: Store) -> Self {
        Self { executor, store, rule: ProxyRule::never(), keep_arguments: false, evict_results: false }
    }

    /// Which arguments and results become proxies.
    pub fn proxy_if(mut self, rule: ProxyRule) -> Self {
        self.rule = rule;
        self
    }

    /// Whether arguments stay in the store when their task is over, for functions that pass them on. Unless told
    /// they are evicted.
    pub fn keep_arguments(mut self, keep: bool) -> Self {
        self.keep_arguments = keep;
        self
    }

    /// Whether a result is evicted once its proxy was resolved, by whoever does that first. Unless told it stays,
    /// so that it can be passed to other functions.
    pub fn evict_results(mut self, evict: bool) -> Self {
        self.evict_results = evict;
        self
    }

    /// Calls a function of one argument and waits for the result.
    pub async fn submit<A, R>(&self, function: &str, argument: &A) -> Result<MaybeProxy<R>, ExecutorError>
    where
        A: Transferable,
        R: Transferable,
    {
        self.call(function).arg(argument)?.submit().await
    }

    /// Begins a call of a function with any number of arguments.
    pub fn call<'a>(&'a self, function: &'a str) -> Call<'a, E> {
        Call { executor: self, function, arguments: Vec::new() }
    }
}

/// A call that is being put together.
#[must_use = "nothing is sent before `submit`"]
pub struct Call<'a, E> {
    executor: &'a StoreExecutor<E>,
    function: &'a str,
    arguments: Vec<Argument>,
}

enum Argument {
    InMessage(Passed),
    InStore(Serialized),
}

impl<E: Executor> Call<'_, E> {
    /// One more argument; the rule decides how it travels.
    pub fn arg<A: Transferable>(mut self, argument: &A) -> Result<Self, ExecutorError> {
        let serialized = Serialized::of(argument)?;
        self.arguments.push(if serialized.is_picked_by(&self.executor.rule) {
            Argument::InStore(serialized)
        } else {
            Argument::InMessage(serialized.into_value())
        });
        Ok(self)
    }

    /// One more argument, such as the result of another call. A proxy is passed on as it is, and its object stays.
    pub fn pass<A: Transferable>(mut self, argument: &MaybeProxy<A>) -> Result<Self, ExecutorError> {
        match argument {
            MaybeProxy::Value(value) => self.arg(value),
            MaybeProxy::Proxy(proxy) => {
                self.arguments.push(Argument::InMessage(Passed::proxy(proxy)?));
                Ok(self)
            }
        }
    }

    /// Sends the call and waits for the result.
    pub async fn submit<R: Transferable>(self) -> Result<MaybeProxy<R>, ExecutorError> {
        let StoreExecutor { executor, store, rule, keep_arguments, evict_results } = self.executor;
        let mut lent = Lent { store: store.clone(), keys: Vec::new() };
        let arguments = put_arguments(self.arguments, &mut lent).await?;
        if *keep_arguments {
            lent.keys.clear();
        }
        let results = rule.picks_any().then(|| Results { rule: rule.clone(), store: store.config() });
        let request = message::pack(message::REQUEST, &Request { arguments, results })?;
        let reply = executor.execute(self.function, request).await;
        lent.evict().await;
        let reply: Result<Passed, TaskError> = message::unpack(message::REPLY, &reply?)?;
        match reply?.receive::<R>()? {
            MaybeProxy::Proxy(proxy) if *evict_results => Ok(MaybeProxy::Proxy(proxy.evicting())),
            result => Ok(result),
        }
    }
}

async fn put_arguments(arguments: Vec<Argument>, lent: &mut Lent) -> Result<Vec<Passed>, ExecutorError> {
    let to_put = |argument: &Argument| match argument {
        Argument::InStore(serialized) => Some(serialized.clone()),
        Argument::InMessage(_) => None,
    };
    let objects: Vec<_> = arguments.iter().filter_map(to_put).collect();
    if !objects.is_empty() {
        lent.keys = lent.store.clone().with_format::<Raw>().put_batch(&objects).await?;
    }
    let mut keys = lent.keys.iter();
    let passed = arguments.into_iter().filter_map(|argument| match argument {
        Argument::InMessage(passed) => Some(Ok(passed)),
        Argument::InStore(_) => keys.next().map(|key| Passed::stored(&lent.store, key.clone())),
    });
    passed.collect()
}

/// Arguments in the store that no one needs when the task is over, also if nobody waits for that any more.
struct Lent {
    store: Store,
    keys: Vec<Key>,
}

impl Lent {
    async fn evict(mut self) {
        while let Some(key) = self.keys.last() {
            // The result counts for more than what it was made from.
            if let Err(error) = self.store.evict(key).await {
                tracing::warn!(%key, %error, "an argument was left in the store");
            }
            self.keys.pop();
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let rest = Self { store: self.store.clone(), keys: std::mem::take(&mut self.keys) };
        crate::runtime::handle().spawn(rest.evict());
    }
}
