//! Where the objects go: a directory, a Redis server and an endpoint, which live as long as the run.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use proxystore::connectors::{EndpointConnector, FileConnector, RedisConnector};
use proxystore::{Connector, Store};
use proxystore_bench::programs::{Program, product, redis};
use proxystore_endpoint::transport::tls::install_provider;
use proxystore_tests::free_port;
use serde::Serialize;

use crate::bare::Bare;

/// Above the largest object that is measured.
const MAX_OBJECT_LEN: u64 = 200_000_000;

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
    _servers: Vec<Program>,
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
        let redis_port = match redis(home.path())? {
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

fn start_endpoint(home: &tempfile::TempDir, port: u16) -> Result<Program> {
    let program = product("endpoint")?;
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
    Program::start(endpoint().args(["start", "bench", "--no-detach"]), port)
}
