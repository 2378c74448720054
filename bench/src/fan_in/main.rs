//! Many clients of one site that want the same object of another at the same moment: how much longer that takes than
//! one client, and how often the object crosses between the sites.
//!
//! One client and many take turns in the same run, each time with an object that nobody has asked for; then one asks
//! once more for what the many had. Run with `scripts/bench fan-in`; needs root, for network namespaces.

mod pair;
#[path = "../wan/world.rs"]
#[expect(dead_code, reason = "some of it is for other contestants than endpoints")]
mod world;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use proxystore_endpoint::transport::tls::install_provider;
use proxystore_tests::net;

use pair::Pair;
use world::{Setting, World};

/// Bytes of the object.
const LEN: usize = 50_000_000;

/// Clients at once.
const MANY: usize = 32;

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

/// Two sites of one continent with a modest link between them.
const WIRE: Setting = Setting { rate: 100.0, round_trip: 20.0, loss: 0.0 };

#[derive(Debug, Parser)]
#[command(about = "Many clients that want the same object of another site at once")]
struct Arguments {
    /// Where to write the figures as CSV too.
    #[arg(long)]
    csv: Option<PathBuf>,
}

/// One get, or many at once.
#[derive(Debug, Clone, Copy)]
struct Fetch {
    time: Duration,
    /// UDP bytes that came from the other site.
    crossed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !net::possible() {
        return Ok(());
    }
    // The HTTP client asks for a TLS provider even though the endpoints are on plain HTTP.
    install_provider();
    let mut csv = String::from("wire,clients,rounds,seconds,ratio,crossed\n");
    let world = World::start(WIRE)?;
    measure(&WIRE.to_string(), &Pair::over(&world)?, &mut csv)?;
    eprintln!("{}", world.end()?);
    measure("loopback", &Pair::on_loopback()?, &mut csv)?;
    Ok(arguments.csv.map_or(Ok(()), |path| fs::write(path, csv))?)
}

fn measure(wire: &str, pair: &Pair, csv: &mut String) -> Result<()> {
    let [mut one, mut many, mut again] = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        let (first, second) = (format!("one-{round}"), format!("many-{round}"));
        pair.put(&first, LEN)?;
        one.push(pair.fetch(&first, LEN, 1)?);
        pair.put(&second, LEN)?;
        many.push(pair.fetch(&second, LEN, MANY)?);
        again.push(pair.fetch(&second, LEN, 1)?);
    }
    let one = median(one);
    for (clients, fetch) in [("1", one), ("32", median(many)), ("1 again", median(again))] {
        let seconds = fetch.time.as_secs_f64();
        let ratio = seconds / one.time.as_secs_f64();
        let crossed = fetch.crossed as f64 / LEN as f64;
        println!(
            "{wire}: {clients} clients: {seconds:.3} s, {ratio:.2} times one; crossed {crossed:.2} times"
        );
        writeln!(csv, "{wire},{clients},{ROUNDS},{seconds:.6},{ratio:.4},{crossed:.4}")?;
    }
    Ok(())
}

fn median(mut fetches: Vec<Fetch>) -> Fetch {
    fetches.sort_by_key(|fetch| fetch.time);
    fetches[fetches.len() / 2]
}
