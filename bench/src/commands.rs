//! Whole commands, from their start to their end, that fetch one file from another program: `endpoint get` and
//! `sendme receive`. They run in the network of the thread that starts them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// How long the command takes that fetches a file of `len` bytes into an empty folder.
pub fn timed(len: usize, command: impl FnOnce(&Path) -> Command) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let mut command = command(folder.path());
    let start = Instant::now();
    let output = command.current_dir(folder.path()).stdin(Stdio::null()).output()?;
    let time = start.elapsed();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let fetched = fs::read_dir(folder.path())?
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(|file| file.is_file())
        .map(|file| file.len())
        .sum::<u64>();
    ensure!(fetched == len as u64, "{command:?} fetched {fetched} bytes");
    Ok(time)
}

/// Makes a command of `endpoint` one that fetches the object `key` of the endpoint `peer` through the one that has the
/// name "bench".
pub fn get(mut endpoint: Command, key: &str, peer: &str, folder: &Path) -> Command {
    endpoint.args(["get", "bench", &format!("{key}@{peer}"), "--output"]).arg(folder.join("file"));
    endpoint
}

/// `sendme send` of a file, which goes on until it is killed.
pub struct Sendme {
    program: PathBuf,
    ticket: String,
    sender: Child,
    _folder: TempDir,
}

/// Nothing but the direct way: sendme would ask its makers' relays for others.
const NO_RELAY: [&str; 2] = ["--relay", "disabled"];

impl Sendme {
    /// Sends `object`; ready when this returns.
    pub fn start(program: &Path, object: &[u8]) -> Result<Self> {
        // It is started in other folders than this process.
        let program = fs::canonicalize(program).with_context(|| program.display().to_string())?;
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("file"), object)?;
        let mut command = Command::new(&program);
        command.arg("send").args(NO_RELAY).arg("file").current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut sender = command.spawn().with_context(|| format!("{command:?}"))?;
        let output = sender.stdout.take().context("its output is piped")?;
        let ticket = BufReader::new(output).lines().find_map(|line| {
            let line = line.ok()?;
            line.trim().strip_prefix("sendme receive ").map(str::to_owned)
        });
        let ticket = ticket.context("sendme printed no ticket")?;
        Ok(Self { program, ticket, sender, _folder: folder })
    }

    /// The command that fetches the object into the folder that it runs in.
    pub fn receive(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("receive").args(NO_RELAY).arg(&self.ticket);
        command
    }
}

impl Drop for Sendme {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.sender.kill();
        let _ = self.sender.wait();
    }
}
