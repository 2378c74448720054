//! A relay and two sites: what one puts, the other gets.

use anyhow::Result;
use bytes::Bytes;
use proxystore_shared::EndpointId;
use proxystore_shared::batch::Entry;
use proxystore_shared::http::v1;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_fetched_from_a_peer_but_not_stored_there() -> Result<()> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    let group = 1 << 20;
    let sizes = [0, 1, 1000, group, 3 * group + 1];
    let mut expected = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let bytes = noise(size, n as u64);
        a.put(&n.to_string(), None, bytes.clone()).await?;
        expected.push(entry(&n.to_string(), Some(&bytes))?);
    }
    expected.insert(2, entry("none", None)?);
    // What the site that is asked has under the same name is another object.
    b.put("1", None, Bytes::from_static(b"mine")).await?;

    let batch_get = |at: EndpointId| {
        let list = serde_json::json!({"keys": ["0", "1", "none", "2", "3", "4"]}).to_string();
        b.http().post(b.url(&format!("{}?endpoint={at}", v1::BATCH_GET))).body(list).send()
    };
    let answer = batch_get(a.id()).await?.error_for_status()?;
    assert!(answer.bytes().await? == expected.concat());
    let answer = batch_get(EndpointId::random()).await?;
    assert_eq!(answer.status(), 502, "a peer that nobody knows");

    let batch_put = |at: EndpointId| {
        let batch = expected[1].clone();
        b.http().post(b.url(&format!("{}?endpoint={at}", v1::BATCH_PUT))).body(batch).send()
    };
    let refusal = batch_put(a.id()).await?;
    assert_eq!(refusal.status(), 400);
    let problem: serde_json::Value = serde_json::from_slice(&refusal.bytes().await?)?;
    assert_eq!(problem["code"], "batch_at_peer", "{problem}");
    assert_eq!(batch_put(b.id()).await?.status(), 200, "itself is no peer");
    assert_eq!(b.get("1", None).await?, noise(1, 1));
    Ok(())
}

/// An entry of a batch.
fn entry(id: &str, bytes: Option<&[u8]>) -> Result<Vec<u8>> {
    let head = Entry { object_id: id.parse()?, len: bytes.map(|bytes| bytes.len() as u64) }.encode();
    Ok([&head[..], bytes.unwrap_or_default()].concat())
}
