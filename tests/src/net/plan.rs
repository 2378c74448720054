//! What stands between a site and the internet.

use std::path::PathBuf;

use super::nat::{Nat, Wall};
use super::segment::Stack;

/// A site, described.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its routers, from the host outwards.
    pub nats: Vec<Nat>,
    /// What the innermost router refuses.
    pub wall: Wall,
    /// What the host speaks.
    pub stack: Stack,
    /// An HTTP proxy on the innermost router.
    pub proxy: Option<ProxyLogin>,
    /// Its private addresses are 192.168.`lan`.x.
    pub lan: u8,
    /// What the wire to the innermost router does to packets, as options of `wanem`.
    pub distance: Option<&'static [&'static str]>,
    /// The certificates that the host trusts (PEM) instead of the system's.
    pub trusted: Option<PathBuf>,
}

/// Whether a proxy asks for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyLogin {
    /// It does not.
    Open,
    /// It does, and the host knows it.
    Password,
}

impl From<Nat> for Plan {
    /// Behind one router of a kind, speaking IPv4.
    fn from(nat: Nat) -> Self {
        let nats = if nat == Nat::None { Vec::new() } else { vec![nat] };
        Self { nats, wall: Wall::Open, stack: Stack::V4, proxy: None, lan: 1, distance: None, trusted: None }
    }
}

impl Plan {
    /// On the internet with that version of IP.
    pub fn speaking(stack: Stack) -> Self {
        Self { stack, ..Nat::None.into() }
    }

    /// Behind two routers, the second one the provider's.
    pub fn double(inner: Nat, outer: Nat) -> Self {
        Self { nats: vec![inner, outer], ..inner.into() }
    }

    /// Behind a firewall that drops UDP.
    pub fn without_udp() -> Self {
        Self { wall: Wall::Udp, ..Nat::PortRestricted.into() }
    }

    /// Where nothing but an HTTP proxy leads out.
    pub fn behind_proxy(login: ProxyLogin) -> Self {
        Self { wall: Wall::All, proxy: Some(login), ..Nat::PortRestricted.into() }
    }

    /// At the far end of a long wire.
    pub fn over(self, distance: &'static [&'static str]) -> Self {
        Self { distance: Some(distance), ..self }
    }
}
