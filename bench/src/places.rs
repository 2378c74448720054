//! Where the objects go: a directory, a Redis server and an endpoint, which live as long as the run.

use std::env;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use proxystore::connectors::{EndpointConnector, FileConnector, RedisConnector};
use proxystore::{Connector, Store};
use proxystore_endpoint::transport::tls::install_provider;
use serde::Serialize;

use crate::bare::Bare;

/// For a server to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Above the largest object that is measured.
const MAX_OBJECT_LEN: u64 = 200_000_000;

/// A running program, killed at the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already, or ends now; there is nothing to do about anything else.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How to reach the places, also from Python.
#[derive(Debug, Clone, Serialize)]
pub struct Addresses {
    /// For files.
    pub directory: PathBuf,
    /// On loopback; none if Redis is not installed.
    pub redis_port: Option<u16>,
    /// ProxyStore's home.
    pub home: PathBuf,
    /// The endpoint's id.
    pub endpoint: String,
    /// The endpoint's port, on loopback.
    pub endpoint_port: u16,
}

/// Running servers.
pub struct Places {
    /// How to reach them.
    pub addresses: Addresses,
    _servers: Vec<Server>,
    _home: tempfile::TempDir,
}

impl Places {
    /// Starts everything.
    pub async fn start() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let directory = home.path().join("objects");
        std::fs::create_dir(&directory)?;
        let endpoint_port = free_port()?;
        let mut servers = vec![start_endpoint(&home, endpoint_port)?];
        let redis_port = match start_redis(&home)? {
            Some((server, port)) => {
                servers.push(server);
                Some(port)
            }
            None => None,
        };
        let url = format!("http://127.0.0.1:{endpoint_port}/endpoint");
        let answer = http_client()?.get(url).send().await?.text().await?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let endpoint = answer["uuid"].as_str().context("an endpoint has an id")?.to_owned();
        let home_dir = home.path().to_owned();
        let addresses = Addresses { directory, redis_port, home: home_dir, endpoint, endpoint_port };
        Ok(Self { addresses, _servers: servers, _home: home })
    }

    /// A store for each place, without cache, and its bare client.
    pub async fn pairs(&self) -> Result<Vec<(&'static str, Store, Bare)>> {
        let places = &self.addresses;
        let file = store("bench-file", FileConnector::new(&places.directory)?);
        let mut pairs = vec![("file", file, Bare::File(places.directory.clone()))];
        if let Some(port) = places.redis_port {
            let client = redis::Client::open(("127.0.0.1", port))?;
            let bare = Bare::Redis(client.get_multiplexed_async_connection().await?);
            pairs.push(("redis", store("bench-redis", RedisConnector::new("127.0.0.1", port)), bare));
        }
        let connector = EndpointConnector::new([places.endpoint.parse()?])?.proxystore_dir(&places.home);
        let base = format!("http://127.0.0.1:{}", places.endpoint_port);
        let bare = Bare::Http(http_client()?, base);
        pairs.push(("endpoint", store("bench-endpoint", connector), bare));
        Ok(pairs)
    }
}

fn http_client() -> Result<reqwest::Client> {
    // The client asks for a TLS provider even though the endpoint is on plain HTTP.
    install_provider();
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

fn store(name: &str, connector: impl Connector) -> Store {
    Store::new(name, connector).cache_size(0)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn start_endpoint(home: &tempfile::TempDir, port: u16) -> Result<Server> {
    let program = env::current_exe()?.with_file_name("endpoint");
    ensure!(program.exists(), "{} is missing; run `cargo build --release --workspace`", program.display());
    let endpoint = || {
        let mut command = Command::new(&program);
        command.env("PROXYSTORE_HOME", home.path()).stdout(Stdio::null());
        command
    };
    let configured = endpoint()
        .args(["configure", "bench", "--no-relay-server", "--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--max-object-size", &MAX_OBJECT_LEN.to_string()])
        .status()?;
    ensure!(configured.success(), "the endpoint cannot be configured");
    let start = endpoint().args(["start", "bench", "--no-detach"]).stderr(Stdio::null()).spawn()?;
    listening(Server(start), port)
}

fn start_redis(home: &tempfile::TempDir) -> Result<Option<(Server, u16)>> {
    let port = free_port()?;
    let started = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .current_dir(home.path())
        .stdout(Stdio::null())
        .spawn();
    match started {
        Ok(server) => Ok(Some((listening(Server(server), port)?, port))),
        Err(_) => {
            eprintln!("SKIPPED: Redis: redis-server is not installed");
            Ok(None)
        }
    }
}

fn listening(mut server: Server, port: u16) -> Result<Server> {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if let Some(status) = server.0.try_wait()? {
            bail!("a server ended before it listened: {status}");
        }
        ensure!(Instant::now() < deadline, "a server does not listen on port {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}
