//! How two endpoints come to share one connection: decided here, done by [`super::actor`].
//!
//! The side that wants a session makes an offer through the relay; the other answers; then both dial every
//! address of the other, because either may be reachable where the other is not, and the way through the relay is one
//! address more; where the peer's key is known, that is dialled along with the offer. Several connections may come up.
//! The side that made the offer takes the first, *nominates* it to the other, and closes the rest; so both always
//! use the same one. When both make an offer at once, the one from the smaller id stands.
//!
//! While the relay is out of reach the side that wants a session dials the peer where it was last: the peer needs no
//! offer to accept a connection from whom it knows, and takes it when it is nominated. When both do so at once, the
//! nomination by the smaller id stands. The offer waits for the relay meanwhile, and may arrive when all is settled.
//!
//! A Python endpoint answers an offer of ours, or makes one, for WebRTC; then there is one connection, made from both
//! descriptions, which is in use as soon as it is up. Its offer stands whenever it comes: it does not give way.
//!
//! A negotiation may run beside a connection that is in use, when a request found that silent: the old connection
//! serves until the new one is nominated.

use std::time::{Duration, Instant};

use proxystore_shared::description::{Candidate, SessionId, WebRtcPeer};
use proxystore_shared::{EndpointId, PublicKey};

use super::PeerError;

/// How long a connection that was not chosen is kept: the peer's choice may still be on its way.
const SPARE_GRACE: Duration = Duration::from_secs(3);

/// An offer that is not answered for this long is made again: the peer may have been restarting when it came. Answers
/// take a round trip or two.
const REPEAT: Duration = Duration::from_secs(2);

/// A nomination that comes so soon after our own was made before the peer knew of ours. One that replaces our
/// connection comes later: the peer had to find that silent for 750 ms, and to dial another.
const CLASH: Duration = Duration::from_millis(750);

/// A Python endpoint keeps its half of an attempt that failed for 30 s, and of a session that was lost for 36 s, and an offer
/// that comes meanwhile can end it: after an attempt that failed, which took seconds itself, it gets none for so long.
const PYTHON_HOLDS: Duration = Duration::from_secs(30);

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
pub enum Described {
    /// An endpoint of this project.
    Ours(Counterpart),
    /// A Python endpoint.
    Python(PythonCounterpart),
}

/// A Python endpoint, by what it said about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PythonCounterpart {
    /// What WebRTC needs to know.
    pub webrtc: WebRtcPeer,
    /// Where it may be reached.
    pub candidates: Vec<Candidate>,
}

/// An endpoint of this project, by what it said about itself.
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
    Offer(SessionId, Described),
    /// The peer answered an offer.
    Answer(SessionId, Described),
    /// The relay is out of reach: what was to be sent waits for it.
    Waiting,
    /// What was to be sent will never be.
    Unsent(PeerError),
    /// The offer failed for a reason that waiting will not mend.
    Rejected(PeerError),
    /// None of the addresses that were dialled is left to answer.
    Unreached,
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
    /// Connect over WebRTC.
    ConnectPython(PythonCounterpart),
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
    /// The relay or the peer said no, or the relay was not there to be asked.
    Rejected(PeerError),
    /// Time ran out; how far it came.
    Timeout(Stage),
    /// No attempt was made: a Python endpoint must not get an offer for so long.
    Held(Duration),
}

/// How far a negotiation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The offer was not answered.
    Unanswered,
    /// Nor was the peer where it was last.
    Missed,
    /// No address could be reached, in either direction.
    Unreachable,
    /// Nor could a Python endpoint's.
    PythonUnreachable,
    /// Connections came up, but the peer chose none.
    Undecided,
}

#[derive(Debug)]
struct Attempt {
    role: Role,
    session: SessionId,
    deadline: Instant,
    /// When the offer is made again.
    repeat: Option<Instant>,
    stage: Stage,
    /// Why the offer or the answer cannot be sent: then everything depends on the addresses that are being dialled.
    unsent: Option<PeerError>,
    /// Connections that came up and wait for the peer's choice.
    up: Vec<ConnectionId>,
}

impl Attempt {
    /// Whether the peer turned out to be a Python endpoint.
    fn is_with_python(&self) -> bool {
        self.stage == Stage::PythonUnreachable
    }
}

