//! What is left for people: a table of what was measured, and the logs of what failed.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_tests::net::PathKind;
use proxystore_tests::process::built;

/// One pair of sites.
pub struct Measured {
    pub a: &'static str,
    pub b: &'static str,
    pub path: PathKind,
    /// Of the first object fetched, which needs a session.
    pub first_byte: Duration,
    /// From the first request on.
    pub direct_after: Option<Duration>,
    /// For the large object, in megabytes a second.
    pub throughput: f64,
}

/// Writes the table to `networks.md` in the target folder.
pub fn write(measured: &[Measured]) -> Result<()> {
    let mut table = String::from(
        "| A | B | path | first byte, ms | direct after, ms | 20 MB, MB/s |\n|---|---|---|--:|--:|--:|\n",
    );
    for Measured { a, b, path, first_byte, direct_after, throughput } in measured {
        let path = if *path == PathKind::Direct { "direct" } else { "relayed" };
        let direct = direct_after.map_or("–".into(), |time| time.as_millis().to_string());
        writeln!(table, "| {a} | {b} | {path} | {} | {direct} | {throughput:.0} |", first_byte.as_millis())?;
    }
    Ok(fs::write(target()?.join("networks.md"), table)?)
}

/// Keeps logs in the folder `networks` of the target folder, and says so.
pub fn keep_logs(name: &str, logs: &str) -> Result<()> {
    let folder = target()?.join("networks");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}.log", name.replace([' ', ','], "-")));
    fs::write(&path, logs)?;
    eprintln!("logs: {}", path.display());
    Ok(())
}

fn target() -> Result<PathBuf> {
    Ok(built()?.parent().context("programs lie in target/*")?.to_owned())
}
