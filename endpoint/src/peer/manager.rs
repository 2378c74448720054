//! All peers: finds the task of each, starts it when there is none, and hands it what arrives.

use std::future::Future;
use std::io;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dashmap::DashMap;
use noq::Incoming;
use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::{IceServers, PeeringConfig};
use proxystore_shared::directory::{ACQUAINTANCES_FILE, KNOWN_PEERS_FILE};
use proxystore_shared::relay_message::PeerConnection;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::PeerError;
use super::acquaintances::{Acquaintances, record};
use super::actor::{Actor, COMMANDS, Command};
use super::any_session::AnySession;
use super::cache::RemoteCache;
use super::context::Context;
use super::lead::Leads;
use super::negotiation::ConnectionId;
use super::pins::Pins;
use super::python::PythonPeer;
use super::python::budget::Budget;
use super::session::Session;
use super::status::{CacheStatus, NetworkStatus, PeerStatus, RelayStatus};
use crate::identity::Identity;
use crate::signaling::{self, RelayLogin, Signaling};
use crate::storage::Storage;
use crate::transport::addresses::{Addresses, Means};
use crate::transport::mapping::PortMapper;
use crate::transport::quic::{CloseCode, Quic, Watched};
use crate::transport::relayed;
use crate::transport::tls::proven_key;
use crate::transport::webrtc::{Desk, turn};

/// Peers at once. Clients choose whom to ask for, so there must be a bound; a task without work ends by itself.
const MAX_PEERS: usize = 4096;

/// Messages from the relay that wait to be handed out.
const INBOX: usize = 256;

/// For the handshake of a peer that dials us, and for its description to arrive by the relay: either may be first.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// A session request outlives the negotiation's own deadline only if a task dies.
const SESSION_SLACK: Duration = Duration::from_secs(2);

/// To tell peers that we stop.
const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// What peers need to be started.
pub struct PeerOptions<'a> {
    /// This endpoint.
    pub id: EndpointId,
    /// Its key.
    pub identity: Identity,
    /// The relay.
    pub relay: RelayLogin,
    /// Deadlines.
    pub config: PeeringConfig,
    /// Data channels that are opened towards a Python endpoint.
    pub peer_channels: usize,
    /// STUN servers besides the relay, and a TURN server.
    pub ice_servers: IceServers,
    /// The socket; see [`crate::transport::socket::open`].
    pub socket: UdpSocket,
    /// Where keys and addresses of peers are remembered.
    pub dir: &'a Path,
    /// What peers may ask for.
    pub storage: Arc<dyn Storage>,
    /// Ends every session and every task; [`PeerManager::stop`] also waits for that.
    pub stop: CancellationToken,
}

/// All peers. Cheap to clone.
#[derive(Clone)]
pub struct PeerManager {
    pub(super) context: Arc<Context>,
}

impl PeerManager {
    /// Starts listening to the relay and to peers.
    pub fn start(options: PeerOptions<'_>) -> io::Result<Self> {
        let (socket_end, relay_end) = relayed::queues();
        let (signaling, outbox) = Signaling::new(&options.relay, relay_end);
        let local = options.socket.local_addr()?;
        let socket = options.socket.try_clone()?;
        let turn = options.ice_servers.turn;
        let turn = turn.map(|server| turn::Holder::new(server, options.relay.proxy.clone()));
        let (holder, turn) = turn.unzip();
        let webrtc = Arc::new(Desk::new(options.socket.try_clone()?, turn)?);
        let (quic, stun) = Quic::new(options.socket, socket_end, options.identity.clone(), webrtc.clone())?;
        let (mapper, forwarded) = PortMapper::new(local);
        let (finder, addresses) = Addresses::new(Means {
            local,
            socket,
            stun,
            configured: options.config.addresses.clone(),
            forwarded,
            stun_servers: options.ice_servers.stun,
            relay_host: signaling::host_of(&options.relay.address),
            offer: signaling.offer(),
        });
        let acquaintances_file = options.dir.join(ACQUAINTANCES_FILE);
        let known = record::read(&acquaintances_file, SystemTime::now());
        let context = Arc::new(Context {
            id: options.id,
            name: options.relay.name.clone(),
            key: options.identity.public_key(),
            cache: RemoteCache::new(options.config.cache_size),
            reading: DashMap::new(),
            leads: Leads::default(),
            config: options.config,
            quic,
            webrtc,
            peer_channels: options.peer_channels,
            python_budget: Budget::default(),
            addresses,
            signaling,
            pins: Pins::load(&options.dir.join(KNOWN_PEERS_FILE))?,
            storage: options.storage,
            actors: DashMap::new(),
            sessions: DashMap::new(),
            acquaintances: Acquaintances::recall(known, Instant::now()),
            described: Notify::new(),
            stop: options.stop,
            tasks: TaskTracker::new(),
        });
        info!(id = %context.id, key = %context.key, udp = %local, "listening for peers");
        let manager = Self { context };
        let (inbox, messages) = mpsc::channel(INBOX);
        manager.spawn(finder.run(manager.context.stop.clone()));
        manager.spawn(record::keep(manager.context.clone(), acquaintances_file));
        if manager.context.config.port_mapping {
            manager.spawn(mapper.run(manager.context.stop.clone()));
        }
        if let Some(holder) = holder {
            let context = &manager.context;
            let (desk, addresses) = (context.webrtc.clone(), context.addresses.clone());
            manager.spawn(holder.run(desk, addresses, context.stop.clone()));
        }
        // Peers that are reached through the relay are told of the end through it.
        let leave_relay = CancellationToken::new();
        manager.spawn(signaling::run(options.relay, outbox, inbox, leave_relay.clone()));
        manager.spawn(manager.clone().watch_addresses());
        manager.spawn(manager.clone().hand_out(messages));
        manager.spawn(manager.clone().accept(leave_relay.drop_guard()));
        Ok(manager)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.context.tasks.spawn(task);
    }

