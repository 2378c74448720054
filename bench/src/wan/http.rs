//! Two endpoints, ours or Python's: an object is fetched from the far one through the near one's HTTP port.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proxystore_tests::net::{Namespace, Program};
use tokio::runtime::{Builder, Runtime};

use crate::contestant::{Contestant, object};
use crate::world::{World, beside, listening, run};

/// The slowest, Python with losses, takes about two minutes for the largest object.
const TIMEOUT: Duration = Duration::from_secs(300);

/// For a first session between the two.
const FIRST: Duration = Duration::from_secs(30);

/// UDP port of the endpoints whose datagrams the near site's firewall drops.
const BLOCKED: u16 = 4500;

/// Endpoints of one kind at both sites.
pub struct Endpoints {
    name: &'static str,
    near: Site,
    far: Site,
    far_id: String,
}

/// An endpoint and a client of it.
struct Site {
    program: Program,
    namespace: Arc<Namespace>,
    base: String,
    http: reqwest::Client,
    runtime: Runtime,
}

/// How an endpoint is started.
struct Kind<'k> {
    name: &'static str,
    program: &'k Path,
    port: u16,
    options: &'k [&'k str],
}

/// Every object is fetched several times, and every time it must travel.
const NO_CACHE: [&str; 2] = ["--cache-size", "0"];

impl Endpoints {
    /// Ours, free to take any path.
    pub fn direct(world: &World) -> Result<Self> {
        Self::start(
            world,
            &Kind { name: "ours", program: &beside("endpoint")?, port: 8701, options: &NO_CACHE },
        )
    }

    /// Ours, with nothing but the relay between them.
    pub fn relayed(world: &World) -> Result<Self> {
        world.near.nft(&format!(
            "table inet wall {{
                chain in {{ type filter hook input priority 0; udp dport {BLOCKED} drop; }}
                chain out {{ type filter hook output priority 0; udp sport {BLOCKED} drop; }}
            }}"
        ))?;
        let [cache, none] = NO_CACHE;
        let options = [cache, none, "--peer-port", &BLOCKED.to_string()];
        let program = beside("endpoint")?;
        Self::start(world, &Kind { name: "ours, relayed", program: &program, port: 8702, options: &options })
    }

    /// Python's, from the installation that `python` belongs to.
    pub fn python(world: &World, python: &Path) -> Result<Self> {
        let program = python.with_file_name("proxystore-endpoint");
        Self::start(world, &Kind { name: "Python", program: &program, port: 8703, options: &[] })
    }

    fn start(world: &World, kind: &Kind) -> Result<Self> {
        let far = Site::start(world, &world.far, kind)?;
        let near = Site::start(world, &world.near, kind)?;
        let far_id = far.id()?;
        let endpoints = Self { name: kind.name, near, far, far_id };
        endpoints.meet().with_context(|| format!("the log:\n{}", endpoints.near.program.log()))?;
        Ok(endpoints)
    }

    /// Waits until the two have a session.
    fn meet(&self) -> Result<()> {
        self.put(1)?;
        let deadline = Instant::now() + FIRST;
        while let Err(error) = self.fetch(1) {
            ensure!(Instant::now() < deadline, "no session: {error:#}");
        }
        Ok(())
    }
}

impl Site {
    fn start(world: &World, namespace: &Arc<Namespace>, kind: &Kind) -> Result<Self> {
        let home = world.dir.path().join(format!("{}-{}", kind.port, namespace.name()));
        let port = kind.port.to_string();
        let mut configure = namespace.command(kind.program);
        configure.args(["configure", "bench", "--host", "127.0.0.1", "--port", &port]);
        configure.args(["--relay-address", &world.relay_url(), "--no-relay-auth"]);
        configure.args(kind.options);
        run(configure.env("PROXYSTORE_HOME", &home))?;
        // Without this Python asks public STUN servers for its address.
        let config = home.join("bench/config.toml");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("[relay]\n", "[relay]\nice_servers = []\n"))?;
        let program = Program::start(namespace, kind.program, &home.join("log"), |command| {
            command.args(["start", "bench", "--no-detach"]).env("PROXYSTORE_HOME", &home);
        })?;
        listening(namespace, kind.port, &program)?;
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let base = format!("http://127.0.0.1:{port}");
        Ok(Self { program, namespace: namespace.clone(), base, http, runtime })
    }

    /// Requests go out from the site's own namespace.
    fn within<T: Send>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.namespace.within(|| self.runtime.block_on(work))
    }

    fn id(&self) -> Result<String> {
        let request = self.http.get(format!("{}/endpoint", self.base));
        let text = self.within(async { Ok(request.send().await?.error_for_status()?.text().await?) })?;
        let answer: serde_json::Value = serde_json::from_str(&text)?;
        Ok(answer["uuid"].as_str().context("an endpoint has an id")?.to_owned())
    }
}

impl Contestant for Endpoints {
    fn name(&self) -> &'static str {
        self.name
    }

    fn is_peer(&self) -> bool {
        !self.name.starts_with("ours")
    }

    fn put(&self, len: usize) -> Result<()> {
        let request = self.far.http.post(format!("{}/set?key={len}", self.far.base)).body(object(len));
        self.far.within(async { Ok(request.send().await?.error_for_status().map(drop)?) })
    }

    fn fetch(&self, len: usize) -> Result<()> {
        let url = format!("{}/get?key={len}&endpoint={}", self.near.base, self.far_id);
        let request = self.near.http.get(url);
        self.near.within(async {
            let mut answer = request.send().await?.error_for_status()?;
            let mut received = 0;
            while let Some(chunk) = answer.chunk().await? {
                received += chunk.len();
            }
            ensure!(received == len, "{received} bytes of {len}");
            Ok(())
        })
    }
}
