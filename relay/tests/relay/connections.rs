//! Connections before they are clients, too many of them, and the relay's end.

use proxystore_relay::{ListenError, Relay, StartError};
use proxystore_shared::config::relay::RelayConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use crate::harness::{Client, eventually, http_request, loopback, soon, start};

#[tokio::test]
async fn plain_http_is_answered() {
    let relay = start(|_| {}).await;
    let health = http_request(&relay, "GET /healthz HTTP/1.1").await;
    assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok"), "{health}");
    let hint = http_request(&relay, "GET / HTTP/1.1").await;
    assert!(hint.starts_with("HTTP/1.1 426 ") && hint.contains("websocket"), "{hint}");
    assert!(http_request(&relay, "GET /other HTTP/1.1").await.starts_with("HTTP/1.1 404 "));
    assert!(http_request(&relay, "POST /healthz HTTP/1.1").await.starts_with("HTTP/1.1 405 "));
    let old = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAA";
    assert!(http_request(&relay, old).await.starts_with("HTTP/1.1 426 "));
}

#[tokio::test]
async fn an_oversized_head_is_refused() {
    let relay = start(|_| {}).await;
    let mut stream = TcpStream::connect(relay.local_addr()).await.expect("connects");
    let head = format!("GET / HTTP/1.1\r\nAuthorization: Bearer {}\r\n\r\n", "x".repeat(100_000));
    // The relay may hang up before all of it is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut response = Vec::new();
    let _ = soon("an end", stream.read_to_end(&mut response)).await;
    assert!(!response.starts_with(b"HTTP/1.1 101"), "{response:?}");
}

#[tokio::test]
async fn a_connection_that_never_upgrades_is_dropped() {
    let relay = start(|config| config.limits.handshake_timeout = 1).await;
    for sent in ["", "GET / HTTP/1.1\r\nHost: relay\r\n", "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n"] {
        let mut stream = TcpStream::connect(relay.local_addr()).await.expect("connects");
        stream.write_all(sent.as_bytes()).await.expect("sends");
        let mut rest = Vec::new();
        soon("the relay hangs up", stream.read_to_end(&mut rest)).await.expect("reads");
    }
}

#[tokio::test]
async fn clients_beyond_the_limit_get_503_until_a_place_is_free() {
    let relay = start(|config| config.limits.max_clients = 2).await;
    let first = Client::registered(&relay).await;
    let _second = Client::registered(&relay).await;
    match Client::connect_with(&relay, None).await.map(|_| ()) {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("expected 503, got {other:?}"),
    }
    assert!(http_request(&relay, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200 "));
    drop(first);
    let place = async { while Client::connect_with(&relay, None).await.is_err() {} };
    soon("a free place", place).await;
}

#[tokio::test]
async fn stopping_closes_clients_and_frees_the_port() {
    let relay = start(|_| {}).await;
    let address = relay.local_addr();
    let mut registered = Client::registered(&relay).await;
    let mut unregistered = Client::connect(&relay).await;
    let _half_open = TcpStream::connect(address).await.expect("connects");
    let closes = async { (registered.close_code().await, unregistered.close_code().await) };
    let ((), codes) = soon("stopping", async { tokio::join!(relay.stop(), closes) }).await;
    assert_eq!(codes, (1001, 1001));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    let again = start(|config| config.port = address.port()).await;
    assert_eq!(again.local_addr(), address);
}

#[tokio::test]
async fn stopping_does_not_wait_for_clients_that_do_not_answer() {
    let relay = start(|_| {}).await;
    let _mute = Client::registered(&relay).await;
    soon("stopping", relay.stop()).await;
}

#[tokio::test]
async fn dropping_the_handle_stops_everything() {
    let relay = start(|_| {}).await;
    let address = relay.local_addr();
    let mut client = Client::registered(&relay).await;
    drop(relay);
    assert_eq!(client.close_code().await, 1001);
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    soon("the port is closed", refused).await;
}

#[tokio::test]
async fn a_relay_without_a_host_serves_ipv4() {
    let relay = start(|config| config.host = None).await;
    let address = format!("127.0.0.1:{}", relay.local_addr().port());
    let url = format!("ws://{address}/");
    soon("connecting", Box::pin(tokio_tungstenite::connect_async(url))).await.expect("connects");
}

#[tokio::test]
async fn a_taken_port_and_a_bad_configuration_are_told_apart() {
    let relay = start(|_| {}).await;
    let config = |port| RelayConfig { port, ..loopback() };
    let taken = Relay::start(config(relay.local_addr().port())).await;
    assert!(matches!(taken, Err(StartError::Listen(ListenError::InUse(_)))), "{taken:?}");
    let bad = Relay::start(RelayConfig { max_message_bytes: Some(0), ..config(0) }).await;
    assert!(matches!(bad, Err(StartError::Config(_))), "{bad:?}");
    eventually("nobody registered", || relay.client_count() == 0).await;
}
