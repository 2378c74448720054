//! How busy a session is.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// Counts the requests that run on a session, either direction.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    running: usize,
    last_end: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(State { running: 0, last_end: Instant::now() }))
    }
}

impl Activity {
    /// A request begins.
    pub fn begin(&self) {
        self.state().running += 1;
    }

    /// A request ends.
    pub fn end(&self) {
        let mut state = self.state();
        state.running -= 1;
        state.last_end = Instant::now();
    }

    /// Requests under way.
    pub fn running(&self) -> usize {
        self.state().running
    }

    /// How long no request has been running; zero while one is.
    pub fn idle_for(&self) -> Duration {
        let state = self.state();
        if state.running == 0 { state.last_end.elapsed() } else { Duration::ZERO }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}
