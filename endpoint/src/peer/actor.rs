//! One task a peer: owns the connections with it and drives the [`Negotiation`].

mod dials;
mod messages;
mod report;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxystore_shared::EndpointId;
use proxystore_shared::description::{Candidate, CandidateKind, IceCredentials, SessionId};
use proxystore_shared::relay_message::{DescriptionKind, PeerConnection};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

use self::dials::{Dialled, Unreached};
use super::any_session::AnySession;
use super::context::Context;
use super::negotiation::{Action, ConnectionId, Counterpart, Failure, Input, Negotiation};
use super::session::Session;
use super::status::PeerStatus;
use super::{PeerError, paths, python, serve};
use crate::transport::quic::{CloseCode, Watched};
use crate::transport::tls::proven_key;
use crate::transport::webrtc;

/// Between looks at idle and retired connections.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A task without connections and without work ends after this.
const LINGER: Duration = Duration::from_secs(60);

/// Commands that wait for the task; senders wait beyond that.
pub const COMMANDS: usize = 64;

/// Where requests get their session.
pub type Reply = oneshot::Sender<Result<AnySession, PeerError>>;

/// What the task is asked to do.
pub enum Command {
    /// A request wants a session, and not the one that just failed it.
    Session { instead_of: Option<ConnectionId>, reply: Reply },
    /// An offer, an answer or an error came from the relay.
    Message(PeerConnection),
    /// The peer dialled us and proved its key.
    Accepted(Watched),
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
    sessions: HashMap<ConnectionId, AnySession>,
    retired: Vec<ConnectionId>,
    waiting: Vec<Reply>,
    dials: JoinSet<Result<Dialled, Unreached>>,
    dial_errors: Vec<String>,
    /// The peer's own addresses, as it last described them.
    hosts: Vec<SocketAddr>,
    /// What the last description of ours said for WebRTC, and in which negotiation.
    described: Option<(SessionId, IceCredentials)>,
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
        let hosts = known.as_ref().map(|known| hosts_of(&known.candidates)).unwrap_or_default();
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
            described: None,
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
            Command::Accepted(watched) => self.connected(watched),
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

    fn current(&self) -> Option<&AnySession> {
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
            Action::ConnectPython(counterpart) => self.connect_python(counterpart),
            Action::Nominate(connection) => self.nominate(connection),
            Action::Use(connection) => self.adopt(connection),
            Action::Retire(connection) => self.retired.push(connection),
            Action::Close(connection) => {
                self.close(connection, CloseCode::Superseded, "another connection was chosen")
            }
            Action::Fail(failure) => self.fail(failure),
        }
    }

    fn connected(&mut self, watched: Watched) {
        let connection = &watched.connection;
        let Some(key) = proven_key(connection) else {
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
        let session = Arc::new(Session::new(watched));
        session.set_hosts(self.hosts.iter().copied());
        let id = session.id();
        self.sessions.insert(id, AnySession::Ours(session.clone()));
        self.context.tasks.spawn(serve::run(self.context.clone(), self.peer, session));
        self.step(Input::Up(id));
    }

    fn connected_python(&mut self, connection: webrtc::Connection) {
        let session = python::task::start(&self.context, self.peer, connection);
        let id = session.id();
        self.sessions.insert(id, AnySession::Python(session));
        self.step(Input::Up(id));
    }

    fn nominate(&self, connection: ConnectionId) {
        if let Some(AnySession::Ours(session)) = self.sessions.get(&connection) {
            self.context.tasks.spawn(serve::nominate(session.clone(), self.context.config.read_timeout()));
        }
    }

    fn adopt(&mut self, connection: ConnectionId) {
        self.stop_dialling();
        let Some(session) = self.sessions.get(&connection).filter(|session| !session.is_closed()) else {
            self.step(Input::Down(connection));
            return;
        };
        let name = self.name.as_deref().unwrap_or("?");
        match session {
            AnySession::Ours(session) => {
                info!(peer = %self.peer, name, "session open");
                self.context.tasks.spawn(paths::run(self.context.clone(), self.peer, session.clone()));
            }
            AnySession::Python(_) => info!(peer = %self.peer, name, "session with a Python endpoint open"),
        }
        self.last_error = None;
        for reply in self.waiting.drain(..) {
            // The request may have given up.
            let _ = reply.send(Ok(session.clone()));
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.stop_dialling();
        let is_news = !matches!(failure, Failure::Held(_));
        let error = self.explain(failure);
        warn!(peer = %self.peer, %error, "no session");
        for reply in self.waiting.drain(..) {
            // The request may have given up.
            let _ = reply.send(Err(error.clone()));
        }
        if is_news {
            self.last_error = Some(error);
        }
    }

    fn close(&mut self, connection: ConnectionId, code: CloseCode, reason: &str) {
        if let Some(session) = self.sessions.get(&connection) {
            session.close(code, reason);
        }
    }

    fn ended(&mut self, connection: ConnectionId) {
        if let Some(AnySession::Ours(session)) = self.sessions.remove(&connection) {
            debug!(peer = %self.peer, reason = ?session.connection().close_reason(), "connection ended");
            self.remember_place(&session);
        }
        self.retired.retain(|retired| *retired != connection);
        self.step(Input::Down(connection));
    }

    /// A peer whose description was lost along with the relay is known by where the connection reached it. It describes
    /// itself again only through the relay.
    fn remember_place(&mut self, session: &Session) {
        if self.context.acquaintances.meet(self.peer, Instant::now()).is_some() {
            return;
        }
        let (Some(key), Some(address)) = (proven_key(session.connection()), session.path().address) else {
            return;
        };
        let candidates = vec![Candidate { address, kind: CandidateKind::Reflexive }];
        let counterpart = Counterpart { key, candidates };
        self.context.introduce(self.peer, counterpart.clone());
        self.negotiation.remember(Some(counterpart));
    }

    fn housekeep(&mut self) {
        self.waiting.retain(|waiting| !waiting.is_closed());
        let idle_timeout = self.context.config.session_idle_timeout();
        let idle = |session: &&AnySession| session.activity().idle_for() > idle_timeout;
        if let Some(session) = self.current().filter(|it| it.ends_when_idle()).filter(idle) {
            session.close(CloseCode::Idle, "nobody asked for anything");
        }
        let done: Vec<_> = self.retired.iter().copied().filter(|id| self.is_unused(*id)).collect();
        for connection in done {
            self.close(connection, CloseCode::Superseded, "another connection took over");
        }
    }

    fn is_unused(&self, connection: ConnectionId) -> bool {
        self.sessions.get(&connection).is_none_or(|session| session.activity().idle_for() > HOUSEKEEPING)
    }
}

/// Sleeps until `deadline`, or for ever if there is none.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn hosts_of(candidates: &[Candidate]) -> Vec<SocketAddr> {
    let hosts = candidates.iter().filter(|candidate| candidate.kind == CandidateKind::Host);
    hosts.map(|candidate| candidate.address).collect()
}
