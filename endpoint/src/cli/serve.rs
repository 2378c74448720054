//! Running an endpoint in this process until it is told to stop.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal as _};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::args::LogLevel;
use super::output::Failure;
use super::place::{Place, http_address};
use super::process::PidFile;
use crate::server::{Options, Server};

/// Runs the endpoint until Ctrl-C or SIGTERM. The daemon's standard error is the log file; otherwise messages go
/// to both.
pub async fn run(place: &Place, options: Options, log_level: LogLevel, daemon: bool) -> Result<(), Failure> {
    start_logging(place, log_level, daemon)?;
    let mut stop = StopSignals::new().map_err(Failure::io("wait for signals"))?;
    let claim = claim(place)?;
    let name = options.config.name.clone();
    let address = http_address(&options.config).unwrap_or_default();
    let started = tokio::select! {
        started = Server::start(options) => started,
        () = stop.received() => return Ok(()),
    };
    let server = started.map_err(|error| {
        tracing::error!("cannot start: {error}");
        start_failure(&error, &address)
    })?;
    tracing::info!("endpoint {name} <{}> listens on {}", server.endpoint_id(), server.http_addr());
    stop.received().await;
    tracing::info!("endpoint {name} is stopping");
    server.stop().await;
    tracing::info!("endpoint {name} stopped");
    drop(claim);
    Ok(())
}

/// Between the look at the folder and now, another `start` may have been quicker.
fn claim(place: &Place) -> Result<PidFile, Failure> {
    let path = place.pid_path();
    PidFile::claim(path.clone()).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::new(format!("endpoint {} is being started already", place.name)),
        _ => Failure::io(format!("write {}", path.display()))(error),
    })
}

fn start_failure(error: &crate::server::StartError, address: &str) -> Failure {
    Failure::new(format!("cannot start the endpoint at {address}: {error}"))
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn start_logging(place: &Place, level: LogLevel, daemon: bool) -> Result<(), Failure> {
    let path = place.log_path();
    let file: Option<Arc<File>> = match daemon {
        true => None,
        false => Some(Arc::new(
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .map_err(Failure::io(format!("open {}", path.display())))?,
        )),
    };
    let to_file = file.map(|file| tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file));
    let to_terminal = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .and_then(to_file);
    tracing_subscriber::registry()
        .with(filter(level))
        .with(to_terminal)
        .try_init()
        .map_err(|error| Failure::new(format!("cannot log: {error}")))
}

/// The level is meant for this program; libraries speak up only when something is wrong.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => "error",
        LogLevel::Warning => "warn",
        LogLevel::Info => "warn,proxystore_endpoint=info,proxystore_shared=info",
        LogLevel::Debug => "warn,proxystore_endpoint=debug,proxystore_shared=debug",
    };
    // These call every refusal an error; what comes of it is said by this program.
    EnvFilter::new(format!("{level},stun_proto=off,turn_client_proto=off"))
}
