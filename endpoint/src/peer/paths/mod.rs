//! The paths of a session: carries out what [`policy`] decides, and tells people which path is in use.
//!
//! One task a session. A session starts with the path that its connection was made over; others are opened by QUIC's
//! own means: the dialling side probes the addresses that the other announces, both at once, so that two NATs let the
//! probes through.

mod policy;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _};
use noq::{Connection, NatTraversalUpdates, PathEvent, PathEvents, PathId, PathStats, PathStatus, Side};
use proxystore_shared::EndpointId;
use tokio::sync::watch;
use tokio::time::sleep_until;
use tracing::{debug, info};

use self::policy::{Action, Input, Kind, Measured, PathPolicy};
use super::context::Context;
use super::session::{PathView, Session};
use super::status::PathKind;
use crate::signaling::Signaling;
use crate::transport::addresses::LocalAddresses;
use crate::transport::quic::{KEEP_ALIVE, MAX_CANDIDATES, MAX_IDLE};
use crate::transport::relayed;
use crate::transport::shared_socket::canonical;

/// Between looks at the counters. A fifth of the silence that means a stall.
const LOOK: Duration = Duration::from_millis(50);

/// The same while no request is running: then nobody waits, and a look costs a wake-up.
const IDLE_LOOK: Duration = Duration::from_millis(250);

/// Between keep-alives on the path through the relay, which costs the relay something, and whose silence is found out
/// by the connection to the relay as well.
const RELAYED_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Silence after which the path through the relay is given up: longer than a relay takes to restart.
const RELAYED_MAX_IDLE: Duration = Duration::from_secs(30);

/// Looks after the paths of `session` until it is closed.
pub async fn run(context: Arc<Context>, peer: EndpointId, session: Arc<Session>) {
    let Some(events) = session.take_path_events() else { return };
    let closed = session.connection().clone();
    let stop = context.stop.clone();
    let mut paths = Paths::new(context, peer, session, events);
    tokio::select! {
        () = stop.cancelled() => {}
        _ = closed.closed() => {}
        () = paths.run() => {}
    }
}

struct Paths {
    peer: EndpointId,
    session: Arc<Session>,
    connection: Connection,
    policy: PathPolicy,
    open: BTreeSet<PathId>,
    announced: BTreeSet<SocketAddr>,
    addresses: watch::Receiver<LocalAddresses>,
    signaling: Signaling,
    relay: watch::Receiver<bool>,
    events: PathEvents,
    updates: NatTraversalUpdates,
}

impl Paths {
    fn new(context: Arc<Context>, peer: EndpointId, session: Arc<Session>, events: PathEvents) -> Self {
        let connection = session.connection().clone();
        let leads = connection.side() == Side::Client;
        let relay = context.signaling.datagrams();
        let policy = PathPolicy::new(leads, *relay.borrow(), Instant::now());
        Self {
            peer,
            policy,
            open: BTreeSet::new(),
            announced: BTreeSet::new(),
            addresses: context.addresses.clone(),
            signaling: context.signaling.clone(),
            relay,
            events,
            updates: connection.nat_traversal_updates(),
            session,
            connection,
        }
    }

