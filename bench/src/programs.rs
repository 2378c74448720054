//! Programs that are measured: started on loopback, watched from outside, ended with the measurement.

use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::{self, Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use proxystore_tests::free_port;
use tempfile::TempDir;

/// For a program to listen; Python needs ten seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between looks whether a program listens: little beside the fastest start.
const LOOK: Duration = Duration::from_millis(1);

/// For a program to end that was asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// What Linux counts processor time in for /proc (`USER_HZ`, the same on every machine we know).
const TICK: Duration = Duration::from_millis(10);

/// Above the largest object that is measured.
const MAX_OBJECT_LEN: u64 = 1_100_000_000;

/// A running program, ended when dropped.
pub struct Program(Child);

impl Program {
    /// Starts it without output, and waits until it listens on `port` of loopback.
    pub fn start(command: &mut Command, port: u16) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut program = Self(quiet.spawn().with_context(|| format!("starting {command:?}"))?);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = program.0.try_wait()? {
                bail!("{command:?} ended before it listened: {status}");
            }
            ensure!(Instant::now() < deadline, "{command:?} does not listen on port {port}");
            std::thread::sleep(LOOK);
        }
        Ok(program)
    }

    /// Ends it without ado.
    pub fn kill(&mut self) {
        // It has ended already, or ends now; there is nothing to do about anything else.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Processor time that it has used, in user space and in the kernel, to 10 ms.
    pub fn cpu(&self) -> Result<Duration> {
        cpu(&format!("/proc/{}/stat", self.0.id()))
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Program {
    /// Asks first: a program that was built to note what it does (`scripts/release`) writes that down as it ends.
    fn drop(&mut self) {
        let deadline = Instant::now() + FAREWELL;
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may have ended meanwhile.
            let _ = signal::kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        }
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        self.kill();
    }
}

/// Processor time that this process has used, to 10 ms.
pub fn own_cpu() -> Result<Duration> {
    cpu("/proc/self/stat")
}

/// See proc(5): `utime` and `stime` are the 14th and 15th field, and only the second may contain blanks.
fn cpu(stat: &str) -> Result<Duration> {
    let stat = fs::read_to_string(stat)?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in /proc/*/stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}

/// The variable that names the folder of the endpoint and the relay to measure, if they were built in another way.
const PROGRAMS: &str = "PROXYSTORE_BIN_DIR";

/// The endpoint or the relay that is to be measured.
pub fn product(name: &str) -> Result<PathBuf> {
    let Some(folder) = env::var_os(PROGRAMS) else { return beside(name) };
    // Some commands run in folders of their own.
    let program = path::absolute(folder)?.join(name);
    ensure!(program.exists(), "{} is missing; its folder is ${PROGRAMS}", program.display());
    Ok(program)
}

/// A program that was built along with this one.
pub fn beside(name: &str) -> Result<PathBuf> {
    let program = env::current_exe()?.with_file_name(name);
    ensure!(program.exists(), "{} is missing; `scripts/bench` builds it", program.display());
    Ok(program)
}

/// `bench-bare`, and its port; its QUIC server has this key, and is left out without one.
pub fn bare(key: Option<&Path>) -> Result<(Program, u16)> {
    let port = free_port()?;
    let mut command = Command::new(beside("bench-bare")?);
    command.arg(port.to_string()).args(key);
    Ok((Program::start(&mut command, port)?, port))
}

/// A relay, ours or Python's.
pub struct Relay {
    /// The program.
    pub program: Program,
    /// Its port.
    pub port: u16,
}

impl Relay {
    /// Ours.
    pub fn ours() -> Result<Self> {
        let mut command = Command::new(product("relay")?);
        command.args(["--udp-ports", "0"]);
        Self::start(command)
    }

    /// Python's, from the installation that `python` belongs to.
    pub fn python(python: &Path) -> Result<Self> {
        Self::start(Command::new(python.with_file_name("proxystore-relay")))
    }

    fn start(mut command: Command) -> Result<Self> {
        let port = free_port()?;
        command.args(["--host", "127.0.0.1", "--port", &port.to_string(), "--log-level", "error"]);
        Ok(Self { program: Program::start(&mut command, port)?, port })
    }

    /// For clients.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

/// A running endpoint, ours or Python's, that takes objects of a gigabyte.
pub struct Site {
    /// Its port.
    pub port: u16,
    /// Its id.
    pub id: String,
    /// The program.
    pub program: Program,
    path: PathBuf,
    home: TempDir,
}

impl Site {
    /// Ours, without a cache: what is fetched again from a peer travels again, as with Python's.
    pub fn ours(relay: Option<&Relay>) -> Result<Self> {
        Self::start(&product("endpoint")?, relay, &["--cache-size", "0"])
    }

    /// Python's, from the installation that `python` belongs to.
    pub fn python(python: &Path, relay: Option<&Relay>) -> Result<Self> {
        Self::start(&python.with_file_name("proxystore-endpoint"), relay, &[])
    }

    fn start(path: &Path, relay: Option<&Relay>, options: &[&str]) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let port = free_port()?;
        let mut configure = command_in(path, home.path());
        configure.args(["configure", "bench", "--host", "127.0.0.1", "--port", &port.to_string()]);
        match relay {
            Some(relay) => configure.args(["--relay-address", &relay.url(), "--no-relay-auth"]),
            None => configure.arg("--no-relay-server"),
        };
        configure.args(options);
        let configured = configure.output()?;
        ensure!(
            configured.status.success(),
            "{configure:?}: {}",
            String::from_utf8_lossy(&configured.stderr)
        );
        let id = adapt(&home.path().join("bench/config.toml"))?;
        let program = Program::start(&mut starting(path, home.path()), port)?;
        Ok(Self { port, id, program, path: path.to_owned(), home })
    }

    /// A command of the program that runs it, which finds it under the name "bench".
    pub fn command(&self) -> Command {
        command_in(&self.path, self.home.path())
    }

    /// Ends it without ado and starts it again; returns how long it takes to listen.
    pub fn restart(&mut self) -> Result<Duration> {
        self.program.kill();
        let start = Instant::now();
        self.program = Program::start(&mut starting(&self.path, self.home.path()), self.port)?;
        Ok(start.elapsed())
    }
}

fn command_in(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("PROXYSTORE_HOME", home);
    command
}

fn starting(program: &Path, home: &Path) -> Command {
    let mut command = command_in(program, home);
    command.args(["start", "bench", "--no-detach"]);
    command
}

/// Raises the largest object, keeps Python from asking public STUN servers, and returns the endpoint's id.
pub fn adapt(config: &Path) -> Result<String> {
    let text = fs::read_to_string(config)?;
    let id = text.lines().find_map(|line| line.strip_prefix("uuid = ")).context("an endpoint has an id")?;
    let adapted = text
        .replace("[relay]\n", "[relay]\nice_servers = []\n")
        .replace("max_object_size = 100000000", &format!("max_object_size = {MAX_OBJECT_LEN}"));
    fs::write(config, adapted)?;
    Ok(id.trim_matches('"').to_owned())
}

/// Redis without persistence; none if it is not installed, and says so.
pub fn redis(folder: &Path) -> Result<Option<(Program, u16)>> {
    let port = free_port()?;
    if Command::new("redis-server").arg("--version").output().is_err() {
        eprintln!("SKIPPED: Redis: redis-server is not installed");
        return Ok(None);
    }
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    Ok(Some((Program::start(command.current_dir(folder), port)?, port)))
}
