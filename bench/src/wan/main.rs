//! Objects fetched from another site over an emulated long wire: our endpoints, directly and through the relay, beside
//! Python's endpoints, Redis through an SSH tunnel, and bare TCP; and a whole command beside sendme's.
//!
//! Everybody takes turns on the same wire in the same run, so that a machine that becomes slower meanwhile slows all;
//! figures are medians. Run with `scripts/bench wan`; needs root, for network namespaces.

mod client;
mod command;
mod contestant;
mod http;
mod redis;
mod report;
mod tcp;
mod who;
mod world;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum as _};
use proxystore_endpoint::transport::tls::install_provider;
use proxystore_tests::net;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use contestant::Contestant;
use report::{Row, Table};
use who::Who;
use world::{Setting, World};

/// Bytes of an object; the last is the largest that endpoints take unless they are told otherwise.
const SIZES: [usize; 5] = [1_000, 64_000, 1_000_000, 10_000_000, 100_000_000];

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

/// The same for an object of up to [`SMALL`] bytes, whose time is that of waking programs, which scatters.
const SMALL_ROUNDS: usize = 41;

/// See [`SMALL_ROUNDS`].
const SMALL: usize = 64_000;

/// A contestant that has spent this much on a size skips its further rounds: Python takes minutes for 100 MB.
const BUDGET: Duration = Duration::from_secs(15);

#[derive(Debug, Parser)]
#[command(about = "Objects fetched from another site over an emulated long wire")]
struct Arguments {
    /// A Python with ProxyStore 1.1 installed; without it there are no figures of Python.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where to write the table as CSV too.
    #[arg(long)]
    csv: Option<PathBuf>,
    /// One wire instead of all: Mbit/s, milliseconds of round trip, share of packets lost.
    #[arg(long, num_args = 3, value_names = ["RATE", "ROUND_TRIP", "LOSS"])]
    wire: Option<Vec<f64>>,
    /// The program `sendme`; without it there are no figures of it.
    #[arg(long)]
    sendme: Option<PathBuf>,
    /// Bytes of an object.
    #[arg(long, value_delimiter = ',', default_values_t = SIZES)]
    sizes: Vec<usize>,
    /// Who takes part.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Who::value_variants().to_vec())]
    only: Vec<Who>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !net::possible() {
        return Ok(());
    }
    // The HTTP client asks for a TLS provider even though the endpoints are on plain HTTP.
    install_provider();
    let settings = match arguments.wire.as_deref() {
        Some(&[rate, round_trip, loss]) => vec![Setting { rate, round_trip, loss }],
        _ => Setting::ALL.to_vec(),
    };
    let mut table = Table::default();
    for setting in settings {
        measure(setting, &arguments, &mut table).with_context(|| format!("{setting}"))?;
    }
    table.print();
    if let Some(path) = &arguments.csv {
        table.write_csv(path)?;
    }
    Ok(())
}

fn measure(setting: Setting, arguments: &Arguments, table: &mut Table) -> Result<()> {
    let world = World::start(setting)?;
    let contestants = contestants(&world, arguments)?;
    for &len in &arguments.sizes {
        for row in take_turns(setting, &contestants, len)? {
            eprintln!("{row}");
            table.add(row);
        }
    }
    drop(contestants);
    eprintln!("{}", world.end()?);
    Ok(())
}

fn contestants(world: &World, arguments: &Arguments) -> Result<Vec<Box<dyn Contestant>>> {
    let (python, sendme) = (arguments.python.as_deref(), arguments.sendme.as_deref());
    let started = arguments.only.iter().map(|who| who.start(world, python, sendme));
    started.filter_map(Result::transpose).collect()
}

/// Several rounds, in each of which every contestant fetches one object, in an order of the round's own: who comes after
/// Python finds nothing of itself in the processor's caches. A contestant other than ours that cannot is left out, and
/// said so.
fn take_turns(setting: Setting, contestants: &[Box<dyn Contestant>], len: usize) -> Result<Vec<Row>> {
    let mut runners: Vec<(&dyn Contestant, Vec<Duration>)> = Vec::new();
    for contestant in contestants.iter().filter(|contestant| len >= contestant.least_len()) {
        let put = |len| contestant.put(len);
        let ready = put(SIZES[0]).and_then(|()| put(len)).and_then(|()| contestant.warm_up());
        if still_there(contestant.as_ref(), len, ready)?.is_some() {
            runners.push((contestant.as_ref(), Vec::new()));
        }
    }
    let mut random = StdRng::seed_from_u64(len as u64);
    for _ in 0..if len <= SMALL { SMALL_ROUNDS } else { ROUNDS } {
        runners.shuffle(&mut random);
        let mut left = Vec::new();
        for (contestant, mut times) in runners {
            if times.iter().sum::<Duration>() < BUDGET {
                match still_there(contestant, len, contestant.timed_fetch(len))? {
                    Some(time) => times.push(time),
                    None => continue,
                }
            }
            left.push((contestant, times));
        }
        runners = left;
    }
    runners.sort_by_key(|(contestant, _)| {
        contestants.iter().position(|other| other.name() == contestant.name())
    });
    Ok(runners.into_iter().map(|(contestant, times)| Row::new(setting, contestant, len, times)).collect())
}

/// What came of what a contestant was asked; nothing if it cannot. If ours cannot, there is nothing to compare.
fn still_there<T>(contestant: &dyn Contestant, len: usize, outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) if contestant.is_peer() => {
            eprintln!("SKIPPED: {}, {len} bytes: {error:#}", contestant.name());
            Ok(None)
        }
        Err(error) => Err(error.context(format!("{}, {len} bytes", contestant.name()))),
    }
}
