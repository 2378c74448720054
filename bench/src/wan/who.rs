//! Who takes part, by the names that the command line knows.

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::command::{Get, Sendme};
use crate::contestant::Contestant;
use crate::http::Endpoints;
use crate::redis::Redis;
use crate::tcp::Tcp;
use crate::world::World;

/// A contestant that may be started.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Who {
    /// Bare TCP.
    Tcp,
    /// Our endpoints, free to take any path.
    Ours,
    /// Our endpoints, with nothing but the relay between them.
    Relayed,
    /// Redis through an SSH tunnel.
    Redis,
    /// Python's endpoints.
    Python,
    /// One of ours, which gets what a Python endpoint has.
    Mixed,
    /// `endpoint get`, a whole command, through an open session.
    Command,
    /// The same through a new session each time.
    Dialing,
    /// `sendme receive`, a whole command.
    Sendme,
}

impl Who {
    /// Starts it; none if something of it is not installed, and says so.
    pub fn start(
        self,
        world: &World,
        python: Option<&Path>,
        sendme: Option<&Path>,
    ) -> Result<Option<Box<dyn Contestant>>> {
        let with_python = |start: fn(&World, &Path) -> Result<Endpoints>| {
            let started = installed("Python", python).map(|python| start(world, python));
            started.transpose().map(|endpoints| endpoints.map(boxed))
        };
        Ok(match self {
            Self::Tcp => Some(boxed(Tcp::start(world)?)),
            Self::Ours => Some(boxed(Endpoints::direct(world)?)),
            Self::Relayed => Some(boxed(Endpoints::relayed(world)?)),
            Self::Redis => Redis::start(world)?.map(boxed),
            Self::Python => with_python(Endpoints::python)?,
            Self::Mixed => with_python(Endpoints::mixed)?,
            Self::Command => Some(boxed(Get::start(world)?)),
            Self::Dialing => Some(boxed(Get::dialing(world)?)),
            Self::Sendme => installed("sendme", sendme).map(|program| boxed(Sendme::new(world, program))),
        })
    }
}

fn boxed(contestant: impl Contestant + 'static) -> Box<dyn Contestant> {
    Box::new(contestant)
}

fn installed<'p>(name: &str, program: Option<&'p Path>) -> Option<&'p Path> {
    if program.is_none() {
        eprintln!("SKIPPED: {name}: it is not installed");
    }
    program
}
