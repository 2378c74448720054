//! What observations mean, case by case.

use std::net::SocketAddr;

use serde_json::json;

use super::assess::{Expectation, Filtering, Mapping, Observations, Relay, Report, Udp, assess};
use super::describe::describe;
use super::parse_server;

/// The relay's ports, and servers elsewhere.
const PORTS: [&str; 2] = ["192.0.2.1:3478", "192.0.2.1:3479"];
const ELSEWHERE: &str = "192.0.2.99:3478";
const LOCAL: &str = "10.0.0.2:4000";
const PUBLIC: [&str; 3] = ["203.0.113.9:4001", "203.0.113.9:4002", "203.0.113.9:4003"];

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn relay(carries_data: bool) -> Relay {
    Relay {
        address: "wss://relay".into(),
        proxy: None,
        reached: true,
        error: None,
        round_trip_ms: Some(12.34),
        udp_ports: vec![3478, 3479],
        carries_data,
    }
}

fn answers(pairs: &[(&str, &str)]) -> Observations {
    let answers = pairs.iter().map(|(server, seen)| (address(server), seen.parse().ok())).collect();
    Observations { relay: Some(relay(true)), local: vec![address(LOCAL)], answers, strangers: Vec::new() }
}

fn assessed(pairs: &[(&str, &str)]) -> Report {
    assess(answers(pairs))
}

fn mapping(pairs: &[(&str, &str)]) -> Mapping {
    assessed(pairs).ipv4.unwrap().mapping
}

#[test]
fn mappings_are_told_apart_as_far_as_the_servers_allow() {
    let [one, two, three] = PUBLIC;
    let [a, b] = PORTS;
    for (pairs, expected) in [
        (vec![(a, LOCAL), (b, LOCAL)], Mapping::NoNat),
        (vec![(a, one)], Mapping::Unknown),
        (vec![(a, one), (b, "silent")], Mapping::Unknown),
        (vec![(a, one), (b, one)], Mapping::EndpointIndependentOrAddressDependent),
        (vec![(a, one), (b, one), (ELSEWHERE, one)], Mapping::EndpointIndependent),
        (vec![(a, one), (b, one), (ELSEWHERE, two)], Mapping::AddressDependent),
        (vec![(a, one), (b, two), (ELSEWHERE, three)], Mapping::AddressAndPortDependent),
        (vec![(a, one), (b, two)], Mapping::AddressAndPortDependent),
        (vec![(a, one), (ELSEWHERE, two)], Mapping::AddressOrPortDependent),
    ] {
        assert_eq!(mapping(&pairs), expected, "{pairs:?}");
    }
}

#[test]
fn filtering_is_told_by_what_a_stranger_gets_in() {
    let [a, b] = PORTS;
    for (strangers, expected) in [
        (vec![], Filtering::Unknown),
        (vec![(address(a), true)], Filtering::EndpointIndependentOrAddressDependent),
        (vec![(address(a), false)], Filtering::AddressAndPortDependent),
    ] {
        let seen = Observations { strangers, ..answers(&[(a, PUBLIC[0]), (b, PUBLIC[0])]) };
        assert_eq!(assess(seen).ipv4.unwrap().filtering, expected);
    }
    // Where nothing at all arrives, a stranger's absence means nothing.
    let blocked = Observations { strangers: vec![(address(a), false)], ..answers(&[(a, "silent")]) };
    assert_eq!(assess(blocked).ipv4.unwrap().filtering, Filtering::Unknown);
}

