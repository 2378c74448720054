//! Rates: how much of something may happen in a while, and at once after a pause.
//!
//! A token bucket whose whole state is the instant at which it will be full again (known as GCRA). Time is an
//! argument.

use std::time::Duration;

use tokio::time::Instant;

/// What a bucket admits.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_second: f64,
    /// How long an empty bucket takes to fill.
    fills_in: Duration,
}

/// One bucket; full at first.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether a new bucket would admit no more.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

impl Rate {
    /// `per_second` units in the long run, `burst` of them at once.
    pub fn new(per_second: f64, burst: u64) -> Self {
        Self { per_second, fills_in: seconds(burst as f64 / per_second) }
    }

    /// Takes `units` from `bucket`, or nothing if there are fewer.
    pub fn admit(&self, bucket: &mut Bucket, units: u64, now: Instant) -> bool {
        let from = bucket.full_at.max(now);
        let full_at = from.checked_add(seconds(units as f64 / self.per_second));
        match full_at {
            Some(full_at) if full_at - now <= self.fills_in => {
                bucket.full_at = full_at;
                true
            }
            _ => false,
        }
    }
}

/// A time that may be too long for a clock.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let (rate, mut bucket) = (Rate::new(100.0, 50), Bucket::new(start));
        let mut admitted = |milliseconds: u64| {
            let now = start + Duration::from_millis(milliseconds);
            (0..1000).take_while(|_| rate.admit(&mut bucket, 1, now)).count()
        };
        assert_eq!(admitted(0), 50);
        assert_eq!(admitted(5), 0);
        assert_eq!(admitted(100), 10);
        assert_eq!(admitted(60_000), 50, "a pause saves up no more than the burst");
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let start = Instant::now();
        let (rate, mut bucket) = (Rate::new(1.0, 10), Bucket::new(start));
        assert!(!rate.admit(&mut bucket, 11, start));
        assert!(bucket.is_full(start));
        assert!(rate.admit(&mut bucket, 10, start));
        assert!(!bucket.is_full(start + Duration::from_secs(9)));
        assert!(bucket.is_full(start + Duration::from_secs(10)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(
            steps in proptest::collection::vec((0u64..50, 1u64..100), 1..200),
            burst in 100u64..1000,
        ) {
            let start = Instant::now();
            let (rate, mut bucket) = (Rate::new(1000.0, burst), Bucket::new(start));
            let (mut now, mut admitted) = (start, 0);
            for (pause, units) in steps {
                now += Duration::from_millis(pause);
                if rate.admit(&mut bucket, units, now) {
                    admitted += units;
                }
                let most = burst as f64 + 1000.0 * (now - start).as_secs_f64();
                prop_assert!(admitted as f64 <= most + 1e-3, "{admitted} of {most}");
            }
        }

        #[test]
        fn no_numbers_panic(per_second in 1u64.., burst: u64, units: u64) {
            let now = Instant::now();
            let mut bucket = Bucket::new(now);
            for _ in 0..3 {
                let _ = Rate::new(per_second as f64, burst).admit(&mut bucket, units, now);
            }
        }
    }
}
