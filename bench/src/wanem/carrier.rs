//! Carries packets from one TUN device to another over a [`Link`]: the doing to its deciding.
//!
//! The kernel hands over large packets that it would have a network card cut (GSO), and takes such packets back as
//! if a card had joined them (GRO). Only so do two cores have time for the programs at both ends as well. On the
//! wire they are packets of the usual size, each delayed and lost by itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CloneFlags, setns};
use nix::sys::time::TimeSpec;
use tun_rs::{DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use crate::link::{Counters, Link, Wire};

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/var/run/netns";

/// The largest packet of IP, with the header in front of it that the device wants.
const MAX_LEN: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// Packets that the device keeps for us while we are not scheduled: some milliseconds at 1 Gbit/s.
const QUEUE_LEN: u32 = 10_000;

/// Arrivals are delivered at most this often, together, as a network card raises its interrupts.
const MODERATION: Duration = Duration::from_micros(100);

/// Packets taken in a row before arrivals have their turn.
const INTAKE: usize = 64;

/// Packets delivered together at most. Of 1500 bytes, they stay well below the 64 KiB of a large packet: some that
/// come close to it never reach their socket.
const BATCH: usize = 32;

/// A packet this much later than it should have been says that the emulator was too slow.
const LATE: Duration = Duration::from_millis(1);

/// Opens a TUN device in a namespace that `ip netns add` has made. It is gone when it is dropped.
pub fn open(namespace: &str, device: &str, mtu: u16) -> Result<SyncDevice> {
    let file = File::open(Path::new(NAMESPACES).join(namespace));
    let file = file.with_context(|| format!("there is no namespace {namespace}; see `ip netns`"))?;
    let open = move || -> Result<SyncDevice> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        let builder = DeviceBuilder::new().name(device).mtu(mtu).enable(true);
        let device = builder.offload(true).tx_queue_len(QUEUE_LEN).build_sync()?;
        device.set_nonblocking(true)?;
        Ok(device)
    };
    // A thread of its own enters the namespace, and ends there; the device stays.
    let opened = thread::scope(|scope| scope.spawn(open).join()).map_err(|_| anyhow!("panic"))?;
    opened.with_context(|| format!("opening {device} in {namespace}"))
}

/// One direction.
pub struct Carrier<'d> {
    from: &'d SyncDevice,
    to: &'d SyncDevice,
    link: Link<Vec<u8>>,
    mtu: usize,
    delivered_at: Instant,
    /// Packets delivered more than [`LATE`].
    late: u64,
}

impl<'d> Carrier<'d> {
    /// Nothing on the wire yet.
    pub fn new(from: &'d SyncDevice, to: &'d SyncDevice, mtu: u16, wire: Wire, seed: u64) -> Self {
        let link = Link::new(wire, seed);
        Self { from, to, link, mtu: usize::from(mtu), delivered_at: Instant::now(), late: 0 }
    }

    /// Carries until `done` says so; what happened meanwhile, and how many packets were late.
    pub fn run(mut self, done: impl Fn() -> bool) -> Result<(Counters, u64)> {
        // Timers of the usual slack of 50 µs would come late.
        nix::sys::prctl::set_timerslack(1)?;
        let mut intake = Intake::new(self.mtu);
        let mut delivery = Delivery::new();
        while !done() {
            for _ in 0..INTAKE {
                let Some(packets) = intake.read(self.from)? else { break };
                let now = Instant::now();
                packets.for_each(|packet| self.link.handle(now, packet.to_vec()));
            }
            self.deliver(&mut delivery)?;
            self.wait()?;
        }
        Ok((self.link.counters, self.late))
    }

    fn next_delivery(&self) -> Option<Instant> {
        Some(self.link.next_arrival()?.max(self.delivered_at + MODERATION))
    }

    fn deliver(&mut self, delivery: &mut Delivery) -> Result<()> {
        let now = Instant::now();
        if self.next_delivery().is_none_or(|next| next > now) {
            return Ok(());
        }
        self.delivered_at = now;
        loop {
            let late = self.link.next_arrival().is_some_and(|due| due + LATE < now);
            let Some(packet) = self.link.arrived(now) else { break };
            self.late += u64::from(late);
            if delivery.add(&packet) {
                delivery.send(self.to)?;
            }
        }
        delivery.send(self.to)
    }

    /// Until there is something to take or to deliver.
    fn wait(&self) -> Result<()> {
        let longest = Duration::from_millis(100);
        let now = Instant::now();
        let left = self.next_delivery().map_or(longest, |next| next.saturating_duration_since(now));
        let mut devices = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut devices, Some(TimeSpec::from_duration(left.min(longest))), None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for packets"),
        }
    }
}

/// Room for what one read returns: a large packet, and what it is cut into.
struct Intake {
    large: Vec<u8>,
    cut: Vec<Vec<u8>>,
    lens: Vec<usize>,
}

impl Intake {
    fn new(mtu: usize) -> Self {
        Self {
            large: vec![0; MAX_LEN],
            cut: vec![vec![0; mtu]; IDEAL_BATCH_SIZE],
            lens: vec![0; IDEAL_BATCH_SIZE],
        }
    }

    /// None when there is nothing to read now.
    fn read(&mut self, device: &SyncDevice) -> Result<Option<impl Iterator<Item = &[u8]>>> {
        let count = match device.recv_multiple(&mut self.large, &mut self.cut, &mut self.lens, 0) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("reading packets"),
        };
        let packets = self.cut.iter().zip(&self.lens).take(count);
        Ok(Some(packets.map(|(buffer, len)| &buffer[..*len])))
    }
}

/// Packets that are delivered together.
struct Delivery {
    buffers: Vec<Vec<u8>>,
    used: usize,
    table: GROTable,
}

impl Delivery {
    fn new() -> Self {
        // Each may become the head of a large packet; memory that is never touched costs nothing.
        let buffers = (0..BATCH).map(|_| Vec::with_capacity(2 * MAX_LEN)).collect();
        Self { buffers, used: 0, table: GROTable::default() }
    }

    /// Whether that was the last for which there was room.
    fn add(&mut self, packet: &[u8]) -> bool {
        let buffer = &mut self.buffers[self.used];
        buffer.clear();
        buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        buffer.extend_from_slice(packet);
        self.used += 1;
        self.used == self.buffers.len()
    }

    fn send(&mut self, device: &SyncDevice) -> Result<()> {
        let packets = &mut self.buffers[..std::mem::take(&mut self.used)];
        match device.send_multiple(&mut self.table, packets, VIRTIO_NET_HDR_LEN) {
            Ok(_) => Ok(()),
            // The interface is down: what arrives there is lost, as it would be anywhere.
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => Ok(()),
            Err(error) => Err(error).context("writing packets"),
        }
    }
}
