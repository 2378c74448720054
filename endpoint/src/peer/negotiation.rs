//! How two endpoints come to share one connection: decided here, done by [`super::actor`].
//!
//! The side that wants a session makes an offer through the relay; the other answers; then both dial every
//! address of the other, because either may be reachable where the other is not, and the way through the relay is one
//! address more; where the peer's key is known, that is dialled along with the offer. Several connections may come up.
//! The side that made the offer takes the first, *nominates* it to the other, and closes the rest; so both always
//! use the same one. When both make an offer at once, the one from the smaller id stands.
//!
//! A negotiation may run beside a connection that is in use, when a request found that silent: the old connection
//! serves until the new one is nominated.

use std::time::{Duration, Instant};

use proxystore_shared::description::{Candidate, SessionId};
use proxystore_shared::{EndpointId, PublicKey};

use super::PeerError;

/// How long a connection that was not chosen is kept: the peer's choice may still be on its way.
const SPARE_GRACE: Duration = Duration::from_secs(3);

/// Names a connection within this process.
pub type ConnectionId = usize;

/// Who is who in a negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// We offered: the choice is ours.
    Offerer,
    /// We answered: we take what the peer nominates.
    Answerer,
}

/// What the other side said about itself, its identity already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterpart {
    /// The key it must prove.
    pub key: PublicKey,
    /// Where to dial.
    pub candidates: Vec<Candidate>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A request needs a connection, and the one in use, if any, does not serve it. Carries the id for a new
    /// negotiation.
    Wanted(SessionId),
    /// The peer made an offer.
    Offer(SessionId, Counterpart),
    /// The peer answered an offer.
    Answer(SessionId, Counterpart),
    /// The offer failed for a reason that waiting will not mend.
    Rejected(PeerError),
    /// A connection with the peer's key came up.
    Up(ConnectionId),
    /// The peer chose this connection.
    Nominated(ConnectionId),
    /// A connection is gone.
    Down(ConnectionId),
    /// Time passed.
    Tick,
}

/// What to do about it.
#[derive(Debug)]
pub enum Action {
    /// Send an offer through the relay.
    SendOffer(SessionId),
    /// Answer the peer's offer through the relay.
    SendAnswer(SessionId),
    /// Dial every address.
    Dial(Counterpart),
    /// Tell the peer that this connection was chosen.
    Nominate(ConnectionId),
    /// Serve requests over this connection from now on.
    Use(ConnectionId),
    /// Let what runs on this connection end, then close it.
    Retire(ConnectionId),
    /// Close this connection: the session uses another.
    Close(ConnectionId),
    /// There will be no connection: tell the requests that wait, and stop dialling.
    Fail(Failure),
}

/// Why a negotiation ended without a connection.
#[derive(Debug)]
pub enum Failure {
    /// The relay or the peer said no.
    Rejected(PeerError),
    /// Time ran out; how far it came.
    Timeout(Stage),
}

/// How far a negotiation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The offer was not answered.
    Unanswered,
    /// No address could be reached, in either direction.
    Unreachable,
    /// Connections came up, but the peer chose none.
    Undecided,
}

#[derive(Debug)]
struct Attempt {
    role: Role,
    session: SessionId,
    deadline: Instant,
    stage: Stage,
    /// Connections that came up and wait for the peer's choice.
    up: Vec<ConnectionId>,
}

/// The negotiation with one peer.
#[derive(Debug)]
pub struct Negotiation {
    us: EndpointId,
    peer: EndpointId,
    timeout: Duration,
    attempt: Option<Attempt>,
    in_use: Option<ConnectionId>,
    /// Our offer, when a connection came up before its answer did, and until when that is remembered. The relay keeps
    /// order, so an offer of the peer that arrives before its answer was made before it saw ours: it is void.
    unanswered: Option<(SessionId, Instant)>,
    /// Connections that were not chosen, and when they are to be closed.
    spare: Vec<(ConnectionId, Instant)>,
}

impl Negotiation {
    /// Nothing has happened yet. An attempt is given up after `timeout`.
    pub fn new(us: EndpointId, peer: EndpointId, timeout: Duration) -> Self {
        Self { us, peer, timeout, attempt: None, in_use: None, unanswered: None, spare: Vec::new() }
    }

    /// The connection that serves requests.
    pub fn in_use(&self) -> Option<ConnectionId> {
        self.in_use
    }

    /// Whether an attempt is under way.
    pub fn is_trying(&self) -> bool {
        self.attempt.is_some()
    }

