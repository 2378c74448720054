//! A whole command, from its start to its end, that fetches one file from another program on loopback: `endpoint get`
//! beside `sendme receive`.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use bytes::Bytes;
use proxystore_bench::commands::{Sendme, get, timed};
use proxystore_bench::figures::{Bar, Figure, Figures, OURS, median};
use proxystore_bench::load::{Connection, Request};
use proxystore_bench::programs::{Relay, Site};

use crate::{LARGE, milliseconds};

/// Enough for a median that one slow round does not move.
const ROUNDS: usize = 5;

/// What is said of sendme's command.
const BAR: f64 = 2.0;

/// Measures both; without a `sendme`, ours alone.
pub async fn measure(sendme: Option<&Path>, relay: &Relay, figures: &mut Figures) -> Result<()> {
    let object = proxystore_tests::noise(LARGE, 1);
    let ours = Ours::start(relay, object.clone()).await?;
    let sendme = sendme.map(|program| Sendme::start(program, &object)).transpose()?;
    let (mut own, mut other) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        own.push(timed(LARGE, |folder| ours.command(folder))?.as_secs_f64());
        if let Some(sendme) = &sendme {
            other.push(timed(LARGE, |_| sendme.receive())?.as_secs_f64());
        }
    }
    let what = "whole command: peer get";
    figures.add(milliseconds(what, LARGE, OURS, median(own)));
    match sendme {
        Some(_) => {
            let figure = milliseconds(what, LARGE, "sendme", median(other));
            figures.add(Figure { bar: Some(Bar::Times(BAR)), ..figure });
        }
        None => eprintln!("SKIPPED: sendme: it is not installed"),
    }
    Ok(())
}

/// Two endpoints that have a session, and an object at the far one.
struct Ours {
    near: Site,
    far: Site,
}

impl Ours {
    async fn start(relay: &Relay, object: Bytes) -> Result<Self> {
        let (near, far) = (Site::ours(Some(relay))?, Site::ours(Some(relay))?);
        Connection::open(far.port).await?.exchange(&Request::http("POST", "/set?key=file", object)).await?;
        let small = Request::http("GET", &format!("/exists?key=file&endpoint={}", far.id), Bytes::new());
        Connection::open(near.port).await?.meet(&small).await?;
        Ok(Self { near, far })
    }

    fn command(&self, folder: &Path) -> Command {
        get(self.near.command(), "file", &self.far.id, folder)
    }
}
