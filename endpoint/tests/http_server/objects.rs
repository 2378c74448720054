//! Objects as resources.

use proxystore_shared::{Digest, EndpointId};
use reqwest::Method;
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use serde_json::{Value, json};

use crate::support::{MAX_OBJECT_SIZE, Server, assert_problem, memory};

#[tokio::test]
async fn an_object_comes_and_goes() {
    let server = Server::start().await;
    let digest = Digest::of(b"hello").to_string();
    let stored = server.put("/v1/objects/a", "hello").await;
    assert_eq!(stored.status(), 201);
    assert_eq!(stored.headers()["etag"].to_str().expect("text"), format!("\"{digest}\""));
    assert_eq!(stored.headers()["location"], "/v1/objects/a");
    let stored: Value = stored.json().await.expect("JSON");
    assert!(stored["created_ms"].as_u64().is_some_and(|created| created > 0));
    assert_eq!(stored["endpoint_id"], server.id.to_string());
    assert_eq!(
        (&stored["object_id"], &stored["size"], &stored["digest"]),
        (&json!("a"), &json!(5), &json!(digest))
    );

    let found = server.get("/v1/objects/a").await;
    assert_eq!(found.status(), 200);
    for (name, value) in
        [("content-type", "application/octet-stream"), ("content-length", "5"), ("accept-ranges", "bytes")]
    {
        assert_eq!(found.headers()[name], value);
    }
    assert!(found.headers().contains_key("last-modified"));
    assert_eq!(found.headers()["etag"].to_str().expect("text"), format!("\"{digest}\""));
    assert_eq!(found.text().await.expect("body"), "hello");

    let head = server.request(Method::HEAD, "/v1/objects/a").send().await.expect("an answer");
    assert_eq!(
        (head.status().as_u16(), &head.headers()["content-length"]),
        (200, &"5".parse().expect("header"))
    );
    assert!(head.headers().contains_key("etag") && head.headers().contains_key("last-modified"));

    for _ in 0..2 {
        let deleted = server.request(Method::DELETE, "/v1/objects/a").send().await.expect("an answer");
        assert_eq!(deleted.status(), 204);
    }
    assert_problem(server.get("/v1/objects/a").await, 404, "object_missing").await;
    let head = server.request(Method::HEAD, "/v1/objects/a").send().await.expect("an answer");
    assert_eq!(head.status(), 404);
}

#[tokio::test]
async fn an_empty_object_is_an_object() {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/objects/empty", "").await.status(), 201);
    let found = server.get("/v1/objects/empty").await;
    assert_eq!(
        (found.status().as_u16(), &found.headers()["content-length"]),
        (200, &"0".parse().expect("header"))
    );
    assert_eq!(found.text().await.expect("body"), "");
}

#[tokio::test]
async fn ids_are_percent_decoded_once() {
    let server = Server::start().await;
    for (path, id) in
        [("a%2Fb", "a/b"), ("a%20b", "a b"), ("%C3%BC", "ü"), ("a%2525", "a%25"), ("a+b", "a+b")]
    {
        let stored = server.put(&format!("/v1/objects/{path}"), id).await;
        let location = stored.headers()["location"].to_str().expect("text").to_owned();
        assert_eq!(stored.json::<Value>().await.expect("JSON")["object_id"], id);
        assert_eq!(server.get(&location).await.text().await.expect("body"), id, "{location}");
    }
    assert_problem(server.put("/v1/objects/a%0Ab", "x").await, 400, "invalid_object_id").await;
    assert_problem(server.put("/v1/objects/%FF", "x").await, 400, "invalid_object_id").await;
    let long = "x".repeat(1025);
    assert_problem(server.put(&format!("/v1/objects/{long}"), "x").await, 400, "invalid_object_id").await;
    assert_problem(server.put("/v1/objects/a/b", "x").await, 404, "no_such_route").await;
    assert_problem(server.put("/v1/objects/", "x").await, 404, "no_such_route").await;
}

