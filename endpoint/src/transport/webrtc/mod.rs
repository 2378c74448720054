//! WebRTC data channels on the endpoint's one socket, for peers that are Python endpoints.
//!
//! The protocol (ICE, DTLS, SCTP) is `str0m`'s, which has neither sockets nor clocks (`docs/decisions/0014-webrtc.md`). The
//! [`Desk`] knows which datagram is for which connection; a [`Connection`] drives one. Where no address of this host can be
//! reached, [`turn`] has one elsewhere.

mod connection;
mod desk;
pub mod turn;

pub use connection::{Connection, Event, Role, Terms, View};
pub use desk::{Desk, Destination};

#[cfg(test)]
mod tests;
