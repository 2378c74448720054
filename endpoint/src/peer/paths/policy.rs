//! Which of a connection's paths carries the data: decided here, done by [`super`].
//!
//! The side that dialled the connection *leads*: QUIC lets only that side open paths, and both must send over the
//! same one, because silence on a path means something only if the other side would answer there. What is sent over a
//! spare path is acknowledged over the one in use, so its silence is no more than a suspicion: enough to close a direct
//! one, which is superfluous, and to ask whether the relay is there. The other side follows, and chooses for itself only
//! when the path it was told to use is gone. Either side closes a direct path that has stalled; it is opened anew rather
//! than used again, because a congestion controller that lived through an outage may stay slow for good.
//!
//! A direct path is preferred to the one through the relay, and a direct path to another only if it is clearly faster
//! when neither has data queued on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use noq::PathId;

/// Silence after something was sent, beyond three round trips, that means a dead path. A peer that lives acknowledges
/// within 25 ms; the rest is for processes that wait for a processor.
const STALL: Duration = Duration::from_millis(250);

/// The same for the path through the relay, where TCP repeats what was lost and holds up what comes after it.
const RELAYED_STALL: Duration = Duration::from_secs(3);

/// Pauses between attempts to open a direct path. An attempt probes for four seconds by itself.
const ROUND_PAUSES: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// Pauses between attempts to open the path through the relay.
const RELAYED_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// A direct path must have been in use this long before the others are closed as superfluous.
const SETTLED: Duration = Duration::from_secs(5);

/// What another direct path must be faster by, at the least, to be worth a change.
const MARGIN: Duration = Duration::from_millis(5);

/// What a path goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but the network.
    Direct,
    /// The relay.
    Relayed,
}

impl Kind {
    fn stall(self) -> Duration {
        match self {
            Self::Direct => STALL,
            Self::Relayed => RELAYED_STALL,
        }
    }
}

/// Counters of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Smoothed round trip.
    pub round_trip: Duration,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A path was validated.
    Opened(PathId, Kind, Measured),
    /// A path is gone.
    Closed(PathId),
    /// The peer has declared this path the one to use.
    PeerPrefers(PathId),
    /// Counters were read.
    Measured(PathId, Measured),
    /// Our addresses, or the peer's, have changed.
    Candidates,
    /// The relay carries datagrams from now on, or no longer.
    Relay(bool),
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send over this path, and over others only if it fails.
    Prefer(PathId),
    /// Ask the peer for a sign of life.
    Ping(PathId),
    /// Give the path up.
    Close(PathId),
    /// Probe every address of the peer.
    StartRound,
    /// Open the path through the relay.
    OpenRelayed,
    /// Find out whether the connection to the relay is alive.
    CheckRelay,
}

#[derive(Debug)]
struct Path {
    kind: Kind,
    last: Measured,
    /// The shortest round trip so far: a path that carries data looks slow beside one that does not.
    shortest: Duration,
    /// When something was sent that nothing has been received after.
    waiting_since: Option<Instant>,
    pinged: bool,
    stalled: bool,
}

/// A series of pauses.
#[derive(Debug)]
struct Schedule {
    pauses: &'static [Duration],
    attempts: usize,
    next: Option<Instant>,
}

impl Schedule {
    fn new(pauses: &'static [Duration]) -> Self {
        Self { pauses, attempts: 0, next: None }
    }

    /// The first attempt is due at once.
    fn restart(&mut self, now: Instant) {
        self.attempts = 0;
        self.next = Some(now);
    }

    /// The first attempt is due after a pause, unless one is planned.
    fn resume(&mut self, now: Instant) {
        if self.next.is_none() {
            self.attempts = 0;
            self.next = Some(now + self.pauses[0]);
        }
    }

    fn stop(&mut self) {
        self.next = None;
    }

    /// Whether an attempt is due; plans the one after it.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        self.next = Some(now + self.pauses[self.attempts.min(self.pauses.len() - 1)]);
        self.attempts += 1;
        true
    }
}

/// The paths of one connection.
#[derive(Debug)]
pub struct PathPolicy {
    leads: bool,
    paths: BTreeMap<PathId, Path>,
    in_use: Option<PathId>,
    in_use_since: Instant,
    /// What the peer declared, which may come before the path does.
    peer_prefers: Option<PathId>,
    relay: bool,
    rounds: Schedule,
    relayed: Schedule,
}

impl PathPolicy {
    /// No path yet; `leads` on the side that dialled.
    pub fn new(leads: bool, relay: bool, now: Instant) -> Self {
        Self {
            leads,
            paths: BTreeMap::new(),
            in_use: None,
            in_use_since: now,
            peer_prefers: None,
            relay,
            rounds: Schedule::new(&ROUND_PAUSES),
            relayed: Schedule::new(&RELAYED_PAUSES),
        }
    }

    /// The path that carries the data.
    pub fn in_use(&self) -> Option<PathId> {
        self.in_use
    }

