//! Emulates a long wire between two network namespaces: rate, delay, buffer, loss, duplicates and reordering.
//!
//! Opens a TUN device in each namespace, says `ready`, and carries packets between them until its standard input
//! ends; then it says what happened. Addresses and routes are whoever's started it. Needs root.

mod carrier;
mod link;

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Parser;

use carrier::Carrier;
use link::{Counters, Wire};

#[derive(Debug, Parser)]
#[command(about = "Emulates a long wire between two network namespaces")]
struct Arguments {
    /// The namespaces at both ends.
    #[arg(num_args = 2, required = true, value_names = ["NAMESPACE", "NAMESPACE"])]
    namespaces: Vec<String>,
    /// Name of the device in each of them.
    #[arg(long, default_value = "wan0")]
    device: String,
    /// Largest packet, in bytes.
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    /// Mbit/s in each direction; without it there is no limit.
    #[arg(long)]
    rate: Option<f64>,
    /// Milliseconds that a packet and the answer to it are on the wire.
    #[arg(long, default_value_t = 0.0)]
    round_trip: f64,
    /// Milliseconds that a packet may wait for its turn.
    #[arg(long, default_value_t = 50.0)]
    buffer: f64,
    /// Share of packets that are lost, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Share of packets that arrive twice, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    /// Share of packets that others overtake, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Another one means other losses.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Arguments {
    fn wire(&self) -> Result<Wire> {
        for (name, share) in [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)] {
            ensure!((0.0..=1.0).contains(&share), "--{name} {share}: a share is between 0 and 1");
        }
        let milliseconds = |ms: f64| Duration::try_from_secs_f64(ms / 1e3);
        Ok(Wire {
            rate: self.rate.map(|mbit| mbit * 1e6),
            delay: milliseconds(self.round_trip / 2.0)?,
            buffer: milliseconds(self.buffer)?,
            loss: self.loss,
            duplicate: self.duplicate,
            reorder: self.reorder,
        })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wire = arguments.wire()?;
    let open = |name: &String| carrier::open(name, &arguments.device, arguments.mtu);
    let (left, right) = (open(&arguments.namespaces[0])?, open(&arguments.namespaces[1])?);
    let carrier = |from, to, seed| Carrier::new(from, to, arguments.mtu, wire, seed);
    let there = carrier(&left, &right, arguments.seed);
    let back = carrier(&right, &left, !arguments.seed);
    println!("ready");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let directions = [there, back].map(|carrier| {
            let carry = || carrier.run(|| done.load(Ordering::Relaxed)).unwrap_or_else(|error| fail(&error));
            scope.spawn(carry)
        });
        // Whatever it says: an error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        done.store(true, Ordering::Relaxed);
        for (direction, name) in directions.into_iter().zip(["there", "back"]) {
            let (counters, late) = direction.join().map_err(|_| anyhow!("panic"))?;
            report(name, &counters, late);
        }
        Ok(())
    })
}

/// Ends the program: half a wire is worse than none.
fn fail(error: &anyhow::Error) -> ! {
    eprintln!("wanem: {error:#}");
    std::process::exit(1)
}

fn report(direction: &str, counters: &Counters, late: u64) {
    let Counters { packets, bytes, lost, overflowed, duplicated, reordered } = counters;
    // Whoever started this may have ended already, and does not want to know.
    let _ = writeln!(
        std::io::stdout(),
        "{direction}: {packets} packets, {bytes} bytes, {lost} lost, {overflowed} overflowed, \
         {duplicated} duplicated, {reordered} reordered, {late} late"
    );
}
