//! What the relay does with what a client sent, decided without sockets or locks.
//!
//! [`crate::session`] carries the decisions out and [`crate::clients`] asks about one registry entry at a time,
//! so every rule about who may do what stands here.

use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{Registration, RelayMessage, Route};
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message, Utf8Bytes};

use crate::auth::User;
use crate::close::Close;

/// What came from a client's socket.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A text frame within the size limit.
    Text(Utf8Bytes),
    /// A binary frame.
    Binary(Bytes),
    /// A ping or pong, which the websocket library has dealt with.
    SignOfLife,
    /// The client closed, or its connection broke.
    Gone,
    /// The client has to be closed for what it sent.
    Unacceptable(Close),
}

/// Sorts what the websocket library returned; `None` is the end of the stream.
pub fn sort_incoming(frame: Option<Result<Message, SocketError>>, message_limit: usize) -> Incoming {
    match frame {
        // The library's limit is that of the longest binary frame where it is larger.
        Some(Ok(Message::Text(text))) if text.len() > message_limit => {
            Incoming::Unacceptable(Close::too_large(message_limit))
        }
        Some(Ok(Message::Text(text))) => Incoming::Text(text),
        Some(Ok(Message::Binary(frame))) => Incoming::Binary(frame),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Incoming::SignOfLife,
        Some(Ok(Message::Close(_))) | None => Incoming::Gone,
        Some(Ok(Message::Frame(_))) | Some(Err(SocketError::Utf8(_))) => {
            Incoming::Unacceptable(Close::undecodable())
        }
        Some(Err(SocketError::Capacity(_))) => Incoming::Unacceptable(Close::too_large(message_limit)),
        Some(Err(SocketError::Protocol(error))) if is_disconnect(&error) => Incoming::Gone,
        Some(Err(SocketError::Protocol(_))) => Incoming::Unacceptable(Close::protocol_error()),
        Some(Err(_)) => Incoming::Gone,
    }
}

fn is_disconnect(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(
        error,
        ProtocolError::ResetWithoutClosingHandshake
            | ProtocolError::ReceivedAfterClosing
            | ProtocolError::SendAfterClosing
    )
}

/// What to do with a text frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Find out who the client is, then register it.
    Register(Registration),
    /// Hand the frame on as it is, or send it back with an error.
    Forward(Route),
    /// End the session.
    Close(Close),
}

/// Decides about one text frame of a client that is registered as `registered`, if at all.
pub fn decide(text: &str, registered: Option<EndpointId>) -> Decision {
    if let Some(route) = Route::read(text) {
        return decide_route(route, registered);
    }
    match RelayMessage::decode(text) {
        Ok(RelayMessage::RelayRegistration(registration)) => Decision::Register(registration),
        Ok(_) | Err(_) => Decision::Close(Close::undecodable()),
    }
}

fn decide_route(route: Route, registered: Option<EndpointId>) -> Decision {
    match registered {
        None => Decision::Close(Close::forbidden("Register before sending messages to peers.")),
        Some(id) if id != route.source => Decision::Close(Close::forbidden(format!(
            "source_uuid is not {id}, which this client registered as."
        ))),
        Some(_) => Decision::Forward(route),
    }
}

/// Whether `applicant` may take over the id that `holder` is registered with: only the same user may.
pub fn may_replace(holder: &User, applicant: &User) -> bool {
    holder == applicant
}

/// Why a message goes back to its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeliverable {
    /// Nobody is registered with the id.
    Unknown,
    /// The peer is another user's.
    Foreign,
    /// The peer's queue is full.
    NotReading,
}

impl Undeliverable {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::Foreign, Self::NotReading];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_peer",
            Self::Foreign => "foreign_peer",
            Self::NotReading => "peer_not_reading",
        }
    }

    /// The text for the message's `error`.
    pub fn explain(self, peer: EndpointId) -> String {
        match self {
            Self::Unknown => format!("Peer {peer} is not registered with this relay: is it running?"),
            Self::Foreign => format!("Peer {peer} belongs to another user."),
            Self::NotReading => format!("Peer {peer} is not reading its messages and was disconnected."),
        }
    }
}

/// Whether `sender` may reach a peer of `receiver`.
pub fn may_reach(sender: &User, receiver: &User) -> Result<(), Undeliverable> {
    if sender == receiver { Ok(()) } else { Err(Undeliverable::Foreign) }
}

/// The sender's own message with the reason why it came back. It was routed without its texts being decoded, which
/// turns out here if they cannot be.
pub fn returned(text: &str, reason: Undeliverable) -> Result<RelayMessage, Close> {
    match RelayMessage::decode(text) {
        Ok(RelayMessage::PeerConnection(mut message)) => {
            message.error = Some(reason.explain(message.peer_uuid));
            Ok(RelayMessage::PeerConnection(message))
        }
        Ok(_) | Err(_) => Err(Close::undecodable()),
    }
}