/// The negotiation with one peer.
#[derive(Debug)]
pub struct Negotiation {
    us: EndpointId,
    peer: EndpointId,
    timeout: Duration,
    repeats: bool,
    /// What the peer said of itself last, whenever that was, unless it is a Python endpoint.
    known: Option<Counterpart>,
    attempt: Option<Attempt>,
    /// The last offer that was answered. It may be made again.
    answered: Option<SessionId>,
    in_use: Option<ConnectionId>,
    /// The connection that we chose, and until when the peer may choose without knowing.
    chosen: Option<(ConnectionId, Instant)>,
    /// Our offer, when a connection came up before its answer did, and until when that is remembered. The relay keeps
    /// order, so an offer of the peer that arrives before its answer was made before it saw ours: it is void.
    unanswered: Option<(SessionId, Instant)>,
    /// Connections that were not chosen, and when they are to be closed.
    spare: Vec<(ConnectionId, Instant)>,
    /// Until when a Python endpoint gets no offer.
    held: Option<Instant>,
}

impl Negotiation {
    /// Nothing has happened yet. An attempt is given up after `timeout`.
    pub fn new(us: EndpointId, peer: EndpointId, timeout: Duration) -> Self {
        Self {
            us,
            peer,
            timeout,
            repeats: false,
            known: None,
            attempt: None,
            answered: None,
            in_use: None,
            chosen: None,
            unanswered: None,
            spare: Vec::new(),
            held: None,
        }
    }

    /// Lets unanswered offers be made again. Only for peers of this project: a second offer can end a Python endpoint.
    pub fn repeat_offers(&mut self) {
        self.repeats = true;
    }

    /// Says where the peer was before there was this negotiation, if that is known.
    pub fn remember(&mut self, known: Option<Counterpart>) {
        self.known = known;
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
        let spare = self.spare.iter().map(|(_, close_at)| *close_at);
        let attempt = self.attempt.iter().flat_map(|attempt| [Some(attempt.deadline), attempt.repeat]);
        attempt.flatten().chain(spare).min()
    }

    /// The session that an answer, or the relay's refusal, must name to count.
    pub fn offered(&self) -> Option<SessionId> {
        self.attempt.as_ref().filter(|attempt| attempt.role == Role::Offerer).map(|attempt| attempt.session)
    }

