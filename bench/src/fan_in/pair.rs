//! Two endpoints and clients of the near one.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use proxystore_bench::programs::product;
use proxystore_tests::net::{Namespace, Program};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use crate::Fetch;
use crate::world::{World, listening, run};

/// For one get: far more than a slow machine takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// For a first session between the two.
const FIRST: Duration = Duration::from_secs(30);

/// The relay's port for websockets when everything is on loopback.
const RELAY_PORT: u16 = 8700;

/// The near endpoint's port, and the far one's.
const PORTS: [u16; 2] = [8701, 8702];

/// Two endpoints that have a session.
pub struct Pair {
    near: Site,
    far: Site,
    far_id: String,
    _relay: Option<Program>,
    _dir: Option<TempDir>,
}

/// An endpoint, and a client on the same machine.
struct Site {
    program: Program,
    namespace: Arc<Namespace>,
    base: String,
    http: reqwest::Client,
    runtime: Runtime,
}

impl Pair {
    /// One at each end of a wire.
    pub fn over(world: &World) -> Result<Self> {
        let url = world.relay_url();
        let near = Site::start(&world.near, PORTS[0], &url, world.dir.path())?;
        let far = Site::start(&world.far, PORTS[1], &url, world.dir.path())?;
        Self::meet(near, far, None, None)
    }

    /// Both, and a relay, on one machine.
    pub fn on_loopback() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let machine = Namespace::new("loopback")?;
        let port = RELAY_PORT.to_string();
        let relay = Program::start(&machine, &product("relay")?, &dir.path().join("relay.log"), |command| {
            command.args(["--port", &port]);
        })?;
        listening(&machine, RELAY_PORT, &relay)?;
        let url = format!("ws://127.0.0.1:{RELAY_PORT}");
        let near = Site::start(&machine, PORTS[0], &url, dir.path())?;
        let far = Site::start(&machine, PORTS[1], &url, dir.path())?;
        Self::meet(near, far, Some(relay), Some(dir))
    }

    fn meet(near: Site, far: Site, relay: Option<Program>, dir: Option<TempDir>) -> Result<Self> {
        let far_id = far.id()?;
        let pair = Self { near, far, far_id, _relay: relay, _dir: dir };
        pair.put("first", 1)?;
        let deadline = Instant::now() + FIRST;
        while let Err(error) = pair.fetch("first", 1, 1) {
            ensure!(Instant::now() < deadline, "no session: {error:#}\n{}", pair.near.program.log());
        }
        Ok(pair)
    }

    /// Stores an object at the far endpoint.
    pub fn put(&self, key: &str, len: usize) -> Result<()> {
        let request = self.far.http.post(format!("{}/set?key={key}", self.far.base)).body(object(len));
        self.far.within(async { Ok(request.send().await?.error_for_status().map(drop)?) })
    }

    /// Fetches it through the near one, by so many clients at once, each with a connection of its own.
    pub fn fetch(&self, key: &str, len: usize, clients: usize) -> Result<Fetch> {
        let url = format!("{}/get?key={key}&endpoint={}", self.near.base, self.far_id);
        let before = self.near.received()?;
        let start = Instant::now();
        let gets = (0..clients).map(|_| get(self.near.http.get(&url), len));
        self.near.within(try_join_all(gets))?;
        Ok(Fetch { time: start.elapsed(), crossed: self.near.received()?.saturating_sub(before) })
    }
}

async fn get(request: reqwest::RequestBuilder, len: usize) -> Result<()> {
    let mut answer = request.send().await?.error_for_status()?;
    let mut received = 0;
    while let Some(chunk) = answer.chunk().await? {
        received += chunk.len();
    }
    ensure!(received == len, "{received} bytes of {len}");
    Ok(())
}

impl Site {
    fn start(namespace: &Arc<Namespace>, port: u16, relay: &str, dir: &Path) -> Result<Self> {
        let (endpoint, home, port_text) =
            (product("endpoint")?, dir.join(port.to_string()), port.to_string());
        let mut configure = namespace.command(&endpoint);
        configure.args(["configure", "bench", "--host", "127.0.0.1", "--port", &port_text]);
        configure.args(["--relay-address", relay, "--no-relay-auth"]);
        run(configure.env("PROXYSTORE_HOME", &home))?;
        let program = Program::start(namespace, &endpoint, &home.join("log"), |command| {
            command.args(["start", "bench", "--no-detach"]).env("PROXYSTORE_HOME", &home);
        })?;
        listening(namespace, port, &program)?;
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let base = format!("http://127.0.0.1:{port}");
        Ok(Self { program, namespace: namespace.clone(), base, http, runtime })
    }

    /// Requests go out from the site's own namespace.
    fn within<T: Send>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.namespace.within(|| self.runtime.block_on(work))
    }

    fn document(&self, route: &str) -> Result<serde_json::Value> {
        let request = self.http.get(format!("{}{route}", self.base));
        let text = self.within(async { Ok(request.send().await?.error_for_status()?.text().await?) })?;
        Ok(serde_json::from_str(&text)?)
    }

    fn id(&self) -> Result<String> {
        Ok(self.document("/endpoint")?["uuid"].as_str().context("an endpoint has an id")?.to_owned())
    }

    /// UDP bytes that came from peers.
    fn received(&self) -> Result<u64> {
        let report = self.document("/v1/peers")?;
        let peers = report["peers"].as_array().context("peers")?;
        Ok(peers.iter().filter_map(|peer| peer["received_bytes"].as_u64()).sum())
    }
}

/// The bytes of an object: nothing that could be compressed.
fn object(len: usize) -> Vec<u8> {
    use rand::RngCore as _;
    let mut bytes = vec![0; len];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}
