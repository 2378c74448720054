//! Sessions with other endpoints, and the requests that run over them.
//!
//! [`manager`] finds the task of a peer ([`actor`]); the task comes to a connection with it by offer and answer
//! ([`negotiation`]), which goes over the best path there is ([`paths`]); requests go out over it ([`requests`], [`upload`]) and are served from it ([`serve`]). What several readers want
//! travels once ([`remote_object`], [`flights`]), the first of it at once ([`lead`]), and is kept for a while
//! ([`cache`]). Peers that are Python endpoints speak another protocol ([`python`]).

mod acquaintances;
mod activity;
mod actor;
mod any_session;
mod cache;
mod context;
pub mod error;
mod exchange;
mod flights;
mod kept;
mod lead;
mod lease;
pub mod manager;
mod negotiation;
mod paths;
mod pins;
mod python;
mod remote_object;
mod requests;
mod serve;
mod session;
pub mod status;
mod tickets;
mod upload;
mod wire;

pub use error::PeerError;
pub use manager::{PeerManager, PeerOptions};
pub use status::{CacheStatus, NetworkStatus, PathKind, PeerState, PeerStatus, RelayStatus};
