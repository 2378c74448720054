//! One task a peer: owns the connections with it and drives the [`Negotiation`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use noq::Connection;
use proxystore_shared::EndpointId;
use proxystore_shared::description::{
    CandidateKind, IceCredentials, QuicPeer, SessionDescription, SessionId,
};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::context::Context;
use super::negotiation::{Action, ConnectionId, Counterpart, Failure, Input, Negotiation, Stage};
use super::session::Session;
use super::status::{PathKind, PeerState, PeerStatus, why_not_direct};
use super::{PeerError, paths, serve};
use crate::transport::quic::{CloseCode, ConnectError};
use crate::transport::relayed;
use crate::transport::tls::{Expected, proven_key};

/// Between looks at idle and retired connections.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A task without connections and without work ends after this.
const LINGER: Duration = Duration::from_secs(60);

/// A dial through the relay that has gone so long without an answer met an outage, and QUIC repeats its first packet
/// after ever longer pauses: when the peer is heard of, it is dialled anew.
const REDIAL: Duration = Duration::from_secs(1);

/// Commands that wait for the task; senders wait beyond that.
pub const COMMANDS: usize = 64;

/// Where requests get their session.
pub type Reply = oneshot::Sender<Result<Arc<Session>, PeerError>>;

/// What the task is asked to do.
pub enum Command {
    /// A request wants a session, and not the one that just failed it.
    Session { instead_of: Option<ConnectionId>, reply: Reply },
    /// An offer, an answer or an error came from the relay.
    Message(PeerConnection),
    /// The peer dialled us and proved its key.
    Accepted(Connection),
    /// The peer chose this connection.
    Nominated(ConnectionId),
    /// A connection has ended.
    Down(ConnectionId),
    /// What is the state of things?
    Status(oneshot::Sender<PeerStatus>),
}

/// The task's state.
pub struct Actor {
    context: Arc<Context>,
    peer: EndpointId,
    name: Option<String>,
    commands: mpsc::Receiver<Command>,
    negotiation: Negotiation,
    sessions: HashMap<ConnectionId, Arc<Session>>,
    retired: Vec<ConnectionId>,
    waiting: Vec<Reply>,
    dials: JoinSet<Result<Connection, ConnectError>>,
    dial_errors: Vec<String>,
    /// The peer's own addresses, as it last described them.
    hosts: Vec<SocketAddr>,
    /// When the way through the relay was tried last, while that may still succeed.
    relay_dialled: Option<Instant>,
    last_error: Option<PeerError>,
    last_work: Instant,
}

impl Actor {
    /// Prepares the task for `peer`.
    pub fn new(context: Arc<Context>, peer: EndpointId, commands: mpsc::Receiver<Command>) -> Self {
        let mut negotiation = Negotiation::new(context.id, peer, context.config.connect_timeout());
        if context.known(peer).is_some() {
            negotiation.repeat_offers();
        }
        let known = context.acquaintances.meet(peer, Instant::now());
        let hosts = known.as_ref().map(hosts_of).unwrap_or_default();
        negotiation.remember(known);
        Self {
            context,
            peer,
            name: None,
            commands,
            negotiation,
            sessions: HashMap::new(),
            retired: Vec::new(),
            waiting: Vec::new(),
            dials: JoinSet::new(),
            dial_errors: Vec::new(),
            hosts,
            relay_dialled: None,
            last_error: None,
            last_work: Instant::now(),
        }
    }

