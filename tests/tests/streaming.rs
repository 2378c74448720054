//! Objects pass through an endpoint; they do not rest in it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use proxystore_tests::process::SiteProcess;
use proxystore_tests::{Site, http_client, noise, relay, until, url};

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_object_larger_than_the_memory_limit_passes_through() -> Result<()> {
    let relay = relay().await?;
    let a = Site::build("a", &url(&relay))?
        .with(|config| config.storage.memory_limit = Some(8 << 20))
        .start()
        .await?;
    let b = Site::start("b", &url(&relay)).await?;
    let bytes = noise(64 * MIB + 5, 1);
    b.put("k", None, bytes.clone()).await?;
    assert!(a.get("k", Some(&b)).await? == bytes, "the object arrived changed");
    a.put("back", Some(&b), bytes.clone()).await?;
    assert!(b.get("back", None).await? == bytes, "the object was stored changed");
    Ok(())
}

/// A site whose objects outlive it.
async fn lasting(name: &str, relay: &str) -> Result<Site> {
    let mut builder = Site::build(name, relay)?;
    let database = builder.dir().join("blobs.db");
    builder = builder.with(|config| config.storage.database_path = Some(database));
    builder.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_survives_a_restart_of_the_peer() -> Result<()> {
    let relay = relay().await?;
    let a = Site::start("a", &url(&relay)).await?;
    let mut b = lasting("b", &url(&relay)).await?;
    let bytes = noise(80 * MIB, 2);
    b.put("k", None, bytes.clone()).await?;
    let mut answer = a.http().get(a.object("k", Some(&b))).send().await?;
    let mut received = answer.chunk().await?.context("the first bytes")?.to_vec();
    b.restart().await?;
    while let Some(chunk) = answer.chunk().await? {
        received.extend_from_slice(&chunk);
    }
    assert!(received == bytes, "the object arrived changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_replaced_at_the_peer_is_still_delivered_whole() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    let old = noise(60 * MIB, 3);
    b.put("k", None, old.clone()).await?;
    let mut answer = a.http().get(a.object("k", Some(&b))).send().await?;
    let mut received = answer.chunk().await?.context("the first bytes")?.to_vec();
    b.put("k", None, noise(60 * MIB, 4)).await?;
    while let Some(chunk) = answer.chunk().await? {
        received.extend_from_slice(&chunk);
    }
    assert!(received == old, "versions were mixed");
    assert!(a.get("k", Some(&b)).await? == noise(60 * MIB, 4));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_what_it_held_at_both_sites() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    b.put("k", None, noise(90 * MIB, 5)).await?;
    for _ in 0..3 {
        let mut answer = http_client()?.get(a.object("k", Some(&b))).send().await?;
        answer.chunk().await?.context("the first bytes")?;
    }
    for site in [&a, &b] {
        let waiting = async {
            while running(site).await? > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(20), waiting).await.context("requests linger")??;
    }
    Ok(())
}

async fn running(site: &Site) -> Result<u64> {
    let peers = site.server().endpoint().peers().context("peering")?.peers().await;
    Ok(peers.iter().map(|peer| peer.running_requests).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_gigabytes_pass_through_without_growing_the_endpoint() -> Result<()> {
    const SIZE: u64 = 1 << 30;
    const GROWTH: u64 = 64 << 20;
    let relay = relay().await?;
    let large = |name| {
        anyhow::Ok(Site::build(name, &url(&relay))?.with(|config| config.storage.max_object_size = SIZE))
    };
    let a = SiteProcess::start(large("a")?).await?;
    let b = SiteProcess::start(large("b")?).await?;
    until("both are registered", || relay.client_count() == 2).await?;
    let http = http_client()?;
    let piece = noise(MIB, 6);
    let body = stream::iter((0..SIZE / MIB as u64).map(move |_| Ok::<_, std::io::Error>(piece.clone())));
    let put = http.put(format!("{}/v1/objects/k", b.base)).body(reqwest::Body::wrap_stream(body));
    put.send().await?.error_for_status()?;
    let get = format!("{}/v1/objects/k?endpoint={}", a.base, b.id);
    http.get(format!("{}/v1/objects/none?endpoint={}", a.base, b.id)).send().await?;
    let idle = a.memory()?;
    let mut most = idle;
    for _ in 0..4 {
        let mut chunks = http.get(&get).send().await?.error_for_status()?.bytes_stream();
        let mut received = 0;
        while let Some(chunk) = chunks.next().await {
            let chunk: Bytes = chunk.with_context(|| format!("after {received} bytes\n{}", a.log()))?;
            let before = received / (16 * MIB as u64);
            received += chunk.len() as u64;
            if received / (16 * MIB as u64) != before {
                most = most.max(a.memory()?);
            }
        }
        assert_eq!(received, SIZE);
    }
    println!("idle {} MB, at most {} MB", idle >> 20, most >> 20);
    assert!(most - idle <= GROWTH, "grew from {idle} to {most} bytes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_goes_back_when_objects_do() -> Result<()> {
    /// For connections, buffers of transfers and what an allocator keeps: half of one object.
    const SPARE: u64 = 45 << 20;
    let relay = relay().await?;
    let a = SiteProcess::start(Site::build("a", &url(&relay))?).await?;
    let b = SiteProcess::start(Site::build("b", &url(&relay))?).await?;
    until("both are registered", || relay.client_count() == 2).await?;
    let (here, from_a) =
        (format!("{}/v1/objects/k", b.base), format!("{}/v1/objects/k?endpoint={}", a.base, b.id));
    let (http, bytes) = (http_client()?, noise(90 * MIB, 7));
    http.get(&from_a).send().await?;
    let idle = b.memory()?;
    for object in [&here, &from_a, &here, &from_a, &here, &from_a] {
        http.put(object).body(bytes.clone()).send().await?.error_for_status()?;
    }
    http.delete(&here).send().await?.error_for_status()?;
    let gone = until("the memory is given back", || b.memory().is_ok_and(|left| left <= idle + SPARE)).await;
    gone.with_context(|| format!("idle {idle}, now {:?}", b.memory()))
}
