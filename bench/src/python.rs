//! The same operations with Python ProxyStore, against the same servers.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use serde::Deserialize;

use crate::places::Places;

/// One operation, as Python measured it.
#[derive(Debug, Clone, Deserialize)]
pub struct PythonTime {
    /// `file`, `redis`, `endpoint`.
    pub place: String,
    /// As in the table.
    pub operation: String,
    /// Bytes of an object.
    pub len: usize,
    /// The median.
    pub seconds: f64,
}

/// Runs `bench/stores.py`.
pub fn measure(python: &Path, places: &Places) -> Result<Vec<PythonTime>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/stores.py");
    let addresses = serde_json::to_string(&places.addresses)?;
    let output = Command::new(python)
        .args([script, &addresses])
        .env("PROXYSTORE_HOME", &places.addresses.home)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{script} failed");
    let lines = String::from_utf8(output.stdout)?;
    Ok(lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}