    /// Runs until the endpoint stops or nobody has needed the peer for a while.
    pub async fn run(mut self) {
        let stop = self.context.stop.clone();
        let mut housekeeping = interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_done() {
            let deadline = self.negotiation.deadline();
            tokio::select! {
                () = stop.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => break,
                },
                Some(outcome) = self.dials.join_next() => self.dialled(outcome),
                () = at(deadline) => self.step(Input::Tick),
                _ = housekeeping.tick() => self.housekeep(),
            }
            self.publish();
        }
        self.context.sessions.remove(&self.peer);
        // Whoever wrote to us meanwhile sees the channel closed and starts a new task.
        self.commands.close();
        self.context.acquaintances.part(self.peer, Instant::now());
    }

    fn is_done(&self) -> bool {
        let busy = self.negotiation.is_trying() || !self.sessions.is_empty() || !self.waiting.is_empty();
        !busy && self.commands.is_empty() && self.last_work.elapsed() > LINGER
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Session { instead_of, reply } => self.find_session(instead_of, reply),
            Command::Message(message) => self.read_message(message),
            Command::Accepted(connection) => self.connected(connection),
            Command::Nominated(connection) => self.step(Input::Nominated(connection)),
            Command::Down(connection) => self.ended(connection),
            Command::Status(reply) => {
                // The asker may have given up.
                let _ = reply.send(self.status());
                return;
            }
        }
        self.last_work = Instant::now();
        self.keep_trying();
    }

    /// Requests that wait imply an attempt, also when the connection they were to get died at once.
    fn keep_trying(&mut self) {
        if !self.waiting.is_empty() && !self.negotiation.is_trying() {
            self.step(Input::Wanted(SessionId(rand::random())));
        }
    }

    fn find_session(&mut self, instead_of: Option<ConnectionId>, reply: Reply) {
        if let Some(session) = self.current().filter(|session| Some(session.id()) != instead_of) {
            // The request may have given up.
            let _ = reply.send(Ok(session.clone()));
            return;
        }
        self.waiting.retain(|waiting| !waiting.is_closed());
        self.waiting.push(reply);
    }

    fn current(&self) -> Option<&Arc<Session>> {
        let id = self.negotiation.in_use()?;
        self.sessions.get(&id).filter(|session| !session.is_closed())
    }

    /// Requests find the session without asking this task.
    fn publish(&self) {
        let current = self.current();
        let published = self.context.sessions.get(&self.peer).map(|session| session.id());
        if published == current.map(|session| session.id()) {
            return;
        }
        match current {
            Some(session) => drop(self.context.sessions.insert(self.peer, session.clone())),
            None => drop(self.context.sessions.remove(&self.peer)),
        }
    }

    fn read_message(&mut self, message: PeerConnection) {
        if message.source_uuid == self.peer {
            self.name = Some(message.source_name.clone());
        }
        match self.interpret(&message) {
            Ok(Some(input)) => {
                self.learn_hosts(&input);
                self.step(input);
            }
            Ok(None) => debug!(peer = %self.peer, "a message of no current negotiation"),
            Err(error) => self.refuse(&message, error),
        }
    }

    /// What a message means for the negotiation, its sender's identity checked.
    fn interpret(&self, message: &PeerConnection) -> Result<Option<Input>, PeerError> {
        if let Some(error) = &message.error {
            return Ok(self.interpret_error(message, error));
        }
        let description = SessionDescription::decode(&message.description).map_err(|error| {
            PeerError::Unsupported(format!("the peer's {} is unusable: {error}", message.description_type))
        })?;
        let quic = description.quic.ok_or_else(|| {
            let kind = message.description_type;
            PeerError::Unsupported(format!(
                "the peer's {kind} is for WebRTC only, as Python endpoints make them; this version speaks QUIC only"
            ))
        })?;
        self.context
            .pins
            .check(self.peer, quic.key)
            .map_err(|error| PeerError::Identity(error.to_string()))?;
        let candidates = description.candidates;
        let counterpart = Counterpart { key: quic.key, candidates };
        self.context.introduce(self.peer, counterpart.clone());
        Ok(Some(match message.description_type {
            DescriptionKind::Offer => Input::Offer(quic.session, counterpart),
            DescriptionKind::Answer => Input::Answer(quic.session, counterpart),
        }))
    }

    fn learn_hosts(&mut self, input: &Input) {
        let (Input::Offer(_, described) | Input::Answer(_, described)) = input else { return };
        self.hosts = hosts_of(described);
        for session in self.sessions.values() {
            session.set_hosts(self.hosts.iter().copied());
        }
    }

    /// The relay returns what it cannot deliver; a peer says so when it cannot answer.
    fn interpret_error(&self, message: &PeerConnection, error: &str) -> Option<Input> {
        let offered = self.negotiation.offered()?;
        let ours = message.source_uuid == self.context.id;
        let session =
            SessionDescription::decode(&message.description).ok().and_then(|it| it.quic).map(|it| it.session);
        match (ours, session) {
            (true, session) if session != Some(offered) => None,
            (true, _) => Some(Input::Rejected(PeerError::Unknown(error.to_owned()))),
            (false, _) => Some(Input::Rejected(PeerError::Unsupported(error.to_owned()))),
        }
    }

    /// An offer that cannot be answered is sent back with the reason, so that the peer need not wait; an answer
    /// that cannot be used ends the negotiation.
    fn refuse(&mut self, message: &PeerConnection, error: PeerError) {
        warn!(peer = %self.peer, %error, kind = %message.description_type, "refused a session description");
        match message.description_type {
            DescriptionKind::Answer => self.step(Input::Rejected(error)),
            DescriptionKind::Offer => {
                let text = format!("refused by endpoint {}: {error}", self.context.id);
                if let Err(error) =
                    self.send(DescriptionKind::Answer, message.description.clone(), Some(text))
                {
                    debug!(peer = %self.peer, %error, "the peer is not told");
                }
            }
        }
    }

    fn step(&mut self, input: Input) {
        for action in self.negotiation.handle(Instant::now(), input) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::SendOffer(session) => {
                self.describe(DescriptionKind::Offer, session);
                self.dial_ahead();
            }
            Action::SendAnswer(session) => self.describe(DescriptionKind::Answer, session),
            Action::Dial(counterpart) => self.dial(counterpart),
            Action::Nominate(connection) => self.nominate(connection),
            Action::Use(connection) => self.adopt(connection),
            Action::Retire(connection) => self.retired.push(connection),
            Action::Close(connection) => {
                self.close(connection, CloseCode::Superseded, "another connection was chosen")
            }
            Action::Fail(failure) => self.fail(failure),
        }
    }

    fn describe(&mut self, kind: DescriptionKind, session: SessionId) {
        self.dial_errors.clear();
        let description = SessionDescription {
            kind,
            quic: Some(QuicPeer { key: self.context.key, session }),
            candidates: self.context.candidates(),
        };
        match self.send(kind, description.encode(&random_ice()), None) {
            Ok(()) if self.context.signaling.status().connected => {}
            Ok(()) => self.step(Input::Waiting),
            Err(error) => self.step(Input::Unsent(error)),
        }
    }

    fn send(
        &self,
        kind: DescriptionKind,
        description: String,
        error: Option<String>,
    ) -> Result<(), PeerError> {
        let message = PeerConnection {
            source_uuid: self.context.id,
            source_name: self.context.name.clone(),
            peer_uuid: self.peer,
            description_type: kind,
            description,
            error,
        };
        let expires = Instant::now() + self.context.config.connect_timeout();
        let sent = self.context.signaling.send(message, expires);
        sent.map_err(|full| PeerError::NoRelay(self.why_no_relay().unwrap_or_else(|| full.to_string())))
    }

    /// What is wrong with the connection to the relay, unless there is one.
    fn why_no_relay(&self) -> Option<String> {
        let relay = self.context.signaling.status();
        let connecting = || format!("connecting to {}", relay.address);
        (!relay.connected).then(|| relay.last_error.unwrap_or_else(connecting))
    }

    /// Where nothing more has to be known of the peer, the way through the relay is tried along with the offer, which
    /// the peer gets first: that saves waiting for its answer.
    fn dial_ahead(&mut self) {
        if let Some(expected) = self.context.known(self.peer) {
            self.dial_relayed(expected);
        }
    }

    fn dial_relayed(&mut self, expected: Expected) {
        let lately = self.relay_dialled.is_some_and(|dialled| dialled.elapsed() < REDIAL);
        if *self.context.signaling.datagrams().borrow() && !lately {
            self.relay_dialled = Some(Instant::now());
            self.dial_address(relayed::address_of(self.peer), expected);
        }
    }

    fn dial(&mut self, counterpart: Counterpart) {
        let expected = Expected::Key(counterpart.key);
        if self.negotiation.offered().is_some() {
            self.dial_relayed(expected);
        }
        for candidate in counterpart.candidates {
            self.dial_address(candidate.address, expected);
        }
    }

    fn dial_address(&mut self, address: SocketAddr, expected: Expected) {
        let limit = self.context.config.connect_timeout();
        let quic = self.context.quic.clone();
        self.dials.spawn(async move {
            timeout(limit, quic.dial(address, expected)).await.unwrap_or_else(|_| Err(no_answer(address)))
        });
    }

    fn dialled(&mut self, outcome: Result<Result<Connection, ConnectError>, tokio::task::JoinError>) {
        match outcome {
            Ok(Ok(connection)) => self.connected(connection),
            Ok(Err(error)) => {
                debug!(peer = %self.peer, %error, "an address of the peer did not answer");
                if relayed::peer_at(error.address()).is_some() {
                    self.relay_dialled = None;
                }
                self.dial_errors.push(error.to_string());
                if self.dials.is_empty() {
                    self.step(Input::Unreached);
                }
            }
            // Dials are aborted once a connection is chosen.
            Err(_) => {}
        }
    }

    fn connected(&mut self, connection: Connection) {
        let Some(key) = proven_key(&connection) else {
            connection.close(CloseCode::Unexpected.into(), b"no key was proven");
            return;
        };
        if let Err(error) = self.context.pins.check(self.peer, key) {
            warn!(peer = %self.peer, %error, "closed a connection with a wrong identity");
            connection.close(CloseCode::Unexpected.into(), b"the key is not the one on record");
            return;
        }
        if let Err(error) = self.context.pins.pin(self.peer, key) {
            warn!(peer = %self.peer, %error, "cannot record the peer's key");
        }
        let session = Arc::new(Session::new(connection));
        session.set_hosts(self.hosts.iter().copied());
        let id = session.id();
        self.sessions.insert(id, session.clone());
        self.context.tasks.spawn(serve::run(self.context.clone(), self.peer, session));
        self.step(Input::Up(id));
    }

    fn nominate(&self, connection: ConnectionId) {
        if let Some(session) = self.sessions.get(&connection) {
            self.context.tasks.spawn(serve::nominate(session.clone(), self.context.config.read_timeout()));
        }
    }

    fn adopt(&mut self, connection: ConnectionId) {
        self.stop_dialling();
        let Some(session) = self.sessions.get(&connection).filter(|session| !session.is_closed()) else {
            self.step(Input::Down(connection));
            return;
        };
        info!(peer = %self.peer, name = self.name.as_deref().unwrap_or("?"), "session open");
        self.context.tasks.spawn(paths::run(self.context.clone(), self.peer, session.clone()));
        self.last_error = None;
        for reply in self.waiting.drain(..) {
            // The request may have given up.
            let _ = reply.send(Ok(session.clone()));
        }
    }

    fn stop_dialling(&mut self) {
        self.dials.abort_all();
        self.relay_dialled = None;
    }

    fn fail(&mut self, failure: Failure) {
        self.stop_dialling();
        let error = self.explain(failure);
        warn!(peer = %self.peer, %error, "no session");
        for reply in self.waiting.drain(..) {
            // The request may have given up.
            let _ = reply.send(Err(error.clone()));
        }
        self.last_error = Some(error);
    }

    fn explain(&self, failure: Failure) -> PeerError {
        let after = self.context.config.connect_timeout();
        match failure {
            Failure::Rejected(error) => error,
            Failure::Timeout(stage @ (Stage::Unanswered | Stage::Missed)) => match self.why_no_relay() {
                Some(why) if stage == Stage::Missed => {
                    PeerError::NoRelay(format!("{why}; nor does the peer answer where it was last"))
                }
                Some(why) => PeerError::NoRelay(why),
                None => PeerError::ConnectTimeout {
                    after,
                    why: "the peer did not answer the offer; is it running?".into(),
                },
            },
            Failure::Timeout(Stage::Unreachable) => {
                let tried = match self.dial_errors.as_slice() {
                    [] => "no address of either side could be reached".into(),
                    errors => format!("no address of either side could be reached ({})", errors.join("; ")),
                };
                PeerError::ConnectTimeout { after, why: tried }
            }
            Failure::Timeout(Stage::Undecided) => {
                PeerError::ConnectTimeout { after, why: "the peer chose no connection".into() }
            }
        }
    }

    fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
        if let Some(session) = self.sessions.get(&connection) {
            session.close(code, reason);
        }
    }

    fn ended(&mut self, connection: ConnectionId) {
        if let Some(session) = self.sessions.remove(&connection) {
            debug!(peer = %self.peer, reason = ?session.connection().close_reason(), "connection ended");
        }
        self.retired.retain(|retired| *retired != connection);
        self.step(Input::Down(connection));
    }

    fn housekeep(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let idle_timeout = self.context.config.session_idle_timeout();
        if let Some(session) = self.current().filter(|session| session.idle_for() > idle_timeout) {
            session.close(CloseCode::Idle, "nobody asked for anything");
        }
        let done: Vec<_> = self.retired.iter().copied().filter(|id| self.is_unused(*id)).collect();
        for connection in done {
            self.close(connection, CloseCode::Superseded, "another connection took over");
        }
    }

    fn is_unused(&self, connection: ConnectionId) -> bool {
        self.sessions.get(&connection).is_none_or(|session| session.idle_for() > HOUSEKEEPING)
    }

    fn status(&self) -> PeerStatus {
        let session = self.current();
        let path = session.map(|session| session.path());
        let stats = session.map(|session| session.stats());
        let state = match session {
            Some(_) => PeerState::Connected,
            None if self.negotiation.is_trying() => PeerState::Connecting,
            None => PeerState::Idle,
        };
        PeerStatus {
            id: self.peer,
            name: self.name.clone(),
            state,
            path: path.map(|path| path.kind),
            address: path.and_then(|path| path.address).map(|address| address.to_string()),
            round_trip_ms: path.map(|path| path.round_trip.as_secs_f64() * 1e3),
            sent_bytes: stats.as_ref().map_or(0, |stats| stats.udp_tx.bytes),
            received_bytes: stats.as_ref().map_or(0, |stats| stats.udp_rx.bytes),
            lost_packets: stats.as_ref().map_or(0, |stats| stats.lost_packets),
            running_requests: session.map_or(0, |session| session.running()) as u64,
            why_not_direct: path
                .filter(|path| path.kind == PathKind::Relayed)
                .map(|_| why_not_direct(self.context.addresses.borrow().nat).to_owned()),
            last_error: self.last_error.as_ref().map(ToString::to_string),
        }
    }
}

/// Sleeps until `deadline`, or for ever if there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn hosts_of(counterpart: &Counterpart) -> Vec<SocketAddr> {
    let hosts = counterpart.candidates.iter().filter(|candidate| candidate.kind == CandidateKind::Host);
    hosts.map(|candidate| candidate.address).collect()
}

fn no_answer(address: SocketAddr) -> ConnectError {
    ConnectError::Address { address, reason: "no answer".into() }
}

/// No transport of ours reads these, but a description without them is not WebRTC's.
fn random_ice() -> IceCredentials {
    let random: [u8; 20] = rand::random();
    let text = data_encoding::HEXLOWER.encode(&random);
    IceCredentials { ufrag: text[..8].to_owned(), pwd: text[8..].to_owned() }
}
