//! Where functions run: they are found by name, called, and their results sent back.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::message::{self, Passed, Raw, Request, Results, Serialized};
use super::{Executor, ExecutorError, MaybeProxy, TaskError, Transferable};
use crate::proxy::words_of;
use crate::{get_or_create_store, runtime};

/// A function whose types are forgotten: from arguments as they arrive to a result as it leaves.
type Erased = Box<dyn Fn(Vec<Passed>) -> BoxFuture<'static, Result<Serialized, Fault>> + Send + Sync>;

/// The functions that can be called here, by name. See the [module](super) for an example.
///
/// It is an [`Executor`] itself, one that runs functions right here.
#[derive(Default)]
pub struct Functions {
    by_name: BTreeMap<String, Erased>,
}

enum Fault {
    Arguments(String),
    Function(String),
    Result(String),
}

impl Functions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an asynchronous function known, of up to four arguments, each a [`MaybeProxy`], which returns a
    /// `Result`. One of the same name is replaced.
    pub fn register<A, R, F>(&mut self, name: &str, function: F)
    where
        A: Arguments,
        R: Transferable,
        F: Function<A, R>,
    {
        let function = Arc::new(function);
        self.insert(name, move |arguments| {
            let function = function.clone();
            async move { function.call(arguments).await }
        });
    }

    /// Makes a function known that computes or blocks for long. It runs where it does not hold up others; it may
    /// dereference its arguments. Otherwise as [`register`](Self::register).
    pub fn register_blocking<A, R, F>(&mut self, name: &str, function: F)
    where
        A: Arguments,
        R: Transferable,
        F: BlockingFunction<A, R>,
    {
        let function = Arc::new(function);
        self.insert(name, move |arguments| {
            let function = function.clone();
            runtime::blocking(move || function.call(arguments))
        });
    }

    fn insert<A, R, Made>(&mut self, name: &str, call: impl Fn(A) -> Made + Send + Sync + 'static)
    where
        A: Arguments,
        R: Transferable,
        Made: Future<Output = Result<R, String>> + Send + 'static,
    {
        let call = Arc::new(call);
        let erased = move |passed: Vec<Passed>| {
            let call = call.clone();
            let run = async move {
                let arguments = A::receive(passed).map_err(Fault::Arguments)?;
                let result = call(arguments).await.map_err(Fault::Function)?;
                Serialized::of(&result).map_err(|error| Fault::Result(error.to_string()))
            };
            run.boxed()
        };
        self.by_name.insert(name.to_owned(), Box::new(erased));
    }

    /// Calls a function with the message that a [`StoreExecutor`](super::StoreExecutor) made, and returns the answer
    /// for it. An error is an answer too.
    pub async fn call(&self, function: &str, message: Bytes) -> Bytes {
        let reply = self.reply(function, message).await;
        message::pack(message::REPLY, &reply).unwrap_or_else(|error| {
            let error = TaskError::Result { function: function.to_owned(), reason: error.to_string() };
            message::pack(message::REPLY, &Err::<Passed, _>(error)).unwrap_or_default()
        })
    }

    async fn reply(&self, function: &str, message: Bytes) -> Result<Passed, TaskError> {
        let name = function.to_owned();
        let erased = self.by_name.get(function).ok_or_else(|| TaskError::UnknownFunction {
            function: name.clone(),
            known: self.by_name.keys().cloned().collect::<Vec<_>>().join(", "),
        })?;
        let request: Request = message::unpack(message::REQUEST, &message)
            .map_err(|error| TaskError::Message { function: name.clone(), reason: error.to_string() })?;
        drop(message);
        let called = AssertUnwindSafe(erased(request.arguments)).catch_unwind().await;
        let result = match called {
            Ok(Ok(result)) => result,
            Ok(Err(fault)) => return Err(fault.of(name)),
            Err(panic) => return Err(Fault::Function(format!("it panicked: {}", words_of(&*panic))).of(name)),
        };
        send(result, request.results).await.map_err(|error| Fault::Result(error.to_string()).of(name))
    }
}

