//! Why a session ends, as the client gets to read it in the close frame (RFC 6455, section 5.5.1).

use std::borrow::Cow;
use std::time::Duration;

use proxystore_shared::relay_message::{
    CLOSE_FORBIDDEN, CLOSE_REPLACED, CLOSE_TOO_LARGE, CLOSE_UNAUTHORIZED, CLOSE_UNDECODABLE,
};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The relay is going away (RFC 6455, section 7.4.1).
const CLOSE_AWAY: u16 = 1001;
/// The client broke the websocket protocol (RFC 6455, section 7.4.1).
const CLOSE_PROTOCOL: u16 = 1002;
/// The client stopped answering pings; the code Python's websocket library uses for that.
const CLOSE_SILENT: u16 = 1011;
/// The client may come back later (IANA registry of websocket close codes).
const CLOSE_TRY_AGAIN: u16 = 1013;

/// Longest reason: a control frame carries 125 bytes, two of them the code (RFC 6455, section 5.5).
const MAX_REASON_LEN: usize = 123;

/// A close code and its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// One of `proxystore_shared::relay_message`'s codes, or of RFC 6455.
    pub code: u16,
    /// For people; at most 123 bytes are sent.
    pub reason: Cow<'static, str>,
}

impl Close {
    fn new(code: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The frame is none of the three messages, or not one that a client may send.
    pub fn undecodable() -> Self {
        Self::new(CLOSE_UNDECODABLE, "Not a message that a client may send.")
    }

    /// There are no credentials that could be checked.
    pub fn unauthorized(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(CLOSE_UNAUTHORIZED, reason)
    }

    /// The client is known, or has to be, and may not do what it asked for.
    pub fn forbidden(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(CLOSE_FORBIDDEN, reason)
    }

    /// A message is over `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(CLOSE_TOO_LARGE, format!("A message has more than {limit} bytes."))
    }

    /// The same endpoint registered on another socket.
    pub fn replaced() -> Self {
        Self::new(CLOSE_REPLACED, "This endpoint registered again elsewhere: is it running twice?")
    }

    /// The relay stops.
    pub fn stopping() -> Self {
        Self::new(CLOSE_AWAY, "The relay is stopping.")
    }

    /// The frames are not a websocket conversation.
    pub fn protocol_error() -> Self {
        Self::new(CLOSE_PROTOCOL, "Not a valid websocket frame.")
    }

    /// No frame came for `silence`, not even an answer to a ping.
    pub fn silent(silence: Duration) -> Self {
        Self::new(CLOSE_SILENT, format!("No sign of life for {} s.", silence.as_secs()))
    }

    /// The client's queue is full.
    pub fn not_reading() -> Self {
        Self::new(CLOSE_TRY_AGAIN, "Too many messages are waiting to be read.")
    }

    /// The relay cannot tell now who the client is.
    pub fn try_again() -> Self {
        Self::new(CLOSE_TRY_AGAIN, "Credentials cannot be checked at the moment.")
    }
}

impl From<Close> for CloseFrame {
    fn from(close: Close) -> Self {
        let fits = |end: &usize| *end <= MAX_REASON_LEN && close.reason.is_char_boundary(*end);
        let end = (0..=close.reason.len()).rev().find(fits).unwrap_or(0);
        Self { code: close.code.into(), reason: close.reason[..end].into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let frame = CloseFrame::from(Close::forbidden("é".repeat(100)));
        assert_eq!(frame.reason.as_str(), "é".repeat(61));
        assert_eq!(u16::from(frame.code), CLOSE_FORBIDDEN);
    }
}
