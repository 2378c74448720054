//! The `/v1` API means the same for an object at a peer as for one here.

use anyhow::Result;
use proxystore_relay::Relay;
use proxystore_tests::{Site, noise, relay, url};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH, LOCATION, RANGE};
use serde_json::Value;

const MIB: usize = 1 << 20;

async fn sites() -> Result<(Relay, Site, Site)> {
    let relay = relay().await?;
    let (a, b) = (Site::start("a", &url(&relay)).await?, Site::start("b", &url(&relay)).await?);
    Ok((relay, a, b))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_endpoint_that_holds_the_object() -> Result<()> {
    let (_relay, a, b) = sites().await?;
    let answer = a.http().put(a.object("k", Some(&b))).body(noise(10, 1)).send().await?;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let location = answer.headers()[LOCATION].to_str()?.to_owned();
    let stored: Value = serde_json::from_str(&answer.text().await?)?;
    assert_eq!(stored["endpoint_id"], b.id().to_string());
    assert_eq!(a.http().get(a.url(&location)).send().await?.bytes().await?, noise(10, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_tags_and_conditions_hold_across_sites() -> Result<()> {
    let (_relay, a, b) = sites().await?;
    let bytes = noise(3 * MIB + 9, 2);
    b.put("k", None, bytes.clone()).await?;
    let object = a.object("k", Some(&b));
    let looked = a.http().head(&object).send().await?;
    assert_eq!(looked.headers()[CONTENT_LENGTH], bytes.len().to_string());
    let tag = looked.headers()[ETAG].clone();
    for (range, start, end) in [
        ("bytes=5-9", 5, 10),
        ("bytes=1048570-2097160", MIB - 6, 2 * MIB + 9),
        ("bytes=-7", bytes.len() - 7, bytes.len()),
        ("bytes=3145728-", 3 * MIB, bytes.len()),
    ] {
        let answer = a.http().get(&object).header(RANGE, range).send().await?;
        assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let expected = format!("bytes {start}-{}/{}", end - 1, bytes.len());
        assert_eq!(answer.headers()[CONTENT_RANGE], expected);
        assert!(answer.bytes().await? == bytes.slice(start..end), "{range}");
    }
    let beyond = a.http().get(&object).header(RANGE, "bytes=99999999-").send().await?;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let known = a.http().get(&object).header(IF_NONE_MATCH, tag).send().await?;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn creation_is_exclusive_across_sites_whatever_the_size() -> Result<()> {
    let (_relay, a, b) = sites().await?;
    for (id, size) in [("small", 100), ("large", 4 * MIB)] {
        let create = || a.http().put(a.object(id, Some(&b))).header(IF_NONE_MATCH, "*").body(noise(size, 3));
        assert_eq!(create().send().await?.status(), StatusCode::CREATED, "{id}");
        assert_eq!(create().send().await?.status(), StatusCode::PRECONDITION_FAILED, "{id}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_object_is_gone_for_every_site() -> Result<()> {
    let (_relay, a, b) = sites().await?;
    b.put("k", None, noise(10, 4)).await?;
    assert_eq!(a.http().delete(a.object("k", Some(&b))).send().await?.status(), StatusCode::NO_CONTENT);
    for site in [&a, &b] {
        assert_eq!(site.http().get(site.object("k", Some(&b))).send().await?.status(), StatusCode::NOT_FOUND);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_peers_are_counted() -> Result<()> {
    let (_relay, a, mut b) = sites().await?;
    b.stop().await;
    assert_eq!(a.http().get(a.object("k", Some(&b))).send().await?.status(), StatusCode::BAD_GATEWAY);
    let metrics = a.http().get(a.url("/metrics")).send().await?.text().await?;
    let line = metrics.lines().find(|line| line.contains("peer_failures") && !line.starts_with('#'));
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{metrics}");
    Ok(())
}
