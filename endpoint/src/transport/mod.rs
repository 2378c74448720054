//! Encrypted connections to peers: one UDP socket ([`socket`]) that is shared with STUN and WebRTC and joined by the relay
//! ([`shared_socket`], [`relayed`]), QUIC over it ([`quic`], [`congestion`]), and a TLS handshake in which both sides prove the keys
//! their ids stand for ([`tls`]); for Python endpoints [`webrtc`]. [`addresses`] knows where peers may find us, with the help of [`stun`] and [`mapping`].
//! [`route`] leads to servers over TCP: the relay, and TURN servers.

pub mod addresses;
mod congestion;
pub mod mapping;
pub mod quic;
pub mod relayed;
pub mod route;
pub mod shared_socket;
pub mod socket;
pub mod stun;
pub mod tls;
pub mod webrtc;
