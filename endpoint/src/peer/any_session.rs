//! A session with a peer of either kind.

use std::sync::Arc;

use super::activity::Activity;
use super::negotiation::ConnectionId;
use super::python::PythonSession;
use super::session::Session;
use crate::transport::quic::CloseCode;

/// See the module's head. Cheap to clone.
#[derive(Debug, Clone)]
pub enum AnySession {
    /// With an endpoint of this project, over QUIC.
    Ours(Arc<Session>),
    /// With a Python endpoint, over WebRTC.
    Python(Arc<PythonSession>),
}

impl AnySession {
    /// Names the connection within this process.
    pub fn id(&self) -> ConnectionId {
        match self {
            Self::Ours(session) => session.id(),
            Self::Python(session) => session.id(),
        }
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Ours(session) => session.is_closed(),
            Self::Python(session) => session.is_closed(),
        }
    }

    /// Closes it; an endpoint of this project is told why.
    pub fn close(&self, code: CloseCode, reason: &str) {
        match self {
            Self::Ours(session) => session.close(code, reason),
            Self::Python(session) => session.close(),
        }
    }

    /// How busy it is.
    pub fn activity(&self) -> &Activity {
        match self {
            Self::Ours(session) => session.activity(),
            Self::Python(session) => session.activity(),
        }
    }

    /// Whether it may be closed when nobody has asked for anything for a while. A Python endpoint that asks just then
    /// waits for its answer for ever, as does its client; so its session stays.
    pub fn ends_when_idle(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}
