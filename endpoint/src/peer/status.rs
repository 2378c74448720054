//! What people and programs are told about peers and the relay.

use proxystore_shared::EndpointId;
use serde::Serialize;

use crate::transport::addresses::Nat;

/// One peer that this endpoint has, or recently had, a session with.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct PeerStatus {
    /// The peer.
    #[schema(value_type = String, format = "uuid")]
    pub id: EndpointId,
    /// Its name, as the relay passed it on.
    pub name: Option<String>,
    /// Whether there is a session.
    pub state: PeerState,
    /// What the session speaks: a Python endpoint is reached over WebRTC.
    pub protocol: Option<Protocol>,
    /// What the session's data goes through.
    pub path: Option<PathKind>,
    /// The peer's UDP address in use, or that of its TURN server; none while the data goes through the relay.
    pub address: Option<String>,
    /// Round trip in milliseconds, smoothed.
    pub round_trip_ms: Option<f64>,
    /// UDP bytes sent in this session.
    pub sent_bytes: u64,
    /// UDP bytes received in this session.
    pub received_bytes: u64,
    /// Packets found lost in this session; not known over WebRTC, and then 0.
    pub lost_packets: u64,
    /// Requests under way, either direction.
    pub running_requests: u64,
    /// Why the data goes through the relay, as far as this endpoint can tell.
    pub why_not_direct: Option<String>,
    /// Why the last attempt to open a session failed.
    pub last_error: Option<String>,
}

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// With an endpoint of this project.
    Quic,
    /// With a Python endpoint.
    WebRtc,
}

/// What the data between two endpoints goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// The network, to an address of the peer's own.
    Direct,
    /// The network, to an address that a NAT gave the peer.
    Punched,
    /// The relay, or on the way to a Python endpoint a TURN server; encrypted from end to end.
    Relayed,
}

/// Whether there is a session with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// No session; the next request opens one.
    Idle,
    /// An offer is out, or addresses are being dialled.
    Connecting,
    /// Requests flow.
    Connected,
}

/// What is known of the network that this endpoint is in.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct NetworkStatus {
    /// What is between this endpoint and other networks.
    pub nat: Nat,
    /// UDP addresses at which peers try to reach this endpoint.
    pub addresses: Vec<String>,
}

/// What an endpoint keeps of its peers' objects, and what that was good for since it was started. Objects up to 1 MiB
/// count as one group each.
#[derive(Debug, Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub struct CacheStatus {
    /// Bytes kept.
    pub bytes: u64,
    /// The most bytes there may be; 0 when nothing is kept.
    pub limit: u64,
    /// Groups (of 1 MiB) that were there already.
    pub hits: u64,
    /// Groups that travelled because of another reader, at the same time.
    pub shared: u64,
    /// Groups that had to travel.
    pub misses: u64,
}

/// The connection to the relay.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct RelayStatus {
    /// Where the relay is.
    pub address: String,
    /// Whether this endpoint is registered there now.
    pub connected: bool,
    /// HTTP proxy on the way there, without its password.
    pub proxy: Option<String>,
    /// Why not, or why not before.
    pub last_error: Option<String>,
    /// Whether the relay carries data between endpoints that cannot reach each other. A Python relay does not.
    pub datagrams: bool,
}

/// What a path through a TURN server means.
pub const ONLY_BY_TURN: &str = "no address of either side could be reached but through a TURN server";

/// What this side's network has to do with it that data goes through the relay.
pub fn why_not_direct(nat: Nat) -> &'static str {
    match nat {
        Nat::Blocked => "UDP does not pass between this endpoint and the relay, so probably to nobody",
        Nat::Fickle => {
            "this site's NAT gives every destination another port (symmetric NAT), which only peers in open networks \
             can be reached through"
        }
        Nat::Unknown => "the relay has no UDP ports that tell what this network lets through",
        Nat::None | Nat::Steady => {
            "this network would let UDP through; the peer's does not, or its NAT is symmetric"
        }
    }
}
