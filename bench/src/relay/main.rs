//! What clients cost a relay: registrations a second, memory of a silent client, and processor time of a forwarded
//! message, ours beside Python's.
//!
//! Memory and processor time are the relay process' own, as Linux counts them. Run with `scripts/bench relay`.

mod client;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, Unit, median};
use proxystore_bench::options::Options;
use proxystore_bench::programs::{Relay, own_cpu};

use client::Client;

/// Silent clients: enough that what the relay needs anyway does not count.
const CLIENTS: usize = 8_000;

/// Registrations under way at once.
const AT_ONCE: usize = 64;

/// Bytes of a message: an offer has two or three kilobytes.
const MESSAGE_LEN: usize = 3_000;

/// Pairs of clients, each with one message on its way, and messages in all, in a round.
const TRAFFIC: [(usize, usize); 2] = [(1, 4_000), (64, 60_000)];

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

/// Kilobytes of a client.
const MEMORY_BAR: f64 = 8.0;

/// Microseconds of processor time of a forwarded message.
const CPU_BAR: f64 = 15.0;

#[derive(Debug, Parser)]
#[command(about = "What clients cost a relay")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut figures = Figures::default();
    measure(OURS, Relay::ours, &mut figures).await?;
    if let Some(python) = &arguments.options.python {
        measure("Python", || Relay::python(python), &mut figures).await?;
    }
    arguments.options.publish(&figures)
}

/// Each measurement has a relay of its own, so that none inherits the memory of another.
async fn measure(name: &str, start: impl Fn() -> Result<Relay>, figures: &mut Figures) -> Result<()> {
    silent_clients(name, &start()?, figures).await?;
    let relay = start()?;
    for (pairs, messages) in TRAFFIC {
        forwarding(name, &relay, pairs, messages, figures).await?;
    }
    Ok(())
}

fn figure(what: &str, connections: usize, contestant: &str, value: f64, unit: Unit) -> Figure {
    let (what, contestant) = (what.to_owned(), contestant.to_owned());
    Figure { what, bytes: MESSAGE_LEN, connections, contestant, value, unit, client: None, bar: None }
}

/// Only ours have something to reach.
fn bar(name: &str, most: f64) -> Option<Bar> {
    (name == OURS).then_some(Bar::AtMost(most))
}

async fn silent_clients(name: &str, relay: &Relay, figures: &mut Figures) -> Result<()> {
    // What is allocated once, for the first clients, is not a client's.
    register(relay, AT_ONCE).await?;
    let before = relay.program.memory()?;
    let (cpu, own, start) = (relay.program.cpu()?, own_cpu()?, Instant::now());
    let mut clients = register(relay, CLIENTS).await?;
    let seconds = start.elapsed().as_secs_f64();
    let client = Some((own_cpu()? - own).as_secs_f64() / seconds);
    let rate = figure("registrations", AT_ONCE, name, CLIENTS as f64 / seconds, Unit::PerSecond);
    figures.add(Figure { client, ..rate });
    let cpu = each(relay.program.cpu()? - cpu, CLIENTS);
    figures.add(figure("CPU a registration", AT_ONCE, name, cpu, Unit::Microseconds));
    let memory = |relay: &Relay| anyhow::Ok((relay.program.memory()? - before) as f64 / 1e3 / CLIENTS as f64);
    let silent = figure("memory a client", CLIENTS, name, memory(relay)?, Unit::Kilobytes);
    figures.add(Figure { bar: bar(name, MEMORY_BAR), ..silent });
    everybody_sends(&mut clients).await?;
    let what = "memory a client that sent and got a message";
    let talked = figure(what, CLIENTS, name, memory(relay)?, Unit::Kilobytes);
    figures.add(Figure { bar: bar(name, MEMORY_BAR), ..talked });
    Ok(())
}

async fn register(relay: &Relay, count: usize) -> Result<Vec<Client>> {
    stream::iter((0..count).map(|_| Client::register(relay.port)))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// A message from each client to the next.
async fn everybody_sends(clients: &mut [Client]) -> Result<()> {
    for sender in 0..clients.len() {
        let receiver = (sender + 1) % clients.len();
        let message = clients[sender].message(clients[receiver].id, MESSAGE_LEN);
        clients[sender].send(message).await?;
        clients[receiver].receive().await?;
    }
    Ok(())
}

async fn forwarding(
    name: &str,
    relay: &Relay,
    pairs: usize,
    messages: usize,
    figures: &mut Figures,
) -> Result<()> {
    let mut clients = register(relay, 2 * pairs).await?;
    let (mut rates, mut cpus, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (cpu, own, start) = (relay.program.cpu()?, own_cpu()?, Instant::now());
        let pairs = clients.chunks_mut(2).map(|pair| send(pair, messages / pairs));
        let sent: usize = try_join_all(pairs).await?.into_iter().sum();
        if round > 0 {
            let seconds = start.elapsed().as_secs_f64();
            rates.push(sent as f64 / seconds);
            cpus.push(each(relay.program.cpu()? - cpu, sent));
            shares.push((own_cpu()? - own).as_secs_f64() / seconds);
        }
    }
    let client = Some(median(shares));
    let rate = figure("messages forwarded", pairs, name, median(rates), Unit::PerSecond);
    figures.add(Figure { client, ..rate });
    let cpu = figure("CPU a forwarded message", pairs, name, median(cpus), Unit::Microseconds);
    figures.add(Figure { bar: bar(name, CPU_BAR), ..cpu });
    Ok(())
}

/// One message after the other.
async fn send(pair: &mut [Client], count: usize) -> Result<usize> {
    let [sender, receiver] = pair else { return Ok(0) };
    let message = sender.message(receiver.id, MESSAGE_LEN);
    for _ in 0..count {
        sender.send(message.clone()).await?;
        let received = receiver.receive().await?;
        // Python writes a message anew, with blanks.
        ensure!(received.len() >= message.len(), "{} bytes of {}", received.len(), message.len());
    }
    Ok(count)
}

/// Microseconds of each.
fn each(all: Duration, count: usize) -> f64 {
    all.as_secs_f64() * 1e6 / count as f64
}
