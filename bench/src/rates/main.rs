//! How many objects a second one endpoint sets and gets for 1 to 128 clients at once, beside Python's endpoint, Redis and axum
//! alone; and how many small objects it fetches from a peer.
//!
//! Everybody takes turns in the same run, driven by the same client, which works on one thread; the share of the time
//! for which it kept a processor busy says whether it was the client that was measured. Run with `scripts/bench rates`.

mod contestant;
mod peers;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use futures_util::future::try_join_all;
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, Unit, median};
use proxystore_bench::load::{Connection, Request, in_time};
use proxystore_bench::options::Options;
use proxystore_bench::programs::own_cpu;

use contestant::{Contestant, Operation};

/// Bytes of an object.
const SIZES: [usize; 3] = [SMALL, 64_000, 1_000_000];

/// The size for which there are bars.
const SMALL: usize = 1_000;

/// Connections at once.
const CONNECTIONS: [usize; 4] = [1, 8, MANY, 128];

/// The number for which there are bars.
const MANY: usize = 64;

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 3;

/// How long requests are sent in a round: much longer than any of them takes.
const ROUND: Duration = Duration::from_millis(700);

/// Gets of 1 KB with 64 connections, over Python's and over Redis'.
const BARS: [(&str, f64); 2] = [("Python", 20.0), ("Redis", 1.0)];

#[derive(Debug, Parser)]
#[command(about = "How many objects a second an endpoint sets and gets")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

/// What came of a round.
#[derive(Debug, Clone, Copy)]
struct Round {
    per_second: f64,
    /// Share of the time for which the client kept a processor busy.
    client: f64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut figures = Figures::default();
    measure(&arguments, &mut figures).await?;
    peers::measure(arguments.options.python.as_deref(), &mut figures).await?;
    arguments.options.publish(&figures)
}

async fn measure(arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let mut contestants = vec![Contestant::ours()?];
    if let Some(python) = &arguments.options.python {
        contestants.push(Contestant::python(python)?);
    }
    contestants.extend(Contestant::redis()?);
    contestants.push(Contestant::bare()?);
    for len in SIZES {
        for connections in CONNECTIONS {
            for operation in Operation::ALL {
                take_turns(&contestants, operation, len, connections, figures).await?;
            }
        }
    }
    Ok(())
}

/// Several rounds, in each of which everybody does the same.
async fn take_turns(
    contestants: &[Contestant],
    operation: Operation,
    len: usize,
    connections: usize,
    figures: &mut Figures,
) -> Result<()> {
    let object = proxystore_tests::noise(len, len as u64);
    let mut rounds = vec![Vec::new(); contestants.len()];
    for _ in 0..ROUNDS {
        for (contestant, rounds) in contestants.iter().zip(&mut rounds) {
            let requests = (0..connections).map(|client| contestant.request(operation, client, &object));
            rounds.push(round(contestant.port, &requests.collect::<Vec<_>>()).await?);
        }
    }
    for (contestant, rounds) in contestants.iter().zip(rounds) {
        let mut figure = figure(operation.name(), len, connections, contestant.name, &rounds);
        if (operation, len, connections) == (Operation::Get, SMALL, MANY) {
            let bar = BARS.iter().find(|(name, _)| *name == contestant.name);
            figure.bar = bar.map(|(_, times)| Bar::Times(*times));
        }
        figures.add(figure);
    }
    Ok(())
}

fn figure(what: &str, bytes: usize, connections: usize, contestant: &str, rounds: &[Round]) -> Figure {
    Figure {
        what: what.to_owned(),
        bytes,
        connections,
        contestant: contestant.to_owned(),
        value: median(rounds.iter().map(|round| round.per_second).collect()),
        unit: Unit::PerSecond,
        client: Some(median(rounds.iter().map(|round| round.client).collect())),
        bar: None,
    }
}

/// A client for each request, which sends it again and again.
async fn round(port: u16, requests: &[Request]) -> Result<Round> {
    let mut connections = open(port, requests.len()).await?;
    let (start, cpu) = (Instant::now(), own_cpu()?);
    let clients = connections.iter_mut().zip(requests).map(async |(connection, request)| {
        let mut count = 0_u32;
        while start.elapsed() < ROUND {
            connection.exchange_without_deadline(request).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let count: u32 = in_time(try_join_all(clients)).await?.into_iter().sum();
    ended(start, cpu, count)
}

async fn open(port: u16, count: usize) -> Result<Vec<Connection>> {
    try_join_all((0..count).map(|_| Connection::open(port))).await
}

fn ended(start: Instant, cpu: Duration, count: u32) -> Result<Round> {
    let seconds = start.elapsed().as_secs_f64();
    let client = (own_cpu()? - cpu).as_secs_f64() / seconds;
    Ok(Round { per_second: f64::from(count) / seconds, client })
}
