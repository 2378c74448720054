//! The relay as a value: started, asked for its address, stopped.
//!
//! One task accepts connections and owns every session's task; a token starts the shutdown, a timeout bounds it,
//! and dropping [`Relay`] does the same without waiting.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use proxystore_shared::config::ConfigError;
use proxystore_shared::config::relay::{RelayConfig, RelayLogging};
use proxystore_shared::relayed::RelayOffer;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::auth::{Authenticator, SetupError};
use crate::clients::Clients;
use crate::datagrams::Quotas;
use crate::http::{self, Front};
use crate::listen::{ListenError, Listeners, UdpSockets};
use crate::metrics::Metrics;
use crate::outbox::Room;
use crate::session::{Session, Shared};
use crate::stun::Answering;
use crate::tls::{self, TlsError};

/// For clients to be told that the relay stops. Sessions need a third of that at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept, which mostly means that the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Connections that may be in TLS or HTTP handshakes beyond the clients; more are dropped.
const MAX_HANDSHAKES: usize = 1024;

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Correct the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Correct the configuration, or free the address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Correct the configuration, or the certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Correct the configuration.
    #[error(transparent)]
    Auth(#[from] SetupError),
}

/// A running relay. Dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    local_addr: SocketAddr,
    offer: RelayOffer,
    clients: Arc<Clients>,
    accepting: JoinHandle<()>,
    stop: DropGuard,
    _answering: Answering,
}

impl Relay {
    /// Starts listening; clients are served when this returns.
    pub async fn start(config: RelayConfig) -> Result<Self, StartError> {
        config.validate()?;
        let certfile = config.certfile.as_deref();
        let tls = certfile.map(|path| tls::acceptor(path, config.keyfile.as_deref())).transpose()?;
        let authenticator = Authenticator::new(&config.auth)?;
        let listeners = Listeners::bind(config.host.as_deref(), config.port).await?;
        let local_addr = listeners.local_addr();
        let udp_host = config.udp.host.as_deref().or(config.host.as_deref());
        let udp = UdpSockets::bind(udp_host, &config.udp.ports).await?;
        let offer = RelayOffer { udp_ports: udp.ports.clone(), datagrams: config.datagrams.enabled };
        let congestion = listeners.congestion_control();
        info!(address = %local_addr, tls = tls.is_some(), auth = ?config.auth.method, congestion, "listening");

        let metrics = Arc::<Metrics>::default();
        let clients = Arc::new(Clients::new(Room::new(&config)));
        let stop = CancellationToken::new();
        let server = Arc::new(Server {
            tls,
            stop: stop.clone(),
            front: Front {
                head_timeout: config.limits.handshake_timeout(),
                places: Arc::new(Semaphore::new(config.limits.max_clients.min(Semaphore::MAX_PERMITS))),
                message_limit: config.message_limit(),
                offer: header(&offer),
                metrics: metrics.clone(),
                clients: clients.clone(),
            },
            shared: Arc::new(Shared {
                clients: clients.clone(),
                authenticator,
                quotas: Quotas::new(&config.datagrams),
                metrics: metrics.clone(),
                message_limit: config.message_limit(),
                limits: config.limits,
            }),
        });
        let accepting = tokio::spawn(accept(server, listeners, Report::new(&config.logging)));
        let answering = Answering::start(udp, &metrics);
        Ok(Self { local_addr, offer, clients, accepting, stop: stop.drop_guard(), _answering: answering })
    }

    /// Where the relay listens; the first address if there are several.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What clients of the sub-protocol are told.
    pub fn offer(&self) -> &RelayOffer {
        &self.offer
    }

    /// How many clients are registered now.
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Stops accepting, closes every client with 1001, and waits until they are gone, 10 s at most.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.accepting.await {
            warn!(%error, "the accepting task failed");
        }
    }
}

/// What a connection needs from its relay.
struct Server {
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    front: Front,
    stop: CancellationToken,
}

/// Numbers and punctuation, which any header may have.
fn header(offer: &RelayOffer) -> HeaderValue {
    offer.encode().parse().unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Accepts until told to stop, then waits for the connections and gives up on those that take too long.
async fn accept(server: Arc<Server>, listeners: Listeners, mut report: Report) {
    let max_connections = server.shared.limits.max_clients.saturating_add(MAX_HANDSHAKES);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = server.stop.cancelled() => break,
            accepted = listeners.accept() => match accepted {
                Ok((stream, address)) if connections.len() < max_connections => {
                    connections.spawn(serve(server.clone(), stream, address));
                }
                Ok((_, address)) => debug!(%address, "too many connections, dropping this one"),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = report.due() => report.log(&server.shared.clients),
        }
    }
    drop(listeners);
    info!(clients = server.shared.clients.len(), "stopping");
    if timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await.is_err() {
        warn!(connections = connections.len(), "connections did not end in time");
        connections.shutdown().await;
    }
}

/// One connection from its first byte to its last.
async fn serve(server: Arc<Server>, stream: TcpStream, address: SocketAddr) {
    // Offers are small and wait for nothing: without this option each could be held back for 40 ms. A socket
    // that refuses it works all the same.
    let _ = stream.set_nodelay(true);
    let deadline = server.shared.limits.handshake_timeout();
    // Boxed because a handshake needs more memory than the session that follows for hours.
    let session = tokio::select! {
        session = timeout(deadline, Box::pin(open(&server, stream, address))) => session.ok().flatten(),
        () = server.stop.cancelled() => None,
    };
    match session {
        Some(mut session) => session.run(&server.stop).await,
        None => debug!(%address, "no websocket came of this connection"),
    }
}

/// From the first byte to a session that can run.
async fn open(server: &Server, stream: TcpStream, address: SocketAddr) -> Option<Box<Session>> {
    let client = handshake(server, stream).await?;
    Some(Box::new(Session::new(server.shared.clone(), address, client)))
}

async fn handshake(server: &Server, stream: TcpStream) -> Option<http::Client> {
    match &server.tls {
        None => http::upgrade(stream, &server.front).await,
        Some(tls) => http::upgrade(tls.accept(stream).await.ok()?, &server.front).await,
    }
}

/// The periodic report of who is connected.
struct Report {
    interval: Option<Interval>,
    list_below: usize,
}

impl Report {
    fn new(config: &RelayLogging) -> Self {
        let interval = config.current_client_interval.map(|seconds| {
            let period = Duration::from_secs(seconds);
            let mut interval = interval_at(tokio::time::Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
            interval
        });
        Self { interval, list_below: config.current_client_limit.unwrap_or(0) }
    }

    /// Waits for the next report; for ever if there are none.
    async fn due(&mut self) {
        match &mut self.interval {
            Some(interval) => drop(interval.tick().await),
            None => std::future::pending().await,
        }
    }

    fn log(&self, clients: &Clients) {
        let count = clients.len();
        info!(clients = count, "connected clients");
        if count < self.list_below {
            for client in clients.describe() {
                info!("connected: {client}");
            }
        }
    }
}
