//! A report in words.

use super::assess::{Expectation, Family, Filtering, Mapping, Relay, Report, Udp};
use crate::cli::output::table;

/// A table, and behind it what to ask for.
pub fn describe(report: &Report) -> String {
    let mut rows = Vec::new();
    if let Some(relay) = &report.relay {
        rows.push(("relay", display_relay(relay)));
        rows.push(("proxy", relay.proxy.clone().unwrap_or_else(|| "none".into())));
        if relay.reached {
            rows.push(("data through the relay", if relay.carries_data { "yes" } else { "no" }.into()));
        }
    }
    let udp = match report.udp {
        Udp::Passes => "passes",
        Udp::Blocked => "blocked",
        Udp::Unknown => "not checked: there is no server to ask; name some with --server HOST:PORT",
    };
    rows.push(("UDP", udp.into()));
    for (name, family) in [("IPv4", &report.ipv4), ("IPv6", &report.ipv6)] {
        match family {
            Some(family) => rows.extend(display_family(name, family)),
            None if report.udp == Udp::Unknown => {}
            None => rows.push((name, "not checked: no server has such an address".into())),
        }
    }
    rows.push(("path to expect", display_expectation(report).into()));
    let rows = rows.into_iter().map(|(name, value)| [name.to_owned(), value]);
    let mut text = table(["NETWORK", ""], rows);
    if !report.advice.is_empty() {
        text.push_str("\n\nTo ask for:");
        report.advice.iter().for_each(|line| text.push_str(&format!("\n- {line}")));
    }
    text
}

fn display_relay(relay: &Relay) -> String {
    match (&relay.error, relay.round_trip_ms) {
        (Some(error), _) => format!("{}, not reached: {error}", relay.address),
        (None, Some(round_trip)) => format!("{}, round trip {round_trip:.1} ms", relay.address),
        (None, None) => relay.address.clone(),
    }
}

fn display_family(name: &'static str, family: &Family) -> Vec<(&'static str, String)> {
    if !family.answered {
        return vec![(name, "no answer".into())];
    }
    let addresses: Vec<_> = family.public_addresses.iter().map(ToString::to_string).collect();
    let whose = if family.is_local { "an address of this host" } else { "behind a NAT" };
    let mapping = match family.mapping {
        Mapping::NoNat => "none",
        Mapping::EndpointIndependent => "endpoint-independent: the same public address for every destination",
        Mapping::EndpointIndependentOrAddressDependent => {
            "the same public address for every port of one server: endpoint-independent, or address-dependent, which \
             only a server at another address can tell (--server)"
        }
        Mapping::AddressDependent => {
            "address-dependent: another public address for each destination (symmetric)"
        }
        Mapping::AddressAndPortDependent => {
            "address- and port-dependent: another public address for each destination (symmetric)"
        }
        Mapping::AddressOrPortDependent => {
            "address-dependent, perhaps port-dependent: another public address for each destination (symmetric)"
        }
        Mapping::Unknown => "not known: it takes answers from two servers or ports",
    };
    let filtering = match family.filtering {
        Filtering::EndpointIndependentOrAddressDependent => {
            "endpoint-independent or address-dependent: lets other ports of a known address in"
        }
        Filtering::AddressAndPortDependent => {
            "address- and port-dependent: lets in only answers to what was sent"
        }
        Filtering::Unknown => "not checked: only a relay with two UDP ports can tell",
    };
    vec![
        (name, format!("{}, {whose}", addresses.join(" and "))),
        ("  mapping", mapping.into()),
        ("  filtering", filtering.into()),
    ]
}

fn display_expectation(report: &Report) -> &'static str {
    let carries_data = report.relay.as_ref().is_some_and(|relay| relay.carries_data);
    match (report.path_to_expect, carries_data) {
        (Expectation::DirectToMost, true) => "direct to most networks, through the relay to the others",
        (Expectation::DirectToMost, false) => "direct to most networks, none to the others",
        (Expectation::DirectToOpenNetworks, true) => {
            "direct to open networks only, through the relay to the others"
        }
        (Expectation::DirectToOpenNetworks, false) => "direct to open networks only, none to the others",
        (Expectation::RelayedOnly, _) => "through the relay",
        (Expectation::Nothing, _) => "none",
        (Expectation::Unknown, _) => "not known: UDP was not checked, and the relay carries no data",
    }
}
