//! A connection with a peer whose key was proven, and how busy it is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use noq::{Connection, ConnectionStats, PathEvents, PathId};

use super::activity::Activity;
use super::negotiation::ConnectionId;
use super::status::PathKind;
use crate::lock::lock;
use crate::transport::quic::{CloseCode, Watched};

/// A usable connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    activity: Activity,
    /// Until [`super::paths`] takes them.
    path_events: Mutex<Option<PathEvents>>,
    /// Written by [`super::paths`].
    path: Mutex<PathView>,
    /// The peer's own addresses, as far as it has told them.
    hosts: Mutex<BTreeSet<SocketAddr>>,
}

/// The path that carries the data.
#[derive(Debug, Clone, Copy)]
pub struct PathView {
    /// Its number.
    pub id: PathId,
    /// What it goes through.
    pub kind: PathKind,
    /// The peer's UDP address, if it does not go through the relay.
    pub address: Option<SocketAddr>,
    /// Smoothed round trip.
    pub round_trip: Duration,
}

impl Session {
    /// Wraps a connection after its handshake.
    pub fn new(Watched { connection, path_events }: Watched) -> Self {
        let round_trip = connection.rtt(PathId::ZERO).unwrap_or_default();
        let path = PathView { id: PathId::ZERO, kind: PathKind::Direct, address: None, round_trip };
        Self {
            connection,
            activity: Activity::default(),
            path_events: Mutex::new(Some(path_events)),
            path: Mutex::new(path),
            hosts: Mutex::default(),
        }
    }

    /// Names the connection within this process.
    pub fn id(&self) -> ConnectionId {
        self.connection.stable_id()
    }

    /// The connection itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What has happened to its paths since the handshake, for the one who looks after them.
    pub fn take_path_events(&self) -> Option<PathEvents> {
        lock(&self.path_events).take()
    }

    /// Counters over all its paths.
    pub fn stats(&self) -> ConnectionStats {
        self.connection.stats()
    }

    /// The path that carries the data.
    pub fn path(&self) -> PathView {
        *lock(&self.path)
    }

    /// Another path carries the data, or the same one has changed.
    pub fn set_path(&self, path: PathView) {
        *lock(&self.path) = path;
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&self) {
        if let Some(path) = self.connection.path(self.path().id) {
            // A closed path answers as little as a dead peer.
            let _ = path.ping();
        }
    }

    /// Remembers the peer's own addresses.
    pub fn set_hosts(&self, hosts: impl IntoIterator<Item = SocketAddr>) {
        *lock(&self.hosts) = hosts.into_iter().collect();
    }

    /// Whether `address` is one that a NAT gave the peer.
    pub fn is_punched(&self, address: SocketAddr) -> bool {
        let hosts = lock(&self.hosts);
        !hosts.is_empty() && !hosts.contains(&address)
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Closes it for a reason the peer is told.
    pub fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(code.into(), reason.as_bytes());
    }

    /// Counts a request as running until the guard is dropped.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.activity.begin();
        Busy(self.clone())
    }

    /// How busy it is.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }
}

/// A running request; see [`Session::busy`].
#[derive(Debug)]
pub struct Busy(Arc<Session>);

impl Busy {
    /// The session that is busy.
    pub fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.end();
    }
}
