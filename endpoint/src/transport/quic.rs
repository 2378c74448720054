//! QUIC on the endpoint's socket, with the settings that survived measurement.
//!
//! The crate is `noq`, the maintained fork of quinn (`docs/decisions/0001-noq.md`).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use noq::{
    AckFrequencyConfig, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, FourTuple,
    IdleTimeout, Incoming, MtuDiscoveryConfig, NetworkChangeHint, PathEvents, PathId, Runtime as _,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use proxystore_shared::digest::GROUP_LEN;
use tokio::sync::mpsc;

use super::congestion;
use super::relayed::{self, SocketEnd};
use super::shared_socket::{SharedSocket, StunArrival, mapped};
use super::tls::{self, Expected};
use super::webrtc::Desk;
use crate::identity::Identity;

/// Largest UDP payload probed for. Ten segments of it, the batch handed to the kernel at once, stay under 64 KiB;
/// larger ones fail silently. Loopback and jumbo frames gain up to 2.5 times over Ethernet's 1452.
const MAX_UDP_PAYLOAD: u16 = 6500;

/// Receive window of a stream: a group and its header, with room for the next flight.
const STREAM_WINDOW: u32 = 2 * GROUP_LEN as u32;

/// Receive window of a connection, for all streams: 64 MB keeps 10 Gbit/s busy at 50 ms.
const CONNECTION_WINDOW: u32 = 64 << 20;

/// Streams that a peer may have open at once; each is one request or one group.
const MAX_STREAMS: u32 = 512;

/// First congestion window, in bytes: 1 MB halves the time to full speed at 40 ms round trip.
const INITIAL_WINDOW: u64 = 1 << 20;

/// Paths of a connection at once: the relayed one, one for each pair of addresses that a round finds to work, and one
/// to replace each while it closes.
const MAX_PATHS: u32 = 8;

/// Addresses of a peer that are probed.
pub const MAX_CANDIDATES: u8 = 8;

/// Keep-alives make silence meaningful: a peer that is alive is heard of every second on a direct path.
pub const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How long a peer may keep a lone packet's acknowledgement for itself; QUIC's least, instead of 25 ms. By then it goes
/// alone, while nobody waits, and the packet that follows does not find itself the second, whose acknowledgement the
/// library sends before it hands on what arrived. And the loss of an object's last packet is found out so much sooner.
const MAX_ACK_DELAY: Duration = Duration::from_millis(1);

/// Probe timeouts without any acknowledgement after which congestion control begins anew. With an early acknowledgement they
/// are short: 20 last 80 ms at a round trip of 2 ms, about what QUIC's 3 last with a late one.
const PERSISTENT_CONGESTION: u32 = 20;

/// Silence after which a path is given up. A direct one that has work to do is found dead much sooner.
pub const MAX_IDLE: Duration = Duration::from_secs(10);

/// Silence after which a connection without any path that works is given up.
const MAX_CONNECTION_IDLE: Duration = Duration::from_secs(30);

/// STUN messages that wait to be read; more are dropped, and asked for again.
const STUN_QUEUE: usize = 16;

/// Connections that wait for their handshake at once; more are refused without work.
const MAX_INCOMING: usize = 256;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TLS could not be set up: a bug, or a key that does not sign.
    #[error("cannot dial {address}: TLS cannot be set up: {error}")]
    Tls {
        /// Where to.
        address: SocketAddr,
        /// What TLS said.
        error: rustls::Error,
    },
    /// The address cannot be dialled.
    #[error("cannot dial {address}: {reason}")]
    Address {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// Nobody there, or not the peer.
    #[error("{address}: {error}")]
    Failed {
        /// Where to.
        address: SocketAddr,
        /// What QUIC said.
        error: ConnectionError,
    },
}

impl ConnectError {
    /// Where to.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Tls { address, .. } | Self::Address { address, .. } | Self::Failed { address, .. } => {
                *address
            }
        }
    }
}

/// QUIC bound to the endpoint's socket and key.
#[derive(Debug, Clone)]
pub struct Quic {
    endpoint: Endpoint,
    identity: Identity,
    transport: Arc<TransportConfig>,
}

