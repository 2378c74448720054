//! When a session pings, and when its silence has lasted too long.
//!
//! A plain value with the time as an argument; [`crate::session`] sleeps until [`Liveness::deadline`] and then
//! asks what is due. Any frame is a sign of life, so a client that talks is never pinged.

use std::time::Duration;

use proxystore_shared::config::relay::RelayLimits;
use tokio::time::Instant;

use crate::close::Close;

/// What a deadline asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing: the deadline moved.
    Nothing,
    /// Send a ping.
    Ping,
    /// End the session.
    Close(Close),
}

/// The clocks of one session.
#[derive(Debug)]
pub struct Liveness {
    ping_interval: Duration,
    idle_timeout: Duration,
    last_heard: Instant,
    next_ping: Instant,
    register_by: Option<Instant>,
}

impl Liveness {
    /// A client that has just connected.
    pub fn new(limits: &RelayLimits, now: Instant) -> Self {
        Self {
            ping_interval: limits.ping_interval(),
            idle_timeout: limits.idle_timeout(),
            last_heard: now,
            next_ping: now + limits.ping_interval(),
            register_by: Some(now + limits.registration_timeout()),
        }
    }

    /// A frame arrived.
    pub fn handle_frame(&mut self, now: Instant) {
        self.last_heard = now;
        self.next_ping = now + self.ping_interval;
    }

    /// The client is registered.
    pub fn handle_registered(&mut self) {
        self.register_by = None;
    }

    /// When to call [`Liveness::handle_deadline`], if the client has taken nothing since `blocked_since` of what is
    /// being written to it.
    pub fn deadline(&self, blocked_since: Option<Instant>) -> Instant {
        let silent_at = self.last_heard + self.idle_timeout;
        let full_at = blocked_since.map(|since| since + self.idle_timeout);
        let others = [self.register_by, full_at].into_iter().flatten();
        others.fold(silent_at.min(self.next_ping), Instant::min)
    }

    /// What is due at `now`.
    pub fn handle_deadline(&mut self, now: Instant, blocked_since: Option<Instant>) -> Due {
        if self.register_by.is_some_and(|register_by| now >= register_by) {
            return Due::Close(Close::forbidden("The client did not register in time."));
        }
        if now >= self.last_heard + self.idle_timeout {
            return Due::Close(Close::silent(self.idle_timeout));
        }
        if blocked_since.is_some_and(|since| now >= since + self.idle_timeout) {
            return Due::Close(Close::not_reading());
        }
        if now < self.next_ping {
            return Due::Nothing;
        }
        self.next_ping = now + self.ping_interval;
        // What is being written asks for a sign of life as well as a ping behind it would.
        if blocked_since.is_some() { Due::Nothing } else { Due::Ping }
    }
}

#[cfg(test)]
mod tests {
    use proxystore_shared::relay_message::CLOSE_FORBIDDEN;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn liveness(start: Instant) -> Liveness {
        let limits = RelayLimits {
            registration_timeout: 5,
            ping_interval: 20,
            idle_timeout: 60,
            ..RelayLimits::default()
        };
        Liveness::new(&limits, start)
    }

    #[test]
    fn a_client_that_does_not_register_is_closed() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        assert_eq!(liveness.deadline(None), start + 5 * SECOND);
        assert_eq!(liveness.handle_deadline(start + 4 * SECOND, None), Due::Nothing);
        liveness.handle_frame(start + 4 * SECOND);
        let Due::Close(close) = liveness.handle_deadline(start + 5 * SECOND, None) else {
            panic!("still open")
        };
        assert_eq!(close.code, CLOSE_FORBIDDEN);
    }

    #[test]
    fn a_silent_client_is_pinged_then_closed() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        liveness.handle_registered();
        for pings in 1..=2 {
            assert_eq!(liveness.deadline(None), start + pings * 20 * SECOND);
            assert_eq!(liveness.handle_deadline(liveness.deadline(None), None), Due::Ping);
        }
        assert_eq!(liveness.deadline(None), start + 60 * SECOND);
        assert_eq!(
            liveness.handle_deadline(liveness.deadline(None), None),
            Due::Close(Close::silent(60 * SECOND))
        );
    }

    #[test]
    fn a_client_that_answers_stays() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        liveness.handle_registered();
        for _ in 0..100 {
            let now = liveness.deadline(None);
            assert_eq!(liveness.handle_deadline(now, None), Due::Ping);
            liveness.handle_frame(now + SECOND);
            assert_eq!(liveness.deadline(None), now + 21 * SECOND);
        }
    }

    #[test]
    fn a_client_that_sends_but_takes_nothing_is_closed() {
        let start = Instant::now();
        let mut liveness = liveness(start);
        liveness.handle_registered();
        let blocked = Some(start + SECOND);
        for second in 1..61 {
            let now = start + second * SECOND;
            assert_eq!(liveness.handle_deadline(now, blocked), Due::Nothing);
            liveness.handle_frame(now);
        }
        let now = start + 61 * SECOND;
        assert_eq!(liveness.deadline(blocked), now);
        assert_eq!(liveness.handle_deadline(now, blocked), Due::Close(Close::not_reading()));
    }
}
