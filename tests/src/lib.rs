//! The harness: relays and sites that live as long as the test that started them, on loopback or in networks of their
//! own ([`net`]).

pub mod net;
pub mod process;
pub mod proxy;
pub mod scripted;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use proxystore_endpoint::identity::Identity;
use proxystore_endpoint::peer::PathKind;
use proxystore_endpoint::server::{Options, Server};
use proxystore_endpoint::transport::tls::install_provider;
use proxystore_relay::Relay;
use proxystore_shared::config::endpoint::{EndpointConfig, HostType};
use proxystore_shared::config::relay::RelayConfig;
use proxystore_shared::directory::KEY_FILE;
use proxystore_shared::{EndpointId, config};
use tempfile::TempDir;

/// Longest wait for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Says loudly that a test cannot run: past the capture of what tests print, so that it is seen and counted.
pub fn skipped(why: &str) {
    use std::io::Write as _;
    // Whoever closed this program's standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A Python for the other side of a test: `$PROXYSTORE_PYTHON`, else the one that `scripts/test` installs. It may be
/// missing.
pub fn python() -> PathBuf {
    match std::env::var_os("PROXYSTORE_PYTHON") {
        Some(python) => python.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python"),
    }
}

/// Shows what programs within the test log, if `RUST_LOG` says what to show.
fn show_log() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Another test of this process may have done it.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}

/// A relay on a port of its own.
pub async fn relay() -> Result<Relay> {
    relay_on(free_port()?).await
}

/// A relay on `port`, for tests that stop one and start it again.
pub async fn relay_on(port: u16) -> Result<Relay> {
    show_log();
    let mut config = RelayConfig { host: Some("127.0.0.1".into()), port, ..RelayConfig::default() };
    config.udp.ports = vec![0, 0];
    Ok(Relay::start(config).await?)
}

/// The address clients of `relay` use.
pub fn url(relay: &Relay) -> String {
    format!("ws://{}", relay.local_addr())
}

/// An endpoint with a folder of its own.
pub struct Site {
    /// Where its key and its objects are.
    pub dir: TempDir,
    /// What it was started from.
    pub config: EndpointConfig,
    server: Option<Server>,
    http: reqwest::Client,
}

/// A site that is not started yet.
pub struct SiteBuilder {
    dir: TempDir,
    config: EndpointConfig,
}

impl Site {
    /// Describes a site with a fresh key and the defaults of a configuration.
    pub fn build(name: &str, relay: &str) -> Result<SiteBuilder> {
        let dir = tempfile::tempdir()?;
        let identity = Identity::create(&dir.path().join(KEY_FILE))?;
        let id = EndpointId::certified_by(&identity.public_key());
        let text =
            format!("name = {name:?}\nuuid = \"{id}\"\nport = {}\nhost = \"127.0.0.1\"\n", free_port()?);
        let mut config: EndpointConfig = config::parse(&text)?;
        config.host_type = HostType::Static;
        config.relay.address = Some(relay.to_owned());
        config.peering.bind = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(SiteBuilder { dir, config })
    }

    /// A running site with the defaults.
    pub async fn start(name: &str, relay: &str) -> Result<Self> {
        Self::build(name, relay)?.start().await
    }

    /// The site's id.
    pub fn id(&self) -> EndpointId {
        self.config.uuid
    }

