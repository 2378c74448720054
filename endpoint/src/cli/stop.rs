//! `stop` and `remove`.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::lifecycle::{Evidence, Process};
use super::output::{Failure, Printer};
use super::place::Place;
use super::process::{is_alive, read_pid};

/// For an endpoint to finish what it does and close its sessions.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// For the system to end a process that was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Between looks at the process.
const POLL: Duration = Duration::from_millis(20);

/// Runs `stop`.
pub async fn stop(name: &str, printer: Printer) -> Result<(), Failure> {
    let place = Place::existing(name)?;
    // A configuration that was spoilt while the endpoint runs must not keep it running.
    let config = place.config().ok();
    let evidence = Evidence::gather(&place, config.as_ref()).await;
    let pid = match evidence.process {
        Process::NoFile => return not_running(name, printer),
        Process::Endpoint(pid) => pid,
        Process::Untold(pid) if evidence.answers => pid,
        Process::Gone | Process::Untold(_) | Process::Other(_) if evidence.answers => {
            return Err(elsewhere(&place));
        }
        Process::Gone | Process::Untold(_) | Process::Other(_) => {
            remove_pid_file(&place, None)?;
            return not_running(name, printer);
        }
    };
    let killed = end(pid).await?;
    remove_pid_file(&place, Some(pid))?;
    if killed {
        printer
            .warn(&format!("the endpoint did not stop within {} s and was killed", STOP_TIMEOUT.as_secs()));
    }
    printer.result(&json!({ "name": name, "stopped": true }), &format!("Endpoint {name} has been stopped."))
}

fn not_running(name: &str, printer: Printer) -> Result<(), Failure> {
    printer.result(&json!({ "name": name, "stopped": false }), &format!("Endpoint {name} is not running."))
}

fn elsewhere(place: &Place) -> Failure {
    Failure::new(format!(
        "endpoint {} answers, but {} does not name its process on this host",
        place.name,
        place.pid_path().display()
    ))
    .hint("stop it on the host where it was started")
}

/// Ends the process; tells whether it had to be killed.
async fn end(pid: Pid) -> Result<bool, Failure> {
    send(pid, Signal::SIGTERM)?;
    if gone_within(pid, STOP_TIMEOUT).await {
        return Ok(false);
    }
    send(pid, Signal::SIGKILL)?;
    match gone_within(pid, KILL_TIMEOUT).await {
        true => Ok(true),
        false => Err(Failure::new(format!("process {pid} does not end, even when killed"))
            .hint("it probably waits for a disk or a network file system")),
    }
}

fn send(pid: Pid, signal: Signal) -> Result<(), Failure> {
    match kill(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(Failure::new(format!("cannot stop process {pid}: {error}"))
            .hint("the endpoint was probably started by another user")),
    }
}

async fn gone_within(pid: Pid, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while is_alive(pid) {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Removes the file if it still names `pid`, or in any case without one.
fn remove_pid_file(place: &Place, pid: Option<Pid>) -> Result<(), Failure> {
    let path = place.pid_path();
    if pid.is_some() && read_pid(&path) != pid {
        return Ok(());
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Runs `remove`.
pub fn remove(name: &str, printer: Printer) -> Result<(), Failure> {
    let place = Place::existing(name)?;
    if !place.config_path().exists() {
        return Err(Failure::new(format!(
            "{} is not an endpoint's folder: it has no config.toml",
            place.dir.display()
        )));
    }
    if place.pid_path().exists() {
        return Err(Failure::new("an endpoint must be stopped before it is removed")
            .hint(format!("`endpoint stop {name}`, then try again")));
    }
    fs::remove_dir_all(&place.dir).map_err(Failure::io(format!("remove {}", place.dir.display())))?;
    printer.result(&json!({ "name": name, "removed": true }), &format!("Removed endpoint named {name}."))
}
