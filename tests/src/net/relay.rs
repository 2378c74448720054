//! The relay of a network: a machine of its own on the internet.

use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::inside::Inside;
use super::namespace::Namespace;
use super::program::Program;
use super::segment::{Plug, Segment, Stack, Subnet};
use crate::process::program;
use crate::{http_client, metric, until};

/// Its number on the internet.
const NUMBER: u8 = 10;

/// Its port for websockets.
pub const PORT: u16 = 8700;

/// A relay process, and the machine it runs on.
#[derive(Debug)]
pub struct Relay {
    program: Mutex<Option<Program>>,
    dir: TempDir,
    machine: Arc<Namespace>,
    inside: Inside,
    http: reqwest::Client,
    /// Its cable.
    pub plug: Plug,
}

impl Relay {
    /// Starts a relay on the internet, and waits until it serves. `config` is the text of its configuration file.
    pub async fn start(internet: &Segment, config: &str) -> Result<Self> {
        let machine = Namespace::new("relay")?;
        let plug = internet.plug(&machine, "eth", NUMBER, Stack::Dual)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("relay.toml"), config)?;
        let inside = Inside::new(&machine)?;
        let relay = Self { program: Mutex::default(), dir, machine, inside, http: http_client()?, plug };
        relay.restart().await?;
        Ok(relay)
    }

    /// The address for clients that speak `stack`.
    pub fn url(stack: Stack) -> String {
        let internet = Subnet::INTERNET;
        match (stack, internet.v6(NUMBER)) {
            (Stack::V6, Some(address)) => format!("ws://[{address}]:{PORT}"),
            _ => format!("ws://{}:{PORT}", internet.v4(NUMBER)),
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&self) {
        *self.running() = None;
    }

    /// Ends it, if it runs, and starts it again.
    pub async fn restart(&self) -> Result<()> {
        self.kill();
        let config = self.dir.path().join("relay.toml");
        let log = self.dir.path().join("relay.log");
        let started = Program::start(&self.machine, &program("relay")?, &log, |command| {
            command.arg("--config").arg(config).args(["--log-level", "debug"]);
        })?;
        *self.running() = Some(started);
        let listens = || Ok(TcpStream::connect(("127.0.0.1", PORT))?);
        until("the relay listens", || self.machine.within(listens).is_ok())
            .await
            .with_context(|| format!("the relay's log:\n{}", self.log()))
    }

    /// Tasks that have not ended, that of this question included.
    pub async fn tasks(&self) -> Result<usize> {
        let request = self.http.get(format!("http://127.0.0.1:{PORT}/metrics"));
        let page = self.inside.run(async { request.send().await?.text().await }).await??;
        metric(&page, "proxystore_relay_tasks")
    }

    /// What it logged since it was first started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("relay.log")).unwrap_or_default()
    }

    fn running(&self) -> MutexGuard<'_, Option<Program>> {
        self.program.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
