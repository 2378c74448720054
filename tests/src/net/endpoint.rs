//! An endpoint process on a machine of a network, and its HTTP API as seen by a client on the same machine.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use proxystore_shared::EndpointId;
use proxystore_shared::directory::ACQUAINTANCES_FILE;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::inside::Inside;
use super::namespace::Namespace;
use super::program::Program;
use crate::process::{self, program};
use crate::{SiteBuilder, http_client, metric, until};

/// No request takes longer, whatever happens to the network.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// An endpoint process that stays what it is when it is killed and started again.
#[derive(Debug)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    program: Mutex<Option<Program>>,
    name: String,
    base: String,
    home: TempDir,
    environment: Vec<(String, String)>,
    machine: Arc<Namespace>,
    inside: Inside,
    http: reqwest::Client,
}

/// What an endpoint says of a peer.
#[derive(Debug, Clone, Deserialize)]
pub struct Peer {
    /// The peer.
    pub id: EndpointId,
    /// `connected`, `connecting` or `idle`.
    pub state: String,
    /// How bytes travel now.
    pub path: Option<PathKind>,
    /// Where the peer is.
    pub address: Option<String>,
    /// UDP bytes received from it in this session.
    pub received_bytes: u64,
    /// Why they do not travel directly.
    pub why_not_direct: Option<String>,
    /// Why there is no session.
    pub last_error: Option<String>,
}

/// How bytes travel between two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// From host to host, through a hole in NATs or without one.
    #[serde(alias = "punched")]
    Direct,
    /// Through the relay.
    Relayed,
}

/// An object, and how long it was in coming.
#[derive(Debug)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// From the request to the first byte.
    pub first_byte: Duration,
}

impl Endpoint {
    /// Starts the endpoint that `site` describes on `machine`, with variables in its environment.
    pub async fn start(
        machine: &Arc<Namespace>,
        site: SiteBuilder,
        environment: Vec<(String, String)>,
    ) -> Result<Self> {
        let (home, config) = process::lay_out(site)?;
        let endpoint = Self {
            id: config.uuid,
            program: Mutex::default(),
            base: format!("http://127.0.0.1:{}", config.port),
            name: config.name,
            home,
            environment,
            machine: machine.clone(),
            inside: Inside::new(machine)?,
            http: http_client()?,
        };
        endpoint.restart().await?;
        Ok(endpoint)
    }

    /// Ends it with SIGKILL, in the middle of whatever it does.
    pub fn kill(&self) {
        *self.running() = None;
    }

    /// Ends it, if it runs, and starts it again where it was.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        let log = self.home.path().join("output.txt");
        let started = Program::start(&self.machine, &program("endpoint")?, &log, |command| {
            command.args(["start", &self.name, "--no-detach"]);
            command.env("PROXYSTORE_HOME", self.home.path()).envs(self.environment.iter().cloned());
        })?;
        *self.running() = Some(started);
        let address = self.base.trim_start_matches("http://");
        let listens = || Ok(TcpStream::connect(address)?);
        until("the endpoint listens", || self.machine.within(listens).is_ok())
            .await
            .with_context(|| format!("the log of {}:\n{}", self.name, self.log()))
    }

    /// Looks at the process, or does something to it.
    pub fn process<T>(&self, act: impl FnOnce(&Program) -> Result<T>) -> Result<T> {
        let running = self.running();
        act(running.as_ref().with_context(|| format!("{} does not run", self.name))?)
    }

    fn running(&self) -> MutexGuard<'_, Option<Program>> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it logged since it was first started.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place().join("log.txt")).unwrap_or_default()
    }

    /// Its record of whom the relay has introduced.
    pub fn acquaintances(&self) -> String {
        fs::read_to_string(self.place().join(ACQUAINTANCES_FILE)).unwrap_or_default()
    }

    fn place(&self) -> PathBuf {
        self.home.path().join(&self.name)
    }

    /// Stores an object through this endpoint, here or at `at`.
    pub async fn put(&self, object: &str, at: Option<EndpointId>, bytes: Bytes) -> Result<()> {
        let request = self.http.put(self.url(object, at)).body(bytes);
        self.within_deadline(async { succeeded(request.send().await?).await.map(drop) }).await
    }

    /// Fetches an object through this endpoint, from here or from `at`.
    pub async fn get(&self, object: &str, at: Option<EndpointId>) -> Result<Fetched> {
        let request = self.http.get(self.url(object, at));
        self.within_deadline(async {
            let start = Instant::now();
            let mut answer = succeeded(request.send().await?).await?;
            let mut bytes = Vec::new();
            let mut first_byte = None;
            while let Some(chunk) = answer.chunk().await? {
                first_byte.get_or_insert(start.elapsed());
                bytes.extend_from_slice(&chunk);
            }
            Ok(Fetched { bytes: bytes.into(), first_byte: first_byte.unwrap_or_else(|| start.elapsed()) })
        })
        .await
    }

    /// What it says of a peer, if it knows it.
    pub async fn peer(&self, id: EndpointId) -> Result<Option<Peer>> {
        #[derive(Deserialize)]
        struct Peers {
            peers: Vec<Peer>,
        }
        let text = self.text("/v1/peers").await?;
        let peers: Peers = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(peers.peers.into_iter().find(|peer| peer.id == id))
    }

    /// Whether the relay knows it now.
    pub async fn registered(&self) -> Result<bool> {
        let status: serde_json::Value = serde_json::from_str(&self.text("/v1/status").await?)?;
        Ok(status["relay"]["connected"] == true)
    }

    /// Tasks that have not ended, that of this question included.
    pub async fn tasks(&self) -> Result<usize> {
        metric(&self.text("/metrics").await?, "proxystore_endpoint_tasks")
    }

    /// The body of a page.
    pub async fn text(&self, route: &str) -> Result<String> {
        let request = self.http.get(format!("{}{route}", self.base));
        self.within_deadline(async { Ok(succeeded(request.send().await?).await?.text().await?) }).await
    }

    fn url(&self, object: &str, at: Option<EndpointId>) -> String {
        let at = at.map_or(String::new(), |id| format!("?endpoint={id}"));
        format!("{}/v1/objects/{object}{at}", self.base)
    }

    async fn within_deadline<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let bounded = self.inside.run(timeout(DEADLINE, work)).await?;
        bounded.with_context(|| format!("{}: no answer within {DEADLINE:?}", self.name))?
    }
}

/// Whether that is why a request failed: it had no answer within [`DEADLINE`].
pub fn hung(error: &anyhow::Error) -> bool {
    error.is::<Elapsed>()
}

async fn succeeded(answer: reqwest::Response) -> Result<reqwest::Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    bail!("{status}: {}", answer.text().await.unwrap_or_default())
}
