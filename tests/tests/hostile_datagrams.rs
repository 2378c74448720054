//! Whatever arrives at an endpoint's UDP port from strangers: garbage, forged answers, and attempts to have it send
//! more to a victim than it was sent.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use proxystore_shared::stun::{Message, TransactionId};
use proxystore_tests::{Site, free_port, noise, relay, url};
use rand::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long a stranger waits for an answer.
const WAIT: Duration = Duration::from_millis(500);

struct Target {
    site: Site,
    udp: SocketAddr,
}

async fn target(name: &str, relay: &str) -> Result<Target> {
    let port = free_port()?;
    let site = Site::build(name, relay)?.with(|config| config.peering.port = port).start().await?;
    Ok(Target { site, udp: (Ipv4Addr::LOCALHOST, port).into() })
}

/// Bytes that come back for `datagrams`.
async fn answered(target: SocketAddr, datagrams: &[Vec<u8>]) -> Result<usize> {
    let stranger = UdpSocket::bind("127.0.0.1:0").await?;
    for datagram in datagrams {
        stranger.send_to(datagram, target).await?;
    }
    let (mut bytes, mut buffer) = (0, vec![0; 65_536]);
    while let Ok(received) = timeout(WAIT, stranger.recv(&mut buffer)).await {
        bytes += received?;
    }
    Ok(bytes)
}

async fn addresses(site: &Site) -> Result<Value> {
    let answer = site.http().get(site.url("/v1/status")).send().await?.text().await?;
    let status: Value = serde_json::from_str(&answer)?;
    Ok(status["network"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_goes_on_under_a_rain_of_garbage() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (target("a", &url(&relay)).await?, target("b", &url(&relay)).await?);
    let object = noise(30_000_000, 1);
    b.site.put("k", None, object.clone()).await?;
    let rain = tokio::spawn(async move {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let stranger = UdpSocket::bind("127.0.0.1:0").await?;
        for round in 0..20_000 {
            let mut datagram = vec![0; 1 + round % 1500];
            random.fill_bytes(&mut datagram);
            stranger.send_to(&datagram, if round % 2 == 0 { a.udp } else { b.udp }).await?;
        }
        anyhow::Ok(())
    });
    for _ in 0..3 {
        assert!(a.site.get("k", Some(&b.site)).await? == object);
    }
    rain.await?
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_stun_changes_nothing_and_is_not_answered() -> Result<()> {
    let relay = relay().await?;
    let target = target("a", &url(&relay)).await?;
    // The relay's own answers come first.
    let known = async {
        while addresses(&target.site).await?["nat"] == "unknown" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    timeout(proxystore_tests::PATIENCE, known).await.context("the relay did not answer")??;
    let before = addresses(&target.site).await?;
    let mapped = "203.0.113.66:666".parse()?;
    let forged = |n: u8| Message::Response { id: TransactionId([n; 12]), mapped }.encode();
    let question = Message::Request { id: TransactionId([9; 12]), change_port: true }.encode();
    let datagrams: Vec<_> = (0..200).map(forged).chain([question]).collect();
    assert_eq!(answered(target.udp, &datagrams).await?, 0, "an endpoint answers nobody's STUN");
    assert_eq!(addresses(&target.site).await?, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_back_at_most_three_times_what_they_sent() -> Result<()> {
    let relay = relay().await?;
    let target = target("a", &url(&relay)).await?;
    // A first packet of an unknown version (RFC 8999), one of the known version whose content is garbage, and short
    // packets of no connection.
    let initial = |version: u32, len: usize| {
        let mut packet = vec![0xC0];
        packet.extend(version.to_be_bytes());
        packet.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1]);
        packet.resize(len, 0x5A);
        packet
    };
    let cases = [
        initial(0x0a1a_2a3a, 1200),
        initial(0x0a1a_2a3a, 40),
        initial(1, 1200),
        initial(1, 40),
        vec![0x40; 60],
    ];
    for datagram in cases {
        let sent = 50 * datagram.len();
        let back = answered(target.udp, &vec![datagram; 50]).await?;
        assert!(back <= 3 * sent, "{back} bytes for {sent}");
    }
    Ok(())
}
