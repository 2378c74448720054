//! The `relay` program: reads its configuration, serves until SIGTERM or SIGINT, and drains.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use proxystore_relay::{Relay, StartError, logging};
use proxystore_shared::config::ConfigError;
use proxystore_shared::config::relay::{LogLevel, RelayConfig};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Exit code for a configuration or command line that has to be corrected.
const EXIT_USAGE: u8 = 2;

/// Static programs only: the allocator of their C library has one lock for all threads (docs/decisions/0017).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Introduces ProxyStore endpoints to each other.
///
/// Endpoints connect to the relay with a websocket, register, and exchange the offers and answers they need to
/// connect to each other directly; those that no direct path joins exchange encrypted datagrams through it.
/// Without options it listens on port 8700 of every interface, without TLS or authentication.
#[derive(Debug, Parser)]
#[command(
    name = "relay",
    version,
    after_help = "Options override the configuration file; everything else is configured there (the sample \
                  config/relay.toml explains each key).\n\n\
                  Examples:\n  relay\n  relay --host 127.0.0.1 --port 8700 --log-level debug\n  \
                  relay --config /etc/proxystore/relay.toml\n\n\
                  Signals: SIGTERM and SIGINT close all clients and end the relay within 10 s.\n\
                  Exit codes: 0 stopped by a signal, 1 could not serve, 2 bad options or configuration."
)]
struct Args {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address or name to listen on, for example 127.0.0.1 [default: every interface]
    #[arg(long, value_name = "ADDR")]
    host: Option<String>,
    /// Port to listen on [default: 8700]
    #[arg(long)]
    port: Option<u16>,
    /// UDP ports that tell clients their public address; 0 lets the system choose [default: 3478,3479]
    #[arg(long, value_name = "PORT", value_delimiter = ',')]
    udp_ports: Option<Vec<u16>>,
    /// Directory for server.log, besides the log on standard output
    #[arg(long, value_name = "PATH")]
    log_dir: Option<PathBuf>,
    /// Least important level that is logged: critical, error, warning, info or debug [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<LogLevel>,
}

impl Args {
    fn into_config(self) -> Result<RelayConfig, ConfigError> {
        let mut config =
            self.config.as_deref().map_or_else(|| Ok(RelayConfig::default()), RelayConfig::from_file)?;
        config.host = self.host.or(config.host);
        config.port = self.port.unwrap_or(config.port);
        config.udp.ports = self.udp_ports.unwrap_or(config.udp.ports);
        config.logging.log_dir = self.log_dir.or(config.logging.log_dir);
        config.logging.default_level = self.log_level.unwrap_or(config.logging.default_level);
        Ok(config)
    }
}

fn main() -> ExitCode {
    let config = match Args::parse().into_config() {
        Ok(config) => config,
        Err(error) => return fail(EXIT_USAGE, error),
    };
    if let Err(error) = logging::start(&config.logging) {
        return fail(EXIT_USAGE, error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, format_args!("cannot start threads: {error}")),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit_code(&error), format_args!("{error:#}")),
    }
}

async fn run(config: RelayConfig) -> anyhow::Result<()> {
    // Before the relay starts, so that a signal that comes early is not the default one.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let relay = Relay::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    relay.stop().await;
    info!("stopped");
    Ok(())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(StartError::Config(_) | StartError::Tls(_) | StartError::Auth(_)) => EXIT_USAGE,
        Some(StartError::Listen(_)) | None => 1,
    }
}

fn fail(code: u8, error: impl Display) -> ExitCode {
    eprintln!("relay: {error}");
    if code == EXIT_USAGE {
        eprintln!("hint: `relay --help` lists the options; config/relay.toml is a sample with every key");
    }
    ExitCode::from(code)
}
