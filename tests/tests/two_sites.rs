//! A relay and two sites: what one puts, the other gets.

use anyhow::Result;
use bytes::Bytes;
use proxystore_tests::{Site, noise, relay, url};

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_cross_both_ways() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    let group = 1 << 20;
    for size in [0, 1, 1000, group - 1, group, group + 1, 3 * group, 20 * group + 7] {
        let bytes = noise(size, size as u64);
        a.put("local", None, bytes.clone()).await?;
        assert_eq!(b.get("local", Some(&a)).await?, bytes, "{size} bytes fetched");
        a.put("remote", Some(&b), bytes.clone()).await?;
        assert_eq!(b.get("remote", None).await?, bytes, "{size} bytes stored");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_share_one_session() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    a.put("k", None, Bytes::from_static(b"hello")).await?;
    let gets = (0..100).map(|_| b.get("k", Some(&a)));
    for got in futures_util::future::join_all(gets).await {
        assert_eq!(&got?[..], b"hello");
    }
    let peers: serde_json::Value =
        serde_json::from_str(&b.http().get(b.url("/v1/peers")).send().await?.text().await?)?;
    let text = peers.to_string();
    assert_eq!(text.matches("\"connected\"").count(), 1, "{text}");
    Ok(())
}
