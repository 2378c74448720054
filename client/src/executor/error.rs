//! What can go wrong with functions that run elsewhere, here and there.

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::serialize::SerializeError;

/// Why a call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The call arrived, but the function did not come to a result.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The message did not arrive, or no answer came.
    #[error("the executor failed: {reason}")]
    Transport {
        /// In the executor's words.
        reason: String,
    },
    /// The store did not take an argument.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An argument cannot be written, or the result is not of the type that was asked for.
    #[error(transparent)]
    Serialize(#[from] SerializeError),
    /// The answer is no answer to a call.
    #[error("not a message of this library's version: {reason}")]
    Message {
        /// What is wrong with it.
        reason: String,
    },
    /// Too much would travel by value.
    #[error("a message of {len} bytes is larger than {limit}: let the rule pick large values as proxies")]
    TooLarge {
        /// Its size.
        len: usize,
        /// The most that is sent.
        limit: usize,
    },
}

/// What went wrong where the function runs. It travels back in the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// No function is registered under this name.
    #[error("there is no function {function:?} there; known: {known}")]
    UnknownFunction {
        /// As called.
        function: String,
        /// Those that are, separated by commas.
        known: String,
    },
    /// The arguments are not those that the function takes.
    #[error("arguments of {function:?}: {reason}")]
    Arguments {
        /// Which function.
        function: String,
        /// What is wrong.
        reason: String,
    },
    /// The function returned an error, or panicked.
    #[error("{function:?} failed: {reason}")]
    Failed {
        /// Which function.
        function: String,
        /// In its words.
        reason: String,
    },
    /// The function came to a result, which could not be stored or sent.
    #[error("result of {function:?}: {reason}")]
    Result {
        /// Which function.
        function: String,
        /// What the store said.
        reason: String,
    },
    /// What arrived is no call.
    #[error("the call of {function:?} arrived damaged, or is of another version of this library: {reason}")]
    Message {
        /// Which function.
        function: String,
        /// What is wrong with it.
        reason: String,
    },
}
