//! Clients that misbehave, and how the server ends.

use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::config::endpoint::HttpConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};

use crate::support::{DEADLINE, Fault, Faulty, MAX_OBJECT_SIZE, Server, impatient, memory};

/// More than the buffers of a socket hold.
const LARGE: usize = MAX_OBJECT_SIZE as usize;

const GET_A: &str = "GET /get?key=a HTTP/1.1\r\nHost: x\r\n\r\n";

async fn with_large_object(config: HttpConfig) -> Server {
    let server = Server::with(memory(None), config).await;
    assert_eq!(server.post("/set?key=a", vec![1; LARGE]).await.status(), 200);
    server
}

async fn faulty(fault: Fault, config: HttpConfig) -> Server {
    let server = Server::with(Arc::new(Faulty { inner: memory(None), fault }), config).await;
    assert_eq!(server.post("/set?key=a", vec![1; 3 << 20]).await.status(), 200);
    server
}

#[tokio::test]
async fn a_client_may_leave_in_the_middle() {
    let server = with_large_object(HttpConfig::default()).await;
    for _ in 0..20 {
        let mut client = server.connect().await;
        client.send(GET_A).await;
        let mut some = vec![0; 100_000];
        client.0.read_exact(&mut some).await.expect("a beginning");
    }
    server.until_alone().await;
    assert_eq!(server.get("/get?key=a").await.bytes().await.expect("body").len(), LARGE);
}

#[tokio::test]
async fn connections_end_with_their_clients() {
    let server = Server::start().await;
    let clients = futures_util::future::join_all((0..50).map(|_| server.connect())).await;
    for mut client in clients {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client.until("\r\n\r\n").await;
    }
    server.until_alone().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_dropped() {
    let server = with_large_object(impatient()).await;
    let mut reader = server.connect().await;
    reader.send(GET_A).await;
    server.until_alone().await;
    let received = reader.rest().await;
    assert!(received.len() < LARGE, "the end of the object was never sent");
}

#[tokio::test]
async fn a_client_that_never_asks_is_dropped() {
    let server = Server::with(memory(None), impatient()).await;
    for beginning in ["", "GE", "GET /get?key=a HTTP/1.1\r\nHost: x\r\n"] {
        let mut client = server.connect().await;
        client.send(beginning).await;
        client.rest().await;
    }
    server.until_alone().await;
}

#[tokio::test]
async fn a_request_may_take_longer_than_the_idle_timeout() {
    let server = faulty(Fault::Slow(Duration::from_millis(2500)), impatient()).await;
    assert_eq!(server.get("/get?key=a").await.bytes().await.expect("body").len(), 3 << 20);
}

#[tokio::test]
async fn a_torn_object_never_looks_whole() {
    let server = faulty(Fault::Torn, HttpConfig::default()).await;
    for path in ["/get?key=a", "/v1/objects/a"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect_err("the connection breaks");
    }
    let mut client = server.connect().await;
    client.send(GET_A).await;
    let received = client.rest().await;
    assert!(received.len() < 3 << 20);
    assert_eq!(server.get("/").await.status(), 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::with(memory(None), HttpConfig { max_connections: 1, ..HttpConfig::default() }).await;
    let mut first = server.connect().await;
    first.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    first.until("\r\n\r\n").await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let early = timeout(Duration::from_millis(200), second.0.read_u8()).await;
    assert!(early.is_err(), "the first still holds the only slot");
    drop(first);
    assert!(second.rest().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn requests_under_way_outlive_a_shutdown() {
    let server = faulty(Fault::Slow(Duration::from_millis(800)), HttpConfig::default()).await;
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    idle.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    idle.until("\r\n\r\n").await;
    busy.send(GET_A).await;
    sleep(Duration::from_millis(200)).await;
    server.shutdown.cancel();
    assert_eq!(idle.rest().await, "", "an idle connection is closed");
    assert!(busy.rest().await.len() > 3 << 20, "the whole answer");
    timeout(DEADLINE, server.task).await.expect("the server ends").expect("without panic");
}

#[tokio::test]
async fn a_client_cannot_hold_up_a_shutdown() {
    let server = with_large_object(HttpConfig::default()).await;
    let mut stuck = server.connect().await;
    stuck.send(GET_A).await;
    stuck.until("\r\n\r\n").await;
    server.shutdown.cancel();
    timeout(DEADLINE, server.task).await.expect("the server ends").expect("without panic");
    assert!(stuck.rest().await.len() < LARGE);
}

#[tokio::test]
async fn connections_end_with_the_server() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.until("\r\n\r\n").await;
    server.task.abort();
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn nonsense_is_answered_or_cut_off() {
    let server = Server::start().await;
    for nonsense in [
        "\r\n\r\n\r\n\u{1}\u{2}\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000)),
        "POST /set?key=a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_owned(),
    ] {
        let mut client = server.connect().await;
        let _ = client.0.write_all(nonsense.as_bytes()).await;
        let answer = client.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(server.get("/").await.status(), 200);
}
