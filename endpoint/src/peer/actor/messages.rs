//! What comes from the relay and goes there: offers, answers and errors.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use proxystore_shared::PublicKey;
use proxystore_shared::description::{
    Candidate, CandidateKind, IceCredentials, QuicPeer, SessionDescription, SessionId, Setup, WebRtcPeer,
};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection};
use tracing::{debug, warn};

use super::{Actor, hosts_of};
use crate::peer::PeerError;
use crate::peer::any_session::AnySession;
use crate::peer::negotiation::{Counterpart, Described, Input, PythonCounterpart};
use crate::peer::pins::IdentityMismatch;

impl Actor {
    pub(super) fn read_message(&mut self, message: PeerConnection) {
        if message.source_uuid == self.peer {
            self.name = Some(message.source_name.clone());
        }
        match self.interpret(&message) {
            Ok(Some(input)) => {
                self.learn_hosts(&input);
                self.step(input);
            }
            Ok(None) => debug!(peer = %self.peer, "a message of no current negotiation"),
            Err(error) => self.refuse(&message, error),
        }
    }

    /// What a message means for the negotiation, its sender's identity checked.
    fn interpret(&self, message: &PeerConnection) -> Result<Option<Input>, PeerError> {
        if let Some(error) = &message.error {
            return Ok(self.interpret_error(message, error));
        }
        let description = SessionDescription::decode(&message.description).map_err(|error| {
            PeerError::Unsupported(format!("the peer's {} is unusable: {error}", message.description_type))
        })?;
        let (session, described) = match (description.quic, description.webrtc) {
            (Some(quic), _) => {
                let mut candidates = description.candidates;
                // What a TURN server passes on is for WebRTC.
                candidates.retain(|candidate| candidate.kind != CandidateKind::Relayed);
                (Some(quic.session), Described::Ours(self.ours(quic.key, candidates)?))
            }
            (None, Some(webrtc)) => {
                self.context.pins.check_keyless(self.peer).map_err(identity)?;
                let session = self.session_of(message.description_type, &webrtc);
                let candidates = description.candidates;
                (session, Described::Python(PythonCounterpart { webrtc, candidates }))
            }
            (None, None) => {
                let kind = message.description_type;
                let why = format!("the peer's {kind} is neither for QUIC nor for WebRTC with data channels");
                return Err(PeerError::Unsupported(why));
            }
        };
        let Some(session) = session else { return Ok(None) };
        Ok(Some(match message.description_type {
            DescriptionKind::Offer => Input::Offer(session, described),
            DescriptionKind::Answer => Input::Answer(session, described),
        }))
    }

    fn ours(&self, key: PublicKey, candidates: Vec<Candidate>) -> Result<Counterpart, PeerError> {
        self.context.pins.check(self.peer, key).map_err(identity)?;
        let counterpart = Counterpart { key, candidates };
        self.context.introduce(self.peer, counterpart.clone());
        Ok(counterpart)
    }

    /// Python's descriptions do not say to which negotiation they belong: an answer is to the offer that is out, if
    /// one is, and an offer is told from another by its user name and password.
    fn session_of(&self, kind: DescriptionKind, webrtc: &WebRtcPeer) -> Option<SessionId> {
        if kind == DescriptionKind::Answer {
            return self.negotiation.offered();
        }
        let mut hasher = DefaultHasher::new();
        (&webrtc.ice.ufrag, &webrtc.ice.pwd).hash(&mut hasher);
        Some(SessionId(hasher.finish()))
    }

    fn learn_hosts(&mut self, input: &Input) {
        let (Input::Offer(_, described) | Input::Answer(_, described)) = input else { return };
        self.hosts = hosts_of(match described {
            Described::Ours(counterpart) => &counterpart.candidates,
            Described::Python(counterpart) => &counterpart.candidates,
        });
        for session in self.sessions.values() {
            if let AnySession::Ours(session) = session {
                session.set_hosts(self.hosts.iter().copied());
            }
        }
    }

