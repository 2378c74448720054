//! Whom the relay has introduced: the key of a peer, and where it said that it is, or else was reached. While the relay
//! is out of reach acquaintances find each other by that.
//!
//! The relay decides who meets whom. So an acquaintance lasts as long as the peer's task, and a day beyond: longer than
//! an outage of the relay, and a bound for those whom it would no longer introduce. A restart does not change that
//! ([`record`]).

pub mod record;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use proxystore_shared::{EndpointId, PublicKey};
use tokio::sync::Notify;

use super::negotiation::Counterpart;
use crate::lock::lock;

/// How long a peer is remembered that nobody here has to do with any more.
const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// Peers that are remembered though nobody has to do with them; each takes 2 KB at the most. As many as there may be
/// tasks of peers.
const MAX_ABSENT: usize = 4096;

/// Everybody that was introduced.
#[derive(Debug, Default)]
pub struct Acquaintances {
    register: Mutex<Register>,
    changed: Notify,
}

/// What outlasts the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The peer.
    pub peer: EndpointId,
    /// What it said last.
    pub counterpart: Counterpart,
    /// How long it is remembered if nobody here has to do with it.
    pub left: Duration,
}

#[derive(Debug, Default)]
struct Register {
    peers: HashMap<EndpointId, Acquaintance>,
    owners: HashMap<PublicKey, EndpointId>,
}

#[derive(Debug)]
struct Acquaintance {
    counterpart: Counterpart,
    /// When it is forgotten; never while its task runs.
    until: Option<Instant>,
}

