//! What an endpoint takes that does nothing, and what a gigabyte takes in it; how soon it serves; how large the programs
//! are. Beside Python's. Run with `scripts/bench footprint`.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Parser;
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, Unit, median};
use proxystore_bench::load::{Connection, Request};
use proxystore_bench::options::Options;
use proxystore_bench::programs::{Relay, Site, product};

/// What is stored.
const STORED: usize = 1_000_000_000;

/// In pieces of this, which every endpoint takes.
const OBJECT: usize = 50_000_000;

/// After its start an endpoint registers and looks at its network; then it is idle.
const SETTLED: Duration = Duration::from_secs(3);

/// Enough for a median that one slow start does not move.
const STARTS: usize = 7;

/// KB of an idle endpoint.
const IDLE_BAR: f64 = 15e3;

/// KB that an endpoint takes more when it holds [`STORED`].
const STORED_BAR: f64 = 1.02e6;

/// Milliseconds until it serves.
const START_BAR: f64 = 50.0;

/// KB of a program.
const PROGRAM_BAR: f64 = 25e3;

#[derive(Debug, Parser)]
#[command(about = "Memory, start and size of an endpoint")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut figures = Figures::default();
    for name in ["endpoint", "relay"] {
        let size = product(name)?.metadata()?.len();
        let bar = Some(Bar::AtMost(PROGRAM_BAR));
        figures.add(Figure { bar, ..kilobytes(&format!("size of the program {name}"), 0, OURS, size) });
    }
    let relay = Relay::ours()?;
    measure(OURS, None, &relay, &mut figures).await?;
    match &arguments.options.python {
        Some(python) => measure("Python", Some(python), &relay, &mut figures).await?,
        None => eprintln!("SKIPPED: Python's figures: no --python"),
    }
    arguments.options.publish(&figures)
}

async fn measure(name: &str, python: Option<&Path>, relay: &Relay, figures: &mut Figures) -> Result<()> {
    let start = || match python {
        Some(python) => Site::python(python, Some(relay)),
        None => Site::ours(Some(relay)),
    };
    // The first reads the program from disk.
    let mut site = start()?;
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(site.restart()?.as_secs_f64() * 1e3);
    }
    sleep(SETTLED);
    let idle = site.program.memory()?;
    store(site.port).await?;
    let full = site.program.memory()?.max(idle);
    let bar = |bar| (name == OURS).then_some(Bar::AtMost(bar));
    let started =
        Figure { unit: Unit::Milliseconds, value: median(starts), ..kilobytes("start", 0, name, 0) };
    figures.add(Figure { bar: bar(START_BAR), ..started });
    figures.add(Figure { bar: bar(IDLE_BAR), ..kilobytes("memory idle", 0, name, idle) });
    figures
        .add(Figure { bar: bar(STORED_BAR), ..kilobytes("memory of a gigabyte", STORED, name, full - idle) });
    Ok(())
}

async fn store(port: u16) -> Result<()> {
    let object: Bytes = proxystore_tests::noise(OBJECT, 0);
    let mut connection = Connection::open(port).await?;
    for key in 0..STORED / OBJECT {
        let stored = Instant::now();
        connection.exchange(&Request::http("POST", &format!("/set?key={key}"), object.clone())).await?;
        ensure!(stored.elapsed() < Duration::from_secs(60), "storing {OBJECT} bytes takes too long");
    }
    Ok(())
}

fn kilobytes(what: &str, bytes: usize, contestant: &str, value: u64) -> Figure {
    Figure {
        what: what.to_owned(),
        bytes,
        connections: 1,
        contestant: contestant.to_owned(),
        value: value as f64 / 1e3,
        unit: Unit::Kilobytes,
        client: None,
        bar: None,
    }
}
