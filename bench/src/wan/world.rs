//! Two sites, each a network namespace, joined by an emulated wire. The relay stands at the far site.

use std::fmt::{self, Display, Formatter};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use proxystore_bench::programs::{beside, product};
use proxystore_tests::net::{Namespace, Program};
use tempfile::TempDir;

/// For a program to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The wire buffers as much as is on it, as is usual, but no less than a switch would, in milliseconds.
const LEAST_BUFFER: f64 = 10.0;

/// Where objects are fetched.
pub const NEAR: &str = "10.77.0.1";

/// Where they are.
pub const FAR: &str = "10.77.0.2";

/// The relay's port for websockets.
const RELAY_PORT: u16 = 8700;

/// A wire that is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Mbit/s.
    pub rate: f64,
    /// Milliseconds.
    pub round_trip: f64,
    /// Share of packets that are lost.
    pub loss: f64,
}

impl Setting {
    /// Two sites of one region, of one continent, and of two; each with and without losses.
    pub const ALL: [Self; 6] = [
        Self { rate: 1000.0, round_trip: 2.0, loss: 0.0 },
        Self { rate: 1000.0, round_trip: 2.0, loss: 0.001 },
        Self { rate: 1000.0, round_trip: 36.0, loss: 0.0 },
        Self { rate: 1000.0, round_trip: 36.0, loss: 0.001 },
        Self { rate: 500.0, round_trip: 50.0, loss: 0.0 },
        Self { rate: 500.0, round_trip: 50.0, loss: 0.001 },
    ];
}

impl Display for Setting {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} Mbit/s, {} ms, {} % loss", self.rate, self.round_trip, self.loss * 100.0)
    }
}

/// Both sites and the wire.
pub struct World {
    /// Where objects are fetched.
    pub near: Arc<Namespace>,
    /// Where they are.
    pub far: Arc<Namespace>,
    /// For files of the programs.
    pub dir: TempDir,
    relay: Program,
    wire: Emulator,
}

/// `wanem`, which ends with its standard input.
struct Emulator {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl World {
    /// Makes the sites, joins them and starts a relay.
    pub fn start(setting: Setting) -> Result<Self> {
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        let wire = emulate(setting, &near, &far)?;
        for (namespace, address) in [(&near, NEAR), (&far, FAR)] {
            namespace.ip(&format!("addr add {address}/24 dev wan0\nlink set wan0 up"))?;
        }
        let dir = tempfile::tempdir()?;
        let port = RELAY_PORT.to_string();
        let relay = Program::start(&far, &product("relay")?, &dir.path().join("relay.log"), |command| {
            command.args(["--port", &port]);
        })?;
        listening(&far, RELAY_PORT, &relay)?;
        Ok(Self { near, far, dir, relay, wire })
    }

    /// The relay's address, the same from both sites.
    pub fn relay_url(&self) -> String {
        format!("ws://{FAR}:{RELAY_PORT}")
    }

    /// Takes the wire away and says what happened on it.
    pub fn end(self) -> Result<String> {
        drop(self.relay);
        let Emulator { mut process, input, mut output } = self.wire;
        drop(input);
        let mut summary = String::new();
        output.read_to_string(&mut summary)?;
        process.wait()?;
        Ok(summary)
    }
}

fn emulate(setting: Setting, near: &Namespace, far: &Namespace) -> Result<Emulator> {
    let options = [
        ("--rate", setting.rate),
        ("--round-trip", setting.round_trip),
        ("--loss", setting.loss),
        ("--buffer", setting.round_trip.max(LEAST_BUFFER)),
    ];
    let mut command = Command::new(beside("wanem")?);
    command.args([near.name(), far.name()]);
    for (option, value) in options {
        command.args([option, &value.to_string()]);
    }
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let input = process.stdin.take().context("no standard input")?;
    let mut output = BufReader::new(process.stdout.take().context("no standard output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "ready\n", "the emulator did not start");
    Ok(Emulator { process, input, output })
}

/// Waits until somebody listens on the port, on loopback.
pub fn listening(namespace: &Namespace, port: u16, program: &Program) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let connect = || Ok(TcpStream::connect(("127.0.0.1", port))?);
    while namespace.within(connect).is_err() {
        ensure!(Instant::now() < deadline, "nobody listens on port {port}; the log:\n{}", program.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", complaint.trim());
    Ok(())
}