    async fn run(&mut self) {
        self.opened(PathId::ZERO);
        self.addresses.mark_changed();
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next_look.into()) => {
                    self.look();
                    let pause = if self.session.activity().running() > 0 { LOOK } else { IDLE_LOOK };
                    next_look = Instant::now() + pause;
                }
                event = self.events.next() => match event {
                    Some(Ok(event)) => self.happened(event),
                    // Dozens at once: a peer that opens and closes paths without end, to its own harm.
                    Some(Err(_)) => {}
                    None => return,
                },
                update = self.updates.next() => match update {
                    Some(_) => self.candidates(),
                    None => return,
                },
                Ok(()) = self.addresses.changed() => self.announce(),
                Ok(()) = self.relay.changed() => {
                    let relay = *self.relay.borrow_and_update();
                    self.step(Input::Relay(relay));
                }
            }
        }
    }

    fn happened(&mut self, event: PathEvent) {
        match event {
            PathEvent::Established { id, .. } => self.opened(id),
            PathEvent::Abandoned { id, reason, .. } => {
                debug!(peer = %self.peer, path = %id, ?reason, "a path is gone");
                self.open.remove(&id);
                self.step(Input::Closed(id));
            }
            PathEvent::RemoteStatus { id, status: PathStatus::Available, .. } => {
                self.step(Input::PeerPrefers(id));
            }
            _ => {}
        }
    }

    fn opened(&mut self, id: PathId) {
        let Some(path) = self.connection.path(id) else { return };
        let Ok(address) = path.remote_address() else { return };
        let (kind, keep_alive, max_idle) = match relayed::peer_at(address) {
            Some(_) => (Kind::Relayed, RELAYED_KEEP_ALIVE, RELAYED_MAX_IDLE),
            None => (Kind::Direct, KEEP_ALIVE, MAX_IDLE),
        };
        // A path that has just been closed needs neither.
        let _ = path.set_keep_alive_interval(Some(keep_alive));
        let _ = path.set_max_idle_timeout(Some(max_idle));
        debug!(peer = %self.peer, path = %id, ?kind, address = %canonical(address), "a path is open");
        self.open.insert(id);
        self.step(Input::Opened(id, kind, measured(&path.stats())));
        // QUIC takes a path that the other side opened for one to use, beside the one that is in use.
        if let Some(in_use) = self.policy.in_use() {
            self.prefer(in_use);
        }
    }

    /// Addresses of the peer come several at once, each an update of its own; one round probes all of them.
    fn candidates(&mut self) {
        while let Some(Some(_)) = self.updates.next().now_or_never() {}
        self.step(Input::Candidates);
    }

    /// Tells the peer where we may be found now.
    fn announce(&mut self) {
        let current = self.addresses.borrow_and_update().clone();
        let wanted: BTreeSet<SocketAddr> = current
            .candidates
            .iter()
            .take(MAX_CANDIDATES.into())
            .map(|candidate| candidate.address)
            .collect();
        for gone in self.announced.difference(&wanted) {
            // Fails only if the peer has no use for addresses.
            let _ = self.connection.remove_nat_traversal_address(*gone);
        }
        for new in wanted.difference(&self.announced) {
            if let Err(error) = self.connection.add_nat_traversal_address(*new) {
                debug!(peer = %self.peer, address = %new, %error, "an address was not announced");
            }
        }
        if wanted != self.announced {
            self.announced = wanted;
            self.step(Input::Candidates);
        }
    }

    fn look(&mut self) {
        for id in self.open.clone() {
            if let Some(stats) = self.connection.path_stats(id) {
                self.step(Input::Measured(id, measured(&stats)));
            }
        }
        self.step(Input::Tick);
        self.publish();
    }

    fn step(&mut self, input: Input) {
        for action in self.policy.handle(Instant::now(), input) {
            self.act(action);
        }
    }

    /// What fails here fails because the path, or the connection, is gone; that is reported by itself.
    fn act(&mut self, action: Action) {
        match action {
            Action::Prefer(preferred) => self.prefer(preferred),
            Action::Ping(id) => {
                let _ = self.connection.path(id).map(|path| path.ping());
            }
            Action::Close(id) => {
                debug!(peer = %self.peer, path = %id, "closing a path");
                self.open.remove(&id);
                let _ = self.connection.path(id).map(|path| path.close());
            }
            Action::StartRound => match self.connection.initiate_nat_traversal_round() {
                Ok(probed) => debug!(peer = %self.peer, ?probed, "looking for a direct path"),
                Err(error) => debug!(peer = %self.peer, %error, "cannot look for a direct path"),
            },
            Action::CheckRelay => self.signaling.check(),
            Action::OpenRelayed => {
                let address = relayed::address_of(self.peer);
                // Its outcome is an event.
                drop(self.connection.open_path(address, PathStatus::Backup));
            }
        }
    }

    fn prefer(&mut self, preferred: PathId) {
        for id in &self.open {
            let status = if *id == preferred { PathStatus::Available } else { PathStatus::Backup };
            if let Some(path) = self.connection.path(*id)
                && path.status().is_ok_and(|current| current != status)
            {
                let _ = path.set_status(status);
            }
        }
        self.publish();
    }

    fn publish(&self) {
        let Some(path) = self.policy.in_use().and_then(|id| self.connection.path(id)) else { return };
        let Ok(address) = path.remote_address() else { return };
        let address = Some(canonical(address)).filter(|address| relayed::peer_at(*address).is_none());
        let kind = match address {
            None => PathKind::Relayed,
            Some(address) if self.session.is_punched(address) => PathKind::Punched,
            Some(_) => PathKind::Direct,
        };
        let view = PathView { id: path.id(), kind, address, round_trip: path.stats().rtt };
        if (view.kind, view.address) != (self.session.path().kind, self.session.path().address) {
            info!(peer = %self.peer, path = ?kind, ?address, "the session's path");
        }
        self.session.set_path(view);
    }
}

fn measured(stats: &PathStats) -> Measured {
    Measured { sent: stats.udp_tx.datagrams, received: stats.udp_rx.datagrams, round_trip: stats.rtt }
}
