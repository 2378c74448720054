//! The Python client's routes.

use proxystore_shared::EndpointId;
use serde_json::{Value, json};

use crate::support::{MAX_OBJECT_SIZE, Server, memory};

#[tokio::test]
async fn an_object_comes_and_goes() {
    let server = Server::start().await;
    assert_eq!(
        server.get("/exists?key=a").await.json::<Value>().await.expect("JSON"),
        json!({"exists": false})
    );
    let stored = server.post("/set?key=a", "hello").await;
    assert_eq!(stored.status(), 200);
    assert_eq!(stored.text().await.expect("empty"), "");
    assert_eq!(
        server.get("/exists?key=a").await.json::<Value>().await.expect("JSON"),
        json!({"exists": true})
    );
    let found = server.get("/get?key=a").await;
    assert_eq!(found.status(), 200);
    assert_eq!(found.headers()["content-type"], "application/octet-stream");
    assert_eq!(found.headers()["content-length"], "5");
    assert_eq!(found.text().await.expect("body"), "hello");
    for _ in 0..2 {
        let evicted = server.post("/evict?key=a", "").await;
        assert_eq!((evicted.status().as_u16(), evicted.text().await.expect("empty")), (200, String::new()));
    }
    assert_eq!(server.get("/get?key=a").await.status(), 404);
}

#[tokio::test]
async fn the_endpoint_says_who_it_is() {
    let server = Server::start().await;
    let root = server.get("/").await;
    assert_eq!((root.status().as_u16(), root.text().await.expect("empty")), (200, String::new()));
    let answer: Value = server.get("/endpoint").await.json().await.expect("JSON");
    assert_eq!(answer, json!({"uuid": server.id.to_string()}));
}

#[tokio::test]
async fn requests_without_sense_are_refused_in_plain_text() {
    let server = Server::start().await;
    for query in
        ["", "?endpoint=12345678-1234-4234-9234-123456789abc", "?key=", "?key=a%0Ab", "?key=a&endpoint=me"]
    {
        let answers = [
            server.get(&format!("/get{query}")).await,
            server.get(&format!("/exists{query}")).await,
            server.post(&format!("/evict{query}"), "").await,
            server.post(&format!("/set{query}"), "x").await,
        ];
        for answer in answers {
            assert_eq!(answer.status(), 400, "{} {query}", answer.url());
            assert!(answer.headers()["content-type"].to_str().expect("text").starts_with("text/plain"));
            assert!(!answer.text().await.expect("text").is_empty());
        }
    }
}

#[tokio::test]
async fn an_empty_object_is_refused_however_it_is_sent() {
    let server = Server::start().await;
    assert_eq!(server.post("/set?key=a", "").await.status(), 400);
    let nothing = futures_util::stream::empty::<std::io::Result<Vec<u8>>>();
    let chunked = server.post("/set?key=a", reqwest::Body::wrap_stream(nothing)).await;
    assert_eq!(chunked.status(), 400);
    assert_eq!(server.get("/get?key=a").await.status(), 404);
}

#[tokio::test]
async fn chunks_of_a_body_are_joined() {
    let server = Server::start().await;
    let chunks = (0..50u8).map(|i| std::io::Result::Ok(vec![i; 100_000]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    assert_eq!(server.post("/set?key=a", body).await.status(), 200);
    let found = server.get("/get?key=a").await.bytes().await.expect("body");
    assert_eq!(found.len(), 5_000_000);
    assert!(found.chunks(100_000).zip(0..).all(|(chunk, i)| chunk.iter().all(|byte| *byte == i)));
}

#[tokio::test]
async fn without_peers_every_endpoint_is_this_one() {
    let server = Server::start().await;
    let other = EndpointId::random();
    assert_eq!(server.post(&format!("/set?key=a&endpoint={other}"), "hello").await.status(), 200);
    assert_eq!(server.get("/get?key=a").await.text().await.expect("body"), "hello");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let server = Server::with(memory(Some(1000)), Default::default()).await;
    let full = server.post("/set?key=a", vec![0; 1001]).await;
    assert_eq!(full.status(), 507);
    let too_large = server.post("/set?key=a", vec![0; MAX_OBJECT_SIZE as usize + 1]).await;
    assert_eq!(too_large.status(), 413);
    assert!(too_large.text().await.expect("text").contains(&MAX_OBJECT_SIZE.to_string()));
    assert_eq!(server.get("/get?key=a").await.status(), 404);
}

#[tokio::test]
async fn keys_may_contain_anything_that_can_be_read() {
    let server = Server::start().await;
    for key in ["a/b", "ü☃", "a b+c", "100%", "..", "a&b=c?d#e"] {
        let request = |method, path| server.request(method, path).query(&[("key", key)]);
        let set = request(reqwest::Method::POST, "/set").body(key).send().await.expect("an answer");
        assert_eq!(set.status(), 200, "{key}");
        let get = request(reqwest::Method::GET, "/get").send().await.expect("an answer");
        assert_eq!(get.text().await.expect("body"), key);
    }
}

#[tokio::test]
async fn wrong_methods_and_paths_are_named() {
    let server = Server::start().await;
    assert_eq!(server.get("/set?key=a").await.status(), 405);
    assert_eq!(server.post("/get?key=a", "").await.status(), 405);
    assert_eq!(server.get("/elsewhere").await.status(), 404);
}
