//! The background process: this program again, in its own session, with its log for standard error.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use proxystore_shared::config::endpoint::EndpointConfig;
use serde_json::json;

use super::args::LogLevel;
use super::lifecycle::answers;
use super::output::{Failure, Printer};
use super::place::{Place, http_address};

/// From the start of the process until it answers; reading the index of a large store takes longest.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Between looks at the new process.
const POLL: Duration = Duration::from_millis(50);

/// Lines of the log that explain a failed start.
const SHOWN_LINES: usize = 12;

/// Most of the log that is looked at for them.
const SHOWN_BYTES: u64 = 16 << 10;

/// Leaves the terminal's session, so that closing the terminal does not end the endpoint.
pub fn detach() -> Result<(), Failure> {
    setsid().map(drop).map_err(|error| Failure::new(format!("cannot leave the session: {error}")))
}

/// Starts the process and waits until it answers.
pub async fn start(
    place: &Place,
    config: &EndpointConfig,
    log_level: LogLevel,
    printer: Printer,
) -> Result<(), Failure> {
    let log = place.log_path();
    let log_start = fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let mut child = spawn(place, log_level)?;
    let deadline = Instant::now() + START_TIMEOUT;
    while !answers(config).await {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(died(&format!("the endpoint ended at once ({status})"), &log, log_start));
        }
        if Instant::now() > deadline {
            end(&mut child);
            let what =
                format!("the endpoint did not answer within {} s and was stopped", START_TIMEOUT.as_secs());
            return Err(died(&what, &log, log_start));
        }
        tokio::time::sleep(POLL).await;
    }
    let address = http_address(config).unwrap_or_default();
    let text = format!(
        "Started endpoint: {} <{}>\nAddress: {address}\nLogs are written to {}",
        config.name,
        config.uuid,
        log.display()
    );
    let value = json!({ "name": config.name, "uuid": config.uuid, "address": address, "pid": child.id(), "log": log });
    printer.result(&value, &text)
}

fn spawn(place: &Place, log_level: LogLevel) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .open(place.log_path())
        .map_err(Failure::io(format!("open {}", place.log_path().display())))?;
    Command::new(program)
        .args(["--log-level", log_level.name(), "start", &place.name, "--no-detach", "--daemon"])
        .env("PROXYSTORE_HOME", place.home())
        .current_dir(&place.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(Failure::io("start the background process"))
}

/// Asks, and then does not ask. The process is ours, so the number cannot mean another.
fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    std::thread::sleep(Duration::from_secs(1));
    if !matches!(child.try_wait(), Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn died(what: &str, log: &Path, log_start: u64) -> Failure {
    let lines = last_lines(log, log_start);
    let failure = match lines.is_empty() {
        true => Failure::new(what),
        false => Failure::new(format!("{what}; its last words:\n{lines}")),
    };
    failure.hint(format!("the whole log is {}", log.display()))
}

/// The end of what was logged since `start`.
fn last_lines(log: &Path, start: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let start = start.max(file.metadata()?.len().saturating_sub(SHOWN_BYTES));
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_starts_lines_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log.txt");
        fs::write(&log, "old\nnew 1\nnew 2\n").unwrap();
        assert_eq!(last_lines(&log, 4), "  new 1\n  new 2");
        assert_eq!(last_lines(&log, 16), "");
        assert_eq!(last_lines(&dir.path().join("none"), 0), "");
    }
}
