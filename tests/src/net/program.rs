//! A program of ours, or another's, that runs in a namespace.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::namespace::Namespace;

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: PathBuf,
    _namespace: Arc<Namespace>,
}

impl Program {
    /// Starts `program` in `namespace`, with nothing of this process's environment but the search path. What it
    /// prints is added to the file `log`.
    pub fn start(
        namespace: &Arc<Namespace>,
        program: &Path,
        log: &Path,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = namespace.command(program);
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        configure(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child, log: log.to_owned(), _namespace: namespace.clone() })
    }

    /// What it printed, for people who look for the cause of a failure.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    /// Stops it as a laptop does that sleeps.
    pub fn pause(&self) -> Result<()> {
        Ok(signal::kill(self.pid()?, Signal::SIGSTOP)?)
    }

    /// Wakes it up again.
    pub fn resume(&self) -> Result<()> {
        Ok(signal::kill(self.pid()?, Signal::SIGCONT)?)
    }

    /// Its open files, sockets among them.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()?))?.count())
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.child.id().try_into()?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
