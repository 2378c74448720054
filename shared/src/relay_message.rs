//! The messages of the relay: one JSON object per websocket text frame.
//!
//! These are Python ProxyStore's messages to the letter. Python refuses a message with an unknown or a missing
//! key, so nothing may ever be added to them; whatever is new travels inside `description`.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::EndpointId;

/// The relay closed because a message could not be decoded, or is of no known type.
pub const CLOSE_UNDECODABLE: u16 = 4000;
/// The relay closed because the client sent no acceptable credentials.
pub const CLOSE_UNAUTHORIZED: u16 = 4001;
/// The relay closed because the client may not do what it asked for.
pub const CLOSE_FORBIDDEN: u16 = 4002;
/// The relay closed because a message was larger than it accepts.
pub const CLOSE_TOO_LARGE: u16 = 4003;
/// The relay closed because the same endpoint registered on another socket.
pub const CLOSE_REPLACED: u16 = 4004;

/// Port the relay listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 8700;

/// Whether a client that was closed with `code` must not come back by itself: nothing would change.
pub fn is_final(code: u16) -> bool {
    matches!(code, CLOSE_UNAUTHORIZED | CLOSE_FORBIDDEN | CLOSE_REPLACED)
}

/// Any message between a relay and its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum RelayMessage {
    /// First message of a client.
    RelayRegistration(Registration),
    /// The relay's answer to a registration.
    RelayResponse(Response),
    /// An offer or answer on its way from one client to another.
    PeerConnection(PeerConnection),
}

/// A client introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Name for people to read.
    pub name: String,
    /// The endpoint.
    pub uuid: EndpointId,
}

/// Outcome of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Response {
    /// Whether the client is registered now.
    #[serde(default = "yes")]
    pub success: bool,
    /// What a person should know.
    #[serde(default)]
    pub message: Option<String>,
    /// Whether `message` reports an error.
    #[serde(default)]
    pub error: bool,
}

fn yes() -> bool {
    true
}

impl Response {
    /// The client is registered.
    pub fn registered() -> Self {
        Self { success: true, message: None, error: false }
    }
}

/// A session description for another client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConnection {
    /// Sender; a relay of ours checks that it is.
    pub source_uuid: EndpointId,
    /// Sender's name.
    pub source_name: String,
    /// Receiver.
    pub peer_uuid: EndpointId,
    /// What `description` is.
    pub description_type: DescriptionKind,
    /// Opaque to the relay; see [`crate::description`].
    pub description: String,
    /// Why the message came back, or why the peer cannot answer.
    #[serde(default)]
    pub error: Option<String>,
}

/// The two halves of a negotiation (RFC 3264).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DescriptionKind {
    /// Opens a negotiation.
    Offer,
    /// Completes it.
    Answer,
}

impl fmt::Display for DescriptionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
        })
    }
}

/// A text frame is not one of the three messages.
#[derive(Debug, thiserror::Error)]
#[error("not a relay message: {0}")]
pub struct DecodeError(#[from] serde_json::Error);

impl RelayMessage {
    /// Reads one text frame. The caller has checked its size.
    pub fn decode(text: &str) -> Result<Self, DecodeError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Writes one text frame.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("strings and integers always encode"))
    }
}

/// What a relay has to know of a [`PeerConnection`] to hand it on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Sender.
    pub source: EndpointId,
    /// Receiver.
    pub peer: EndpointId,
    /// What it carries.
    pub kind: DescriptionKind,
}

impl Route {
    /// Reads the addresses of a [`PeerConnection`] and checks that the rest of it is there and is text, without
    /// unescaping it: that takes most of the time [`RelayMessage::decode`] needs for such a message.
    ///
    /// None says that the frame is something else, which [`RelayMessage::decode`] names or refuses.
    pub fn read(text: &str) -> Option<Self> {
        let envelope: Envelope = serde_json::from_str(text).ok()?;
        let is_text = |value: &RawValue| value.get().starts_with('"');
        let complete = is_text(envelope.source_name)
            && is_text(envelope.description)
            && envelope.error.is_none_or(is_text);
        let Envelope { source_uuid, peer_uuid, description_type, .. } = envelope;
        complete.then_some(Self { source: source_uuid, peer: peer_uuid, kind: description_type })
    }
}