#[cfg(test)]
mod tests {
    use proxystore_shared::relay_message::{
        CLOSE_FORBIDDEN, CLOSE_TOO_LARGE, CLOSE_UNDECODABLE, DescriptionKind, PeerConnection, Response,
    };
    use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};

    use super::*;

    fn peer_connection(source: EndpointId) -> PeerConnection {
        PeerConnection {
            source_uuid: source,
            source_name: "source".into(),
            peer_uuid: EndpointId::random(),
            description_type: DescriptionKind::Offer,
            description: "{}".into(),
            error: None,
        }
    }

    fn code_of(decision: Decision) -> u16 {
        match decision {
            Decision::Close(close) => close.code,
            other => panic!("not a close: {other:?}"),
        }
    }

    #[test]
    fn a_registration_is_accepted_before_and_after_another() {
        let registration = Registration { name: "a".into(), uuid: EndpointId::random() };
        let text = RelayMessage::RelayRegistration(registration.clone()).encode();
        for registered in [None, Some(registration.uuid), Some(EndpointId::random())] {
            assert_eq!(decide(&text, registered), Decision::Register(registration.clone()));
        }
    }

    #[test]
    fn peer_messages_need_a_registration_and_the_senders_own_id() {
        let id = EndpointId::random();
        let message = peer_connection(id);
        let text = RelayMessage::PeerConnection(message.clone()).encode();
        assert_eq!(code_of(decide(&text, None)), CLOSE_FORBIDDEN);
        assert_eq!(code_of(decide(&text, Some(EndpointId::random()))), CLOSE_FORBIDDEN);
        let route = Route { source: id, peer: message.peer_uuid, kind: message.description_type };
        assert_eq!(decide(&text, Some(id)), Decision::Forward(route));
    }

    #[test]
    fn anything_else_is_undecodable() {
        let response = RelayMessage::RelayResponse(Response::registered()).encode();
        for text in ["", "{", "[]", "null", r#"{"message_type":"other"}"#, response.as_str()] {
            assert_eq!(code_of(decide(text, Some(EndpointId::random()))), CLOSE_UNDECODABLE, "{text}");
        }
    }

    #[test]
    fn only_the_owner_of_an_id_replaces_it() {
        let (alice, bob) = (User::Globus("alice".into()), User::Globus("bob".into()));
        assert!(may_replace(&alice, &alice));
        assert!(!may_replace(&alice, &bob));
        assert!(!may_replace(&alice, &User::Anyone));
        assert!(may_replace(&User::Anyone, &User::Anyone));
    }

    #[test]
    fn users_reach_only_their_own_peers() {
        let (alice, bob) = (User::Globus("alice".into()), User::Globus("bob".into()));
        assert_eq!(may_reach(&alice, &alice), Ok(()));
        assert_eq!(may_reach(&alice, &bob), Err(Undeliverable::Foreign));
        assert_eq!(may_reach(&User::Anyone, &User::Anyone), Ok(()));
    }

    #[test]
    fn a_returned_message_differs_in_its_error_only() {
        let message = peer_connection(EndpointId::random());
        let text = RelayMessage::PeerConnection(message.clone()).encode();
        for reason in [Undeliverable::Unknown, Undeliverable::Foreign, Undeliverable::NotReading] {
            let Ok(RelayMessage::PeerConnection(mut back)) = returned(&text, reason) else {
                panic!("another message")
            };
            let error = back.error.take().expect("has an error");
            assert!(error.contains(&message.peer_uuid.to_string()), "{error}");
            assert_eq!(back, message);
        }
    }

    #[test]
    fn a_message_that_cannot_be_decoded_does_not_come_back() {
        let message = peer_connection(EndpointId::random());
        let text = RelayMessage::PeerConnection(message).encode().replace("{}", "\\ud800");
        assert!(Route::read(&text).is_some(), "Python takes half a surrogate pair for text");
        let close = returned(&text, Undeliverable::Unknown).expect_err("it is not text");
        assert_eq!(close.code, CLOSE_UNDECODABLE);
    }

    #[test]
    fn frames_are_sorted() {
        let code = |frame| match sort_incoming(Some(frame), 10) {
            Incoming::Unacceptable(close) => close.code,
            other => panic!("acceptable: {other:?}"),
        };
        let too_long = CapacityError::MessageTooLong { size: 11, max_size: 10 };
        assert_eq!(code(Ok(Message::text("12345678901"))), CLOSE_TOO_LARGE);
        assert_eq!(code(Err(SocketError::Utf8("".into()))), CLOSE_UNDECODABLE);
        assert_eq!(code(Err(SocketError::Capacity(too_long))), CLOSE_TOO_LARGE);
        assert_eq!(code(Err(SocketError::Protocol(ProtocolError::NonZeroReservedBits))), 1002);
        assert_eq!(sort_incoming(Some(Ok(Message::text("x"))), 10), Incoming::Text("x".into()));
        let binary = Bytes::from_static(b"12345678901");
        assert_eq!(sort_incoming(Some(Ok(Message::Binary(binary.clone()))), 10), Incoming::Binary(binary));
        assert_eq!(sort_incoming(Some(Ok(Message::Ping("".into()))), 10), Incoming::SignOfLife);
        assert_eq!(sort_incoming(Some(Ok(Message::Pong("".into()))), 10), Incoming::SignOfLife);
        let reset = SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake);
        for gone in [None, Some(Ok(Message::Close(None))), Some(Err(reset))] {
            assert_eq!(sort_incoming(gone, 10), Incoming::Gone);
        }
    }
}
