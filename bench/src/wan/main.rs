//! Objects fetched from another site over an emulated long wire: our endpoints, directly and through the relay, beside
//! Python's endpoints, Redis through an SSH tunnel, and bare TCP.
//!
//! Everybody takes turns on the same wire in the same run, so that a machine that becomes slower meanwhile slows all;
//! figures are medians. Run with `scripts/bench wan`; needs root, for network namespaces.

mod client;
mod contestant;
mod http;
mod redis;
mod report;
mod tcp;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use proxystore_endpoint::transport::tls::install_provider;
use proxystore_tests::net;

use contestant::Contestant;
use report::{Row, Table};
use world::{Setting, World};

/// Bytes of an object; the last is the largest that endpoints take unless they are told otherwise.
const SIZES: [usize; 5] = [1_000, 64_000, 1_000_000, 10_000_000, 100_000_000];

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

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
    /// Leaves out the endpoints that may use nothing but the relay.
    #[arg(long)]
    no_relayed: bool,
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
    for len in SIZES {
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
    let mut contestants: Vec<Box<dyn Contestant>> = vec![Box::new(tcp::Tcp::start(world)?)];
    contestants.push(Box::new(http::Endpoints::direct(world)?));
    if !arguments.no_relayed {
        contestants.push(Box::new(http::Endpoints::relayed(world)?));
    }
    match redis::Redis::start(world)? {
        Some(redis) => contestants.push(Box::new(redis)),
        None => eprintln!("SKIPPED: Redis through SSH: redis-server, sshd or ssh is not installed"),
    }
    if let Some(python) = &arguments.python {
        contestants.push(Box::new(http::Endpoints::python(world, python)?));
    }
    Ok(contestants)
}

/// Several rounds, in each of which every contestant fetches one object. A contestant other than ours that cannot is
/// left out, and said so.
fn take_turns(setting: Setting, contestants: &[Box<dyn Contestant>], len: usize) -> Result<Vec<Row>> {
    let mut runners: Vec<(&dyn Contestant, Vec<Duration>)> = Vec::new();
    for contestant in contestants {
        // The first opens connections, and is not counted.
        let ready = contestant.put(len).and_then(|()| contestant.fetch(SIZES[0].min(len)));
        if still_there(contestant.as_ref(), len, ready)? {
            runners.push((contestant.as_ref(), Vec::new()));
        }
    }
    for _ in 0..ROUNDS {
        let mut left = Vec::new();
        for (contestant, mut times) in runners {
            if times.iter().sum::<Duration>() < BUDGET {
                let start = Instant::now();
                if !still_there(contestant, len, contestant.fetch(len))? {
                    continue;
                }
                times.push(start.elapsed());
            }
            left.push((contestant, times));
        }
        runners = left;
    }
    Ok(runners
        .into_iter()
        .map(|(contestant, times)| Row::new(setting, contestant.name(), len, times))
        .collect())
}

/// Whether a contestant did what it was asked. If ours did not, there is nothing to compare.
fn still_there(contestant: &dyn Contestant, len: usize, outcome: Result<()>) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if contestant.is_peer() => {
            eprintln!("SKIPPED: {}, {len} bytes: {error:#}", contestant.name());
            Ok(false)
        }
        Err(error) => Err(error.context(format!("{}, {len} bytes", contestant.name()))),
    }
}
