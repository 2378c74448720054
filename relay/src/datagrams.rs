//! Datagrams that one client sends another through the relay: who may, how much, and why one was dropped.
//!
//! The relay carries them as a network does. What cannot be delivered is dropped and counted, and nobody is told:
//! the QUIC connection inside notices by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proxystore_shared::EndpointId;
use proxystore_shared::config::relay::RelayDatagrams;
use proxystore_shared::relayed::{Envelope, HEADER_LEN};
use tokio::time::Instant;

use crate::auth::User;
use crate::close::Close;
use crate::rate::{Bucket, Rate};

/// Seconds of the day that a byte quota is for.
const DAY: f64 = 86_400.0;

/// Users whose daily quota is remembered before those who have used none of it are forgotten.
const MANY_USERS: usize = 1024;

/// Between two lines in the log about what a client lost.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Why a frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The relay carries no datagrams.
    Disabled,
    /// The sender exceeds its rate.
    Rate,
    /// The sender's user exceeds the daily quota.
    Day,
    /// Nobody is registered with the id.
    Unknown,
    /// The peer is another user's.
    Foreign,
    /// The peer did not ask for the sub-protocol.
    Plain,
    /// The peer does not read fast enough, or all peers together do not.
    Full,
}

impl Dropped {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Disabled, Self::Rate, Self::Day, Self::Unknown, Self::Foreign, Self::Plain, Self::Full];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Rate => "rate",
            Self::Day => "day",
            Self::Unknown => "unknown_peer",
            Self::Foreign => "foreign_peer",
            Self::Plain => "plain_peer",
            Self::Full => "queue_full",
        }
    }
}

/// Decides about a binary frame from a client that asked for the sub-protocol or did not (`extended`), and that is
/// registered as `registered`, if at all.
pub fn decide(frame: &[u8], extended: bool, registered: Option<EndpointId>) -> Result<Envelope, Close> {
    if !extended {
        return Err(Close::undecodable());
    }
    let envelope = Envelope::decode(frame).map_err(|_| Close::undecodable())?;
    match registered {
        Some(_) => Ok(envelope),
        None => Err(Close::forbidden("Register before sending datagrams to peers.")),
    }
}

/// The frame as its receiver gets it: with the sender's id in place of its own.
///
/// Written in place if nobody else holds the buffer, as after the reassembly of fragments. Mostly the websocket
/// library still reads into the rest of it, and the copy has the size that the receiver's queue counts.
pub fn readdress(frame: Bytes, envelope: Envelope, sender: EndpointId) -> Bytes {
    let mut frame = BytesMut::from(frame);
    frame[..HEADER_LEN].copy_from_slice(&Envelope { peer: sender, ..envelope }.encode());
    frame.freeze()
}

/// What a relay allows its clients to send.
#[derive(Debug)]
pub struct Quotas {
    enabled: bool,
    rate: Rate,
    day: Option<Rate>,
    users: Mutex<HashMap<User, Arc<Mutex<Bucket>>>>,
}

impl Quotas {
    /// What the configuration allows.
    pub fn new(config: &RelayDatagrams) -> Self {
        let day = config.bytes_per_day.map(|bytes| Rate::new(bytes as f64 / DAY, bytes));
        Self {
            enabled: config.enabled,
            rate: Rate::new(config.bytes_per_second as f64, config.burst_bytes),
            day,
            users: Mutex::default(),
        }
    }

    /// The meter of one more client of `user`.
    pub fn meter(&self, user: &User, now: Instant) -> Meter {
        let day = self.day.map(|_| self.day_of(user, now));
        Meter { client: Bucket::new(now), day, dropped: 0, last_logged: None }
    }

    /// All clients of a user share a bucket, which outlives them: coming back fills none.
    fn day_of(&self, user: &User, now: Instant) -> Arc<Mutex<Bucket>> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= MANY_USERS && !users.contains_key(user) {
            users.retain(|_, day| {
                Arc::strong_count(day) > 1 || !day.lock().unwrap_or_else(PoisonError::into_inner).is_full(now)
            });
        }
        users.entry(user.clone()).or_insert_with(|| Arc::new(Mutex::new(Bucket::new(now)))).clone()
    }

    /// Whether the client may send `len` bytes.
    pub fn admit(&self, meter: &mut Meter, len: usize, now: Instant) -> Result<(), Dropped> {
        let len = len as u64;
        if !self.enabled {
            return Err(Dropped::Disabled);
        }
        if !self.rate.admit(&mut meter.client, len, now) {
            return Err(Dropped::Rate);
        }
        let (Some(rate), Some(day)) = (&self.day, &meter.day) else { return Ok(()) };
        let mut day = day.lock().unwrap_or_else(PoisonError::into_inner);
        if rate.admit(&mut day, len, now) { Ok(()) } else { Err(Dropped::Day) }
    }
}

/// What one client has sent, and lost.
#[derive(Debug)]
pub struct Meter {
    client: Bucket,
    day: Option<Arc<Mutex<Bucket>>>,
    dropped: u64,
    last_logged: Option<Instant>,
}

