//! Clients that do not read, do not answer, or are no longer there.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use proxystore_shared::relay_message::RelayMessage;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Client, eventually, returned_error, soon, start};

#[tokio::test]
async fn a_client_that_never_reads_is_dropped_and_delays_nobody() {
    let relay = start(|config| config.limits.queue_messages = 4).await;
    let slow = Client::registered(&relay).await;
    let mut sender = Client::registered(&relay).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);

    // More than the system buffers for a socket: the queue must fill up at some point.
    let message = sender.message_to(slow.id, &"x".repeat(500_000));
    let text = message.encode();
    let mut answer = None;
    for _ in 0..200 {
        sender.send_text(&text).await;
        a.reaches(&mut b).await;
        b.reaches(&mut a).await;
        if let Ok(Some(Ok(Message::Text(text)))) =
            tokio::time::timeout(Duration::from_millis(1), sender.socket.next()).await
        {
            answer = Some(RelayMessage::decode(&text).expect("decodes"));
            break;
        }
    }
    let answer = match answer {
        Some(answer) => answer,
        None => sender.receive().await,
    };
    let error = returned_error(message, answer);
    assert!(error.contains("not reading"), "{error}");
    eventually("the slow client is gone", || relay.client_count() == 3).await;
    // What was sent before the first answer arrived comes back as well.
    let last = sender.message_to(slow.id, "the last");
    sender.send(&last).await;
    let answer = loop {
        match sender.receive().await {
            RelayMessage::PeerConnection(answer) if answer.description != "the last" => {}
            answer => break answer,
        }
    };
    assert!(returned_error(last, answer).contains("not registered"));
}

#[tokio::test]
async fn a_sender_that_never_reads_its_errors_delays_nobody() {
    let relay = start(|config| config.limits.idle_timeout = 25).await;
    let nobody = Client::connect(&relay).await.id;
    let sender = Client::registered(&relay).await;
    let text = sender.message_to(nobody, &"x".repeat(500_000)).encode();
    let (mut sink, _unread) = sender.socket.split();
    let flood = tokio::spawn(async move { while sink.send(Message::text(text.clone())).await.is_ok() {} });
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    for _ in 0..100 {
        a.reaches(&mut b).await;
        b.reaches(&mut a).await;
    }
    flood.abort();
}

#[tokio::test]
async fn a_silent_connection_is_pinged_and_then_dropped() {
    let relay = start(|config| {
        config.limits.ping_interval = 1;
        config.limits.idle_timeout = 2;
    })
    .await;
    // Answers are sent while a socket is read, and this one is not.
    let mut silent = Client::registered(&relay).await;
    eventually("the silent client is gone", || relay.client_count() == 0).await;
    let first = soon("a ping", silent.socket.next()).await;
    assert!(matches!(first, Some(Ok(Message::Ping(_)))), "{first:?}");
}

#[tokio::test]
async fn a_client_that_answers_pings_stays() {
    let relay = start(|config| {
        config.limits.ping_interval = 1;
        config.limits.idle_timeout = 3;
    })
    .await;
    let mut quiet = Client::registered(&relay).await;
    for _ in 0..5 {
        let frame = soon("a ping", quiet.socket.next()).await;
        assert!(matches!(frame, Some(Ok(Message::Ping(_)))), "{frame:?}");
    }
    assert_eq!(relay.client_count(), 1);
}
