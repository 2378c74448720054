//! Encrypted connections to peers: one UDP socket ([`socket`]), QUIC over it ([`quic`]), and a TLS handshake in
//! which both sides prove the keys their ids stand for ([`tls`]).

pub mod quic;
pub mod socket;
pub mod tls;
