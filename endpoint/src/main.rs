//! The program `endpoint`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use proxystore_endpoint::cli::{self, Cli};

/// For what is left over at the end, such as a read of a terminal's standard input that nobody ends.
const LEFTOVER_TIMEOUT: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::run(cli));
    runtime.shutdown_timeout(LEFTOVER_TIMEOUT);
    code
}
