//! Objects set and got on loopback, locally and at a peer: our endpoints beside Python's, and beside what they are made
//! of: a bare HTTP server, and a bare QUIC round trip; and a whole command beside sendme's.
//!
//! Everybody takes turns in the same run, so that a machine that becomes slower meanwhile slows all; figures are
//! medians. Run with `scripts/bench loopback`.

mod commands;
mod contestant;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, Unit, median};
use proxystore_bench::options::Options;
use proxystore_bench::programs::Relay;
use proxystore_bench::quic;
use proxystore_endpoint::identity::Identity;

use contestant::{Contestant, Operation};

/// Bytes of an object, and how often it is set or got in a round.
const SIZES: [(usize, u32); 6] =
    [(SMALL, 200), (64_000, 100), (1_000_000, 20), (10_000_000, 4), (LARGE, 1), (1_000_000_000, 1)];

/// Repetitions by which the system has found a processor for each process. With a tenth of them a peer get took 1.16 to
/// 1.51 times as long as its parts, from run to run; with these 1.26 to 1.34 times.
const SETTLED: u32 = 2000;

/// The size whose time is all overhead.
const SMALL: usize = 1_000;

/// The size whose time is all throughput.
const LARGE: usize = 100_000_000;

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 7;

/// A contestant that has spent this much on a row skips its further rounds, and one that is to need more than this for
/// one operation skips the row: Python needs a minute for a gigabyte from a peer.
const BUDGET: Duration = Duration::from_secs(20);

/// A peer get of 100 MB, over Python's.
const PEER_BAR: f64 = 25.0;

/// A local set or get of 100 MB, over a bare server's.
const LOCAL_BAR: f64 = 0.6;

/// A peer get of 1 KB takes at most 1.3 times as long as a bare QUIC round trip and a local get.
const ROUND_TRIP_BAR: f64 = 1.0 / 1.3;

#[derive(Debug, Parser)]
#[command(about = "Objects set and got on loopback, locally and at a peer")]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// The program `sendme`; without it there are no figures of it.
    #[arg(long)]
    sendme: Option<PathBuf>,
}

/// A contestant in one row: its times, and what it would need for the next size.
struct Runner {
    contestant: Contestant,
    times: Vec<f64>,
    /// Seconds a byte, as measured last; per operation.
    pace: [f64; Operation::ALL.len()],
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let relay = Relay::ours()?;
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key");
    Identity::create(&key)?;
    let mut contestants = vec![Contestant::ours(&relay).await?];
    let (bare, port) = Contestant::bare(&key).await?;
    contestants.push(bare);
    if let Some(python) = &arguments.options.python {
        contestants.push(Contestant::python(python, &relay).await?);
        contestants.push(Contestant::ours_and_python(python, &relay).await?);
        contestants.push(Contestant::python_and_ours(python, &relay).await?);
    }
    let mut figures = Figures::default();
    round_trips(&mut contestants[0], &key, port, &mut figures).await?;
    let mut runners: Vec<Runner> = contestants.into_iter().map(Runner::new).collect();
    for (len, times) in SIZES {
        measure(&mut runners, len, times, &mut figures).await?;
    }
    // Their memory is wanted, and their idle sessions are not.
    drop(runners);
    commands::measure(arguments.sendme.as_deref(), &relay, &mut figures).await?;
    arguments.options.publish(&figures)
}

impl Runner {
    fn new(contestant: Contestant) -> Self {
        Self { contestant, times: Vec::new(), pace: [0.0; Operation::ALL.len()] }
    }

    fn is_within_budget(&self, operation: Operation, len: usize) -> bool {
        let expected = self.pace[operation as usize] * len as f64;
        self.times.iter().sum::<f64>() < BUDGET.as_secs_f64() && expected < BUDGET.as_secs_f64()
    }

    fn figure(&mut self, operation: Operation, len: usize) -> Option<Figure> {
        let seconds = median(std::mem::take(&mut self.times));
        if seconds.is_nan() {
            return None;
        }
        self.pace[operation as usize] = seconds / len as f64;
        let name = self.contestant.name;
        let mut figure = milliseconds(operation.name(), len, name, seconds);
        figure.bar = match (operation, name, len) {
            (Operation::PeerGet, "Python", LARGE) => Some(Bar::Times(PEER_BAR)),
            (Operation::LocalSet | Operation::LocalGet, "bare axum", LARGE) => Some(Bar::Times(LOCAL_BAR)),
            _ => None,
        };
        Some(figure)
    }
}

fn milliseconds(what: &str, bytes: usize, contestant: &str, seconds: f64) -> Figure {
    let (what, contestant, value) = (what.to_owned(), contestant.to_owned(), seconds * 1e3);
    Figure {
        what,
        bytes,
        connections: 1,
        contestant,
        value,
        unit: Unit::Milliseconds,
        client: None,
        bar: None,
    }
}

/// All operations with objects of one size.
async fn measure(runners: &mut [Runner], len: usize, times: u32, figures: &mut Figures) -> Result<()> {
    let object = proxystore_tests::noise(len, len as u64);
    for operation in Operation::ALL {
        take_turns(runners, operation, &object, times).await?;
        for runner in runners.iter_mut().filter(|runner| runner.contestant.can(operation)) {
            match runner.figure(operation, len) {
                Some(figure) => figures.add(figure),
                None => {
                    let name = runner.contestant.name;
                    eprintln!("SKIPPED: {}, {len} bytes: {name} would take too long", operation.name());
                }
            }
        }
    }
    for runner in runners {
        runner.contestant.evict(len).await?;
    }
    Ok(())
}

/// Several rounds, in each of which everybody does the same; the first is not counted.
async fn take_turns(runners: &mut [Runner], operation: Operation, object: &Bytes, times: u32) -> Result<()> {
    for round in 0..=ROUNDS {
        for runner in runners.iter_mut().filter(|runner| runner.contestant.can(operation)) {
            if runner.is_within_budget(operation, object.len()) {
                let time = runner.contestant.run(operation, object, times).await?.as_secs_f64();
                // What takes seconds needs no warming up.
                if round > 0 || time > 1.0 {
                    runner.times.push(time);
                }
            }
        }
    }
    Ok(())
}

/// A small get from a peer, beside the two things it cannot do without.
async fn round_trips(ours: &mut Contestant, key: &Path, port: u16, figures: &mut Figures) -> Result<()> {
    let quic = quic::Client::connect(key, port).await?;
    let (len, times) = (SMALL, SETTLED);
    let object = proxystore_tests::noise(len, len as u64);
    for operation in [Operation::LocalSet, Operation::PeerSet] {
        ours.run(operation, &object, 1).await?;
    }
    let (mut remote, mut local, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let start = Instant::now();
        for _ in 0..times {
            quic.round_trip(len).await?;
        }
        let quic_time = start.elapsed() / times;
        let local_time = ours.run(Operation::LocalGet, &object, times).await?;
        let remote_time = ours.run(Operation::PeerGet, &object, times).await?;
        if round > 0 {
            bare.push(quic_time.as_secs_f64());
            local.push(local_time.as_secs_f64());
            remote.push(remote_time.as_secs_f64());
        }
    }
    let (remote, local, bare) = (median(remote), median(local), median(bare));
    let what = "parts of a peer get";
    figures.add(milliseconds(what, len, OURS, remote));
    figures.add(milliseconds(what, len, "bare QUIC", bare));
    figures.add(milliseconds(what, len, "local get", local));
    let bar = Some(Bar::Times(ROUND_TRIP_BAR));
    figures.add(Figure { bar, ..milliseconds(what, len, "QUIC + local get", bare + local) });
    ours.evict(len).await
}