    /// Ends every session and every task.
    pub async fn stop(&self) {
        self.context.stop.cancel();
        self.context.tasks.close();
        if timeout(2 * CLOSE_GRACE, self.context.tasks.wait()).await.is_err() {
            warn!(tasks = self.context.tasks.len(), "tasks of peers did not end in time");
        }
        self.context.actors.clear();
    }

    /// The connection to the relay.
    pub fn relay(&self) -> RelayStatus {
        self.context.signaling.status()
    }

    /// What is known of the network.
    pub fn network(&self) -> NetworkStatus {
        let addresses = self.context.addresses.borrow();
        let candidates = addresses.candidates.iter().map(|candidate| candidate.address.to_string());
        NetworkStatus { nat: addresses.nat, addresses: candidates.collect() }
    }

    /// What is kept of peers' objects.
    pub fn cache(&self) -> CacheStatus {
        self.context.cache.status()
    }

    /// Every peer there is a task for, by id.
    pub async fn peers(&self) -> Vec<PeerStatus> {
        let ids: Vec<EndpointId> = self.context.actors.iter().map(|entry| *entry.key()).collect();
        let mut peers = Vec::with_capacity(ids.len());
        for id in ids {
            let (reply, status) = oneshot::channel();
            let asked = self.context.actors.get(&id).map(|sender| sender.clone());
            // A task that has just ended, or is too busy to answer, is left out.
            let Some(sender) = asked else { continue };
            if sender.try_send(Command::Status(reply)).is_ok()
                && let Ok(Ok(status)) = timeout(Duration::from_secs(1), status).await
            {
                peers.push(status);
            }
        }
        peers.sort_by_key(|peer| peer.id);
        peers
    }

    /// A session with `peer`, which is of this project, and not the one that just failed the caller.
    pub(super) async fn session(
        &self,
        peer: EndpointId,
        instead_of: Option<ConnectionId>,
    ) -> Result<Arc<Session>, PeerError> {
        match self.any_session(peer, instead_of).await? {
            AnySession::Ours(session) => Ok(session),
            AnySession::Python(_) => Err(PeerError::Lost("it is a Python endpoint now".into())),
        }
    }

    /// The means to ask `peer`, if it is a Python endpoint.
    pub(super) async fn python(&self, peer: EndpointId) -> Result<Option<PythonPeer>, PeerError> {
        match self.any_session(peer, None).await? {
            AnySession::Ours(_) => Ok(None),
            AnySession::Python(session) => Ok(Some(PythonPeer {
                id: peer,
                session,
                budget: self.context.python_budget.clone(),
                limit: self.context.config.read_timeout(),
            })),
        }
    }

    async fn any_session(
        &self,
        peer: EndpointId,
        instead_of: Option<ConnectionId>,
    ) -> Result<AnySession, PeerError> {
        let open = self.context.sessions.get(&peer).map(|session| session.clone());
        if let Some(session) = open.filter(|open| Some(open.id()) != instead_of && !open.is_closed()) {
            return Ok(session);
        }
        let limit = self.context.config.connect_timeout() + SESSION_SLACK;
        let asking = async {
            // A task that is just ending may take the question with it; the second try meets a new one.
            for _ in 0..2 {
                let (reply, session) = oneshot::channel();
                self.tell(peer, Command::Session { instead_of, reply }).await?;
                if let Ok(outcome) = session.await {
                    return outcome;
                }
            }
            Err(PeerError::Stopping)
        };
        let late =
            |_| PeerError::ConnectTimeout { after: limit, why: "the peer's task did not answer".into() };
        timeout(limit, asking).await.map_err(late)?
    }

