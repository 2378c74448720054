//! Streams over every broker, each with the real thing, against one suite.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

mod ends;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod server;
mod suite;
#[cfg(feature = "zeromq")]
mod zeromq;
