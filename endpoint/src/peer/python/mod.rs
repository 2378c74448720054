//! Peers that are Python endpoints: messages over the data channels of a WebRTC connection.
//!
//! Their protocol has whole objects in one message and a request for each of four operations
//! ([`proxystore_shared::python`]). A [`PythonSession`] sends messages and finds the request that a response belongs to;
//! its task ([`task`]) drives the connection; [`requests`] ask, [`serve`] answers. What has arrived of messages, and what
//! is to be sent, is in memory, for all Python peers together within one [`budget`].

pub mod budget;
mod requests;
mod serve;
mod session;
pub mod task;

pub use requests::PythonPeer;
pub use session::PythonSession;
