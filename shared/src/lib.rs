//! What every ProxyStore program agrees on.
//!
//! Relay, endpoint and client share the names and formats in this crate and nothing else: identifiers, the
//! messages of the relay and what it offers besides, session descriptions, the frames endpoints exchange, what Python
//! endpoints exchange instead, batches, content digests, HTTP routes,
//! and configuration files. Everything here is a value or a pure function, but for one look at the system's limits
//! ([`relayed::send_buffer_len`]); there are no sockets and no runtime, so each parser of remote bytes can be tested and
//! fuzzed alone.

pub mod batch;
pub mod config;
pub mod description;
pub mod digest;
pub mod directory;
pub mod frame;
pub mod http;
pub mod id;
pub mod python;
pub mod relay_message;
pub mod relayed;
pub mod stun;

pub use digest::Digest;
pub use id::{EndpointId, ObjectId, ObjectKey, PublicKey};
