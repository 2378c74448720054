//! What observations of a network mean for endpoints in it. Decides only; [`super::observe`] looks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use super::advice::advice;

/// What was seen.
#[derive(Debug, Clone, Default)]
pub struct Observations {
    /// The relay; none if none was asked.
    pub relay: Option<Relay>,
    /// Addresses of the socket, one for each of the host.
    pub local: Vec<SocketAddr>,
    /// Servers asked from one socket, and the address that each saw.
    pub answers: Vec<(SocketAddr, Option<SocketAddr>)>,
    /// Servers asked, from another socket, to answer from a port that it never sent to; and whether that arrived.
    pub strangers: Vec<(SocketAddr, bool)>,
}

/// How the relay was reached.
#[derive(Debug, Clone, Serialize)]
pub struct Relay {
    /// Its address.
    pub address: String,
    /// HTTP proxy on the way, without its password.
    pub proxy: Option<String>,
    /// Whether it was.
    pub reached: bool,
    /// Why not.
    pub error: Option<String>,
    /// Over the websocket, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// Where it answers STUN.
    pub udp_ports: Vec<u16>,
    /// Whether it carries data between endpoints that cannot reach each other.
    pub carries_data: bool,
}

/// What it means. Names and words of the JSON form are stable.
#[derive(Debug, Serialize)]
pub struct Report {
    /// See [`Relay`].
    pub relay: Option<Relay>,
    /// Whether datagrams get out and answers in.
    pub udp: Udp,
    /// None if no server has such an address.
    pub ipv4: Option<Family>,
    /// None if no server has such an address.
    pub ipv6: Option<Family>,
    /// See [`Expectation`].
    pub path_to_expect: Expectation,
    /// What to ask those who run the network for, most important first.
    pub advice: Vec<String>,
}

/// Whether UDP passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Udp {
    /// Some server answered.
    Passes,
    /// None of those asked did.
    Blocked,
    /// There was none to ask.
    Unknown,
}

/// One version of IP.
#[derive(Debug, Clone, Serialize)]
pub struct Family {
    /// Whether any server answered.
    pub answered: bool,
    /// Addresses that servers saw.
    pub public_addresses: Vec<SocketAddr>,
    /// Whether they are the host's own.
    pub is_local: bool,
    /// See [`Mapping`].
    pub mapping: Mapping,
    /// See [`Filtering`].
    pub filtering: Filtering,
    /// Each server asked, and the address that it saw.
    pub servers: BTreeMap<SocketAddr, Option<SocketAddr>>,
}

/// How a NAT chooses the public address of a socket (RFC 4787, section 4.1; RFC 5780, section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// There is none.
    NoNat,
    /// The same for every destination.
    EndpointIndependent,
    /// The same for every port of one address; servers at other addresses were not asked.
    EndpointIndependentOrAddressDependent,
    /// Another for each destination address.
    AddressDependent,
    /// Another for each address and port.
    AddressAndPortDependent,
    /// Another for each server asked; whether for their addresses or their ports cannot be told.
    AddressOrPortDependent,
    /// Too few answers.
    Unknown,
}

/// What a NAT or firewall lets in (RFC 4787, section 5; RFC 5780, section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// At least what comes from other ports of an address that was sent to.
    EndpointIndependentOrAddressDependent,
    /// Only what comes from an address and port that was sent to.
    AddressAndPortDependent,
    /// Not asked, or nothing gets in at all.
    Unknown,
}

/// How data will travel between an endpoint here and others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expectation {
    /// Directly, but for networks that are as closed as can be.
    DirectToMost,
    /// Directly to networks that admit strangers; through the relay, if it can, to others.
    DirectToOpenNetworks,
    /// Through the relay.
    RelayedOnly,
    /// Not at all.
    Nothing,
    /// UDP could not be checked, and the relay carries no data.
    Unknown,
}