/// A [`PeerConnection`] whose texts are left as they are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(rename = "message_type")]
    _message_type: PeerConnectionOnly,
    source_uuid: EndpointId,
    #[serde(borrow)]
    source_name: &'a RawValue,
    peer_uuid: EndpointId,
    description_type: DescriptionKind,
    #[serde(borrow)]
    description: &'a RawValue,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum PeerConnectionOnly {
    PeerConnection,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "12345678-1234-4234-9234-123456789abc";

    #[test]
    fn messages_are_the_bytes_python_expects() {
        let id: EndpointId = ID.parse().expect("valid");
        let cases = [
            (
                RelayMessage::RelayRegistration(Registration { name: "a".into(), uuid: id }),
                format!(r#"{{"message_type":"relay_registration","name":"a","uuid":"{ID}"}}"#),
            ),
            (
                RelayMessage::RelayResponse(Response::registered()),
                r#"{"message_type":"relay_response","success":true,"message":null,"error":false}"#.into(),
            ),
            (
                RelayMessage::PeerConnection(PeerConnection {
                    source_uuid: id,
                    source_name: "a".into(),
                    peer_uuid: id,
                    description_type: DescriptionKind::Offer,
                    description: "{}".into(),
                    error: None,
                }),
                format!(
                    r#"{{"message_type":"peer_connection","source_uuid":"{ID}","source_name":"a","peer_uuid":"{ID}","description_type":"offer","description":"{{}}","error":null}}"#
                ),
            ),
        ];
        for (message, text) in cases {
            assert_eq!(message.encode(), text);
            assert_eq!(RelayMessage::decode(&text).expect("decodes"), message);
        }
    }

    #[test]
    fn keys_with_defaults_may_be_missing() {
        let message = RelayMessage::decode(r#"{"message_type":"relay_response"}"#).expect("decodes");
        assert_eq!(message, RelayMessage::RelayResponse(Response::registered()));
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"name":"a","uuid":"12345678-1234-4234-9234-123456789abc"}"#,
            r#"{"message_type":"other"}"#,
            r#"{"message_type":"relay_registration","name":"a","uuid":"nope"}"#,
            r#"{"message_type":"relay_registration","name":"a"}"#,
            r#"{"message_type":"relay_registration","name":"a","uuid":"12345678-1234-4234-9234-123456789abc","x":1}"#,
            r#"{"message_type":"relay_response","success":true,"extra":0}"#,
        ] {
            assert!(RelayMessage::decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_complete_peer_connection_has_a_route() {
        let id: EndpointId = ID.parse().expect("valid");
        let fields = format!(r#""source_uuid":"{ID}","peer_uuid":"{ID}","description_type":"offer""#);
        let message = |rest: &str| format!(r#"{{"message_type":"peer_connection",{fields},{rest}}}"#);
        let route = Route { source: id, peer: id, kind: DescriptionKind::Offer };
        for rest in [
            r#""source_name":"a","description":"\"\n""#,
            r#""source_name":"a","description":"","error":null"#,
            r#""description":"","error":"why","source_name":"""#,
        ] {
            let text = message(rest);
            assert_eq!(Route::read(&text), Some(route), "{text}");
            assert!(RelayMessage::decode(&text).is_ok(), "{text}");
        }
        for rest in [
            r#""source_name":"a""#,
            r#""source_name":"a","description":{}"#,
            r#""source_name":1,"description":"""#,
            r#""source_name":"a","description":"","error":1"#,
            r#""source_name":"a","description":"","extra":1"#,
            r#""source_name":"a","description":"","description":"""#,
        ] {
            let text = message(rest);
            assert_eq!(Route::read(&text), None, "{text}");
            assert!(RelayMessage::decode(&text).is_err(), "{text}");
        }
        let registration = RelayMessage::RelayRegistration(Registration { name: "a".into(), uuid: id });
        assert_eq!(Route::read(&registration.encode()), None);
    }

    proptest! {
        #[test]
        fn any_text_decodes_or_is_refused(text in ".*") {
            let _ = RelayMessage::decode(&text);
            let _ = Route::read(&text);
        }

        #[test]
        fn peer_messages_round_trip(a: [u8; 16], b: [u8; 16], name in ".*", description in ".*", error in proptest::option::of(".*")) {
            let message = RelayMessage::PeerConnection(PeerConnection {
                source_uuid: uuid::Uuid::from_bytes(a).into(), source_name: name, peer_uuid: uuid::Uuid::from_bytes(b).into(),
                description_type: DescriptionKind::Answer, description, error,
            });
            let text = message.encode();
            let route = Route {
                source: uuid::Uuid::from_bytes(a).into(), peer: uuid::Uuid::from_bytes(b).into(), kind: DescriptionKind::Answer,
            };
            prop_assert_eq!(Route::read(&text), Some(route));
            prop_assert_eq!(RelayMessage::decode(&text).unwrap(), message);
        }
    }
}
