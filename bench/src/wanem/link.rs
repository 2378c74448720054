//! What a long wire does to packets in one direction. No IO: time is an argument.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// How late a reordered packet is on top of the delay: at 100 Mbit/s and more, several packets overtake it.
const HELD_BACK: Duration = Duration::from_millis(1);

/// The properties of a wire.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// Bits a second, headers of IP included; none is without limit.
    pub rate: Option<f64>,
    /// From one end to the other.
    pub delay: Duration,
    /// The longest that a packet waits for its turn; it is dropped if it had to wait longer.
    pub buffer: Duration,
    /// Share of packets that are lost.
    pub loss: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Share of packets that others overtake.
    pub reorder: f64,
}

impl Wire {
    fn time_on_the_wire(&self, len: usize) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(len as f64 * 8.0 / rate))
    }
}

/// What happened to packets so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Taken from the sender.
    pub packets: u64,
    /// The same in bytes.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the buffer was full.
    pub overflowed: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
}

/// One direction of a wire, with the packets that are on it.
#[derive(Debug)]
pub struct Link<P> {
    wire: Wire,
    random: StdRng,
    /// When the last packet that was let in will have left the sender.
    free_at: Option<Instant>,
    flight: BinaryHeap<Reverse<Flying<P>>>,
    /// What has happened.
    pub counters: Counters,
}

impl<P: AsRef<[u8]> + Clone> Link<P> {
    /// An empty wire. The same seed means the same losses.
    pub fn new(wire: Wire, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { wire, random, free_at: None, flight: BinaryHeap::new(), counters: Counters::default() }
    }

    /// A packet enters.
    pub fn handle(&mut self, now: Instant, packet: P) {
        let len = packet.as_ref().len();
        self.counters.packets += 1;
        self.counters.bytes += len as u64;
        let turn = self.free_at.map_or(now, |free_at| free_at.max(now));
        if turn > now + self.wire.buffer {
            self.counters.overflowed += 1;
            return;
        }
        let sent = turn + self.wire.time_on_the_wire(len);
        self.free_at = Some(sent);
        if self.happens(self.wire.loss) {
            self.counters.lost += 1;
            return;
        }
        let mut due = sent + self.wire.delay;
        if self.happens(self.wire.reorder) {
            self.counters.reordered += 1;
            due += HELD_BACK;
        }
        if self.happens(self.wire.duplicate) {
            self.counters.duplicated += 1;
            self.fly(due, packet.clone());
        }
        self.fly(due, packet);
    }

    /// The next packet that has arrived by now.
    pub fn arrived(&mut self, now: Instant) -> Option<P> {
        self.next_arrival().filter(|due| *due <= now)?;
        self.flight.pop().map(|Reverse(flying)| flying.packet)
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flight.peek().map(|Reverse(flying)| flying.due)
    }

    fn fly(&mut self, due: Instant, packet: P) {
        let number = self.counters.packets;
        self.flight.push(Reverse(Flying { due, number, packet }));
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.random.random_bool(share)
    }
}

/// A packet on the wire; ordered by arrival, then by entrance.
#[derive(Debug)]
struct Flying<P> {
    due: Instant,
    number: u64,
    packet: P,
}

impl<P> Flying<P> {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl<P> PartialEq for Flying<P> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<P> Eq for Flying<P> {}

impl<P> PartialOrd for Flying<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> Ord for Flying<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A wire that takes a millisecond for 125 bytes.
    fn wire() -> Wire {
        Wire { rate: Some(1e6), delay: 10 * MS, buffer: 5 * MS, loss: 0.0, duplicate: 0.0, reorder: 0.0 }
    }

    fn packet(number: u8) -> Vec<u8> {
        vec![number; 125]
    }

    /// When each packet comes out, in milliseconds from `start`, looking every half a millisecond.
    fn arrivals(link: &mut Link<Vec<u8>>, start: Instant) -> Vec<(u8, f64)> {
        let mut seen = Vec::new();
        for step in 0..200 {
            let now = start + step * MS / 2;
            while let Some(packet) = link.arrived(now) {
                seen.push((packet[0], f64::from(step) / 2.0));
            }
        }
        seen
    }

    #[test]
    fn packets_take_their_time_one_after_the_other() {
        let start = Instant::now();
        let mut link = Link::new(wire(), 1);
        link.handle(start, packet(0));
        link.handle(start, packet(1));
        link.handle(start + 20 * MS, packet(2));
        assert_eq!(arrivals(&mut link, start), [(0, 11.0), (1, 12.0), (2, 31.0)]);
    }

    #[test]
    fn nothing_arrives_early() {
        let start = Instant::now();
        let mut link = Link::new(wire(), 1);
        link.handle(start, packet(0));
        assert_eq!(link.next_arrival(), Some(start + 11 * MS));
        assert!(link.arrived(start + 10 * MS).is_none());
        assert!(link.arrived(start + 11 * MS).is_some());
        assert_eq!(link.next_arrival(), None);
    }

    #[test]
    fn a_full_buffer_drops_what_comes_last() {
        let start = Instant::now();
        let mut link = Link::new(wire(), 1);
        for number in 0..10 {
            link.handle(start, packet(number));
        }
        // One on its way and five milliseconds' worth behind it.
        let numbers: Vec<u8> = arrivals(&mut link, start).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
        assert_eq!(link.counters.overflowed, 4);
    }

    #[test]
    fn without_a_rate_only_the_delay_counts() {
        let start = Instant::now();
        let mut link = Link::new(Wire { rate: None, ..wire() }, 1);
        (0..3).for_each(|number| link.handle(start, packet(number)));
        assert_eq!(arrivals(&mut link, start), [(0, 10.0), (1, 10.0), (2, 10.0)]);
    }

    #[test]
    fn what_is_lost_took_its_turn_all_the_same() {
        let start = Instant::now();
        let mut link = Link::new(Wire { loss: 1.0, ..wire() }, 1);
        link.handle(start, packet(0));
        link.wire.loss = 0.0;
        link.handle(start, packet(1));
        assert_eq!(arrivals(&mut link, start), [(1, 12.0)]);
        assert_eq!(link.counters.lost, 1);
    }

    #[test]
    fn losses_are_as_frequent_as_asked_for_and_the_same_for_a_seed() {
        let lost = |seed| {
            let mut link = Link::new(Wire { rate: None, loss: 0.1, ..wire() }, seed);
            let start = Instant::now();
            (0..10_000).for_each(|_| link.handle(start, packet(0)));
            link.counters.lost
        };
        assert!((900..1100).contains(&lost(1)), "{} of 10,000", lost(1));
        assert_eq!(lost(1), lost(1));
        assert_ne!(lost(1), lost(2));
    }

    #[test]
    fn a_duplicate_follows_at_once() {
        let start = Instant::now();
        let mut link = Link::new(Wire { duplicate: 1.0, ..wire() }, 1);
        link.handle(start, packet(0));
        link.handle(start, packet(1));
        assert_eq!(arrivals(&mut link, start), [(0, 11.0), (0, 11.0), (1, 12.0), (1, 12.0)]);
    }

    #[test]
    fn a_reordered_packet_is_overtaken() {
        let start = Instant::now();
        let mut link = Link::new(Wire { rate: None, reorder: 1.0, ..wire() }, 1);
        link.handle(start, packet(0));
        link.wire.reorder = 0.0;
        link.handle(start, packet(1));
        let numbers: Vec<u8> = arrivals(&mut link, start).iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 0]);
    }
}
