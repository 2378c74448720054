//! An endpoint: the object store of one site, reachable from every other.
//!
//! Clients of the site talk HTTP to it ([`http`]). It keeps objects ([`storage`]), introduces itself at a relay
//! ([`signaling`]), and opens encrypted sessions to the endpoints of other sites ([`peer`], over [`transport`]),
//! through which it fetches and stores objects on its clients' behalf. [`Endpoint`] ties these together,
//! [`server`] runs all of it, and [`cli`] is the program people use.

mod atomic_file;
pub mod cli;
pub mod endpoint;
mod handover;
pub mod http;
pub mod identity;
mod local;
mod lock;
mod memory;
pub mod peer;
mod piece;
mod reader;
pub mod server;
pub mod signaling;
pub mod storage;
pub mod transport;
mod write_behind;

pub use endpoint::Endpoint;
