//! Ranges and entity tags.

use proxystore_shared::Digest;
use reqwest::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use reqwest::{Method, Response};

use crate::support::{Server, assert_problem};

/// Several groups, the last one short.
fn object() -> Vec<u8> {
    (0..3_000_000u32).map(|i| (i % 251) as u8).collect()
}

async fn server() -> Server {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/objects/a", object()).await.status(), 201);
    server
}

async fn ask(server: &Server, method: Method, headers: &[(&str, &str)]) -> Response {
    let request = server.request(method, "/v1/objects/a");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("an answer")
}

#[tokio::test]
async fn parts_are_sent_byte_for_byte() {
    let server = server().await;
    let whole = object();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
        ("bytes=2000000-", 2_000_000, 3_000_000),
        ("bytes=-5", 2_999_995, 3_000_000),
        ("bytes=-9999999", 0, 3_000_000),
        ("bytes=10-99999999", 10, 3_000_000),
        ("bytes=0-", 0, 3_000_000),
    ] {
        let part = ask(&server, Method::GET, &[(RANGE.as_str(), range)]).await;
        assert_eq!(part.status(), 206, "{range}");
        let expected = format!("bytes {start}-{}/3000000", end - 1);
        assert_eq!(part.headers()["content-range"].to_str().expect("text"), expected);
        assert_eq!(part.headers()["content-length"].to_str().expect("text"), (end - start).to_string());
        assert!(part.headers().contains_key("etag"));
        assert!(part.bytes().await.expect("body") == whole[start..end], "{range}");
    }
}

#[tokio::test]
async fn ranges_outside_the_object_are_refused_with_its_size() {
    let server = server().await;
    for range in ["bytes=3000000-", "bytes=9999999-99999999", "bytes=-0"] {
        let answer = ask(&server, Method::GET, &[(RANGE.as_str(), range)]).await;
        assert_eq!(answer.headers()["content-range"], "bytes */3000000");
        assert_problem(answer, 416, "range_outside_object").await;
    }
}

#[tokio::test]
async fn ranges_that_are_not_understood_are_ignored() {
    let server = server().await;
    for range in ["bytes=0-1,5-6", "bytes=5-2", "lines=1-2", "bytes=", "nonsense"] {
        let answer = ask(&server, Method::GET, &[(RANGE.as_str(), range)]).await;
        assert_eq!(answer.status(), 200, "{range}");
        assert_eq!(answer.bytes().await.expect("body").len(), 3_000_000);
    }
}

#[tokio::test]
async fn an_empty_object_has_no_parts() {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/objects/a", "").await.status(), 201);
    for range in ["bytes=0-", "bytes=-5"] {
        let answer = ask(&server, Method::GET, &[(RANGE.as_str(), range)]).await;
        assert_eq!((answer.status().as_u16(), answer.headers().get("content-range")), (200, None), "{range}");
    }
    let answer = ask(&server, Method::GET, &[(RANGE.as_str(), "bytes=1-")]).await;
    assert_problem(answer, 416, "range_outside_object").await;
}

#[tokio::test]
async fn tags_spare_and_protect() {
    let server = server().await;
    let ours = format!("\"{}\"", Digest::of(&object()));
    let other = format!("\"{}\"", Digest::of(b"other"));
    let both = format!("{other}, {ours}");
    let (none_match, matching) = (IF_NONE_MATCH.as_str(), IF_MATCH.as_str());
    for method in [Method::GET, Method::HEAD] {
        for (name, tag, status) in [
            (none_match, ours.as_str(), 304),
            (none_match, &both, 304),
            (none_match, "*", 304),
            (none_match, &other, 200),
            (matching, &ours, 200),
            (matching, &both, 200),
            (matching, "*", 200),
            (matching, &other, 412),
        ] {
            let answer = ask(&server, method.clone(), &[(name, tag)]).await;
            assert_eq!(answer.status(), status, "{method} {name}: {tag}");
            if status == 304 {
                assert_eq!(answer.headers()["etag"].to_str().expect("text"), ours);
                let length = answer.headers().get("content-length");
                assert!(length.is_none_or(|length| length == "3000000"), "{length:?}");
                assert_eq!(answer.bytes().await.expect("body").len(), 0);
            }
        }
    }
    let stale = ask(&server, Method::GET, &[(matching, &other)]).await;
    assert_problem(stale, 412, "precondition_failed").await;
    assert_eq!(ask(&server, Method::GET, &[]).await.bytes().await.expect("body").len(), 3_000_000);
}

#[tokio::test]
async fn a_resumed_download_is_of_the_same_version() {
    let server = server().await;
    let ours = format!("\"{}\"", Digest::of(&object()));
    let resume = [(RANGE.as_str(), "bytes=2999999-"), (IF_RANGE.as_str(), ours.as_str())];
    assert_eq!(ask(&server, Method::GET, &resume).await.status(), 206);
    assert_eq!(server.put("/v1/objects/a", "a new version").await.status(), 201);
    let answer = ask(&server, Method::GET, &resume).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.expect("body"), "a new version");
}

#[tokio::test]
async fn conditions_on_nothing_find_nothing() {
    let server = Server::start().await;
    for headers in [(IF_MATCH.as_str(), "*"), (RANGE.as_str(), "bytes=-5"), (IF_NONE_MATCH.as_str(), "*")] {
        assert_problem(ask(&server, Method::GET, &[headers]).await, 404, "object_missing").await;
    }
}
