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
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PeerAnswer {
    id: EndpointId,
    name: Option<String>,
    state: String,
    address: Option<String>,
    round_trip_ms: Option<f64>,
    sent_bytes: u64,
    received_bytes: u64,
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
    let header = ["PEER", "NAME", "STATE", "ADDRESS", "ROUND TRIP", "SENT", "RECEIVED", "LAST ERROR"];
    Ok(format!("{facts}\n\n{}", table(header, peers.into_iter().map(peer_row))))
}

fn facts(status: &StatusAnswer) -> Vec<[String; 2]> {
    let storage = &status.storage;
    let limit = storage.limit.map(|limit| format!(" of {}", display_size(limit))).unwrap_or_default();
    let relay = match &status.relay {
        None => "none".to_owned(),
        Some(RelayAnswer { address, connected: true, .. }) => format!("{address}, connected"),
        Some(RelayAnswer { address, last_error, .. }) => {
            format!("{address}, not connected: {}", last_error.as_deref().unwrap_or("still trying"))
        }
    };
    [
        ("id", status.id.to_string()),
        ("version", status.version.clone()),
        ("mode", status.mode.clone()),
        ("uptime", display_duration(status.uptime_seconds)),
        ("objects", format!("{}, {}{limit}", storage.objects, display_size(storage.bytes))),
        ("relay", relay),
    ]
    .map(|(name, value)| [name.to_owned(), value])
    .into()
}

fn peer_row(peer: PeerAnswer) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    [
        peer.id.to_string(),
        or_dash(peer.name),
        peer.state,
        or_dash(peer.address),
        or_dash(peer.round_trip_ms.map(|ms| format!("{ms:.1} ms"))),
        display_size(peer.sent_bytes),
        display_size(peer.received_bytes),
        or_dash(peer.last_error),
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
            "relay": { "address": "wss://relay", "connected": false, "last_error": "refused" },
        });
        let peer = json!({
            "id": id, "name": null, "state": "connected", "address": "10.0.0.1:7", "round_trip_ms": 1.25,
            "sent_bytes": 10, "received_bytes": 0, "lost_packets": 0, "pending_requests": 0, "last_error": null,
        });
        let text = describe(&status, &json!({ "peers": [peer] })).unwrap();
        for part in
            [id, "1 h 1 min", "2, 1.50 KB of 3.00 KB", "not connected: refused", "connected", "1.2 ms"]
        {
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
