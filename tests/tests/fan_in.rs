//! What several clients of a site fetch from another crosses between the sites once, and is kept for the next.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use proxystore_relay::Relay;
use proxystore_shared::Digest;
use proxystore_shared::digest::{GROUP_LEN, group_digest};
use proxystore_shared::frame::{self, Answer, ObjectMeta, Request};
use proxystore_tests::scripted::{ScriptedPeer, next_request};
use proxystore_tests::{PATIENCE, Site, http_client, noise, relay, url};
use reqwest::StatusCode;
use reqwest::header::RANGE;
use serde_json::Value;
use tokio::time::{sleep, timeout};

const MIB: usize = 1 << 20;

/// Clients that want the same object at the same moment.
const CLIENTS: usize = 32;

/// Bytes of that object.
const LARGE: usize = 50_000_000;

/// What goes over a wire besides the bytes of an object: a fifth of them, and a little for signs of life.
fn with_overhead(bytes: usize) -> u64 {
    (bytes + bytes / 5 + 100_000) as u64
}

/// Two sites, and the cache of the first in bytes.
async fn sites(cache_size: u64) -> Result<(Relay, Site, Site)> {
    let relay = relay().await?;
    let a = Site::build("a", &url(&relay))?.with(|config| config.peering.cache_size = cache_size);
    let (a, b) = (a.start().await?, Site::start("b", &url(&relay)).await?);
    Ok((relay, a, b))
}

/// Two sites as they are by default.
async fn default_sites() -> Result<(Relay, Site, Site)> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    Ok((relay, a, b))
}

/// UDP bytes that `site` has received from its peers.
async fn received(site: &Site) -> Result<u64> {
    let report: Value = document(site, "/v1/peers").await?;
    let peers = report["peers"].as_array().context("peers")?;
    Ok(peers.iter().filter_map(|peer| peer["received_bytes"].as_u64()).sum())
}

/// Bytes that `site` keeps, and how many groups were there, shared, and fetched.
async fn cache(site: &Site) -> Result<(u64, [u64; 3])> {
    let cache = document(site, "/v1/status").await?["cache"].take();
    let number = |name: &str| cache[name].as_u64().with_context(|| format!("{name} in {cache}"));
    Ok((number("bytes")?, [number("hits")?, number("shared")?, number("misses")?]))
}

async fn document(site: &Site, route: &str) -> Result<Value> {
    Ok(serde_json::from_str(&site.http().get(site.url(route)).send().await?.text().await?)?)
}

/// [`CLIENTS`] clients, each with a connection of its own.
async fn all_get(a: &Site, b: &Site, expected: &Bytes) -> Result<()> {
    let clients = (0..CLIENTS).map(|_| async {
        let fetched = http_client()?.get(a.object("k", Some(b))).send().await?.bytes().await?;
        ensure!(fetched == *expected, "other bytes than those stored");
        Ok(())
    });
    try_join_all(clients).await.map(drop)
}

