//! Stores against the bare calls below them, and against Python's: put and get, in turn, in one run.
//!
//! Each figure is the median of several rounds, in which bare call and store take turns, so that a machine that
//! becomes slower meanwhile slows both. Run with `scripts/bench stores`.

mod bare;
mod places;
mod python;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use clap::Parser;
use proxystore::Store;

use bare::Bare;
use places::Places;
use report::{Row, Table};

/// One kilobyte and one hundred megabytes; how often each is put and got in a round.
const SIZES: [(usize, usize); 2] = [(1_000, 500), (100_000_000, 2)];

/// A batch, as of many small results.
const BATCH: (usize, usize) = (10_000, 1_000);

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 7;

#[derive(Debug, Parser)]
#[command(about = "Stores against the bare calls below them, and against Python's")]
struct Arguments {
    /// A Python with ProxyStore 1.1 installed; without it its columns stay empty.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Where to write the table as CSV too.
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    // As programs do their work: in a task, on a thread that also watches the sockets.
    tokio::spawn(run(Arguments::parse())).await?
}

async fn run(arguments: Arguments) -> Result<()> {
    let places = Places::start().await?;
    let python = match &arguments.python {
        Some(python) => python::measure(python, &places)?,
        None => Vec::new(),
    };
    let mut table = Table::new();
    for (name, store, bare) in places.pairs().await? {
        for (len, times) in SIZES {
            let row = put_and_get(&store, &bare, len, times).await?;
            table.add(row.named(name, "put + get", len), &python);
        }
        if let Some(row) = batch(&store).await? {
            table.add(row.named(name, "1,000 in a batch / one by one", BATCH.0), &python);
        }
    }
    table.print();
    if let Some(csv) = arguments.csv {
        table.write_csv(&csv)?;
    }
    Ok(())
}

async fn put_and_get(store: &Store, bare: &Bare, len: usize, times: usize) -> Result<Row> {
    let value = Bytes::from(vec![7_u8; len]);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    // The first round warms caches and connections up and is not counted.
    for round in 0..=ROUNDS {
        let bare_time = time_bare(bare, &value, times).await?;
        let store_time = time_store(store, &value, times).await?;
        if round > 0 {
            theirs.push(bare_time);
            ours.push(store_time);
        }
    }
    Ok(Row::of(ours, theirs))
}

async fn time_bare(bare: &Bare, value: &Bytes, times: usize) -> Result<Duration> {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let name = bare.put(value.clone()).await?;
        let received = bare.get(&name).await?;
        spent += start.elapsed();
        anyhow::ensure!(received == value.len(), "{received} bytes of {}", value.len());
        bare.evict(&name).await?;
    }
    Ok(spent / times as u32)
}

async fn time_store(store: &Store, value: &Bytes, times: usize) -> Result<Duration> {
    let mut spent = Duration::ZERO;
    for _ in 0..times {
        let start = Instant::now();
        let key = store.put(value).await?;
        let received = store.get::<Bytes>(&key).await?.map_or(0, |bytes| bytes.len());
        spent += start.elapsed();
        anyhow::ensure!(received == value.len(), "{received} bytes of {}", value.len());
        store.evict(&key).await?;
    }
    Ok(spent / times as u32)
}

/// Put and get of a batch, beside the same objects one by one; none where the connector has no batches.
async fn batch(store: &Store) -> Result<Option<Row>> {
    if store.connector().config().kind == "file" {
        return Ok(None);
    }
    let (len, count) = BATCH;
    let values = vec![Bytes::from(vec![7_u8; len]); count];
    let (mut batched, mut single) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let start = Instant::now();
        let keys = store.put_batch(&values).await?;
        let received = store.get_batch::<Bytes>(&keys).await?;
        let batch_time = start.elapsed();
        anyhow::ensure!(received.iter().flatten().count() == count, "objects are missing");
        futures_util::future::try_join_all(keys.iter().map(|key| store.evict(key))).await?;
        let single_time = time_store(store, &values[0], count).await? * count as u32;
        if round > 0 {
            batched.push(batch_time);
            single.push(single_time);
        }
    }
    Ok(Some(Row::of(batched, single)))
}
