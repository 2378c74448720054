//! Two endpoints, ours or Python's: an object is fetched from the far one through the near one's HTTP port.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use proxystore_bench::load::Request;
use proxystore_bench::programs::adapt;
use proxystore_tests::net::{Namespace, Program};

use crate::client::Client;
use crate::contestant::{Contestant, object};
use crate::world::{World, beside, listening, run};

/// UDP port of the endpoints whose datagrams the near site's firewall drops.
const BLOCKED: u16 = 4500;

/// Endpoints of one kind at both sites.
pub struct Endpoints {
    name: &'static str,
    near: Site,
    far: Site,
}

/// An endpoint and a client of it.
struct Site {
    id: String,
    program: Program,
    client: Client,
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
        let endpoints = Self { name: kind.name, near, far };
        endpoints.put(1)?;
        let met = endpoints.near.client.meet(&endpoints.get(1));
        met.with_context(|| format!("the log:\n{}", endpoints.near.program.log()))?;
        Ok(endpoints)
    }

    fn get(&self, len: usize) -> Request {
        Request::http("GET", &format!("/get?key={len}&endpoint={}", self.far.id), Bytes::new())
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
        let id = adapt(&home.join("bench/config.toml"))?;
        let program = Program::start(namespace, kind.program, &home.join("log"), |command| {
            command.args(["start", "bench", "--no-detach"]).env("PROXYSTORE_HOME", &home);
        })?;
        listening(namespace, kind.port, &program)?;
        Ok(Self { id, program, client: Client::open(namespace, kind.port)? })
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
        let request = Request::http("POST", &format!("/set?key={len}"), object(len).into());
        self.far.client.exchange(&request).map(drop)
    }

    fn fetch(&self, len: usize) -> Result<()> {
        self.near.client.fetch(&self.get(len), len)
    }
}
