//! A connection with a peer whose key was proven, and how busy it is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use noq::Connection;

use super::negotiation::ConnectionId;
use crate::transport::quic::{self, CloseCode, Vitals};

/// A usable connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    activity: Mutex<Activity>,
}

#[derive(Debug)]
struct Activity {
    /// Requests under way, either direction.
    running: usize,
    last_end: Instant,
}

impl Session {
    /// Wraps a connection after its handshake.
    pub fn new(connection: Connection) -> Self {
        let activity = Activity { running: 0, last_end: Instant::now() };
        Self { connection, activity: Mutex::new(activity) }
    }

    /// Names the connection within this process.
    pub fn id(&self) -> ConnectionId {
        self.connection.stable_id()
    }

    /// The connection itself.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the network does to it.
    pub fn vitals(&self) -> Vitals {
        quic::vitals(&self.connection)
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
        self.with(|activity| activity.running += 1);
        Busy(self.clone())
    }

    /// How long no request has been running; zero while one is.
    pub fn idle_for(&self) -> Duration {
        self.with(|activity| match activity.running {
            0 => activity.last_end.elapsed(),
            _ => Duration::ZERO,
        })
    }

    /// Requests under way.
    pub fn running(&self) -> usize {
        self.with(|activity| activity.running)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Activity) -> T) -> T {
        act(&mut self.activity.lock().unwrap_or_else(PoisonError::into_inner))
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
        self.0.with(|activity| {
            activity.running -= 1;
            activity.last_end = Instant::now();
        });
    }
}
