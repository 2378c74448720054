//! Messages between clients.

use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::RelayMessage;

use crate::harness::{Client, start};

#[tokio::test]
async fn the_text_is_forwarded_as_it_is() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    let text = format!(
        r#" {{"description": "\u00e9 {{\"sdp\": 1}}", "error": null, "description_type": "answer",
            "peer_uuid": "{}", "source_name": "a", "source_uuid": "{}", "message_type": "peer_connection"}} "#,
        b.id, a.id
    );
    a.send_text(&text).await;
    assert_eq!(b.receive_text().await, text);
}

#[tokio::test]
async fn an_error_from_a_peer_is_forwarded() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    let RelayMessage::PeerConnection(mut message) = a.message_to(b.id, "") else { panic!("another message") };
    message.error = Some("cannot answer".into());
    let message = RelayMessage::PeerConnection(message);
    a.send(&message).await;
    assert_eq!(b.receive().await, message);
}

#[tokio::test]
async fn messages_keep_their_order() {
    let relay = start(|config| config.limits.queue_messages = 1000).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    for number in 0..500 {
        a.send(&a.message_to(b.id, &number.to_string())).await;
    }
    for number in 0..500 {
        assert_eq!(b.receive().await, a.message_to(b.id, &number.to_string()));
    }
}

#[tokio::test]
async fn a_client_may_write_to_itself() {
    let relay = start(|_| {}).await;
    let mut client = Client::registered(&relay).await;
    let message = client.message_to(client.id, "to myself");
    client.send(&message).await;
    assert_eq!(client.receive().await, message);
}

#[tokio::test]
async fn a_message_to_nobody_comes_back_and_the_session_goes_on() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    let nobody = EndpointId::random();
    let error = a.error_from(nobody).await;
    assert!(error.contains(&nobody.to_string()) && error.contains("not registered"), "{error}");
    a.reaches(&mut b).await;
}

#[tokio::test]
async fn many_pairs_talk_at_once() {
    let relay = start(|_| {}).await;
    let pairs = (0..20).map(async |_| {
        let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
        for _ in 0..20 {
            a.reaches(&mut b).await;
            b.reaches(&mut a).await;
        }
    });
    futures_util::future::join_all(pairs).await;
}
