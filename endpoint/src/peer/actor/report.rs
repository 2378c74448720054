//! What the task says of the peer: how things are, and why there is no session.

use super::Actor;
use crate::peer::PeerError;
use crate::peer::negotiation::{Failure, Stage};
use crate::peer::status::{PathKind, PeerState, PeerStatus, why_not_direct};

impl Actor {
    pub(super) fn explain(&self, failure: Failure) -> PeerError {
        let after = self.context.config.connect_timeout();
        match failure {
            Failure::Rejected(error) => error,
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
            Failure::Timeout(Stage::Undecided) => {
                PeerError::ConnectTimeout { after, why: "the peer chose no connection".into() }
            }
        }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let session = self.current();
        let path = session.map(|session| session.path());
        let stats = session.map(|session| session.stats());
        let state = match session {
            Some(_) => PeerState::Connected,
            None if self.negotiation.is_trying() => PeerState::Connecting,
            None => PeerState::Idle,
        };
        PeerStatus {
            id: self.peer,
            name: self.name.clone(),
            state,
            path: path.map(|path| path.kind),
            address: path.and_then(|path| path.address).map(|address| address.to_string()),
            round_trip_ms: path.map(|path| path.round_trip.as_secs_f64() * 1e3),
            sent_bytes: stats.as_ref().map_or(0, |stats| stats.udp_tx.bytes),
            received_bytes: stats.as_ref().map_or(0, |stats| stats.udp_rx.bytes),
            lost_packets: stats.as_ref().map_or(0, |stats| stats.lost_packets),
            running_requests: session.map_or(0, |session| session.running()) as u64,
            why_not_direct: path
                .filter(|path| path.kind == PathKind::Relayed)
                .map(|_| why_not_direct(self.context.addresses.borrow().nat).to_owned()),
            last_error: self.last_error.as_ref().map(ToString::to_string),
        }
    }
}
