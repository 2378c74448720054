//! Whether an endpoint runs: the evidence, and what follows from it.

use std::fmt;
use std::time::Duration;

use nix::unistd::Pid;
use proxystore_shared::config::endpoint::EndpointConfig;
use serde::Serialize;

use super::client::Client;
use super::place::{Place, http_address};
use super::process::{command_line, is_alive, read_pid, runs_endpoint};

/// A local endpoint answers in milliseconds; one that does not in this time counts as silent.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What `list` shows, in Python's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It runs on this host.
    Running,
    /// It does not run.
    Stopped,
    /// Its configuration is missing or wrong.
    Unknown,
    /// It left a process id file and does not run on this host: it was killed, or runs on another.
    Hanging,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Unknown => "UNKNOWN",
            Self::Hanging => "HANGING",
        })
    }
}

/// The process that the process id file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// There is no such file.
    NoFile,
    /// The file names no process of this host.
    Gone,
    /// An endpoint of this name.
    Endpoint(Pid),
    /// This system does not tell what the process is.
    Untold(Pid),
    /// Some other program: the system gave the number away again.
    Other(Pid),
}

/// What is known about an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Whether there is a configuration that makes sense.
    pub is_configured: bool,
    /// Whose process the file names.
    pub process: Process,
    /// Whether the configured address answers with the endpoint's id.
    pub answers: bool,
}

impl Evidence {
    /// What follows.
    pub fn status(&self) -> Status {
        match self.process {
            _ if !self.is_configured => Status::Unknown,
            Process::NoFile => Status::Stopped,
            Process::Endpoint(_) => Status::Running,
            Process::Untold(_) | Process::Other(_) if self.answers => Status::Running,
            Process::Untold(_) | Process::Other(_) | Process::Gone => Status::Hanging,
        }
    }

    /// Gathers what there is to know; asks over HTTP only where the process does not settle it.
    pub async fn gather(place: &Place, config: Option<&EndpointConfig>) -> Self {
        let process = find_process(place);
        let answers = match (process, config) {
            (Process::Gone | Process::Untold(_) | Process::Other(_), Some(config)) => answers(config).await,
            _ => false,
        };
        Self { is_configured: config.is_some(), process, answers }
    }
}

fn find_process(place: &Place) -> Process {
    let path = place.pid_path();
    if !path.exists() {
        return Process::NoFile;
    }
    // In a container that was killed and started again the file may well name this very process.
    let left_over = |pid: &Pid| !is_alive(*pid) || *pid == Pid::this();
    let Some(pid) = read_pid(&path).filter(|pid| !left_over(pid)) else { return Process::Gone };
    let this_program = std::env::current_exe().ok();
    let this_program = this_program.as_deref().and_then(|path| path.file_name()?.to_str());
    match command_line(pid) {
        None => Process::Untold(pid),
        Some(words) if runs_endpoint(&words, &place.name, this_program) => Process::Endpoint(pid),
        Some(_) => Process::Other(pid),
    }
}

/// Whether the configured address answers with the endpoint's id.
pub async fn answers(config: &EndpointConfig) -> bool {
    let Some(client) = http_address(config).and_then(|address| Client::new(&address).ok()) else {
        return false;
    };
    match tokio::time::timeout(PROBE_TIMEOUT, client.endpoint_id()).await {
        Ok(Ok(id)) => id == config.uuid,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_follows_from_the_evidence() {
        let pid = Pid::from_raw(7);
        let status = |is_configured, process, answers| Evidence { is_configured, process, answers }.status();
        for (process, silent, answering) in [
            (Process::NoFile, Status::Stopped, Status::Stopped),
            (Process::Gone, Status::Hanging, Status::Hanging),
            (Process::Endpoint(pid), Status::Running, Status::Running),
            (Process::Untold(pid), Status::Hanging, Status::Running),
            (Process::Other(pid), Status::Hanging, Status::Running),
        ] {
            assert_eq!(status(true, process, false), silent, "{process:?}");
            assert_eq!(status(true, process, true), answering, "{process:?}");
            assert_eq!(status(false, process, true), Status::Unknown, "{process:?}");
        }
    }
}