    /// Takes one step.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Opened(path, kind, measured) => self.opened(now, path, (kind, measured), &mut actions),
            Input::Closed(path) => self.closed(path),
            Input::PeerPrefers(path) => self.peer_prefers = Some(path),
            Input::Measured(path, measured) => actions.extend(self.measured(now, path, measured)),
            Input::Candidates => self.rounds.restart(now),
            Input::Relay(relay) => self.relay_changed(now, relay),
            Input::Tick => {}
        }
        self.leave_relay(&mut actions);
        self.choose(now, &mut actions);
        if self.leads {
            self.open(now, &mut actions);
        }
        actions
    }

    fn opened(
        &mut self,
        now: Instant,
        path: PathId,
        (kind, last): (Kind, Measured),
        actions: &mut Vec<Action>,
    ) {
        // The new one takes the place of an old one through the same relay.
        if self.leads && kind == Kind::Relayed {
            self.close_where(actions, |_, path| path.kind == Kind::Relayed);
        }
        let shortest = last.round_trip;
        let path_state = Path { kind, last, shortest, waiting_since: None, pinged: false, stalled: false };
        self.paths.insert(path, path_state);
        match kind {
            Kind::Direct => self.rounds.stop(),
            Kind::Relayed => self.relayed.stop(),
        }
        if self.in_use.is_none() {
            self.in_use_since = now;
        }
    }

    fn close_where(&mut self, actions: &mut Vec<Action>, superfluous: impl Fn(PathId, &Path) -> bool) {
        let closed = self.paths.iter().filter(|(number, path)| superfluous(**number, path));
        let closed: Vec<PathId> = closed.map(|(number, _)| *number).collect();
        for path in closed {
            self.closed(path);
            actions.push(Action::Close(path));
        }
    }

    fn closed(&mut self, path: PathId) {
        self.paths.remove(&path);
        self.in_use.take_if(|in_use| *in_use == path);
        self.peer_prefers.take_if(|preferred| *preferred == path);
    }

    fn relay_changed(&mut self, now: Instant, relay: bool) {
        let came = relay && !self.relay;
        self.relay = relay;
        if came {
            // Also where there is a path through the relay: it has lived through an outage.
            self.relayed.restart(now);
        }
    }

    /// What was on its way through a relay that is gone is sent again, over a direct path, when its own is closed.
    fn leave_relay(&mut self, actions: &mut Vec<Action>) {
        if self.has_direct() && !self.relay {
            self.close_where(actions, |_, path| path.kind == Kind::Relayed);
        }
    }

    fn measured(&mut self, now: Instant, number: PathId, measured: Measured) -> Option<Action> {
        let others = self.paths.iter().any(|(other, path)| *other != number && !path.stalled);
        let path = self.paths.get_mut(&number)?;
        path.shortest = path.shortest.min(measured.round_trip);
        if measured.received != path.last.received {
            path.waiting_since = None;
            path.pinged = false;
            path.stalled = false;
        } else if measured.sent != path.last.sent {
            path.waiting_since.get_or_insert(now);
        }
        path.last = measured;
        let silence = now.duration_since(path.waiting_since?);
        let limit = path.kind.stall() + 3 * measured.round_trip;
        if silence > limit {
            let known = std::mem::replace(&mut path.stalled, true);
            if path.kind == Kind::Relayed {
                return (!known).then_some(Action::CheckRelay);
            }
            if others {
                self.closed(number);
                return Some(Action::Close(number));
            }
            return None;
        }
        if silence > limit / 3 && !path.pinged {
            path.pinged = true;
            return Some(Action::Ping(number));
        }
        None
    }

    /// Moves to the path that should be in use.
    fn choose(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let told = self.peer_prefers.filter(|path| !self.leads && self.is_alive(*path));
        let best = told.or_else(|| self.best());
        if best.is_some() && best != self.in_use {
            self.in_use = best;
            self.in_use_since = now;
            actions.extend(best.map(Action::Prefer));
        }
    }

    fn has_direct(&self) -> bool {
        self.paths.values().any(|path| path.kind == Kind::Direct && !path.stalled)
    }

    fn is_alive(&self, path: PathId) -> bool {
        self.paths.get(&path).is_some_and(|path| !path.stalled)
    }

    fn best(&self) -> Option<PathId> {
        let alive = self.paths.iter().filter(|(_, path)| !path.stalled);
        let best = alive.min_by_key(|(_, path)| (path.kind == Kind::Relayed, path.shortest));
        let (best, fastest) = best.or_else(|| self.paths.iter().next())?;
        let Some((current, used)) = self.in_use.and_then(|path| self.paths.get_key_value(&path)) else {
            return Some(*best);
        };
        let margin = MARGIN.max(used.shortest / 4);
        let equal = used.kind == fastest.kind && used.shortest < fastest.shortest + margin;
        Some(if equal && !used.stalled { *current } else { *best })
    }

    /// Opens what is missing and closes what is superfluous.
    fn open(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // A spare one through the relay is only suspected, and would be again if it were opened anew.
        let failing = self.in_use.filter(|path| !self.is_alive(*path));
        let relayed =
            self.paths.iter().any(|(number, path)| path.kind == Kind::Relayed && failing != Some(*number));
        if !self.has_direct() {
            self.rounds.resume(now);
            if self.rounds.is_due(now) {
                actions.push(Action::StartRound);
            }
        }
        if self.relay && !relayed {
            self.relayed.resume(now);
        }
        if self.relay && self.relayed.is_due(now) {
            actions.push(Action::OpenRelayed);
        }
        let in_use = self.in_use.and_then(|path| self.paths.get_key_value(&path));
        if let Some((used, Path { kind: Kind::Direct, .. })) = in_use
            && now.duration_since(self.in_use_since) >= SETTLED
        {
            let used = *used;
            self.close_where(actions, |number, path| path.kind == Kind::Direct && number != used);
        }
    }
}

#[cfg(test)]
mod tests;
