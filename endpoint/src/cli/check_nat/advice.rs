//! What to ask those who run a network for, in words that they can act on.

use super::assess::{Expectation, Relay, Report, Udp};

const UDP: &str = "let this host send UDP to any address and port, and let answers in for 30 s or longer; data then \
                   travels directly between sites";

const HARD_NAT: &str = "use endpoint-independent mapping for UDP on the NAT (RFC 4787, REQ-1; also called cone NAT or \
                        static port), or forward one UDP port to this host and name it in `peering.port` and \
                        `peering.addresses`; more sites are then reached directly";

const OTHER_RELAY: &str = "this relay carries no data: sites that cannot reach each other directly need a relay of \
                           this project, see docs/relay.md (nothing the network team can change)";

const TELLING_RELAY: &str = "this relay does not tell sites their public address: those behind NATs need a relay of this \
                             project with open UDP ports, see docs/relay.md (nothing the network team can change)";

/// Most important first; empty where nothing is to be gained.
pub fn advice(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(relay) = &report.relay
        && !relay.reached
    {
        advice.push(reach(relay));
    }
    if report.udp == Udp::Blocked {
        advice.push(UDP.into());
    }
    let is_hard = [&report.ipv4, &report.ipv6].into_iter().flatten().any(|family| family.is_hard());
    if is_hard && report.path_to_expect != Expectation::DirectToMost {
        advice.push(HARD_NAT.into());
    }
    let needs_relay = is_hard || report.udp != Udp::Passes;
    if needs_relay && report.relay.as_ref().is_some_and(|relay| relay.reached && !relay.carries_data) {
        advice.push(OTHER_RELAY.into());
    }
    let is_silent = |relay: &Relay| relay.reached && relay.udp_ports.is_empty();
    if report.path_to_expect != Expectation::DirectToMost && report.relay.as_ref().is_some_and(is_silent) {
        advice.push(TELLING_RELAY.into());
    }
    advice
}

fn reach(relay: &Relay) -> String {
    let address = &relay.address;
    match &relay.proxy {
        None => format!(
            "let this host connect to {address} by TCP, or name an HTTP proxy that leads there (`peering.proxy`, \
             else https_proxy)"
        ),
        Some(proxy) => format!("let the proxy {proxy} connect to {address} (method CONNECT)"),
    }
}