impl Quic {
    /// Takes the socket over, and joins it with the way through the relay. What of STUN arrives is handed to the
    /// receiver, and with DTLS to `webrtc`. Must be called within a tokio runtime.
    pub fn new(
        socket: UdpSocket,
        relay: SocketEnd,
        identity: Identity,
        webrtc: Arc<Desk>,
    ) -> io::Result<(Self, mpsc::Receiver<StunArrival>)> {
        let transport = Arc::new(transport_config());
        let crypto = QuicServerConfig::try_from(tls::server_config(&identity).map_err(io::Error::other)?);
        let mut server = ServerConfig::with_crypto(Arc::new(crypto.map_err(io::Error::other)?));
        server.transport_config(transport.clone()).max_incoming(MAX_INCOMING);
        let (stun, stun_arrivals) = mpsc::channel(STUN_QUEUE);
        let socket = SharedSocket::new(TokioRuntime.wrap_udp_socket(socket)?, relay, stun, webrtc)?;
        let config = endpoint_config(&identity)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), Box::new(socket), runtime)?;
        Ok((Self { endpoint, identity, transport }, stun_arrivals))
    }

    /// Connects to `address` and accepts only the `expected` peer there. The caller bounds the time.
    pub async fn dial(&self, address: SocketAddr, expected: Expected) -> Result<Connection, ConnectError> {
        let crypto = tls::client_config(&self.identity, expected).and_then(|config| {
            QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
        });
        let crypto = crypto.map_err(|error| ConnectError::Tls { address, error })?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting = self
            .endpoint
            .connect_with(config, mapped(address), tls::SERVER_NAME)
            .map_err(|error| ConnectError::Address { address, reason: error.to_string() })?;
        connecting.await.map_err(|error| ConnectError::Failed { address, error })
    }

    /// The host has these addresses only from now on: paths from others are opened anew, the rest looked after.
    pub fn addresses_changed(&self, ours: BTreeSet<IpAddr>) {
        self.endpoint.handle_network_change(Some(Arc::new(Ours(ours))));
    }

    /// The next peer that dials us; none once closed.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await
    }

    /// Closes every connection and waits, within `grace`, until peers have been told.
    pub async fn close(&self, grace: Duration) {
        self.endpoint.close(CloseCode::Stopping.into(), b"the endpoint is stopping");
        // Whoever has not been told by then finds out by silence.
        let _ = tokio::time::timeout(grace, self.endpoint.wait_idle()).await;
    }
}

/// A connection after its handshake, with all that has happened to its paths since.
#[derive(Debug)]
pub struct Watched {
    /// The connection.
    pub connection: Connection,
    /// What happens to its paths. Whoever subscribes later misses the ones that the peer has opened by then.
    pub path_events: PathEvents,
}

impl Watched {
    /// One that we dialled: nobody else opens paths of it.
    pub fn dialled(connection: Connection) -> Self {
        let path_events = connection.path_events();
        Self { connection, path_events }
    }

    /// One that a peer dialled. It may open paths as soon as its part of the handshake is done, so the subscription comes
    /// before. The caller bounds the time.
    pub async fn accepted(incoming: Incoming) -> Result<Self, ConnectionError> {
        let Ok((connection, handshake)) = incoming.accept()?.into_0rtt() else {
            unreachable!("an incoming connection can always be had before its handshake")
        };
        let path_events = connection.path_events();
        // Whether there was early data, of which there is none.
        let _ = handshake.await;
        match connection.close_reason() {
            Some(error) => Err(error),
            None => Ok(Self { connection, path_events }),
        }
    }
}

/// The addresses that the host still has.
#[derive(Debug)]
struct Ours(BTreeSet<IpAddr>);

impl NetworkChangeHint for Ours {
    fn is_path_recoverable(&self, _: PathId, path: FourTuple) -> bool {
        let through_relay = relayed::peer_at(path.remote()).is_some();
        through_relay || path.local_ip().is_none_or(|ip| self.0.contains(&ip.to_canonical()))
    }
}

/// Why a connection was closed, as QUIC carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// Nobody asked for anything for a while.
    Idle = 0,
    /// Another connection of the session was chosen.
    Superseded = 1,
    /// The endpoint is stopping.
    Stopping = 2,
    /// The key is not one we expect a connection from.
    Unexpected = 3,
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> Self {
        VarInt::from_u32(code as u32)
    }
}

/// Settings of the socket: also for whoever measures QUIC without an endpoint around it.
pub fn endpoint_config(identity: &Identity) -> io::Result<EndpointConfig> {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, identity.reset_secret());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.max_udp_payload_size(MAX_UDP_PAYLOAD).map_err(io::Error::other)?;
    // RFC 9443 tells QUIC from STUN and DTLS on one socket by the bit that greasing would scramble.
    config.grease_quic_bit(false);
    Ok(config)
}

/// Settings of every connection: also for whoever measures QUIC without an endpoint around it.
pub fn transport_config() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP_PAYLOAD);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements
        .max_ack_delay(Some(MAX_ACK_DELAY))
        // As without the extension, which applies this to the first path only.
        .reordering_threshold(VarInt::from_u32(1));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        // Groups that share the connection evenly end together, and the next are asked for together: that costs a pause
        // of a round trip in every 32 MiB.
        .send_fairness(false)
        .default_path_keep_alive_interval(Some(KEEP_ALIVE))
        .default_path_max_idle_timeout(Some(MAX_IDLE))
        .max_idle_timeout(IdleTimeout::try_from(MAX_CONNECTION_IDLE).ok())
        .max_concurrent_multipath_paths(MAX_PATHS)
        .max_remote_nat_traversal_addresses(MAX_CANDIDATES)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acknowledgements))
        .persistent_congestion_threshold(PERSISTENT_CONGESTION)
        .congestion_controller_factory(Arc::new(congestion::Factory::new(INITIAL_WINDOW)));
    config
}
