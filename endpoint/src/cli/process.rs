//! Processes and the file that names the endpoint's.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The process id in the file at `path`; none if there is no file, or it holds something else.
pub fn read_pid(path: &Path) -> Option<Pid> {
    parse_pid(&fs::read_to_string(path).ok()?)
}

/// Zero and negative numbers would name process groups to `kill`.
fn parse_pid(text: &str) -> Option<Pid> {
    text.trim().parse().ok().filter(|pid: &i32| *pid > 0).map(Pid::from_raw)
}

/// Whether the process runs. One that ended and was not yet waited for does not.
pub fn is_alive(pid: Pid) -> bool {
    match kill(pid, None) {
        Ok(()) | Err(Errno::EPERM) => !is_zombie(pid),
        Err(_) => false,
    }
}

/// The state is the letter after the last parenthesis (proc_pid_stat(5)).
fn is_zombie(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(')').map(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// The process's command line, where the system tells.
pub fn command_line(pid: Pid) -> Option<Vec<String>> {
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words = words.strip_suffix(b"\0").unwrap_or(&words);
    Some(words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect())
}

/// Whether a command line is that of an endpoint called `name`: this program's, or Python's, which has its
/// interpreter in front.
pub fn runs_endpoint(words: &[String], name: &str, this_program: Option<&str>) -> bool {
    let is_program = |word: &String| {
        let file = word.rsplit('/').next().unwrap_or(word);
        file == "endpoint" || file == "proxystore-endpoint" || Some(file) == this_program
    };
    let Some(program) = words.iter().take(2).position(is_program) else { return false };
    let mut rest = words[program + 1..].iter();
    rest.any(|word| word == "start") && rest.any(|word| word == name)
}

/// The running endpoint's claim to its folder: a file with its process id, removed at the end.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// Writes this process's id to `path`; fails if the file exists.
    pub fn claim(path: PathBuf) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all(Pid::this().to_string().as_bytes())?;
        Ok(Self { path })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read_pid(&self.path) == Some(Pid::this())
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_endpoint_is_known_by_its_command_line() {
        for line in [
            "endpoint start a",
            "/usr/bin/endpoint --log-level INFO start a --no-detach --daemon",
            "endpoint start --no-detach a",
            "/usr/bin/python3 /venv/bin/proxystore-endpoint start a",
            "/opt/my-endpoint start a",
        ] {
            assert!(runs_endpoint(&words(line), "a", Some("my-endpoint")), "{line}");
        }
        for line in
            ["", "bash", "endpoint start b", "endpoint stop a", "vim endpoint a", "cat x endpoint start a"]
        {
            assert!(!runs_endpoint(&words(line), "a", Some("my-endpoint")), "{line}");
        }
    }

    #[test]
    fn only_a_positive_number_is_a_process() {
        assert_eq!(parse_pid("12\n"), Some(Pid::from_raw(12)));
        for text in ["", "0", "-1", "12 13", "x", "99999999999"] {
            assert_eq!(parse_pid(text), None, "{text}");
        }
    }

    #[test]
    fn a_claim_is_exclusive_and_ends_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.pid");
        let claim = PidFile::claim(path.clone()).unwrap();
        assert_eq!(read_pid(&path), Some(Pid::this()));
        assert!(PidFile::claim(path.clone()).is_err());
        drop(claim);
        assert!(!path.exists());
    }

    #[test]
    fn a_claim_of_somebody_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.pid");
        let claim = PidFile::claim(path.clone()).unwrap();
        fs::write(&path, "1").unwrap();
        drop(claim);
        assert!(path.exists());
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(Pid::this()));
        assert!(!is_alive(Pid::from_raw(i32::MAX)));
    }
}
