//! The program `endpoint`: configures, starts and watches endpoints, and moves files through them.
//!
//! Each command is a module. What a command decides is kept apart from what it does: [`lifecycle`] tells from
//! evidence whether an endpoint runs, [`resume`] how a download goes on.

mod args;
mod check_nat;
mod client;
mod configure;
mod daemon;
mod delivery;
mod get;
mod host;
mod lifecycle;
mod list;
mod output;
mod partial_file;
mod place;
mod process;
mod progress;
mod put;
mod resume;
mod serve;
mod size;
mod start;
mod status;
mod stop;
mod test_command;
mod token;

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use proxystore_shared::config::endpoint::EndpointConfig;
use serde_json::json;

pub use args::Cli;
use args::Command;
use client::Client;
use output::{Failure, Printer};
use place::{Place, http_address};

/// Runs a command and gives the exit code of the program.
pub async fn run(cli: Cli) -> ExitCode {
    let printer = Printer::new(cli.json);
    match dispatch(&cli, printer).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => printer.failure(&failure),
    }
}

async fn dispatch(cli: &Cli, printer: Printer) -> Result<(), Failure> {
    match &cli.command {
        Command::Configure(options) => configure::configure(options, printer),
        Command::Start(options) => start::start(options, cli.log_level, printer).await,
        Command::Stop { name } => stop::stop(name, printer).await,
        Command::List => list::list(printer).await,
        Command::Remove { name } => stop::remove(name, printer),
        Command::Status { name } => status::status(name, printer).await,
        Command::Put(options) => put::put(options, printer).await,
        Command::Get(options) => get::get(options, printer).await,
        Command::Test(options) => test_command::test(options, printer).await,
        Command::CheckNat(options) => check_nat::check_nat(options, printer).await,
        Command::Version => version(printer),
    }
}

fn version(printer: Printer) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({ "version": version, "implementation": "Rust" });
    printer.result(&value, &format!("ProxyStore v{version} (Rust)"))
}

/// Standard input or output for bytes: without the buffer and the lock that are meant for lines.
fn standard_stream(stream: impl AsFd) -> io::Result<tokio::fs::File> {
    let owned = stream.as_fd().try_clone_to_owned()?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(owned)))
}

/// A client of a configured endpoint.
fn connect(place: &Place) -> Result<(Client, EndpointConfig), Failure> {
    let config = place.config()?;
    let address = http_address(&config).ok_or_else(|| {
        Failure::new(format!("endpoint {} was never started", place.name))
            .hint(format!("`endpoint start {}` starts it", place.name))
    })?;
    Ok((Client::new(&address)?, config))
}
