//! The program `endpoint`.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use proxystore_endpoint::cli::{self, Cli};
use tokio::runtime::Builder;

/// For what is left over at the end, such as a read of a terminal's standard input that nobody ends.
const LEFTOVER_TIMEOUT: Duration = Duration::from_millis(100);

/// Static programs only: the allocator of their C library has one lock for all threads (docs/decisions/0017).
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A client moves one stream of bytes: handing them to another thread would only cost.
    let mut builder = if cli.serves() { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = match builder.enable_all().build() {
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