impl Meter {
    /// Counts a dropped frame. Once in a while, returns how many were dropped since the last time.
    pub fn handle_dropped(&mut self, now: Instant) -> Option<u64> {
        self.dropped += 1;
        if self.last_logged.is_some_and(|logged| now < logged + LOG_INTERVAL) {
            return None;
        }
        self.last_logged = Some(now);
        Some(std::mem::take(&mut self.dropped))
    }
}

#[cfg(test)]
mod tests {
    use proxystore_shared::relay_message::{CLOSE_FORBIDDEN, CLOSE_UNDECODABLE};

    use super::*;

    fn quotas(configure: impl FnOnce(&mut RelayDatagrams)) -> Quotas {
        let mut config = RelayDatagrams::default();
        configure(&mut config);
        Quotas::new(&config)
    }

    #[test]
    fn only_registered_clients_of_the_sub_protocol_send_datagrams() {
        let envelope = Envelope { peer: EndpointId::random(), ecn: 0, segment_len: 1200 };
        let frame = [envelope.encode().as_slice(), b"packet"].concat();
        let id = Some(EndpointId::random());
        let code = |frame: &[u8], extended, registered| {
            decide(frame, extended, registered).map_err(|close| close.code)
        };
        assert_eq!(code(&frame, true, id), Ok(envelope));
        assert_eq!(code(&frame, true, None), Err(CLOSE_FORBIDDEN));
        assert_eq!(code(&frame, false, id), Err(CLOSE_UNDECODABLE));
        assert_eq!(code(&frame[..20], true, id), Err(CLOSE_UNDECODABLE));
        assert_eq!(code(&frame[..20], true, None), Err(CLOSE_UNDECODABLE));
    }

    #[test]
    fn a_client_is_held_to_its_rate() {
        let start = Instant::now();
        let quotas = quotas(|config| (config.bytes_per_second, config.burst_bytes) = (1000, 100_000));
        let (mut a, mut b) = (quotas.meter(&User::Anyone, start), quotas.meter(&User::Anyone, start));
        assert_eq!(quotas.admit(&mut a, 100_000, start), Ok(()));
        assert_eq!(quotas.admit(&mut a, 1, start), Err(Dropped::Rate));
        assert_eq!(quotas.admit(&mut b, 100_000, start), Ok(()), "another client has its own");
        assert_eq!(quotas.admit(&mut a, 1000, start + Duration::from_secs(1)), Ok(()));
        assert_eq!(quotas.admit(&mut a, 1, start + Duration::from_secs(1)), Err(Dropped::Rate));
    }

    #[test]
    fn the_clients_of_a_user_share_a_day() {
        let start = Instant::now();
        let quotas = quotas(|config| config.bytes_per_day = Some(86_400));
        let (alice, bob) = (User::Globus("alice".into()), User::Globus("bob".into()));
        assert_eq!(quotas.admit(&mut quotas.meter(&alice, start), 86_400, start), Ok(()));
        let mut again = quotas.meter(&alice, start);
        assert_eq!(quotas.admit(&mut again, 1, start), Err(Dropped::Day), "reconnecting changes nothing");
        assert_eq!(quotas.admit(&mut quotas.meter(&bob, start), 86_400, start), Ok(()));
        let noon = start + Duration::from_secs(43_200);
        assert_eq!(quotas.admit(&mut again, 43_200, noon), Ok(()), "it comes back over the day");
        assert_eq!(quotas.admit(&mut again, 1, noon), Err(Dropped::Day));
    }

    #[test]
    fn users_without_debts_are_forgotten() {
        let start = Instant::now();
        let quotas = quotas(|config| config.bytes_per_day = Some(86_400));
        let user = |number: usize| User::Globus(number.to_string().into());
        let debtor = user(0);
        assert_eq!(quotas.admit(&mut quotas.meter(&debtor, start), 86_400, start), Ok(()));
        for number in 1..5 * MANY_USERS {
            drop(quotas.meter(&user(number), start));
        }
        assert!(quotas.users.lock().expect("sound").len() <= MANY_USERS);
        assert_eq!(quotas.admit(&mut quotas.meter(&debtor, start), 1, start), Err(Dropped::Day));
    }

    #[test]
    fn the_off_switch_drops_everything() {
        let start = Instant::now();
        let quotas = quotas(|config| config.enabled = false);
        let mut meter = quotas.meter(&User::Anyone, start);
        assert_eq!(quotas.admit(&mut meter, 1, start), Err(Dropped::Disabled));
    }

    #[test]
    fn losses_are_logged_once_in_a_while() {
        let start = Instant::now();
        let mut meter = quotas(|_| {}).meter(&User::Anyone, start);
        assert_eq!(meter.handle_dropped(start), Some(1));
        for second in 1..10 {
            assert_eq!(meter.handle_dropped(start + Duration::from_secs(second)), None);
        }
        assert_eq!(meter.handle_dropped(start + LOG_INTERVAL), Some(10));
    }
}