    /// Hands `command` to the task of `peer`, which is started if need be.
    pub(super) async fn tell(&self, peer: EndpointId, mut command: Command) -> Result<(), PeerError> {
        // A task may end between being found and being told; the second try meets a new one.
        for _ in 0..2 {
            match self.task_of(peer)?.send(command).await {
                Ok(()) => return Ok(()),
                Err(mpsc::error::SendError(unsent)) => {
                    command = unsent;
                    self.context.actors.remove_if(&peer, |_, sender| sender.is_closed());
                }
            }
        }
        Err(PeerError::Stopping)
    }

    fn task_of(&self, peer: EndpointId) -> Result<mpsc::Sender<Command>, PeerError> {
        if self.context.stop.is_cancelled() {
            return Err(PeerError::Stopping);
        }
        if let Some(sender) = self.context.actors.get(&peer) {
            return Ok(sender.clone());
        }
        if self.context.actors.len() >= MAX_PEERS {
            self.context.actors.retain(|_, sender| !sender.is_closed());
        }
        if self.context.actors.len() >= MAX_PEERS {
            return Err(PeerError::Lost(format!("this endpoint has {MAX_PEERS} peers already")));
        }
        let entry = self.context.actors.entry(peer).or_insert_with(|| {
            let (sender, commands) = mpsc::channel(COMMANDS);
            self.spawn(Actor::new(self.context.clone(), peer, commands).run());
            sender
        });
        Ok(entry.clone())
    }

    /// What was connected from an address that the host no longer has, is dead and does not know it.
    async fn watch_addresses(self) {
        let mut addresses = self.context.addresses.clone();
        let mut known = addresses.borrow_and_update().hosts();
        while let Some(Ok(())) = self.context.stop.run_until_cancelled(addresses.changed()).await {
            let current = addresses.borrow_and_update().hosts();
            if !known.is_subset(&current) {
                info!(lost = ?known.difference(&current).collect::<Vec<_>>(), "addresses of this host are gone");
                self.context.quic.addresses_changed(current.clone());
                self.context.signaling.check();
            }
            known = current;
        }
    }

    /// Hands out what the relay brings.
    async fn hand_out(self, mut messages: mpsc::Receiver<PeerConnection>) {
        while let Some(message) = messages.recv().await {
            let us = self.context.id;
            let peer = match (message.source_uuid == us, message.peer_uuid == us) {
                (false, true) => message.source_uuid,
                (true, false) if message.error.is_some() => message.peer_uuid,
                _ => {
                    debug!(source = %message.source_uuid, peer = %message.peer_uuid, "a message that is not for us");
                    continue;
                }
            };
            if let Err(error) = self.tell(peer, Command::Message(message)).await {
                debug!(%peer, %error, "a message was dropped");
            }
        }
    }

    /// Takes the connections of peers that dial us; at the end, closes all there are, and only then leaves the relay.
    async fn accept(self, _leave_relay: DropGuard) {
        let stop = self.context.stop.clone();
        while let Some(Some(incoming)) = stop.run_until_cancelled(self.context.quic.accept()).await {
            self.spawn(self.clone().greet(incoming));
        }
        self.context.quic.close(CLOSE_GRACE).await;
    }

    async fn greet(self, incoming: Incoming) {
        let address = incoming.remote_address();
        let greeted = tokio::select! {
            () = self.context.stop.cancelled() => return,
            greeted = timeout(ACCEPT_TIMEOUT, self.identify(incoming)) => greeted,
        };
        match greeted {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%address, %error, "a connection was not accepted"),
            Err(_) => debug!(%address, "a connection was not accepted: nobody introduced it in time"),
        }
    }

    async fn identify(&self, incoming: Incoming) -> Result<(), PeerError> {
        let watched =
            Watched::accepted(incoming).await.map_err(|error| PeerError::Lost(error.to_string()))?;
        let Some(key) = proven_key(&watched.connection) else {
            watched.connection.close(CloseCode::Unexpected.into(), b"no key was proven");
            return Err(PeerError::Identity("no key was proven".into()));
        };
        loop {
            let described = self.context.described.notified();
            if let Some(peer) = self.context.owner_of(&key) {
                return self.tell(peer, Command::Accepted(watched)).await;
            }
            described.await;
        }
    }
}
