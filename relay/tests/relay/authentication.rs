//! Globus authentication against an introspection server of our own.

use std::net::SocketAddr;

use proxystore_relay::{Relay, SetupError, StartError};
use proxystore_shared::config::relay::{AuthMethod, GlobusAuth, RelayAuth};
use proxystore_shared::relay_message::{CLOSE_FORBIDDEN, CLOSE_UNAUTHORIZED, RelayMessage};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Client, loopback, registration, soon, start};

/// Base64 of `relay-id:relay secret` (RFC 7617).
const RELAY_CREDENTIALS: &str = "authorization: basic cmvsyxktawq6cmvsyxkgc2vjcmv0";

/// Knows the tokens `alice`, `bob` (in form encoding), `stranger` of another audience, and `endless`.
async fn introspection_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    address
}

async fn answer(stream: TcpStream) {
    let mut stream = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).await.is_ok_and(|len| len > 2) {
        head.push_str(&std::mem::take(&mut line).to_lowercase());
    }
    let len = head.split_once("content-length: ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
    let mut body = vec![0; len.unwrap_or(0)];
    stream.read_exact(&mut body).await.expect("reads");
    let answer = match String::from_utf8_lossy(&body).as_ref() {
        "token=alice" => r#"{"active":true,"aud":["other","test-relay"],"sub":"user-a"}"#.to_owned(),
        "token=alice%2B2" => r#"{"active":true,"aud":"test-relay","sub":"user-a"}"#.to_owned(),
        "token=bob" => r#"{"active":true,"aud":["test-relay"],"sub":"user-b"}"#.to_owned(),
        "token=stranger" => r#"{"active":true,"aud":["other"],"sub":"user-c"}"#.to_owned(),
        "token=endless" => " ".repeat(1 << 20),
        _ => r#"{"active":false}"#.to_owned(),
    };
    let right = head.starts_with("post /introspect ") && head.contains(RELAY_CREDENTIALS);
    let status = if right { "200 OK" } else { "401 Unauthorized" };
    let response =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}", answer.len());
    // A relay that refuses a long answer does not read it all.
    let _ = stream.write_all(response.as_bytes()).await;
}

fn globus(introspection: SocketAddr) -> RelayAuth {
    RelayAuth {
        method: Some(AuthMethod::Globus),
        kwargs: GlobusAuth {
            client_id: Some("relay-id".into()),
            client_secret: Some("relay secret".into()),
            audience: Some("test-relay".into()),
            introspect_url: Some(format!("http://{introspection}/introspect")),
        },
    }
}

pub async fn start_with_auth() -> Relay {
    let server = introspection_server().await;
    start(|config| config.auth = globus(server)).await
}

async fn connect(relay: &Relay, authorization: &str) -> Client {
    Client::connect_with(relay, Some(authorization)).await.expect("connects")
}

#[tokio::test]
async fn clients_of_one_user_reach_each_other_and_nobody_else() {
    let relay = start_with_auth().await;
    let mut one = connect(&relay, "Bearer alice").await;
    let mut two = connect(&relay, "bearer alice+2").await;
    let mut foreign = connect(&relay, "Bearer bob").await;
    for client in [&mut one, &mut two, &mut foreign] {
        client.register().await;
    }
    one.reaches(&mut two).await;
    two.reaches(&mut one).await;
    let error = foreign.error_from(one.id).await;
    assert!(error.contains("another user"), "{error}");
}

#[tokio::test]
async fn an_id_of_another_user_is_forbidden() {
    let relay = start_with_auth().await;
    let mut owner = connect(&relay, "Bearer alice").await;
    owner.register().await;
    let mut thief = connect(&relay, "Bearer bob").await;
    thief.send(&registration(owner.id)).await;
    assert_eq!(thief.close_code().await, CLOSE_FORBIDDEN);
    let mut second = connect(&relay, "Bearer alice").await;
    second.register().await;
    second.reaches(&mut owner).await;
}

#[tokio::test]
async fn without_a_readable_token_a_client_is_unauthorized() {
    let relay = start_with_auth().await;
    for authorization in [None, Some("alice"), Some("Basic alice"), Some("Bearer"), Some("Bearer a b")] {
        let mut client = Client::connect_with(&relay, authorization).await.expect("connects");
        client.send(&registration(client.id)).await;
        assert_eq!(client.close_code().await, CLOSE_UNAUTHORIZED, "{authorization:?}");
    }
    assert_eq!(relay.client_count(), 0);
}

#[tokio::test]
async fn a_token_that_is_not_good_here_is_forbidden() {
    let relay = start_with_auth().await;
    for authorization in ["Bearer revoked", "Bearer stranger"] {
        let mut client = connect(&relay, authorization).await;
        client.send(&registration(client.id)).await;
        let (code, reason) = client.close_frame().await;
        assert_eq!(code, CLOSE_FORBIDDEN, "{authorization}");
        assert!(!reason.contains("revoked "), "the token is not repeated: {reason}");
    }
}

#[tokio::test]
async fn if_tokens_cannot_be_checked_clients_are_told_to_come_back() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let nobody = taken.local_addr().expect("bound");
    drop(taken);
    let unreachable = start(|config| config.auth = globus(nobody)).await;
    let endless = start_with_auth().await;
    let server = introspection_server().await;
    let unaccepted = start(|config| {
        config.auth = globus(server);
        config.auth.kwargs.client_secret = Some("wrong".into());
    })
    .await;
    for (relay, token) in [(unreachable, "alice"), (endless, "endless"), (unaccepted, "alice")] {
        let mut client = connect(&relay, &format!("Bearer {token}")).await;
        client.send(&registration(client.id)).await;
        let RelayMessage::RelayResponse(response) = client.receive().await else { panic!("no response") };
        assert!(!response.success && response.error && response.message.is_some(), "{response:?}");
        assert_eq!(client.close_code().await, 1013);
    }
}

#[tokio::test]
async fn an_introspection_server_that_never_answers_is_given_up_on() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = silent.local_addr().expect("bound");
    let relay = start(|config| config.auth = globus(address)).await;
    let mut client = connect(&relay, "Bearer alice").await;
    client.send(&registration(client.id)).await;
    assert_eq!(client.close_code().await, 1013);
    soon("stopping", relay.stop()).await;
}

#[tokio::test]
async fn a_bad_introspection_url_stops_the_start() {
    let mut config = loopback();
    config.auth = globus(([127, 0, 0, 1], 1).into());
    config.auth.kwargs.introspect_url = Some("auth.globus.org".into());
    let error = Relay::start(config).await.expect_err("no URL");
    assert!(matches!(&error, StartError::Auth(SetupError::BadUrl(_))), "{error}");
}