/// Decides.
pub fn assess(seen: Observations) -> Report {
    let ipv4 = family(&seen, true);
    let ipv6 = family(&seen, false);
    let asked = ipv4.is_some() || ipv6.is_some();
    let udp = match [&ipv4, &ipv6].into_iter().flatten().any(|family| family.answered) {
        true => Udp::Passes,
        false if asked => Udp::Blocked,
        false => Udp::Unknown,
    };
    let path_to_expect = expectation(seen.relay.as_ref(), udp, [ipv4.as_ref(), ipv6.as_ref()]);
    let mut report = Report { relay: seen.relay, udp, ipv4, ipv6, path_to_expect, advice: Vec::new() };
    report.advice = advice(&report);
    report
}

fn expectation(relay: Option<&Relay>, udp: Udp, families: [Option<&Family>; 2]) -> Expectation {
    // An endpoint asks its relay, and nobody else, at which address a NAT shows it.
    let is_told = relay.is_none_or(|relay| !relay.udp_ports.is_empty());
    let is_easy = |family: &Family| family.answered && !family.is_hard() && (family.is_local || is_told);
    let is_easy = families.into_iter().flatten().any(is_easy);
    match (relay, udp) {
        // Endpoints meet there.
        (Some(Relay { reached: false, .. }), _) => Expectation::Nothing,
        (_, Udp::Passes) if is_easy => Expectation::DirectToMost,
        (_, Udp::Passes) => Expectation::DirectToOpenNetworks,
        (Some(Relay { carries_data: true, .. }), _) => Expectation::RelayedOnly,
        (_, Udp::Unknown) => Expectation::Unknown,
        (_, Udp::Blocked) => Expectation::Nothing,
    }
}

impl Family {
    /// Whether others cannot know in advance at which address they reach a socket.
    pub fn is_hard(&self) -> bool {
        use Mapping::*;
        matches!(self.mapping, AddressDependent | AddressAndPortDependent | AddressOrPortDependent)
    }
}

fn family(seen: &Observations, ipv4: bool) -> Option<Family> {
    let of_family = |server: &SocketAddr| server.is_ipv4() == ipv4;
    let servers: BTreeMap<_, _> =
        seen.answers.iter().filter(|(server, _)| of_family(server)).copied().collect();
    if servers.is_empty() {
        return None;
    }
    let mapped: BTreeMap<_, _> =
        servers.iter().filter_map(|(server, mapped)| Some((*server, (*mapped)?))).collect();
    let mut public_addresses: Vec<_> = mapped.values().copied().collect();
    public_addresses.sort();
    public_addresses.dedup();
    let is_local =
        !public_addresses.is_empty() && public_addresses.iter().all(|address| seen.local.contains(address));
    let strangers =
        seen.strangers.iter().filter(|(server, _)| of_family(server) && mapped.contains_key(server));
    let filtering = match strangers.map(|(_, arrived)| *arrived).reduce(|one, other| one || other) {
        None => Filtering::Unknown,
        Some(true) => Filtering::EndpointIndependentOrAddressDependent,
        Some(false) => Filtering::AddressAndPortDependent,
    };
    let mapping = if is_local { Mapping::NoNat } else { mapping(&mapped) };
    Some(Family { answered: !mapped.is_empty(), public_addresses, is_local, mapping, filtering, servers })
}

/// From the addresses that each server saw.
fn mapping(mapped: &BTreeMap<SocketAddr, SocketAddr>) -> Mapping {
    let mut by_ip: BTreeMap<IpAddr, Vec<SocketAddr>> = BTreeMap::new();
    for (server, seen) in mapped {
        by_ip.entry(server.ip()).or_default().push(*seen);
    }
    let mut values = mapped.values();
    let is_same = values.next().is_some_and(|first| values.all(|other| other == first));
    let asked_ports = by_ip.values().any(|seen| seen.len() > 1);
    let differs_by_port = by_ip.values().any(|seen| seen.iter().any(|other| *other != seen[0]));
    match (is_same, by_ip.len()) {
        _ if mapped.len() < 2 => Mapping::Unknown,
        (true, 1) => Mapping::EndpointIndependentOrAddressDependent,
        (true, _) => Mapping::EndpointIndependent,
        (false, _) if differs_by_port => Mapping::AddressAndPortDependent,
        (false, _) if asked_ports => Mapping::AddressDependent,
        (false, _) => Mapping::AddressOrPortDependent,
    }
}
