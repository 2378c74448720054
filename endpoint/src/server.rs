//! A whole endpoint: storage, peers and HTTP, started together and stopped together.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::{EndpointConfig, StorageConfig};
use proxystore_shared::directory::{KEY_FILE, OBJECTS_DIR};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use crate::http::FileSocket;
use crate::identity::{Identity, IdentityError};
use crate::peer::{PeerManager, PeerOptions};
use crate::signaling::RelayLogin;
use crate::storage::Storage;
use crate::storage::files::{FileLimits, FileStorage, OpenError, Recovery};
use crate::storage::memory::{MemoryLimits, MemoryStorage};
use crate::transport::{socket, tls};
use crate::{Endpoint, http, memory};

/// What an endpoint is started from. Not printable: it may hold a token.
pub struct Options {
    /// The endpoint's folder: its key, its pins, its persistent objects.
    pub dir: PathBuf,
    /// Its configuration, validated.
    pub config: EndpointConfig,
    /// Bearer token for the relay, where the relay asks for one.
    pub relay_token: Option<String>,
}

/// Why an endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has no address yet; `endpoint start` writes one.
    #[error("the configuration has no `host` to listen on")]
    NoHost,
    /// The port is taken, or the address is not this host's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// HTTP address, or the UDP one.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// See [`IdentityError`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The id says which key it belongs to, and that is not the key in the folder.
    #[error(
        "the key in {file} is not the one that id {id} stands for; restore the right key, or configure a new endpoint"
    )]
    ForeignKey {
        /// The configured id.
        id: EndpointId,
        /// The key file.
        file: PathBuf,
    },
    /// The id belongs to a key, and the key is gone.
    #[error(
        "the key file {file} of id {id} is missing; restore it, or remove the endpoint and configure a new one"
    )]
    NoKey {
        /// The configured id.
        id: EndpointId,
        /// The key file.
        file: PathBuf,
    },
    /// Persistent objects cannot be opened.
    #[error(transparent)]
    Storage(#[from] OpenError),
    /// A bug while objects were opened.
    #[error("opening the objects failed: {0}")]
    Panic(#[source] tokio::task::JoinError),
    /// Peers cannot be reached: the pins are unreadable, or QUIC cannot be set up.
    #[error("cannot set up peering: {0}")]
    Peering(#[source] io::Error),
}

/// A running endpoint. Dropping it stops everything it started; [`Server::stop`] also waits for that.
pub struct Server {
    endpoint: Endpoint,
    http_addr: SocketAddr,
    http: JoinHandle<()>,
    stop_http: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Server {
    /// Starts everything; when this returns, the HTTP API answers.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        tls::install_provider();
        let config = &options.config;
        let host = config.host.as_deref().ok_or(StartError::NoHost)?;
        let listener = listen(host, config.port).await?;
        let identity = load_identity(&options.dir, config.uuid)?;
        let stop = CancellationToken::new();
        // Should the start fail, what it has begun ends.
        let stop_when_dropped = stop.clone().drop_guard();
        tokio::spawn(stop.clone().run_until_cancelled_owned(memory::tidy()));
        let storage = open_storage(&config.storage).await?;
        let peers = match &config.relay.address {
            Some(address) => Some(start_peers(&options, address, identity, storage.clone(), &stop)?),
            None => None,
        };
        let http_addr = listener.local_addr().map_err(|source| refused(host, config.port, source))?;
        let endpoint = Endpoint::new(config.uuid, config.name.clone(), storage, peers);
        // Requests under way need their peers, so HTTP is stopped first.
        let stop_http = stop.child_token();
        let http = tokio::spawn(http::serve(
            endpoint.clone(),
            listener,
            file_socket(&options.dir),
            config.http.clone(),
            stop_http.clone(),
        ));
        Ok(Self { endpoint, http_addr, http, stop_http, _stop_when_dropped: stop_when_dropped })
    }

    /// Where the HTTP API listens.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The endpoint's id.
    pub fn endpoint_id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// The endpoint itself.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Lets requests under way finish for a few seconds, then ends everything.
    pub async fn stop(self) {
        self.stop_http.cancel();
        // A panic there was reported already; there is nothing left to stop.
        let _ = self.http.await;
        if let Some(peers) = self.endpoint.peers() {
            peers.stop().await;
        }
    }
}

async fn listen(host: &str, port: u16) -> Result<TcpListener, StartError> {
    TcpListener::bind((host, port)).await.map_err(|source| refused(host, port, source))
}

fn refused(host: &str, port: u16, source: io::Error) -> StartError {
    StartError::Listen { address: format!("{host}:{port}"), source }
}

/// Where commands on this host hand over files; without it they have everything sent.
fn file_socket(dir: &Path) -> Option<FileSocket> {
    // Not every file system has sockets, and their names are short.
    FileSocket::bind(dir)
        .inspect_err(|error| warn!(%error, "no socket for files, `get` and `put` are slower"))
        .ok()
}

/// The key in the endpoint's folder; a folder that Python made gets one now.
fn load_identity(dir: &Path, id: EndpointId) -> Result<Identity, StartError> {
    let file = dir.join(KEY_FILE);
    let identity = match file.exists() {
        true => Identity::load(&file)?,
        false if id.is_certified() => return Err(StartError::NoKey { id, file }),
        false => {
            info!(file = %file.display(), "the endpoint has no key yet; making one");
            Identity::create(&file)?
        }
    };
    if id.is_certified() && !id.certifies(&identity.public_key()) {
        return Err(StartError::ForeignKey { id, file });
    }
    Ok(identity)
}

async fn open_storage(config: &StorageConfig) -> Result<Arc<dyn Storage>, StartError> {
    let max_object_size = config.max_object_size;
    let Some(database) = &config.database_path else {
        warn!("objects are kept in memory only; they are gone when the endpoint stops");
        let limits = MemoryLimits { max_object_size, memory_limit: config.memory_limit };
        return Ok(Arc::new(MemoryStorage::new(limits)));
    };
    let dir = database.with_file_name(OBJECTS_DIR);
    let limits = FileLimits { max_object_size, fsync: config.fsync };
    let opening = dir.clone();
    // Reads a footer from every object's file, which takes a while where there are many.
    let opened = tokio::task::spawn_blocking(move || FileStorage::open(opening, limits)).await;
    let (storage, recovery) = opened.map_err(StartError::Panic)??;
    report(&dir, &recovery);
    Ok(Arc::new(storage))
}

fn report(dir: &Path, recovery: &Recovery) {
    info!(dir = %dir.display(), objects = recovery.objects, bytes = recovery.bytes, "objects are kept in files");
    if recovery.removed_partial > 0 {
        warn!(
            count = recovery.removed_partial,
            "removed uploads that were cut off when the endpoint last ended"
        );
    }
    for (file, reason) in &recovery.quarantined {
        warn!(file = %file.display(), reason, "set a damaged object aside");
    }
}

fn start_peers(
    options: &Options,
    address: &str,
    identity: Identity,
    storage: Arc<dyn Storage>,
    stop: &CancellationToken,
) -> Result<PeerManager, StartError> {
    let config = &options.config;
    let relay = RelayLogin {
        address: address.to_owned(),
        proxy: config.peering.proxy.clone(),
        token: options.relay_token.clone(),
        verify_certificate: config.relay.verify_certificate,
        name: config.name.clone(),
        id: config.uuid,
    };
    if !relay.verify_certificate {
        warn!("the relay's certificate is not checked (verify_certificate = false)");
    }
    let peering = config.peering.clone();
    let bind = peering.bind.map_or("*".to_owned(), |ip| ip.to_string());
    let socket = socket::open(peering.bind, peering.port)
        .map_err(|source| StartError::Listen { address: format!("udp {bind}:{}", peering.port), source })?;
    let ice_servers = config.relay.sorted_ice_servers();
    if !ice_servers.unused.is_empty() {
        warn!(
            servers = ?ice_servers.unused,
            "of relay.ice_servers only `stun:` and the first `turn:` or `turns:` with user name and credential are used"
        );
    }
    let peers = PeerOptions {
        peer_channels: config.relay.peer_channels as usize,
        ice_servers,
        id: config.uuid,
        identity,
        relay,
        config: peering,
        socket,
        dir: &options.dir,
        storage,
        stop: stop.child_token(),
    };
    PeerManager::start(peers).map_err(StartError::Peering)
}