    /// When [`Input::Tick`] must come at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let spare = self.spare.iter().map(|(_, close_at)| *close_at).min();
        self.attempt.as_ref().map(|attempt| attempt.deadline).into_iter().chain(spare).min()
    }

    /// The session that an answer, or the relay's refusal, must name to count.
    pub fn offered(&self) -> Option<SessionId> {
        self.attempt.as_ref().filter(|attempt| attempt.role == Role::Offerer).map(|attempt| attempt.session)
    }

    /// Takes one step.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        match input {
            Input::Wanted(session) => self.wanted(now, session),
            Input::Offer(session, counterpart) => self.offer(now, session, counterpart),
            Input::Answer(session, counterpart) => self.answer(session, counterpart),
            Input::Rejected(error) => self.fail(Failure::Rejected(error)),
            Input::Up(connection) => self.up(now, connection),
            Input::Nominated(connection) => self.nominated(now, connection),
            Input::Down(connection) => self.down(connection),
            Input::Tick => self.tick(now),
        }
    }

    fn wanted(&mut self, now: Instant, session: SessionId) -> Vec<Action> {
        if self.attempt.is_some() {
            return Vec::new();
        }
        self.begin(now, Role::Offerer, session, Stage::Unanswered);
        vec![Action::SendOffer(session)]
    }

    fn begin(&mut self, now: Instant, role: Role, session: SessionId, stage: Stage) {
        let deadline = now + self.timeout;
        self.attempt = Some(Attempt { role, session, deadline, stage, up: Vec::new() });
    }

    fn offer(&mut self, now: Instant, session: SessionId, counterpart: Counterpart) -> Vec<Action> {
        let crossed = self.offered().is_some() || self.unanswered.is_some_and(|(_, until)| now < until);
        if crossed && self.us < self.peer {
            return Vec::new();
        }
        let mut actions = self.abandon();
        self.begin(now, Role::Answerer, session, Stage::Unreachable);
        actions.extend([Action::SendAnswer(session), Action::Dial(counterpart)]);
        actions
    }

    /// Connections of an attempt that is overtaken by a newer offer.
    fn abandon(&mut self) -> Vec<Action> {
        let up = self.attempt.take().map(|attempt| attempt.up).unwrap_or_default();
        up.into_iter().map(Action::Close).collect()
    }

    fn answer(&mut self, session: SessionId, counterpart: Counterpart) -> Vec<Action> {
        self.unanswered.take_if(|(unanswered, _)| *unanswered == session);
        if self.offered() != Some(session) {
            return Vec::new();
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.stage = Stage::Unreachable;
        }
        vec![Action::Dial(counterpart)]
    }

    fn up(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        match &mut self.attempt {
            Some(attempt) if attempt.role == Role::Answerer => {
                attempt.stage = Stage::Undecided;
                attempt.up.push(connection);
                Vec::new()
            }
            Some(_) => {
                let mut actions = vec![Action::Nominate(connection)];
                actions.extend(self.choose(now, connection));
                actions
            }
            None => {
                self.spare.push((connection, now + SPARE_GRACE));
                Vec::new()
            }
        }
    }

    fn nominated(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        if self.in_use == Some(connection) {
            return Vec::new();
        }
        self.choose(now, connection)
    }

    fn choose(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        let attempt = self.attempt.take();
        if let Some(attempt) = attempt.as_ref().filter(|attempt| attempt.stage == Stage::Unanswered) {
            self.unanswered = Some((attempt.session, attempt.deadline));
        }
        let rivals = attempt.map(|attempt| attempt.up).unwrap_or_default();
        self.spare.extend(rivals.into_iter().map(|rival| (rival, now + SPARE_GRACE)));
        self.spare.retain(|(spare, _)| *spare != connection);
        let retired = self.in_use.replace(connection).map(Action::Retire);
        std::iter::once(Action::Use(connection)).chain(retired).collect()
    }

    fn down(&mut self, connection: ConnectionId) -> Vec<Action> {
        self.spare.retain(|(spare, _)| *spare != connection);
        if let Some(attempt) = &mut self.attempt {
            attempt.up.retain(|up| *up != connection);
        }
        if self.in_use == Some(connection) {
            self.in_use = None;
        }
        Vec::new()
    }

    fn tick(&mut self, now: Instant) -> Vec<Action> {
        let (due, spare): (Vec<_>, Vec<_>) = self.spare.drain(..).partition(|(_, close_at)| *close_at <= now);
        self.spare = spare;
        let mut actions: Vec<Action> =
            due.into_iter().map(|(connection, _)| Action::Close(connection)).collect();
        if let Some(attempt) = self.attempt.as_ref().filter(|attempt| now >= attempt.deadline) {
            let stage = attempt.stage;
            actions.extend(self.fail(Failure::Timeout(stage)));
        }
        actions
    }

    fn fail(&mut self, failure: Failure) -> Vec<Action> {
        let mut actions = self.abandon();
        actions.push(Action::Fail(failure));
        actions
    }
}

#[cfg(test)]
mod tests;
