//! A whole command, from its start to its end, that fetches one file from another program on loopback: `endpoint get`
//! beside `sendme receive`.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, median};
use proxystore_bench::load::{Connection, Request};
use proxystore_bench::programs::{Relay, Site};
use tempfile::TempDir;

use crate::{LARGE, milliseconds};

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

/// What is said of sendme's command.
const BAR: f64 = 2.0;

/// Measures both; without a `sendme`, ours alone.
pub async fn measure(sendme: Option<&Path>, relay: &Relay, figures: &mut Figures) -> Result<()> {
    let object = proxystore_tests::noise(LARGE, 1);
    let ours = Ours::start(relay, object.clone()).await?;
    let sendme = sendme.map(|program| Sendme::start(program, &object)).transpose()?;
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        own.push(timed(|folder| ours.command(folder))?.as_secs_f64());
        if let Some(sendme) = &sendme {
            other.push(timed(|folder| sendme.command(folder))?.as_secs_f64());
        }
    }
    let what = "whole command: peer get";
    figures.add(milliseconds(what, LARGE, OURS, median(own)));
    match sendme {
        Some(_) => {
            let figure = milliseconds(what, LARGE, "sendme", median(other));
            figures.add(Figure { bar: Some(Bar::Times(BAR)), ..figure });
        }
        None => eprintln!("SKIPPED: sendme: it is not installed"),
    }
    Ok(())
}

/// How long the command takes that fetches the file into an empty folder.
fn timed(command: impl FnOnce(&Path) -> Command) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let mut command = command(folder.path());
    let start = Instant::now();
    let output = command.current_dir(folder.path()).stdin(Stdio::null()).output()?;
    let time = start.elapsed();
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let len = fs::read_dir(folder.path())?
        .filter_map(|entry| entry.ok()?.metadata().ok())
        .filter(|file| file.is_file())
        .map(|file| file.len())
        .sum::<u64>();
    ensure!(len == LARGE as u64, "{command:?} fetched {len} bytes");
    Ok(time)
}

/// Two endpoints that have a session, and an object at the far one.
struct Ours {
    near: Site,
    far: Site,
}

impl Ours {
    async fn start(relay: &Relay, object: Bytes) -> Result<Self> {
        let (near, far) = (Site::ours(Some(relay))?, Site::ours(Some(relay))?);
        Connection::open(far.port).await?.exchange(&Request::http("POST", "/set?key=file", object)).await?;
        let small = Request::http("GET", &format!("/exists?key=file&endpoint={}", far.id), Bytes::new());
        Connection::open(near.port).await?.meet(&small).await?;
        Ok(Self { near, far })
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = self.near.command();
        command.args(["get", "bench", &format!("file@{}", self.far.id), "--output"]);
        command.arg(folder.join("file"));
        command
    }
}

/// `sendme send` of a file, which goes on until it is killed.
struct Sendme {
    program: PathBuf,
    ticket: String,
    sender: Child,
    _folder: TempDir,
}

/// Nothing but loopback: sendme would ask its makers' relays for other ways.
const NO_RELAY: [&str; 2] = ["--relay", "disabled"];

impl Sendme {
    fn start(program: &Path, object: &[u8]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("file"), object)?;
        let mut command = Command::new(program);
        command.arg("send").args(NO_RELAY).arg("file").current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut sender = command.spawn().with_context(|| format!("{command:?}"))?;
        let output = sender.stdout.take().context("its output is piped")?;
        let ticket = BufReader::new(output).lines().find_map(|line| {
            let line = line.ok()?;
            line.trim().strip_prefix("sendme receive ").map(str::to_owned)
        });
        let ticket = ticket.context("sendme printed no ticket")?;
        Ok(Self { program: program.to_owned(), ticket, sender, _folder: folder })
    }

    fn command(&self, _folder: &Path) -> Command {
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