    /// The relay returns what it cannot deliver; a peer says so when it cannot answer.
    fn interpret_error(&self, message: &PeerConnection, error: &str) -> Option<Input> {
        let offered = self.negotiation.offered()?;
        let ours = message.source_uuid == self.context.id;
        let session =
            SessionDescription::decode(&message.description).ok().and_then(|it| it.quic).map(|it| it.session);
        match (ours, session) {
            (true, session) if session != Some(offered) => None,
            // The next offer may find it.
            (true, _) if self.negotiation.repeats() && self.context.signaling.is_reunion() => None,
            (true, _) => Some(Input::Rejected(PeerError::Unknown(error.to_owned()))),
            (false, _) => Some(Input::Rejected(PeerError::Unsupported(error.to_owned()))),
        }
    }

    /// An offer that cannot be answered is sent back with the reason, so that the peer need not wait; an answer
    /// that cannot be used ends the negotiation.
    fn refuse(&mut self, message: &PeerConnection, error: PeerError) {
        warn!(peer = %self.peer, %error, kind = %message.description_type, "refused a session description");
        match message.description_type {
            DescriptionKind::Answer => self.step(Input::Rejected(error)),
            DescriptionKind::Offer => {
                let text = format!("refused by endpoint {}: {error}", self.context.id);
                if let Err(error) =
                    self.send(DescriptionKind::Answer, message.description.clone(), Some(text))
                {
                    debug!(peer = %self.peer, %error, "the peer is not told");
                }
            }
        }
    }

    pub(super) fn describe(&mut self, kind: DescriptionKind, session: SessionId) {
        self.dial_errors.clear();
        let setup = match kind {
            DescriptionKind::Offer => Setup::ActPass,
            DescriptionKind::Answer => Setup::Active,
        };
        let ice = self.ice_for(session);
        let fingerprint = self.context.webrtc.fingerprint();
        let webrtc = fingerprint.map(|fingerprint| WebRtcPeer { ice, fingerprint, setup });
        let description = SessionDescription {
            kind,
            quic: Some(QuicPeer { key: self.context.key, session }),
            webrtc,
            candidates: self.context.candidates(),
        };
        match self.send(kind, description.encode(), None) {
            Ok(()) if self.context.signaling.status().connected => {}
            Ok(()) => self.step(Input::Waiting),
            Err(error) => self.step(Input::Unsent(error)),
        }
    }

    /// A description that is repeated says the same.
    fn ice_for(&mut self, session: SessionId) -> IceCredentials {
        match &self.described {
            Some((described, ice)) if *described == session => ice.clone(),
            _ => {
                let ice = random_ice();
                self.described = Some((session, ice.clone()));
                ice
            }
        }
    }

    fn send(
        &self,
        kind: DescriptionKind,
        description: String,
        error: Option<String>,
    ) -> Result<(), PeerError> {
        let message = PeerConnection {
            source_uuid: self.context.id,
            source_name: self.context.name.clone(),
            peer_uuid: self.peer,
            description_type: kind,
            description,
            error,
        };
        let expires = Instant::now() + self.context.config.connect_timeout();
        let sent = self.context.signaling.send(message, expires);
        sent.map_err(|full| PeerError::NoRelay(self.why_no_relay().unwrap_or_else(|| full.to_string())))
    }

    /// What is wrong with the connection to the relay, unless there is one.
    pub(super) fn why_no_relay(&self) -> Option<String> {
        let relay = self.context.signaling.status();
        let connecting = || format!("connecting to {}", relay.address);
        (!relay.connected).then(|| relay.last_error.unwrap_or_else(connecting))
    }
}

fn identity(error: IdentityMismatch) -> PeerError {
    PeerError::Identity(error.to_string())
}

fn random_ice() -> IceCredentials {
    let random: [u8; 20] = rand::random();
    let text = data_encoding::HEXLOWER.encode(&random);
    IceCredentials { ufrag: text[..8].to_owned(), pwd: text[8..].to_owned() }
}
