//! Logs of the program: standard output, and `server.log` in the configured directory.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::Mutex;

use proxystore_shared::config::relay::RelayLogging;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, fmt};

/// Name of the file in `log_dir`, as Python's relay has it.
const FILE_NAME: &str = "server.log";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The directory or its file cannot be written.
    #[error("logging.log_dir: cannot write {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The process logs already.
    #[error("logging was set up before: {0}")]
    Twice(#[from] TryInitError),
}

/// Sends the process's logs where `config` wants them, from now on.
pub fn start(config: &RelayLogging) -> Result<(), LoggingError> {
    let file = open_file(config)?.map(|file| fmt::layer().with_ansi(false).with_writer(Mutex::new(file)));
    let output = fmt::layer().with_ansi(io::stdout().is_terminal()).with_writer(io::stdout);
    tracing_subscriber::registry().with(filter(config)).with(output).with(file).try_init()?;
    Ok(())
}

fn filter(config: &RelayLogging) -> EnvFilter {
    let (level, websockets) = (config.default_level.as_filter(), config.websockets_level.as_filter());
    EnvFilter::new(format!("{level},tungstenite={websockets},tokio_tungstenite={websockets}"))
}

fn open_file(config: &RelayLogging) -> Result<Option<File>, LoggingError> {
    let Some(directory) = &config.log_dir else { return Ok(None) };
    let path = directory.join(FILE_NAME);
    std::fs::create_dir_all(directory)
        .and_then(|()| OpenOptions::new().create(true).append(true).open(&path))
        .map(Some)
        .map_err(|source| LoggingError::File { path, source })
}

#[cfg(test)]
mod tests {
    use proxystore_shared::config::relay::LogLevel;

    use super::*;

    #[test]
    fn levels_become_a_filter() {
        let config = RelayLogging { default_level: LogLevel::Debug, ..RelayLogging::default() };
        let filter = filter(&config).to_string();
        assert!(filter.contains("debug") && filter.contains("tokio_tungstenite=warn"), "{filter}");
    }

    #[test]
    fn the_file_is_appended_to_and_a_bad_directory_is_named() {
        let directory = tempfile::tempdir().expect("creates");
        let log_dir = directory.path().join("a/b");
        let config = RelayLogging { log_dir: Some(log_dir.clone()), ..RelayLogging::default() };
        for line in ["1", "2"] {
            let mut file = open_file(&config).expect("opens").expect("configured");
            io::Write::write_all(&mut file, line.as_bytes()).expect("writes");
        }
        let path = log_dir.join(FILE_NAME);
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "12");
        let config = RelayLogging { log_dir: Some(path), ..RelayLogging::default() };
        assert!(open_file(&config).expect_err("a file is no directory").to_string().contains("server.log"));
    }
}
