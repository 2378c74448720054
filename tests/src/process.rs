//! An endpoint as a process of its own: for what can only be seen from outside, such as its memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use proxystore_shared::config::endpoint::EndpointConfig;
use proxystore_shared::directory::{CONFIG_FILE, KEY_FILE};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{SiteBuilder, until};

/// A running endpoint process, killed when dropped.
pub struct SiteProcess {
    child: Child,
    home: TempDir,
    config: EndpointConfig,
    /// Base of its URLs.
    pub base: String,
    /// Its id.
    pub id: proxystore_shared::EndpointId,
}

/// Where cargo puts what it builds together with this test: `target/debug`, say.
pub fn built() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    Ok(test.parent().and_then(|deps| deps.parent()).context("a test lies in target/*/deps")?.to_owned())
}

/// The program of that name that cargo built beside this test.
pub fn program(name: &str) -> Result<PathBuf> {
    let program = built()?.join(name);
    ensure!(program.exists(), "{} is missing; run `cargo build --workspace` first", program.display());
    Ok(program)
}

impl SiteProcess {
    /// Starts the site that `builder` describes, and waits until it answers.
    pub async fn start(builder: SiteBuilder) -> Result<Self> {
        let (home, config) = lay_out(builder)?;
        let child = spawn(home.path(), &config).await?;
        let base = format!("http://127.0.0.1:{}", config.port);
        let id = config.uuid;
        Ok(Self { child, home, config, base, id })
    }

    /// The ProxyStore home that it was started from.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Ends it with SIGKILL, in the middle of whatever it does.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Starts it again where it was, once it has ended.
    pub async fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.home.path(), &self.config).await?;
        Ok(())
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let pid = self.child.id().context("the endpoint has ended; its log is gone with it")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let log = |dir: fs::DirEntry| fs::read_to_string(dir.path().join("log.txt")).unwrap_or_default();
        fs::read_dir(self.home.path()).into_iter().flatten().flatten().map(log).collect()
    }
}

/// A ProxyStore home with the endpoint that `builder` describes.
pub fn lay_out(builder: SiteBuilder) -> Result<(TempDir, EndpointConfig)> {
    let home = tempfile::tempdir()?;
    let (dir, config) = builder.into_parts();
    let place = home.path().join(&config.name);
    fs::create_dir(&place)?;
    fs::copy(dir.path().join(KEY_FILE), place.join(KEY_FILE))?;
    fs::write(place.join(CONFIG_FILE), toml::to_string(&config)?)?;
    Ok((home, config))
}

/// Starts the configured endpoint, and waits until it listens.
async fn spawn(home: &Path, config: &EndpointConfig) -> Result<Child> {
    let child = Command::new(program("endpoint")?)
        .args(["start", &config.name, "--no-detach"])
        .env("PROXYSTORE_HOME", home)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let address = ("127.0.0.1", config.port);
    until("the endpoint listens", || std::net::TcpStream::connect(address).is_ok()).await?;
    Ok(child)
}
