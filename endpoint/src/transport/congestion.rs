//! BBR3 as noq has it, with three things put right (`docs/decisions/0008-congestion-control.md`).
//!
//! - noq's BBR3 forgets at every second acknowledgement that the sender had nothing more to send: the branch that ends
//!   an application-limited phase keeps it from seeing the next one. Small exchanges then pass for proof that the path
//!   is full, Startup ends at the rate of a few small objects, and the next large one crawls.
//! - Its filter for the highest bandwidth of the last two probing cycles forgets after two round trips instead, because
//!   a phase that should last one round trip lasts through the cycle. Whatever delays a few packets, such as busy
//!   processors, lowers the rate, and the lower rate is then taken for what the path can carry, and so on.
//! - noq looks at the clock before it receives. If the processor is taken away in between, acknowledgements of packets
//!   that left meanwhile carry the time before: a round trip of next to nothing, which BBR believes for ten seconds.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq::congestion::{Bbr3Config, Controller, ControllerFactory, ControllerMetrics};
use noq_proto::RttEstimator;

/// The bandwidth is probed every two to three seconds; two such periods are remembered, as BBR has it
/// (draft-ietf-ccwg-bbr-05, section 2.10: `MaxBwFilterLen`).
const PROBING_PERIOD: Duration = Duration::from_millis(2500);

/// Makes a controller for each path.
#[derive(Debug)]
pub struct Factory(Arc<Bbr3Config>);

impl Factory {
    /// With a first congestion window of so many bytes.
    pub fn new(initial_window: u64) -> Self {
        let mut config = Bbr3Config::default();
        config.initial_window(initial_window);
        Self(Arc::new(config))
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let bbr = self.0.clone().build(now, current_mtu);
        Box::new(Corrected { bbr, bandwidth: Highest::new(now), acknowledged: None })
    }
}

/// The highest of the values seen in the current and in the previous period.
#[derive(Debug, Clone)]
struct Highest {
    since: Instant,
    current: u64,
    previous: u64,
}

impl Highest {
    fn new(now: Instant) -> Self {
        Self { since: now, current: 0, previous: 0 }
    }

    fn see(&mut self, now: Instant, value: u64) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= PROBING_PERIOD {
            self.previous = if elapsed < 2 * PROBING_PERIOD { self.current } else { 0 };
            self.current = 0;
            self.since = now;
        }
        self.current = self.current.max(value);
    }

    fn get(&self) -> u64 {
        self.current.max(self.previous)
    }
}

/// The controller of one path.
#[derive(Debug)]
struct Corrected {
    bbr: Box<dyn Controller>,
    /// Bits a second.
    bandwidth: Highest,
    /// What the clock said for the first packet of the acknowledgement that is being read; it holds for the others.
    acknowledged: Option<Instant>,
}

impl Corrected {
    /// A time that is not earlier than the acknowledgement which noq says came at `stamp`.
    fn time_of_acknowledgement(&mut self, stamp: Instant) -> Instant {
        stamp.max(*self.acknowledged.get_or_insert_with(Instant::now))
    }
}

impl Controller for Corrected {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.bbr.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.bbr.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.bbr.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let now = self.time_of_acknowledgement(now);
        self.bbr.on_ack(now, sent, bytes, pn, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        let now = self.time_of_acknowledgement(now);
        self.acknowledged = None;
        self.bbr.on_end_acks(now, in_flight, app_limited, largest_acked);
        if app_limited {
            // If the first call ended a phase, this one notes that another begins; else it repeats the first.
            self.bbr.on_end_acks(now, in_flight, app_limited, largest_acked);
        }
        self.bandwidth.see(now, self.bbr.metrics().bandwidth_estimate.unwrap_or(0));
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.bbr.on_congestion_event(
            now,
            sent,
            is_persistent_congestion,
            is_ecn,
            lost_bytes,
            largest_lost_pn,
        );
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.bbr.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        self.bbr.on_spurious_congestion_event();
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.bbr.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, ack_eliciting_threshold: u64, requested_max_ack_delay: Duration) {
        self.bbr.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.bbr.window()
    }

    /// Paced by the remembered bandwidth in place of the forgotten; the window stays BBR's, which bounds what this can
    /// do on a path that has become slower.
    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.bbr.metrics();
        if let (Some(rate), Some(estimate)) = (metrics.pacing_rate, metrics.bandwidth_estimate) {
            let forgotten = self.bandwidth.get().max(estimate) as f64 / estimate.max(1) as f64;
            metrics.pacing_rate = Some((rate as f64 * forgotten) as u64);
        }
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            bbr: self.bbr.clone_box(),
            bandwidth: self.bandwidth.clone(),
            acknowledged: self.acknowledged,
        })
    }

    fn initial_window(&self) -> u64 {
        self.bbr.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_of_two_periods_is_remembered() {
        let start = Instant::now();
        let mut highest = Highest::new(start);
        highest.see(start, 100);
        highest.see(start + PROBING_PERIOD, 10);
        assert_eq!(highest.get(), 100);
        highest.see(start + 2 * PROBING_PERIOD, 20);
        assert_eq!(highest.get(), 20);
        highest.see(start + 10 * PROBING_PERIOD, 5);
        assert_eq!(highest.get(), 5, "nothing is remembered over a long silence");
    }

    #[test]
    fn an_acknowledgement_is_not_older_than_the_look_at_the_clock() {
        let start = Instant::now();
        let mut controller = Corrected {
            bbr: Arc::new(Bbr3Config::default()).build(start, 1452),
            bandwidth: Highest::new(start),
            acknowledged: None,
        };
        let (stale, late) = (start - Duration::from_millis(2), start + Duration::from_secs(3600));
        let seen = controller.time_of_acknowledgement(stale);
        assert!(seen >= start, "what was stamped too early counts from now");
        assert_eq!(controller.time_of_acknowledgement(stale), seen, "one look for one acknowledgement");
        assert_eq!(controller.time_of_acknowledgement(late), late);
    }
}