    /// Whether the offer is made again if it is not answered.
    pub fn repeats(&self) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.repeat.is_some())
    }

    /// Takes one step.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        if let Input::Offer(_, described) | Input::Answer(_, described) = &input {
            self.known = match described {
                Described::Ours(counterpart) => Some(counterpart.clone()),
                Described::Python(_) => None,
            };
            self.repeats &= self.known.is_some();
            self.held = None;
        }
        match input {
            Input::Wanted(session) => self.wanted(now, session),
            Input::Offer(session, described) => self.offer(now, session, described),
            Input::Answer(session, described) => self.answer(session, described),
            Input::Waiting => self.dial_known(),
            Input::Unsent(error) => self.unsent(now, error),
            Input::Rejected(error) => self.fail(now, Failure::Rejected(error)),
            Input::Unreached => self.unreached(now),
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
        if let Some(left) = self.held.and_then(|held| held.checked_duration_since(now)) {
            return vec![Action::Fail(Failure::Held(left))];
        }
        self.begin(now, Role::Offerer, session, Stage::Unanswered);
        vec![Action::SendOffer(session)]
    }

    fn begin(&mut self, now: Instant, role: Role, session: SessionId, stage: Stage) {
        let deadline = now + self.timeout;
        // Whoever has described itself for QUIC is of this project.
        let repeats = self.repeats || self.known.is_some();
        let repeat = (repeats && role == Role::Offerer).then_some(now + REPEAT);
        let (unsent, up) = (None, Vec::new());
        self.attempt = Some(Attempt { role, session, deadline, repeat, stage, unsent, up });
    }

    /// Dials the peer where it was last, once in an attempt.
    fn dial_known(&mut self) -> Vec<Action> {
        let unanswered = self.attempt.as_mut().filter(|attempt| attempt.stage == Stage::Unanswered);
        let (Some(attempt), Some(known)) = (unanswered, &self.known) else { return Vec::new() };
        attempt.stage = Stage::Missed;
        vec![Action::Dial(known.clone())]
    }

    fn unsent(&mut self, now: Instant, error: PeerError) -> Vec<Action> {
        let actions = self.dial_known();
        match &mut self.attempt {
            Some(attempt) if attempt.stage != Stage::Unanswered => {
                attempt.unsent = Some(error);
                actions
            }
            Some(_) => self.fail(now, Failure::Rejected(error)),
            None => actions,
        }
    }

    fn unreached(&mut self, now: Instant) -> Vec<Action> {
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.stage != Stage::Undecided);
        match attempt.and_then(|attempt| attempt.unsent.take()) {
            Some(error) => self.fail(now, Failure::Rejected(error)),
            None => Vec::new(),
        }
    }

    fn offer(&mut self, now: Instant, session: SessionId, described: Described) -> Vec<Action> {
        if self.answered == Some(session) {
            return vec![Action::SendAnswer(session)];
        }
        let crossed = self.offered().is_some() || self.unanswered.is_some_and(|(_, until)| now < until);
        if crossed && self.us < self.peer && matches!(described, Described::Ours(_)) {
            return Vec::new();
        }
        let mut actions = self.abandon();
        self.answered = Some(session);
        // The peer may have been started again since then: what it chooses from now on is its answer to ours.
        self.chosen = None;
        self.begin(now, Role::Answerer, session, Stage::Unreachable);
        actions.extend([Action::SendAnswer(session), self.connect(described)]);
        actions
    }

    fn connect(&mut self, described: Described) -> Action {
        match described {
            Described::Ours(counterpart) => Action::Dial(counterpart),
            Described::Python(counterpart) => {
                if let Some(attempt) = &mut self.attempt {
                    attempt.stage = Stage::PythonUnreachable;
                }
                Action::ConnectPython(counterpart)
            }
        }
    }

    /// Connections of an attempt that is overtaken by a newer offer.
    fn abandon(&mut self) -> Vec<Action> {
        let up = self.attempt.take().map(|attempt| attempt.up).unwrap_or_default();
        up.into_iter().map(Action::Close).collect()
    }

    fn answer(&mut self, session: SessionId, described: Described) -> Vec<Action> {
        let late = self.unanswered.take_if(|(unanswered, _)| *unanswered == session).is_some();
        if self.offered() != Some(session) {
            // The peer may have had our choice before our offer, and wait for another one.
            return self.in_use.filter(|_| late).map(Action::Nominate).into_iter().collect();
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.stage = Stage::Unreachable;
            attempt.repeat = None;
        }
        vec![self.connect(described)]
    }

    fn up(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        match &mut self.attempt {
            Some(attempt) if attempt.is_with_python() => self.choose(now, connection),
            Some(attempt) if attempt.role == Role::Answerer => {
                attempt.stage = Stage::Undecided;
                attempt.up.push(connection);
                Vec::new()
            }
            Some(_) => {
                self.chosen = Some((connection, now + CLASH));
                let mut actions = vec![Action::Nominate(connection)];
                actions.extend(self.choose(now, connection));
                actions
            }
            None => {
                self.spare(now, vec![connection]);
                Vec::new()
            }
        }
    }

    fn nominated(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        if self.in_use == Some(connection) {
            self.settle(now);
            return Vec::new();
        }
        let clash = self.chosen.is_some_and(|(ours, until)| self.in_use == Some(ours) && now < until);
        if clash && self.us < self.peer {
            return Vec::new();
        }
        self.choose(now, connection)
    }

    /// An offer that the peer made before it chose the connection in use asks for nothing more.
    fn settle(&mut self, now: Instant) {
        let answering = self.attempt.take_if(|attempt| attempt.role == Role::Answerer);
        let rivals = answering.map(|attempt| attempt.up).unwrap_or_default();
        self.spare(now, rivals);
    }

    fn spare(&mut self, now: Instant, connections: Vec<ConnectionId>) {
        self.spare.extend(connections.into_iter().map(|connection| (connection, now + SPARE_GRACE)));
    }

    fn choose(&mut self, now: Instant, connection: ConnectionId) -> Vec<Action> {
        let attempt = self.attempt.take();
        let unanswered = |attempt: &&Attempt| matches!(attempt.stage, Stage::Unanswered | Stage::Missed);
        if let Some(attempt) = attempt.as_ref().filter(unanswered) {
            self.unanswered = Some((attempt.session, attempt.deadline));
        }
        let rivals = attempt.map(|attempt| attempt.up).unwrap_or_default();
        self.spare(now, rivals);
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
        if let Some(attempt) = &mut self.attempt
            && attempt.repeat.is_some_and(|repeat| repeat <= now)
        {
            attempt.repeat = Some(now + REPEAT);
            actions.push(Action::SendOffer(attempt.session));
            // The relay may be out of reach, of the peer or of us, and nobody has noticed yet.
            actions.extend(self.dial_known());
        }
        if let Some(attempt) = self.attempt.as_mut().filter(|attempt| now >= attempt.deadline) {
            let unsent = attempt.unsent.take().map(Failure::Rejected);
            let failure = unsent.unwrap_or(Failure::Timeout(attempt.stage));
            actions.extend(self.fail(now, failure));
        }
        actions
    }

    fn fail(&mut self, now: Instant, failure: Failure) -> Vec<Action> {
        if self.attempt.as_ref().is_some_and(Attempt::is_with_python) {
            self.held = Some(now + PYTHON_HOLDS);
        }
        let mut actions = self.abandon();
        actions.push(Action::Fail(failure));
        actions
    }
}

#[cfg(test)]
mod tests;