/// Reads the first bytes and no more for now.
async fn begin(a: &Site, b: &Site) -> Result<reqwest::Response> {
    let mut answer = http_client()?.get(a.object("k", Some(b))).send().await?.error_for_status()?;
    answer.chunk().await?.context("the first bytes")?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_want_at_once_crosses_once() -> Result<()> {
    let (_relay, a, b) = default_sites().await?;
    let bytes = noise(LARGE, 1);
    b.put("k", None, bytes.clone()).await?;
    all_get(&a, &b, &bytes).await?;
    let crossed = received(&a).await?;
    assert!(crossed < with_overhead(LARGE), "{crossed} bytes for {LARGE}");
    let (kept, [hits, shared, misses]) = cache(&a).await?;
    let groups = LARGE.div_ceil(MIB) as u64;
    assert_eq!((kept, misses, hits + shared), (LARGE as u64, groups, (CLIENTS as u64 - 1) * groups));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_fetches_under_way_are_shared_and_nothing_is_kept() -> Result<()> {
    let (_relay, a, b) = sites(0).await?;
    let bytes = noise(LARGE, 2);
    b.put("k", None, bytes.clone()).await?;
    all_get(&a, &b, &bytes).await?;
    let (kept, [hits, shared, misses]) = cache(&a).await?;
    assert!(kept == 0 && hits == 0, "{kept} bytes, {hits} hits");
    assert!(shared > misses, "{shared} groups shared, {misses} fetched");
    let before = received(&a).await?;
    assert!(a.get("k", Some(&b)).await? == bytes);
    assert!(received(&a).await? - before >= LARGE as u64, "it has to travel again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_leave_or_dawdle_hold_nobody_up() -> Result<()> {
    let (_relay, a, b) = sites(0).await?;
    let bytes = noise(LARGE, 3);
    b.put("k", None, bytes.clone()).await?;
    // They have asked first, so that others wait for what they asked for.
    let mut dawdler = begin(&a, &b).await?;
    let leaver = begin(&a, &b).await?;
    let leaving = async {
        sleep(Duration::from_millis(20)).await;
        drop(leaver);
        Ok(())
    };
    tokio::try_join!(all_get(&a, &b, &bytes), leaving)?;
    let mut rest = 0;
    while let Some(chunk) = dawdler.chunk().await? {
        rest += chunk.len();
    }
    assert!(rest > LARGE / 2, "it was left behind, and still got everything");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_dawdlers_leave_the_connection_to_the_others() -> Result<()> {
    // More than the connection may hold for readers that do not read: 64 MiB.
    const DAWDLERS: usize = 8;
    let (_relay, a, b) = sites(0).await?;
    for number in 0..DAWDLERS {
        b.put(&format!("k{number}"), None, noise(40 * MIB, number as u64)).await?;
    }
    let dawdlers = (0..DAWDLERS).map(|number| {
        let object = a.object(&format!("k{number}"), Some(&b));
        async { anyhow::Ok(http_client()?.get(object).send().await?) }
    });
    let _dawdlers = try_join_all(dawdlers).await?;
    sleep(Duration::from_millis(500)).await;
    b.put("k", None, noise(LARGE, 99)).await?;
    let fetched = timeout(2 * PATIENCE, a.get("k", Some(&b))).await;
    assert!(fetched.context("the connection is blocked")?? == noise(LARGE, 99));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_get_moves_no_bytes() -> Result<()> {
    let (_relay, a, b) = default_sites().await?;
    for (id, size) in [("group", 700_000), ("several", 5 * MIB + 3)] {
        let bytes = noise(size, size as u64);
        b.put(id, None, bytes.clone()).await?;
        assert!(a.get(id, Some(&b)).await? == bytes);
        let before = received(&a).await?;
        for _ in 0..3 {
            assert!(a.get(id, Some(&b)).await? == bytes);
        }
        for (start, end) in [(0, 1), (5, 700_000), (650_000, size)] {
            let range = format!("bytes={start}-{}", end - 1);
            let answer = a.http().get(a.object(id, Some(&b))).header(RANGE, range).send().await?;
            assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
            assert!(answer.bytes().await? == bytes.slice(start..end), "{id}: {start}..{end}");
        }
        let beyond = a.http().get(a.object(id, Some(&b))).header(RANGE, "bytes=99999999-").send().await?;
        assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        let crossed = received(&a).await? - before;
        assert!(crossed < 100_000, "{id}: {crossed} bytes");
    }
    let metrics = a.http().get(a.url("/metrics")).send().await?.text().await?;
    assert!(metrics.contains("proxystore_endpoint_cache_hits_total"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_has_the_last_word() -> Result<()> {
    let (_relay, a, b) = default_sites().await?;
    for size in [100, 700_000, 3 * MIB] {
        for seed in [1, 2] {
            b.put("k", None, noise(size, seed)).await?;
            for _ in 0..2 {
                assert!(a.get("k", Some(&b)).await? == noise(size, seed), "{size} bytes, version {seed}");
            }
        }
        let gone = b.http().delete(b.object("k", None)).send().await?;
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
        let answer = a.http().get(a.object("k", Some(&b))).send().await?;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{size} bytes");
        assert_eq!(cache(&a).await?.0, 0, "what is gone is not kept");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_stays_within_its_bounds() -> Result<()> {
    let limit = 8 * MIB;
    let (_relay, a, b) = sites(limit as u64).await?;
    for (id, size) in [("one", 5 * MIB), ("two", 5 * MIB), ("too large", 9 * MIB), ("three", 900_000)] {
        let id = id.replace(' ', "-");
        b.put(&id, None, noise(size, size as u64)).await?;
        for _ in 0..2 {
            assert!(a.get(&id, Some(&b)).await? == noise(size, size as u64), "{id}");
            let (kept, _) = cache(&a).await?;
            assert!(kept <= limit as u64, "{kept} bytes of {limit}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_owner_dies_everybody_is_told_at_once() -> Result<()> {
    let relay = relay().await?;
    let a = Site::build("a", &url(&relay))?.with(|config| {
        config.peering.connect_timeout = 2;
        config.peering.cache_size = 0;
    });
    let (a, mut b) = (a.start().await?, Site::start("b", &url(&relay)).await?);
    b.put("k", None, noise(90 * MIB, 4)).await?;
    let clients = try_join_all((0..CLIENTS).map(|_| begin(&a, &b))).await?;
    b.vanish().await?;
    let ends = clients.into_iter().map(|mut answer| async move {
        while let Ok(chunk) = answer.chunk().await {
            ensure!(chunk.is_some(), "half an object ended like a whole one");
        }
        Ok(())
    });
    // One after another they would take a minute.
    timeout(PATIENCE, try_join_all(ends)).await.context("clients are kept waiting")??;
    Ok(())
}

/// Serves an object of two groups, the second of which is the first again, until the reader has had enough.
async fn lie(peer: &mut ScriptedPeer, honest: &Bytes) -> Result<()> {
    let connection = peer.answer().await?;
    let meta = ObjectMeta { size: honest.len() as u64, digest: Digest::of(honest), created_ms: 0 };
    let end = meta.size;
    let first = honest.slice(..GROUP_LEN as usize);
    let mut open = Vec::new();
    loop {
        let (request, mut send, receive) = next_request(&connection).await?;
        match request {
            Request::Get { .. } => {
                let answer = Answer::Object { meta: meta.clone(), start: 0, end, ticket: Some(1), lead: 0 };
                send.write_all(&frame::encode(&answer)?).await?;
                open.push((send, receive));
            }
            Request::Group { index, .. } => {
                let digest = group_digest(index, false, [&first[..]]);
                send.write_all(&frame::encode(&Answer::Group { len: GROUP_LEN, digest })?).await?;
                // The reader may hang up.
                let _ = send.write_all(&first).await;
                let _ = send.finish();
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_turned_out_false_is_not_kept() -> Result<()> {
    let (_relay, a, b) = default_sites().await?;
    let honest = noise(2 * MIB, 5);
    let mut liar = ScriptedPeer::register(&a.config.relay.address.clone().context("a relay")?).await?;
    let lies = format!("{}?endpoint={}", a.url("/v1/objects/k"), liar.id);
    let fetch = async {
        for _ in 0..2 {
            let fetched = a.http().get(&lies).send().await?.bytes().await;
            ensure!(fetched.is_err(), "a false object must not end cleanly");
            ensure!(cache(&a).await?.0 == 0, "it is kept");
        }
        Ok(())
    };
    tokio::select! {
        fetched = fetch => fetched?,
        lied = lie(&mut liar, &honest) => lied?,
    }
    // The same version of an honest owner has nothing to do with it.
    b.put("k", None, honest.clone()).await?;
    assert!(a.get("k", Some(&b)).await? == honest);
    Ok(())
}
