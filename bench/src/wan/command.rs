//! Whole commands, from their start to their end, that fetch an object into a file: `endpoint get`, whose endpoint has
//! a session with the far one or has to dial it, beside `sendme receive`, which always dials.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_bench::commands::{self, timed};
use proxystore_tests::net::Namespace;

use crate::SIZES;
use crate::contestant::{Contestant, object};
use crate::http::{Endpoints, FORGOTTEN};
use crate::world::World;

/// Below a megabyte a whole command is all start and no transfer.
const LEAST_LEN: usize = 1_000_000;

/// For the table.
const SENDME: &str = "sendme";

/// `endpoint get`.
pub struct Get {
    endpoints: Endpoints,
    near: Arc<Namespace>,
    /// Before each command.
    pause: Duration,
}

impl Get {
    /// Through a session that stays open.
    pub fn start(world: &World) -> Result<Self> {
        Self::through(Endpoints::for_commands(world)?, world, Duration::ZERO)
    }

    /// Through a new session each time.
    pub fn dialing(world: &World) -> Result<Self> {
        Self::through(Endpoints::for_dialing(world)?, world, FORGOTTEN)
    }

    fn through(endpoints: Endpoints, world: &World, pause: Duration) -> Result<Self> {
        // For the warm-up, which is smaller than anything that is measured here.
        endpoints.put(SIZES[0])?;
        Ok(Self { endpoints, near: world.near.clone(), pause })
    }
}

impl Contestant for Get {
    fn name(&self) -> &'static str {
        self.endpoints.name()
    }

    fn is_peer(&self) -> bool {
        false
    }

    fn compared_with(&self) -> &'static str {
        SENDME
    }

    fn least_len(&self) -> usize {
        LEAST_LEN
    }

    fn put(&self, len: usize) -> Result<()> {
        self.endpoints.put(len)
    }

    fn fetch(&self, len: usize) -> Result<()> {
        self.timed_fetch(len).map(drop)
    }

    fn timed_fetch(&self, len: usize) -> Result<Duration> {
        thread::sleep(self.pause);
        self.near.within(|| timed(len, |folder| self.endpoints.command(len, folder)))
    }
}

/// `sendme receive`, and the `sendme send` of the object that was put last.
pub struct Sendme {
    program: PathBuf,
    near: Arc<Namespace>,
    far: Arc<Namespace>,
    sender: RefCell<Option<commands::Sendme>>,
}

impl Sendme {
    /// Starts nothing yet.
    pub fn new(world: &World, program: &Path) -> Self {
        let (near, far) = (world.near.clone(), world.far.clone());
        Self { program: program.to_owned(), near, far, sender: RefCell::default() }
    }
}

impl Contestant for Sendme {
    fn name(&self) -> &'static str {
        SENDME
    }

    fn compared_with(&self) -> &'static str {
        SENDME
    }

    fn least_len(&self) -> usize {
        LEAST_LEN
    }

    fn put(&self, len: usize) -> Result<()> {
        let program = &self.program;
        let sender = self.far.within(|| commands::Sendme::start(program, &object(len)))?;
        self.sender.replace(Some(sender));
        Ok(())
    }

    /// Each command opens everything anew.
    fn warm_up(&self) -> Result<()> {
        Ok(())
    }

    fn fetch(&self, len: usize) -> Result<()> {
        self.timed_fetch(len).map(drop)
    }

    fn timed_fetch(&self, len: usize) -> Result<Duration> {
        let sender = self.sender.borrow();
        let sender = sender.as_ref().context("nothing was put")?;
        self.near.within(|| timed(len, |_| sender.receive()))
    }
}
