//! Dials the peer's addresses, and through the relay; or connects with a Python endpoint.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinError;
use tokio::time::timeout;
use tracing::debug;

use super::Actor;
use crate::peer::PeerError;
use crate::peer::negotiation::{Counterpart, Input, PythonCounterpart};
use crate::peer::python;
use crate::transport::quic::{ConnectError, Watched};
use crate::transport::relayed;
use crate::transport::tls::Expected;
use crate::transport::webrtc::{self, Role, Terms};

/// A dial through the relay that has gone so long without an answer met an outage, and QUIC repeats its first packet
/// after ever longer pauses: when the peer is heard of, it is dialled anew.
const REDIAL: Duration = Duration::from_secs(1);

/// A connection that came up.
pub(super) enum Dialled {
    /// With an endpoint of this project.
    Ours(Watched),
    /// With a Python endpoint.
    Python(Box<webrtc::Connection>),
}

/// Why one did not.
pub(super) enum Unreached {
    /// There is nobody at an address.
    Address(ConnectError),
    /// The Python endpoint is out of reach.
    Python(PeerError),
}

impl Actor {
    /// Where nothing more has to be known of the peer, the way through the relay is tried along with the offer, which
    /// the peer gets first: that saves waiting for its answer.
    pub(super) fn dial_ahead(&mut self) {
        if let Some(expected) = self.context.known(self.peer) {
            self.dial_relayed(expected);
        }
    }

    fn dial_relayed(&mut self, expected: Expected) {
        let lately = self.relay_dialled.is_some_and(|dialled| dialled.elapsed() < REDIAL);
        if *self.context.signaling.datagrams().borrow() && !lately {
            self.relay_dialled = Some(Instant::now());
            self.dial_address(relayed::address_of(self.peer), expected);
        }
    }

    pub(super) fn dial(&mut self, counterpart: Counterpart) {
        let expected = Expected::Key(counterpart.key);
        if self.negotiation.offered().is_some() {
            self.dial_relayed(expected);
        }
        for candidate in counterpart.candidates {
            self.dial_address(candidate.address, expected);
        }
    }

    fn dial_address(&mut self, address: SocketAddr, expected: Expected) {
        let limit = self.context.config.connect_timeout();
        let quic = self.context.quic.clone();
        self.dials.spawn(async move {
            let dialled = timeout(limit, quic.dial(address, expected)).await;
            let dialled = dialled.unwrap_or_else(|_| Err(no_answer(address)));
            dialled.map(|connection| Dialled::Ours(Watched::dialled(connection))).map_err(Unreached::Address)
        });
    }

    /// Connects over WebRTC, on the terms of the last description of ours.
    pub(super) fn connect_python(&mut self, counterpart: PythonCounterpart) {
        let Some((_, local)) = self.described.clone() else { return };
        let role = match self.negotiation.offered() {
            Some(_) => Role::Offerer { channels: self.context.peer_channels },
            None => Role::Answerer,
        };
        let terms = Terms {
            local,
            local_candidates: self.context.candidates(),
            remote: counterpart.webrtc,
            remote_candidates: counterpart.candidates,
            role,
        };
        let context = self.context.clone();
        self.dials.spawn(async move {
            let connected = python::task::connect(context, terms).await;
            connected.map(|connection| Dialled::Python(Box::new(connection))).map_err(Unreached::Python)
        });
    }

    pub(super) fn dialled(&mut self, outcome: Result<Result<Dialled, Unreached>, JoinError>) {
        match outcome {
            Ok(Ok(Dialled::Ours(watched))) => self.connected(watched),
            Ok(Ok(Dialled::Python(connection))) => self.connected_python(*connection),
            Ok(Err(Unreached::Python(error))) => self.step(Input::Rejected(error)),
            Ok(Err(Unreached::Address(error))) => {
                debug!(peer = %self.peer, %error, "an address of the peer did not answer");
                if relayed::peer_at(error.address()).is_some() {
                    self.relay_dialled = None;
                }
                self.dial_errors.push(error.to_string());
                if self.dials.is_empty() {
                    self.step(Input::Unreached);
                }
            }
            // Dials are aborted once a connection is chosen.
            Err(_) => {}
        }
    }

    pub(super) fn stop_dialling(&mut self) {
        self.dials.abort_all();
        self.relay_dialled = None;
    }
}

fn no_answer(address: SocketAddr) -> ConnectError {
    ConnectError::Address { address, reason: "no answer".into() }
}
