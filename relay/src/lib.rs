//! The relay introduces endpoints to each other: it registers them and forwards their offers and answers.
//!
//! A relay knows who is connected and nothing else; once two endpoints have exchanged an offer and an answer
//! they talk directly. The protocol is Python ProxyStore's to the letter: JSON text frames on a websocket, see
//! [`proxystore_shared::relay_message`]. Clients that ask for more ([`proxystore_shared::relayed`]) learn their
//! public address on two UDP ports (`stun`) and may send each other encrypted datagrams (`datagrams`), for when
//! no direct path joins them.
//!
//! Each client is one task (`session`) that owns its socket. Sessions meet in one place only, the registry
//! (`clients`), where what is for another client is put into its bounded queues (`outbox`) without ever waiting:
//! a client that does not read loses datagrams, then its connection, and nobody else notices. What to do with a
//! frame (`routing`, `datagrams`), how much is too much (`rate`) and when silence has lasted too long (`liveness`)
//! are decided by plain values without IO.

mod auth;
mod clients;
mod close;
mod datagrams;
mod duplex;
mod http;
mod listen;
mod liveness;
pub mod logging;
mod metrics;
mod outbox;
mod rate;
mod read_ahead;
pub mod routing;
mod server;
mod session;
mod stun;
mod tls;
mod write_through;

pub use auth::SetupError;
pub use listen::ListenError;
pub use server::{Relay, StartError};
pub use tls::TlsError;
