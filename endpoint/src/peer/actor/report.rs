//! What the task says of the peer: how things are, and why there is no session.

use super::Actor;
use crate::peer::PeerError;
use crate::peer::any_session::AnySession;
use crate::peer::negotiation::{Failure, Stage};
use crate::peer::python::PythonSession;
use crate::peer::session::Session;
use crate::peer::status::{ONLY_BY_TURN, PathKind, PeerState, PeerStatus, Protocol, why_not_direct};

impl Actor {
    pub(super) fn explain(&self, failure: Failure) -> PeerError {
        let after = self.context.config.connect_timeout();
        match failure {
            Failure::Rejected(error) => error,
            Failure::Held(left) => {
                let last = self.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
                PeerError::Lost(format!(
                    "the last attempt to reach the Python endpoint failed{last}; it takes another in {} s, when it has \
                     given up its half of that one",
                    left.as_secs() + 1
                ))
            }
            Failure::Timeout(stage @ (Stage::Unanswered | Stage::Missed)) => match self.why_no_relay() {
                Some(why) if stage == Stage::Missed => {
                    PeerError::NoRelay(format!("{why}; nor does the peer answer where it was last"))
                }
                Some(why) => PeerError::NoRelay(why),
                None => PeerError::ConnectTimeout {
                    after,
                    why: "the peer did not answer the offer; is it running?".into(),
                },
            },
            Failure::Timeout(Stage::Unreachable) => {
                let tried = match self.dial_errors.as_slice() {
                    [] => "no address of either side could be reached".into(),
                    errors => format!("no address of either side could be reached ({})", errors.join("; ")),
                };
                PeerError::ConnectTimeout { after, why: tried }
            }
            Failure::Timeout(Stage::PythonUnreachable) => PeerError::ConnectTimeout {
                after,
                why: "no address of either side could be reached over UDP, and a Python endpoint has no other way".into(),
            },
            Failure::Timeout(Stage::Undecided) => {
                PeerError::ConnectTimeout { after, why: "the peer chose no connection".into() }
            }
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let session = self.current();
        let state = match session {
            Some(_) => PeerState::Connected,
            None if self.negotiation.is_trying() => PeerState::Connecting,
            None => PeerState::Idle,
        };
        let status = PeerStatus {
            id: self.peer,
            name: self.name.clone(),
            state,
            protocol: None,
            path: None,
            address: None,
            round_trip_ms: None,
            sent_bytes: 0,
            received_bytes: 0,
            lost_packets: 0,
            running_requests: session.map_or(0, |session| session.activity().running()) as u64,
            why_not_direct: None,
            last_error: self.last_error.as_ref().map(ToString::to_string),
        };
        match session {
            None => status,
            Some(AnySession::Ours(session)) => self.with_quic(status, session),
            Some(AnySession::Python(session)) => self.with_webrtc(status, session),
        }
    }

    fn with_quic(&self, status: PeerStatus, session: &Session) -> PeerStatus {
        let (path, stats) = (session.path(), session.stats());
        let relayed = path.kind == PathKind::Relayed;
        PeerStatus {
            protocol: Some(Protocol::Quic),
            path: Some(path.kind),
            address: path.address.map(|address| address.to_string()),
            round_trip_ms: Some(path.round_trip.as_secs_f64() * 1e3),
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.lost_packets,
            why_not_direct: relayed.then(|| why_not_direct(self.context.addresses.borrow().nat).to_owned()),
            ..status
        }
    }

    fn with_webrtc(&self, status: PeerStatus, session: &PythonSession) -> PeerStatus {
        let view = session.view();
        let kind = |address| match self.hosts.contains(&address) {
            _ if view.relayed => PathKind::Relayed,
            true => PathKind::Direct,
            false => PathKind::Punched,
        };
        PeerStatus {
            protocol: Some(Protocol::WebRtc),
            path: view.remote.map(kind),
            address: view.remote.map(|address| address.to_string()),
            round_trip_ms: view.round_trip.map(|round_trip| round_trip.as_secs_f64() * 1e3),
            sent_bytes: view.sent,
            received_bytes: view.received,
            why_not_direct: view.relayed.then(|| ONLY_BY_TURN.to_owned()),
            ..status
        }
    }
}
