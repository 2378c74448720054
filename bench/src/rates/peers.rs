//! Many small objects from a peer: 10,000 gets of 1 KB over one pool of connections that 64 clients share.

use std::cell::Cell;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use futures_util::future::try_join_all;
use proxystore_bench::load::{Connection, Request, in_time};
use proxystore_bench::programs::{Relay, Site, own_cpu};

use crate::{Bar, Figures, MANY, OURS, Round, SMALL, ended, figure, open};

/// Objects.
const OBJECTS: usize = 10_000;

/// Passes over all of them; the first is not counted.
const ROUNDS: usize = 5;

/// Gets a second.
const BAR: f64 = 20_000.0;

pub async fn measure(python: Option<&Path>, figures: &mut Figures) -> Result<()> {
    let relay = Relay::ours()?;
    let rounds = rounds_of([Site::ours(Some(&relay))?, Site::ours(Some(&relay))?]).await?;
    let what = "peer get of 10000 objects";
    let ours = figure(what, SMALL, MANY, OURS, &rounds);
    figures.add(crate::Figure { bar: Some(Bar::AtLeast(BAR)), ..ours });
    if let Some(python) = python {
        let sites = [Site::python(python, Some(&relay))?, Site::python(python, Some(&relay))?];
        figures.add(figure(what, SMALL, MANY, "Python", &rounds_of(sites).await?));
    }
    Ok(())
}

async fn rounds_of([near, far]: [Site; 2]) -> Result<Vec<Round>> {
    let object = proxystore_tests::noise(SMALL, 0);
    let mut connections = open(far.port, MANY).await?;
    let sets: Vec<_> =
        (0..OBJECTS).map(|key| Request::http("POST", &format!("/set?key={key}"), object.clone())).collect();
    pass(&mut connections, &sets).await?;
    let get = |key| Request::http("GET", &format!("/get?key={key}&endpoint={}", far.id), Bytes::new());
    let gets: Vec<_> = (0..OBJECTS).map(get).collect();
    let mut connections = open(near.port, MANY).await?;
    connections[0].meet(&gets[0]).await?;
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        rounds.push(pass(&mut connections, &gets).await?);
    }
    Ok(rounds.split_off(1))
}

/// Every request once, by whichever client is free.
async fn pass(connections: &mut [Connection], requests: &[Request]) -> Result<Round> {
    let (start, cpu) = (Instant::now(), own_cpu()?);
    let next = Cell::new(0);
    let clients = connections.iter_mut().map(async |connection| {
        while let Some(request) = requests.get(next.replace(next.get() + 1)) {
            connection.exchange_without_deadline(request).await?;
        }
        anyhow::Ok(())
    });
    in_time(try_join_all(clients)).await?;
    ended(start, cpu, requests.len() as u32)
}