impl Acquaintance {
    fn is_current(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Acquaintances {
    /// Those that an earlier process remembered. Their tasks do not run yet.
    pub fn recall(remembered: Vec<Remembered>, now: Instant) -> Self {
        let mut register = Register::default();
        for Remembered { peer, counterpart, left } in remembered {
            register.enter(peer, Acquaintance { counterpart, until: Some(now + left.min(MEMORY)) });
        }
        register.make_room(now);
        Self { register: Mutex::new(register), changed: Notify::new() }
    }

    /// A peer described itself. An earlier key is its own no longer.
    pub fn introduce(&self, peer: EndpointId, counterpart: Counterpart) {
        self.register().enter(peer, Acquaintance { counterpart, until: None });
        self.changed.notify_one();
    }

    /// Waits until somebody was introduced since this was called last.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Who is known now.
    pub fn remembered(&self, now: Instant) -> Vec<Remembered> {
        let register = self.register();
        let current = register.peers.iter().filter(|(_, known)| known.is_current(now));
        let remembered = current.map(|(peer, known)| Remembered {
            peer: *peer,
            counterpart: known.counterpart.clone(),
            left: known.until.map_or(MEMORY, |until| until - now),
        });
        remembered.collect()
    }

    /// What `peer` said last, which is kept until its task has ended.
    pub fn meet(&self, peer: EndpointId, now: Instant) -> Option<Counterpart> {
        let mut register = self.register();
        let known = register.peers.get_mut(&peer).filter(|known| known.is_current(now))?;
        known.until = None;
        Some(known.counterpart.clone())
    }

    /// The task of `peer` has ended.
    pub fn part(&self, peer: EndpointId, now: Instant) {
        let mut register = self.register();
        if let Some(known) = register.peers.get_mut(&peer) {
            known.until = Some(now + MEMORY);
        }
        register.make_room(now);
    }

    /// Whose key this is.
    pub fn owner_of(&self, key: &PublicKey, now: Instant) -> Option<EndpointId> {
        let register = self.register();
        let peer = register.owners.get(key)?;
        register.peers.get(peer).filter(|known| known.is_current(now)).map(|_| *peer)
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        lock(&self.register)
    }
}

impl Register {
    fn enter(&mut self, peer: EndpointId, known: Acquaintance) {
        self.forget(peer);
        self.owners.insert(known.counterpart.key, peer);
        self.peers.insert(peer, known);
    }

    fn forget(&mut self, peer: EndpointId) {
        if let Some(known) = self.peers.remove(&peer) {
            self.owners.remove(&known.counterpart.key);
        }
    }

    /// Forgets whose time is over, and of too many those whose time would be over first.
    fn make_room(&mut self, now: Instant) {
        let absent = self.peers.iter().filter_map(|(peer, known)| Some((known.until?, *peer)));
        let mut absent: Vec<_> = absent.collect();
        absent.sort_unstable();
        let surplus = absent.len().saturating_sub(MAX_ABSENT);
        for (n, (until, peer)) in absent.into_iter().enumerate() {
            if n < surplus || until <= now {
                self.forget(peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: u128) -> EndpointId {
        Uuid::from_u128(number).into()
    }

    fn key(number: u128) -> PublicKey {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&number.to_be_bytes());
        PublicKey(key)
    }

    fn counterpart(number: u128) -> Counterpart {
        Counterpart { key: key(number), candidates: Vec::new() }
    }

    #[test]
    fn a_peer_is_known_by_its_last_key_only() {
        let (acquaintances, now) = (Acquaintances::default(), Instant::now());
        acquaintances.introduce(id(1), counterpart(1));
        acquaintances.introduce(id(1), counterpart(2));
        assert_eq!(acquaintances.owner_of(&key(1), now), None);
        assert_eq!(acquaintances.owner_of(&key(2), now), Some(id(1)));
        assert_eq!(acquaintances.meet(id(1), now), Some(counterpart(2)));
        assert_eq!(acquaintances.meet(id(2), now), None);
    }

    #[test]
    fn who_has_gone_is_forgotten_a_day_later_unless_it_comes_back() {
        let (acquaintances, now) = (Acquaintances::default(), Instant::now());
        acquaintances.introduce(id(1), counterpart(1));
        assert_eq!(acquaintances.owner_of(&key(1), now + 9 * MEMORY), Some(id(1)), "its task runs");
        acquaintances.part(id(1), now);
        assert_eq!(acquaintances.owner_of(&key(1), now + MEMORY), None);
        assert_eq!(acquaintances.meet(id(1), now + MEMORY), None);
        assert_eq!(acquaintances.meet(id(1), now + MEMORY / 2), Some(counterpart(1)));
        assert_eq!(acquaintances.owner_of(&key(1), now + MEMORY), Some(id(1)), "its task runs again");
    }

    #[test]
    fn who_is_remembered_is_known_after_a_restart_for_as_long_as_before() {
        let (acquaintances, start) = (Acquaintances::default(), Instant::now());
        for number in 1..=3 {
            acquaintances.introduce(id(number), counterpart(number));
        }
        let now = start + MEMORY;
        acquaintances.part(id(2), start + MEMORY / 2);
        acquaintances.part(id(3), start);
        let again = Acquaintances::recall(acquaintances.remembered(now), now);
        assert_eq!(again.meet(id(3), now), None, "its time is over");
        assert_eq!(again.owner_of(&key(2), now + MEMORY / 2), None);
        assert_eq!(again.meet(id(2), now), Some(counterpart(2)));
        assert_eq!(again.owner_of(&key(1), now + MEMORY / 2), Some(id(1)));
        assert_eq!(again.owner_of(&key(1), now + MEMORY), None, "its task does not run again");
    }

    #[test]
    fn of_too_many_the_first_to_go_are_forgotten() {
        let (acquaintances, start) = (Acquaintances::default(), Instant::now());
        let all = 0..MAX_ABSENT as u128 + 3;
        for number in all.clone() {
            acquaintances.introduce(id(number), counterpart(number));
        }
        for number in all.clone() {
            acquaintances.part(id(number), start + Duration::from_millis(number as u64));
        }
        let known = |number: &u128| acquaintances.owner_of(&key(*number), start).is_some();
        assert_eq!(all.filter(|number| !known(number)).collect::<Vec<_>>(), [0, 1, 2]);
    }
}