    /// The running endpoint.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap_or_else(|| panic!("{} is stopped", self.config.name))
    }

    /// Where its HTTP API is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.config.port)
    }

    /// A client that never uses a proxy.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The URL of `route`.
    pub fn url(&self, route: &str) -> String {
        format!("http://{}{route}", self.address())
    }

    /// The URL of an object, here or at another site.
    pub fn object(&self, id: &str, at: Option<&Site>) -> String {
        let at = at.map_or(String::new(), |site| format!("?endpoint={}", site.id()));
        self.url(&format!("/v1/objects/{id}{at}"))
    }

    /// Stores an object through this site.
    pub async fn put(&self, id: &str, at: Option<&Site>, bytes: Bytes) -> Result<()> {
        let answer = self.http.put(self.object(id, at)).body(bytes).send().await?;
        succeeded(answer).await.map(|_| ())
    }

    /// Fetches an object through this site.
    pub async fn get(&self, id: &str, at: Option<&Site>) -> Result<Bytes> {
        let answer = self.http.get(self.object(id, at)).send().await?;
        Ok(succeeded(answer).await?.bytes().await?)
    }

    /// Stops the endpoint cleanly; [`Site::restart`] starts it again in the same folder.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Drops the endpoint without stopping it, and waits until its port is free.
    pub async fn vanish(&mut self) -> Result<()> {
        self.server = None;
        let address = self.address();
        until("the port is free", || TcpListener::bind(address).is_ok()).await
    }

    /// Starts the endpoint again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await;
        self.server = Some(start(&self.dir, &self.config).await?);
        self.registered().await
    }

    /// Waits until the relay knows the site.
    pub async fn registered(&self) -> Result<()> {
        let endpoint = self.server().endpoint();
        until("the site is registered", || endpoint.peers().is_none_or(|peers| peers.relay().connected)).await
    }

    /// Waits until the data to and from its peers leaves the relay alone.
    pub async fn reaches_peers_directly(&self) -> Result<()> {
        let peers = self.server().endpoint().peers().context("the site has no relay")?;
        let all_direct = async {
            while peers.peers().await.iter().any(|peer| peer.path != Some(PathKind::Direct)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all_direct).await.context("the data stays on the relay")
    }
}

impl SiteBuilder {
    /// The site's folder.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Changes the configuration.
    pub fn with(mut self, change: impl FnOnce(&mut EndpointConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// The folder and the configuration, for who starts the site otherwise.
    pub fn into_parts(self) -> (TempDir, EndpointConfig) {
        (self.dir, self.config)
    }

    /// Starts the site and waits until the relay knows it.
    pub async fn start(self) -> Result<Site> {
        let site = self.start_unregistered().await?;
        site.registered().await?;
        Ok(site)
    }

    /// Starts the site, whatever the relay thinks of it.
    pub async fn start_unregistered(self) -> Result<Site> {
        let server = Some(start(&self.dir, &self.config).await?);
        Ok(Site { dir: self.dir, config: self.config, server, http: http_client()? })
    }
}

async fn start(dir: &TempDir, config: &EndpointConfig) -> Result<Server> {
    let options = Options { dir: dir.path().to_owned(), config: config.clone(), relay_token: None };
    Server::start(options).await.with_context(|| format!("starting {}", config.name))
}

async fn succeeded(answer: reqwest::Response) -> Result<reqwest::Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    anyhow::bail!("{status}: {}", answer.text().await.unwrap_or_default())
}

/// A client that never uses a proxy.
pub fn http_client() -> Result<reqwest::Client> {
    install_provider();
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

/// A port of loopback that is free for TCP and UDP, and given out once: below those that Linux gives to sockets that
/// ask for any, and with another beginning for each process that runs tests.
pub fn free_port() -> Result<u16> {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    const PORTS: Range<u16> = 21_000..32_000;
    let beginning = (std::process::id() as u16).wrapping_mul(97);
    let next = || {
        let number = beginning.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        PORTS.start + number % (PORTS.end - PORTS.start)
    };
    let is_free = |port: &u16| {
        let address = (Ipv4Addr::LOCALHOST, *port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    std::iter::repeat_with(next).take(1000).find(is_free).context("no port is free")
}

/// A metric without labels, in a page for Prometheus.
pub fn metric(page: &str, name: &str) -> Result<usize> {
    let named = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(' ')?.parse::<usize>());
    let value = page.lines().find_map(named).with_context(|| format!("no {name} in\n{page}"))?;
    value.with_context(|| format!("{name} is no number"))
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("{what}: not within {PATIENCE:?}"))
}

/// Bytes that do not compress and differ by `seed`.
pub fn noise(len: usize, seed: u64) -> Bytes {
    use rand::{RngCore as _, SeedableRng as _};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}
