//! Two endpoints, ours or Python's: an object is fetched from the far one through the near one's HTTP port.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use proxystore_bench::commands;
use proxystore_bench::load::Request;
use proxystore_bench::programs::{adapt, product};
use proxystore_tests::net::{Namespace, Program};

use crate::client::Client;
use crate::contestant::{Contestant, object};
use crate::world::{World, listening, run};

/// UDP port of the endpoints whose datagrams the near site's firewall drops.
const BLOCKED: u16 = 4500;

/// Endpoints of one kind at both sites.
pub struct Endpoints {
    name: &'static str,
    program: PathBuf,
    near: Site,
    far: Site,
}

/// An endpoint and a client of it.
struct Site {
    id: String,
    home: PathBuf,
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

/// The endpoints that close a session after a second without a request, the least that can be configured.
const DIALING: &str = "ours, dialing";

/// How long that takes: the second, another until the endpoint looks, and one more for a busy machine.
pub const FORGOTTEN: Duration = Duration::from_secs(3);

/// One of each kind.
const MIXED: &str = "ours and Python";

impl Endpoints {
    /// Ours, free to take any path.
    pub fn direct(world: &World) -> Result<Self> {
        Self::start(
            world,
            &Kind { name: "ours", program: &product("endpoint")?, port: 8701, options: &NO_CACHE },
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
        let program = product("endpoint")?;
        Self::start(world, &Kind { name: "ours, relayed", program: &program, port: 8702, options: &options })
    }

    /// Ours, for whole commands.
    pub fn for_commands(world: &World) -> Result<Self> {
        let program = product("endpoint")?;
        Self::start(world, &Kind { name: "ours, command", program: &program, port: 8704, options: &NO_CACHE })
    }

    /// Ours, for whole commands that dial: after [`FORGOTTEN`] there is no session.
    pub fn for_dialing(world: &World) -> Result<Self> {
        let program = product("endpoint")?;
        Self::start(world, &Kind { name: DIALING, program: &program, port: 8705, options: &NO_CACHE })
    }

    /// Python's, from the installation that `python` belongs to.
    pub fn python(world: &World, python: &Path) -> Result<Self> {
        let program = python.with_file_name("proxystore-endpoint");
        Self::start(world, &Kind { name: "Python", program: &program, port: 8703, options: &[] })
    }

    /// Ours, which gets what a Python endpoint has.
    pub fn mixed(world: &World, python: &Path) -> Result<Self> {
        let (ours, python) = (product("endpoint")?, python.with_file_name("proxystore-endpoint"));
        let near = Kind { name: MIXED, program: &ours, port: 8706, options: &NO_CACHE };
        let far = Kind { name: MIXED, program: &python, port: 8706, options: &[] };
        Self::start_pair(world, &near, &far)
    }

    fn start(world: &World, kind: &Kind) -> Result<Self> {
        Self::start_pair(world, kind, kind)
    }

    fn start_pair(world: &World, near: &Kind, far: &Kind) -> Result<Self> {
        let (name, program) = (near.name, near.program.to_owned());
        let far = Site::start(world, &world.far, far)?;
        let near = Site::start(world, &world.near, near)?;
        let endpoints = Self { name, program, near, far };
        endpoints.put(1)?;
        let met = endpoints.near.client.meet(&endpoints.get(1));
        met.with_context(|| format!("the log:\n{}", endpoints.near.program.log()))?;
        Ok(endpoints)
    }

    /// The command that fetches an object into a file of `folder`, for the near site.
    pub fn command(&self, len: usize, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env("PROXYSTORE_HOME", &self.near.home);
        commands::get(command, &len.to_string(), &self.far.id, folder)
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
        let config = home.join("bench/config.toml");
        let id = adapt(&config)?;
        if kind.name == DIALING {
            shorten_sessions(&config)?;
        }
        let program = Program::start(namespace, kind.program, &home.join("log"), |command| {
            command.args(["start", "bench", "--no-detach"]).env("PROXYSTORE_HOME", &home);
        })?;
        listening(namespace, kind.port, &program)?;
        Ok(Self { id, home, program, client: Client::open(namespace, kind.port)? })
    }
}

fn shorten_sessions(config: &Path) -> Result<()> {
    let text = fs::read_to_string(config)?;
    let shortened = text.replace("session_idle_timeout = 300", "session_idle_timeout = 1");
    ensure!(shortened != text, "no session_idle_timeout in:\n{text}");
    Ok(fs::write(config, shortened)?)
}

impl Contestant for Endpoints {
    fn name(&self) -> &'static str {
        self.name
    }

    /// The limit of a mixed pair is Python's side.
    fn is_peer(&self) -> bool {
        self.name == MIXED || !self.name.starts_with("ours")
    }

    fn compared_with(&self) -> &'static str {
        if self.name == MIXED { "Python" } else { "Redis, SSH" }
    }

    fn put(&self, len: usize) -> Result<()> {
        let request = Request::http("POST", &format!("/set?key={len}"), object(len).into());
        self.far.client.exchange(&request).map(drop)
    }

    fn fetch(&self, len: usize) -> Result<()> {
        self.near.client.fetch(&self.get(len), len)
    }
}