#[test]
fn the_path_to_expect_follows_from_udp_and_the_relay() {
    let [a, b] = PORTS;
    let easy = [(a, PUBLIC[0]), (b, PUBLIC[0])];
    let hard = [(a, PUBLIC[0]), (b, PUBLIC[1])];
    let silent = [(a, "silent"), (b, "silent")];
    let unreached = Relay { reached: false, carries_data: false, ..relay(false) };
    for (seen, relay, expected) in [
        (&easy[..], Some(relay(true)), Expectation::DirectToMost),
        (&easy, Some(relay(false)), Expectation::DirectToMost),
        (&easy, None, Expectation::DirectToMost),
        (&easy, Some(unreached), Expectation::Nothing),
        (&hard, Some(relay(true)), Expectation::DirectToOpenNetworks),
        (&silent, Some(relay(true)), Expectation::RelayedOnly),
        (&silent, Some(relay(false)), Expectation::Nothing),
        (&silent, None, Expectation::Nothing),
        (&[], Some(relay(true)), Expectation::RelayedOnly),
        (&[], Some(relay(false)), Expectation::Unknown),
    ] {
        let report = assess(Observations { relay, ..answers(seen) });
        assert_eq!(report.path_to_expect, expected, "{report:?}");
        let is_best = expected == Expectation::DirectToMost;
        assert!(!is_best || report.advice.is_empty(), "nothing to gain: {report:?}");
        assert!(is_best || expected == Expectation::RelayedOnly || !report.advice.is_empty(), "{report:?}");
    }
}

#[test]
fn behind_a_nat_it_takes_a_relay_that_tells_addresses() {
    for (seen, expected) in
        [(PUBLIC[0], Expectation::DirectToOpenNetworks), (LOCAL, Expectation::DirectToMost)]
    {
        let silent = Relay { udp_ports: Vec::new(), ..relay(true) };
        let elsewhere = [("192.0.2.98:3478", seen), (ELSEWHERE, seen)];
        let report = assess(Observations { relay: Some(silent), ..answers(&elsewhere) });
        assert_eq!((report.udp, report.path_to_expect), (Udp::Passes, expected), "{report:?}");
        let is_best = expected == Expectation::DirectToMost;
        assert_eq!(
            report.advice.iter().any(|advice| advice.contains("public address")),
            !is_best,
            "{report:?}"
        );
    }
}

#[test]
fn one_easy_family_is_enough() {
    let v6 = "[2001:db8::1]:3478";
    let report = assessed(&[(PORTS[0], PUBLIC[0]), (PORTS[1], PUBLIC[1]), (v6, "[2001:db8::2]:5")]);
    assert_eq!((report.udp, report.path_to_expect), (Udp::Passes, Expectation::DirectToMost));
    let ipv6 = report.ipv6.unwrap();
    assert_eq!((ipv6.answered, ipv6.mapping), (true, Mapping::Unknown));
}

#[test]
fn programs_read_stable_words() {
    let report = assessed(&[(PORTS[0], PUBLIC[0]), (PORTS[1], PUBLIC[1])]);
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(value["udp"], "passes");
    assert_eq!(value["path_to_expect"], "direct-to-open-networks");
    assert_eq!(value["relay"]["round_trip_ms"], json!(12.34));
    assert_eq!(value["ipv6"], json!(null));
    let ipv4 = json!({
        "answered": true, "public_addresses": [PUBLIC[0], PUBLIC[1]], "is_local": false,
        "mapping": "address-and-port-dependent", "filtering": "unknown",
        "servers": { PORTS[0]: PUBLIC[0], PORTS[1]: PUBLIC[1] },
    });
    assert_eq!(value["ipv4"], ipv4);
}

#[test]
fn people_read_what_it_is_and_what_to_ask_for() {
    let blocked = assessed(&[(PORTS[0], "silent")]);
    let text = describe(&blocked);
    for part in ["wss://relay, round trip 12.3 ms", "blocked", "through the relay", "To ask for", "send UDP"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    let fine = describe(&assessed(&[(PORTS[0], LOCAL), (PORTS[1], LOCAL)]));
    assert!(fine.contains("an address of this host") && !fine.contains("To ask for"), "{fine}");
}

#[test]
fn servers_are_hosts_with_ports() {
    assert_eq!(parse_server("stun.example.org:3478").unwrap(), ("stun.example.org".into(), 3478));
    assert_eq!(parse_server("[2001:db8::1]:1").unwrap(), ("2001:db8::1".into(), 1));
    for wrong in ["stun.example.org", ":3478", "host:0", "host:99999", "[]:1"] {
        assert!(parse_server(wrong).is_err(), "{wrong}");
    }
}
