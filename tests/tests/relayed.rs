//! Two sites that cannot send each other a datagram: one has IPv4 only, the other IPv6 only. The relay, which both
//! reach, carries their session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use bytes::Bytes;
use proxystore_relay::Relay;
use proxystore_tests::{PATIENCE, Site, http_client, metric, noise, relay, relay_on, until, url};
use serde_json::Value;
use tokio::time::{Duration, sleep, timeout};

async fn sites(relay: &str) -> Result<(Site, Site)> {
    let a = on_ip("a", relay, Ipv4Addr::LOCALHOST.into()).await?;
    let b = on_ip("b", relay, Ipv6Addr::LOCALHOST.into()).await?;
    Ok((a, b))
}

async fn on_ip(name: &str, relay: &str, ip: IpAddr) -> Result<Site> {
    Site::build(name, relay)?.with(|config| config.peering.bind = Some(ip)).start().await
}

async fn path(site: &Site) -> Result<String> {
    let answer = site.http().get(site.url("/v1/peers")).send().await?.text().await?;
    let peers: Value = serde_json::from_str(&answer)?;
    Ok(peers["peers"][0]["path"].as_str().unwrap_or("none").to_owned())
}

/// Bytes of datagrams that the relay has forwarded.
async fn forwarded(relay: &Relay) -> Result<usize> {
    let page =
        http_client()?.get(format!("http://{}/metrics", relay.local_addr())).send().await?.text().await?;
    metric(&page, "proxystore_relay_datagram_bytes_forwarded_total")
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_go_both_ways_through_the_relay() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = sites(&url(&relay)).await?;
    b.put("small", None, Bytes::from_static(b"at b")).await?;
    assert_eq!(&a.get("small", Some(&b)).await?[..], b"at b");
    let large = noise(20_000_000, 1);
    a.put("large", Some(&b), large.clone()).await?;
    assert!(b.get("large", None).await? == large);
    assert!(a.get("large", Some(&b)).await? == large);
    assert_eq!((path(&a).await?, path(&b).await?), ("relayed".into(), "relayed".into()));
    Ok(())
}

/// Whichever of the two is back first, and whether they had met before.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_survives_the_relays_restart() -> Result<()> {
    let first = relay().await?;
    let (port, address) = (first.local_addr().port(), url(&first));
    let (a, b) = sites(&address).await?;
    let large = noise(60_000_000, 2);
    b.put("k", None, large.clone()).await?;
    let fetching = tokio::spawn(async move { (a.get("k", Some(&b)).await, a, b) });
    until("both are registered", || first.client_count() == 2).await?;
    first.stop().await;
    let _second = relay_on(port).await?;
    let (fetched, _a, _b) = fetching.await?;
    assert!(fetched? == large);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_that_reach_each_other_leave_the_relay_alone() -> Result<()> {
    let first = relay().await?;
    let (port, address) = (first.local_addr().port(), url(&first));
    let (a, b) = (Site::start("a", &address).await?, Site::start("b", &address).await?);
    let len = 50_000_000;
    b.put("k", None, noise(len, 3)).await?;
    a.get("k", Some(&b)).await?;
    assert_eq!((path(&a).await?, path(&b).await?), ("direct".into(), "direct".into()));
    first.stop().await;
    // The way through this one is opened while another is in use.
    let second = relay_on(port).await?;
    let opening = async {
        while forwarded(&second).await? == 0 {
            sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    timeout(PATIENCE, opening).await??;
    a.put("k", Some(&b), noise(len, 4)).await?;
    a.get("k", Some(&b)).await?;
    let passed = forwarded(&second).await?;
    assert!(passed < len / 100, "{passed} bytes went through the relay");
    Ok(())
}
