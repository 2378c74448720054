//! A long wire: `wanem`, the emulator of rate, delay, loss, duplicates and disorder that benchmarks use as well.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::namespace::Namespace;
use crate::process::program;

/// The program at the wire; dropping it takes the wire away.
#[derive(Debug)]
pub struct Wire {
    program: Child,
}

impl Wire {
    /// Lays a wire with a device of that name at either end. `options` are those of `wanem`.
    pub fn lay(ends: [&Namespace; 2], device: &str, options: &[&str]) -> Result<Self> {
        let mut command = Command::new(program("wanem")?);
        command.args(ends.map(Namespace::name)).args(["--device", device]).args(options);
        // It ends when its input does, so also when this process does.
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(program.stdout.take().context("no standard output")?).read_line(&mut line)?;
        let wire = Self { program };
        ensure!(line == "ready\n", "{command:?} did not start");
        Ok(wire)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