async fn send(result: Serialized, results: Option<Results>) -> Result<Passed, ExecutorError> {
    match results {
        Some(results) if result.is_picked_by(&results.rule) => {
            let store = get_or_create_store(&results.store)?;
            let key = store.clone().with_format::<Raw>().put(&result).await?;
            Passed::stored(&store, key)
        }
        _ => Ok(result.into_value()),
    }
}

impl Fault {
    fn of(self, function: String) -> TaskError {
        match self {
            Self::Arguments(reason) => TaskError::Arguments { function, reason },
            Self::Function(reason) => TaskError::Failed { function, reason },
            Self::Result(reason) => TaskError::Result { function, reason },
        }
    }
}

#[async_trait]
impl Executor for Functions {
    async fn execute(&self, function: &str, message: Bytes) -> Result<Bytes, ExecutorError> {
        Ok(self.call(function, message).await)
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

trait Receive: Sized {
    fn receive(passed: Vec<Passed>) -> Result<Self, String>;
}

/// Up to four [`MaybeProxy`]s. Closures bring it with them; nobody else implements it.
#[expect(private_bounds, reason = "how arguments travel is nobody else's concern")]
pub trait Arguments: Receive + Send + 'static {}

/// An asynchronous function that can be [registered](Functions::register). Closures of up to four [`MaybeProxy`]s that
/// return a future of a `Result` are; nothing else needs to be.
pub trait Function<A, R>: Send + Sync + 'static {
    /// Calls it. The error is in words.
    fn call(&self, arguments: A) -> BoxFuture<'static, Result<R, String>>;
}

/// A function that can be [registered](Functions::register_blocking). Closures of up to four [`MaybeProxy`]s that
/// return a `Result` are; nothing else needs to be.
pub trait BlockingFunction<A, R>: Send + Sync + 'static {
    /// Calls it. The error is in words.
    fn call(&self, arguments: A) -> Result<R, String>;
}

macro_rules! of_arguments {
    ($count:literal $($T:ident $value:ident),*) => {
        impl<$($T: Transferable),*> Receive for ($(MaybeProxy<$T>,)*) {
            fn receive(passed: Vec<Passed>) -> Result<Self, String> {
                let [$($value),*] = <[Passed; $count]>::try_from(passed)
                    .map_err(|passed| format!("it takes {}, not {}", $count, passed.len()))?;
                Ok(($($value.receive().map_err(|error| error.to_string())?,)*))
            }
        }

        impl<$($T: Transferable),*> Arguments for ($(MaybeProxy<$T>,)*) {}

        impl<Run, Made, Output, Failure, $($T),*> Function<($(MaybeProxy<$T>,)*), Output> for Run
        where
            Run: Fn($(MaybeProxy<$T>),*) -> Made + Send + Sync + 'static,
            Made: Future<Output = Result<Output, Failure>> + Send + 'static,
            Failure: Display,
        {
            fn call(&self, ($($value,)*): ($(MaybeProxy<$T>,)*)) -> BoxFuture<'static, Result<Output, String>> {
                self($($value),*).map(|result| result.map_err(|failure| failure.to_string())).boxed()
            }
        }

        impl<Run, Output, Failure, $($T),*> BlockingFunction<($(MaybeProxy<$T>,)*), Output> for Run
        where
            Run: Fn($(MaybeProxy<$T>),*) -> Result<Output, Failure> + Send + Sync + 'static,
            Failure: Display,
        {
            fn call(&self, ($($value,)*): ($(MaybeProxy<$T>,)*)) -> Result<Output, String> {
                self($($value),*).map_err(|failure| failure.to_string())
            }
        }
    };
}

of_arguments!(0);
of_arguments!(1 T1 first);
of_arguments!(2 T1 first, T2 second);
of_arguments!(3 T1 first, T2 second, T3 third);
of_arguments!(4 T1 first, T2 second, T3 third, T4 fourth);
