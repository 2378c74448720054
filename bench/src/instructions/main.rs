//! How many instructions the operations of the hot paths take, counted by callgrind: the figure that hardly depends on
//! the machine, or on what else it does. It is compared with the counts kept in the repository, so that a change shows.
//!
//! The program runs itself under valgrind, once with no repetitions and once with many: the difference is the
//! operation's. Run with `scripts/bench instructions`.

mod operations;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use operations::OPERATIONS;

/// A change that is said, in per cent. Maps and allocators differ by less from run to run.
const NOTABLE: f64 = 2.0;

#[derive(Debug, Parser)]
#[command(about = "How many instructions the operations of the hot paths take")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Does one operation; what valgrind runs.
    Run {
        /// Which.
        name: String,
        /// How often.
        times: usize,
    },
    /// Counts all, and says what has changed.
    Compare {
        /// The counts that are kept.
        counts: PathBuf,
        /// Keeps the new ones in their place.
        #[arg(long)]
        write: bool,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Task::Run { name, times } => operations::run(&name, times),
        Task::Compare { counts, write } => compare(&counts, write),
    }
}

fn compare(path: &Path, write: bool) -> Result<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED: instruction counts: valgrind is not installed");
        return Ok(());
    }
    let kept = read(path)?;
    let mut csv = String::from("operation,instructions\n");
    let mut changed = 0;
    for (name, times) in OPERATIONS {
        let count = count(name, times)?.saturating_sub(count(name, 0)?) / times as u64;
        writeln!(csv, "{name},{count}")?;
        let change = kept.get(name).map(|kept| 100.0 * (count as f64 / *kept as f64 - 1.0));
        let remark = match change {
            Some(change) if change.abs() > NOTABLE => {
                changed += 1;
                format!("{change:+.1} %")
            }
            Some(_) => String::new(),
            None => "new".to_owned(),
        };
        println!("{name:20} {count:>10} {remark}");
    }
    println!("{changed} of {} changed by more than {NOTABLE} %", OPERATIONS.len());
    if write {
        fs::write(path, csv)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let counts = text.lines().skip(1).map(|line| {
        let (name, count) = line.split_once(',').context("a line is a name and a count")?;
        Ok((name.to_owned(), count.parse()?))
    });
    counts.collect()
}

/// Instructions of a whole run.
fn count(name: &str, times: usize) -> Result<u64> {
    let folder = tempfile::tempdir()?;
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", folder.path().join("out").display()))
        .arg(env::current_exe()?)
        .args(["run", name, &times.to_string()])
        .output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {report}");
    let line = report.lines().find_map(|line| line.split_once("Collected : "));
    Ok(line.context("callgrind reports no count")?.1.trim().parse()?)
}
