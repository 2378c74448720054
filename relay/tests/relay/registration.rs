//! Who is registered under which id.

use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{CLOSE_FORBIDDEN, CLOSE_REPLACED, RelayMessage, Response};

use crate::harness::{Client, eventually, registration, start};

#[tokio::test]
async fn the_answer_has_the_bytes_python_expects() {
    let relay = start(|_| {}).await;
    let mut client = Client::connect(&relay).await;
    client
        .send_text(&format!(
            r#"{{"uuid": "{}", "message_type": "relay_registration", "name": ""}}"#,
            client.id
        ))
        .await;
    let answer = r#"{"message_type":"relay_response","success":true,"message":null,"error":false}"#;
    assert_eq!(client.receive_text().await, answer);
    assert_eq!(relay.client_count(), 1);
}

#[tokio::test]
async fn a_newer_socket_replaces_an_older_one() {
    let relay = start(|_| {}).await;
    let mut old = Client::registered(&relay).await;
    let mut new = Client::connect(&relay).await;
    new.id = old.id;
    new.register().await;
    assert_eq!(old.close_code().await, CLOSE_REPLACED);
    let mut other = Client::registered(&relay).await;
    other.reaches(&mut new).await;
    assert_eq!(relay.client_count(), 2);
}

#[tokio::test]
async fn an_old_socket_that_ends_late_does_not_remove_its_successor() {
    let relay = start(|_| {}).await;
    let id = EndpointId::random();
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(&relay).await;
        client.id = id;
        client.register().await;
        sockets.push(client);
    }
    let mut newest = sockets.pop().expect("five");
    drop(sockets);
    let mut other = Client::registered(&relay).await;
    for _ in 0..50 {
        other.reaches(&mut newest).await;
    }
}

#[tokio::test]
async fn registering_twice_succeeds_twice() {
    let relay = start(|_| {}).await;
    let mut client = Client::registered(&relay).await;
    client.register().await;
    assert_eq!(relay.client_count(), 1);
    let mut other = Client::registered(&relay).await;
    other.reaches(&mut client).await;
}

#[tokio::test]
async fn another_id_on_the_same_socket_releases_the_first() {
    let relay = start(|_| {}).await;
    let mut client = Client::registered(&relay).await;
    let first = std::mem::replace(&mut client.id, EndpointId::random());
    client.register().await;
    let mut other = Client::registered(&relay).await;
    other.reaches(&mut client).await;
    client.reaches(&mut other).await;
    other.error_from(first).await;
    assert_eq!(relay.client_count(), 2);
    client.id = first;
    client.send(&client.message_to(other.id, "from the released id")).await;
    assert_eq!(client.close_code().await, CLOSE_FORBIDDEN);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_id() {
    let relay = start(|_| {}).await;
    let mut polite = Client::registered(&relay).await;
    let abrupt = Client::registered(&relay).await;
    polite.socket.close(None).await.expect("closes");
    drop(abrupt);
    eventually("both are gone", || relay.client_count() == 0).await;
}

#[tokio::test]
async fn a_client_that_never_registers_is_closed() {
    let relay = start(|config| config.limits.registration_timeout = 1).await;
    let mut client = Client::connect(&relay).await;
    let (code, reason) = client.close_frame().await;
    assert_eq!(code, CLOSE_FORBIDDEN);
    assert!(reason.contains("register"), "{reason}");
}

#[tokio::test]
async fn every_form_of_a_uuid_is_one_id() {
    let relay = start(|_| {}).await;
    let mut client = Client::connect(&relay).await;
    let simple = client.id.to_string().replace('-', "").to_uppercase();
    let text = registration(client.id).encode().replace(&client.id.to_string(), &simple);
    client.send_text(&text).await;
    assert_eq!(client.receive().await, RelayMessage::RelayResponse(Response::registered()));
    let mut other = Client::registered(&relay).await;
    other.reaches(&mut client).await;
}