#[tokio::test]
async fn the_endpoint_is_a_parameter() {
    let server = Server::start().await;
    let other = EndpointId::random();
    let stored = server.put(&format!("/v1/objects/a?endpoint={other}"), "x").await;
    assert_eq!(stored.headers()["location"], "/v1/objects/a");
    let stored: Value = stored.json().await.expect("JSON");
    assert_eq!(stored["endpoint_id"], server.id.to_string(), "in solo mode the object is here");
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let answer = server.request(method, "/v1/objects/a?endpoint=me").send().await.expect("an answer");
        assert_problem(answer, 400, "invalid_endpoint_id").await;
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let server = Server::with(memory(Some(1000)), Default::default()).await;
    let problem = assert_problem(server.put("/v1/objects/a", vec![0; 1001]).await, 507, "storage_full").await;
    assert!(problem["hint"].is_string());
    let large = vec![0; MAX_OBJECT_SIZE as usize + 1];
    assert_problem(server.put("/v1/objects/a", large).await, 413, "object_too_large").await;
}

#[tokio::test]
async fn creation_is_exclusive() {
    let server = Server::start().await;
    let create = |body: String| {
        let request = server.request(Method::PUT, "/v1/objects/a").header(IF_NONE_MATCH, "*").body(body);
        tokio::spawn(request.send())
    };
    let racers: Vec<_> = (0..16).map(|i| create(i.to_string())).collect();
    let mut winners = Vec::new();
    for (i, racer) in racers.into_iter().enumerate() {
        let answer = racer.await.expect("task").expect("an answer");
        match answer.status().as_u16() {
            201 => winners.push(i.to_string()),
            _ => drop(assert_problem(answer, 412, "object_exists").await),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(server.get("/v1/objects/a").await.text().await.expect("body"), winners[0]);
}

#[tokio::test]
async fn conditions_that_cannot_be_kept_are_refused() {
    let server = Server::start().await;
    for (method, header, value) in [
        (Method::PUT, IF_MATCH, "*"),
        (Method::PUT, IF_NONE_MATCH, "\"abc\""),
        (Method::PUT, reqwest::header::CONTENT_RANGE, "bytes 0-1/5"),
        (Method::DELETE, IF_MATCH, "*"),
    ] {
        let request = server.request(method, "/v1/objects/a").header(header, value).body("x");
        assert_problem(request.send().await.expect("an answer"), 400, "unsupported_condition").await;
    }
    assert_eq!(server.get("/v1/objects/a").await.status(), 404);
}

#[tokio::test]
async fn objects_are_listed_in_pages() {
    let server = Server::start().await;
    for i in 0..25 {
        assert_eq!(server.put(&format!("/v1/objects/id-{i:02}"), "x").await.status(), 201);
    }
    let (mut after, mut seen, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let page: Value =
            server.get(&format!("/v1/objects?limit=10{after}")).await.json().await.expect("JSON");
        let objects = page["objects"].as_array().expect("a list");
        assert_eq!(objects[0]["size"], 1);
        seen.extend(objects.iter().map(|object| object["object_id"].as_str().expect("text").to_owned()));
        pages += 1;
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, (0..25).map(|i| format!("id-{i:02}")).collect::<Vec<_>>());
    let all: Value = server.get("/v1/objects").await.json().await.expect("JSON");
    assert_eq!((all["objects"].as_array().map(Vec::len), &all["next"]), (Some(25), &Value::Null));
    let exact: Value = server.get("/v1/objects?limit=25").await.json().await.expect("JSON");
    assert_eq!(exact["next"], Value::Null, "a full last page has no next");
    for query in ["limit=0", "limit=1001", "limit=-1", "limit=x"] {
        assert_problem(server.get(&format!("/v1/objects?{query}")).await, 400, "invalid_query").await;
    }
    assert_problem(server.get("/v1/objects?after=").await, 400, "invalid_object_id").await;
}
