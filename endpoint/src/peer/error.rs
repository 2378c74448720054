//! Why a peer could not serve a request.

use std::time::Duration;

use proxystore_shared::frame::Refusal;

/// What happened between this endpoint and a peer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// This endpoint has no connection to the relay, and no session with the peer. Try again later.
    #[error("this endpoint is not connected to its relay ({0}), so it cannot open a session")]
    NoRelay(String),
    /// The relay does not know the peer, or keeps it from us: is it started, and is the id right?
    #[error("{0}")]
    Unknown(String),
    /// The peer did not answer the offer, or could not be reached at any of its addresses.
    #[error("no session after {} s: {why}", .after.as_secs())]
    ConnectTimeout {
        /// How long it was tried.
        after: Duration,
        /// How far it came.
        why: String,
    },
    /// The peer's key is not the one its id stands for. Somebody may be in the middle.
    #[error("{0}")]
    Identity(String),
    /// The peer is a Python endpoint, which speaks WebRTC only; or speaks another version.
    #[error("{0}")]
    Unsupported(String),
    /// The peer owes an answer and has been silent for too long.
    #[error("the peer sent nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The session broke in the middle of a request that cannot be repeated safely.
    #[error("the session was lost: {0}")]
    Lost(String),
    /// What the peer sent is not what was agreed.
    #[error("the peer broke the protocol: {0}")]
    Protocol(String),
    /// The peer answered that it will not.
    #[error("{message}")]
    Refused {
        /// What the caller may do.
        reason: Refusal,
        /// The peer's words.
        message: String,
    },
    /// This endpoint is stopping.
    #[error("this endpoint is stopping")]
    Stopping,
}

impl PeerError {
    /// Whether the peer is not there at the moment, which may change by itself.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoRelay(_) | Self::Unknown(_) | Self::ConnectTimeout { .. } | Self::Lost(_))
    }

    /// Whether waiting was the failure: a gateway calls that a timeout.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::ConnectTimeout { .. } | Self::Stalled(_))
    }
}
