//! `status`: what a running endpoint says of itself.

use std::time::Duration;

use proxystore_shared::EndpointId;
use proxystore_shared::http::v1;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect;
use super::output::{Failure, Printer, table};
use super::place::Place;
use super::size::display_size;

#[derive(Debug, Deserialize)]
struct StatusAnswer {
    id: EndpointId,
    name: String,
    version: String,
    uptime_seconds: f64,
    mode: String,
    storage: StorageAnswer,
    relay: Option<RelayAnswer>,
    network: Option<NetworkAnswer>,
    cache: Option<CacheAnswer>,
}

#[derive(Debug, Deserialize)]
struct CacheAnswer {
    bytes: u64,
    limit: u64,
    hits: u64,
    shared: u64,
    misses: u64,
}

#[derive(Debug, Deserialize)]
struct NetworkAnswer {
    nat: String,
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct StorageAnswer {
    objects: u64,
    bytes: u64,
    limit: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct RelayAnswer {
    address: String,
    connected: bool,
    #[serde(default)]
    proxy: Option<String>,
    last_error: Option<String>,
    datagrams: bool,
}

#[derive(Debug, Deserialize)]
struct PeerAnswer {
    id: EndpointId,
    name: Option<String>,
    state: String,
    #[serde(default)]
    protocol: Option<String>,
    path: Option<String>,
    address: Option<String>,
    round_trip_ms: Option<f64>,
    sent_bytes: u64,
    received_bytes: u64,
    lost_packets: u64,
    why_not_direct: Option<String>,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PeersAnswer {
    peers: Vec<PeerAnswer>,
}

/// Runs `status`.
pub async fn status(name: &str, printer: Printer) -> Result<(), Failure> {
    let (client, _) = connect(&Place::existing(name)?)?;
    let status: Value = client.json(v1::STATUS).await?;
    let peers: Value = client.json(v1::PEERS).await?;
    let text = describe(&status, &peers).map_err(|error| {
        Failure::new(format!("the endpoint's answer is not understood: {error}"))
            .hint("it may run another version; `--json` shows what it says")
    });
    match printer.is_json() {
        true => printer.result(&json!({ "status": status, "peers": peers["peers"] }), ""),
        false => printer.result(&Value::Null, &text?),
    }
}

fn describe(status: &Value, peers: &Value) -> Result<String, serde_json::Error> {
    let status = StatusAnswer::deserialize(status)?;
    let PeersAnswer { peers } = PeersAnswer::deserialize(peers)?;
    let facts = table(["ENDPOINT", &status.name], facts(&status));
    if peers.is_empty() {
        return Ok(facts);
    }
    let header =
        ["PEER", "NAME", "STATE", "PROTOCOL", "PATH", "ADDRESS", "ROUND TRIP", "SENT", "RECEIVED", "LOST"];
    let remarks: String = peers.iter().flat_map(remarks).collect();
    Ok(format!("{facts}\n\n{}{remarks}", table(header, peers.into_iter().map(peer_row))))
}

/// What does not fit into a table.
fn remarks(peer: &PeerAnswer) -> impl Iterator<Item = String> {
    let relayed = peer.why_not_direct.as_ref().map(|why| format!("goes through the relay: {why}"));
    let failed = peer.last_error.as_ref().map(|error| format!("last error: {error}"));
    let id = peer.id.short();
    relayed.into_iter().chain(failed).map(move |remark| format!("\n{id}: {remark}"))
}

fn facts(status: &StatusAnswer) -> Vec<[String; 2]> {
    let storage = &status.storage;
    let limit = storage.limit.map(|limit| format!(" of {}", display_size(limit))).unwrap_or_default();
    let relay = match &status.relay {
        None => "none".to_owned(),
        Some(relay) => display_relay(relay),
    };
    let network = match &status.network {
        None => "-".to_owned(),
        Some(NetworkAnswer { nat, addresses }) => {
            format!("{}; {}", explain(nat), addresses.join(", "))
        }
    };
    [
        ("id", status.id.to_string()),
        ("version", status.version.clone()),
        ("mode", status.mode.clone()),
        ("uptime", display_duration(status.uptime_seconds)),
        ("objects", format!("{}, {}{limit}", storage.objects, display_size(storage.bytes))),
        ("relay", relay),
        ("network", network),
        ("cache", status.cache.as_ref().map_or_else(|| "-".to_owned(), display_cache)),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

/// The words of the API in plain ones.
fn explain(nat: &str) -> &str {
    match nat {
        "none" => "no NAT",
        "steady" => "behind a NAT that peers can be reached through",
        "fickle" => "behind a symmetric NAT",
        "blocked" => "UDP is blocked",
        _ => "not known yet",
    }
}

fn display_cache(cache: &CacheAnswer) -> String {
    let CacheAnswer { bytes, limit, hits, shared, misses } = cache;
    let (bytes, limit) = (display_size(*bytes), display_size(*limit));
    format!("{bytes} of {limit}; of 1 MiB pieces, {hits} were there, {shared} shared, {misses} fetched")
}

fn display_relay(relay: &RelayAnswer) -> String {
    let proxy = relay.proxy.as_ref().map(|proxy| format!(" through {proxy}")).unwrap_or_default();
    let state = match (relay.connected, &relay.last_error) {
        (true, _) if relay.datagrams => "connected",
        (true, _) => "connected; it carries no data between peers",
        (false, Some(error)) => &format!("not connected: {error}"),
        (false, None) => "not connected: still trying",
    };
    format!("{}{proxy}, {state}", relay.address)
}

fn peer_row(peer: PeerAnswer) -> [String; 10] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        peer.id.to_string(),
        or_dash(peer.name),
        peer.state,
        or_dash(peer.protocol),
        or_dash(peer.path),
        or_dash(peer.address),
        or_dash(peer.round_trip_ms.map(|ms| format!("{ms:.1} ms"))),
        display_size(peer.sent_bytes),
        display_size(peer.received_bytes),
        peer.lost_packets.to_string(),
    ]
}

/// The two largest units.
fn display_duration(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_a_peer_is_described() {
        let id = "12345678-1234-4234-9234-123456789abc";
        let status = json!({
            "id": id, "name": "a", "version": "0.1.0", "uptime_seconds": 3700, "mode": "peering",
            "storage": { "objects": 2, "bytes": 1500, "limit": 3000 },
            "relay": {
                "address": "wss://relay", "connected": false, "proxy": "http://proxy:3128", "last_error": "refused",
                "datagrams": false,
            },
            "network": { "nat": "fickle", "addresses": ["10.0.0.2:5"] },
            "cache": { "bytes": 1000, "limit": 256_000_000, "hits": 7, "shared": 5, "misses": 3 },
        });
        let peer = json!({
            "id": id, "name": null, "state": "connected", "address": "10.0.0.1:7", "round_trip_ms": 1.25,
            "sent_bytes": 10, "received_bytes": 0, "lost_packets": 0, "running_requests": 0, "last_error": null,
            "path": "relayed", "why_not_direct": "symmetric NAT here",
        });
        let text = describe(&status, &json!({ "peers": [peer] })).unwrap();
        for part in [
            id,
            "1 h 1 min",
            "2, 1.50 KB of 3.00 KB",
            "wss://relay through http://proxy:3128, not connected: refused",
            "connected",
            "1.2 ms",
            "behind a symmetric NAT",
            "symmetric NAT here",
            "1.00 KB of 256 MB; of 1 MiB pieces, 7 were there, 5 shared, 3 fetched",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [(0.5, "0 s"), (61.0, "1 min 1 s"), (90_000.0, "1 d 1 h"), (-1.0, "0 s")] {
            assert_eq!(display_duration(seconds), text);
        }
    }
}
