//! Uploads that end badly, or early.

use std::time::Duration;

use reqwest::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use crate::support::{DEADLINE, MAX_OBJECT_SIZE, Server, impatient, memory};

/// One chunk of the chunked coding.
fn chunk(len: usize) -> Vec<u8> {
    [format!("{len:x}\r\n").into_bytes(), vec![7; len], b"\r\n".to_vec()].concat()
}

async fn assert_nothing_stored(server: &Server) {
    server.until_alone().await;
    let status: serde_json::Value = server.get("/v1/status").await.json().await.expect("JSON");
    assert_eq!((&status["storage"]["objects"], &status["storage"]["bytes"]), (&0.into(), &0.into()));
}

#[tokio::test]
async fn a_truncated_upload_stores_nothing() {
    let server = Server::start().await;
    for head in ["POST /set?key=a", "PUT /v1/objects/a"] {
        let mut client = server.connect().await;
        client.send(format!("{head} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nten bytes!")).await;
        drop(client);
        let mut client = server.connect().await;
        client.send(format!("{head} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
        client.send(chunk(100_000)).await;
        drop(client);
    }
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn a_malformed_chunk_stores_nothing() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /set?key=a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(chunk(10)).await;
    client.send("no length\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400"));
    drop(client);
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn a_stalled_upload_is_given_up() {
    let server = Server::with(memory(None), impatient()).await;
    let mut client = server.connect().await;
    client.send("PUT /v1/objects/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nten bytes!").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("upload_stalled"), "{answer}");
    drop(client);
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn a_client_that_only_listens_afterwards_gets_its_refusal() {
    let server = Server::start().await;
    let size = MAX_OBJECT_SIZE as usize + (16 << 20);
    let announced = format!("Content-Length: {size}");
    for (coding, body) in [("Transfer-Encoding: chunked", chunk(size)), (&announced, vec![7; size])] {
        let mut client = server.connect().await;
        client.send(format!("POST /set?key=a HTTP/1.1\r\nHost: x\r\n{coding}\r\n\r\n")).await;
        client.send(body).await;
        if coding.ends_with("chunked") {
            client.send("0\r\n\r\n").await;
        }
        let answer = client.until("\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn an_endless_refused_upload_is_cut_off() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("POST /set?key= HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let piece = chunk(1 << 20);
    let endless = async { while client.0.write_all(&piece).await.is_ok() {} };
    timeout(DEADLINE, endless).await.expect("the server cuts it off");
    drop(client);
    assert_nothing_stored(&server).await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_at_once() {
    let server = Server::start().await;
    let head = |size: u64| {
        format!(
            "PUT /v1/objects/a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
        )
    };
    let mut client = server.connect().await;
    client.send(head(MAX_OBJECT_SIZE + 1)).await;
    assert!(client.until("\r\n").await.starts_with("HTTP/1.1 413"));
    let mut client = server.connect().await;
    client.send(head(5)).await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    client.send("hello").await;
    assert!(client.until("\r\n").await.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn a_refused_upload_does_not_cost_the_connection() {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/objects/a", "hello").await.status(), 201);
    let mut client = server.connect().await;
    for _ in 0..3 {
        client
            .send("PUT /v1/objects/a HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\nContent-Length: 5\r\n\r\n")
            .await;
        client.send("other").await;
        assert!(client.until("\r\n").await.starts_with("HTTP/1.1 412"));
        client.until("}").await;
    }
}

#[tokio::test]
async fn a_reader_keeps_the_version_it_began_with() {
    let server = Server::start().await;
    let first = vec![1; 20 << 20];
    assert_eq!(server.put("/v1/objects/a", first.clone()).await.status(), 201);
    let reading = server.get("/v1/objects/a").await;
    assert_eq!(server.put("/v1/objects/a", vec![2; 100]).await.status(), 201);
    let deleted = server.request(Method::DELETE, "/v1/objects/a").send().await.expect("an answer");
    assert_eq!(deleted.status(), 204);
    assert!(reading.bytes().await.expect("body") == first);
}

#[tokio::test]
async fn large_objects_survive_the_journey() {
    let server = Server::start().await;
    let whole: Vec<u8> = (0..MAX_OBJECT_SIZE).map(|i| (i % 253) as u8).collect();
    assert_eq!(server.post("/set?key=a", whole.clone()).await.status(), 200);
    let found = timeout(Duration::from_secs(60), server.get("/get?key=a")).await.expect("an answer");
    assert!(found.bytes().await.expect("body") == whole);
}
