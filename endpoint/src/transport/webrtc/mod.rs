//! WebRTC data channels on the endpoint's one socket, for peers that are Python endpoints.
//!
//! The protocol (ICE, DTLS, SCTP) is `str0m`'s, which has neither sockets nor clocks (`docs/decisions/0014-webrtc.md`). The
//! [`Desk`] knows which datagram is for which connection; a [`Connection`] drives one.

mod connection;
mod desk;

pub use connection::{Connection, Event, Role, Terms, View};
pub use desk::Desk;

#[cfg(test)]
mod tests;
