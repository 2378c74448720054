//! What the relay closes a client for, and with which code.

use std::pin::pin;

use futures_util::{SinkExt, StreamExt};
use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{
    CLOSE_FORBIDDEN, CLOSE_TOO_LARGE, CLOSE_UNDECODABLE, RelayMessage, Response,
};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::harness::{Client, eventually, registration, soon, start};

#[tokio::test]
async fn what_is_no_message_is_closed_with_4000() {
    let relay = start(|_| {}).await;
    let id = EndpointId::random();
    let valid = registration(id).encode();
    let texts = [
        String::new(),
        "{".into(),
        "[]".into(),
        "\"text\"".into(),
        "{}".into(),
        "[".repeat(100_000),
        r#"{"message_type":"unknown","name":"a"}"#.into(),
        r#"{"message_type":1}"#.into(),
        valid.replace("\"name\"", "\"extra\":1,\"name\""),
        valid.replace("\"name\":\"test\",", ""),
        valid.replace(&id.to_string(), "not-a-uuid"),
        valid.replace(&format!("\"{id}\""), "17"),
        RelayMessage::RelayResponse(Response::registered()).encode(),
    ];
    for text in texts {
        for registered in [false, true] {
            let mut client = Client::connect(&relay).await;
            if registered {
                client.register().await;
            }
            client.send_text(&text).await;
            assert_eq!(client.close_code().await, CLOSE_UNDECODABLE, "{:.80}", text);
        }
    }
    eventually("nobody is left registered", || relay.client_count() == 0).await;
}

#[tokio::test]
async fn a_peer_message_with_an_extra_key_is_closed_with_4000() {
    let relay = start(|_| {}).await;
    let mut client = Client::registered(&relay).await;
    let text = client.message_to(EndpointId::random(), "").encode();
    client.send_text(&text.replacen('{', "{\"extra\":true,", 1)).await;
    assert_eq!(client.close_code().await, CLOSE_UNDECODABLE);
}

#[tokio::test]
async fn binary_frames_and_broken_text_are_closed_with_4000() {
    let relay = start(|_| {}).await;
    let text = registration(EndpointId::random()).encode();
    let broken = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    for frame in [Message::binary(text), Message::Frame(broken)] {
        let mut client = Client::connect(&relay).await;
        client.socket.send(frame).await.expect("sends");
        assert_eq!(client.close_code().await, CLOSE_UNDECODABLE);
    }
}

#[tokio::test]
async fn a_peer_message_before_registering_is_forbidden() {
    let relay = start(|_| {}).await;
    let other = Client::registered(&relay).await;
    let mut client = Client::connect(&relay).await;
    client.send(&client.message_to(other.id, "")).await;
    assert_eq!(client.close_code().await, CLOSE_FORBIDDEN);
}

#[tokio::test]
async fn a_spoofed_source_is_forbidden_and_not_delivered() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    let mut spoofer = Client::registered(&relay).await;
    let spoofed = a.message_to(b.id, "spoofed");
    spoofer.send(&spoofed).await;
    assert_eq!(spoofer.close_code().await, CLOSE_FORBIDDEN);
    // The next message that arrives is a's own.
    a.reaches(&mut b).await;
}

#[tokio::test]
async fn the_limit_is_exact() {
    const LIMIT: usize = 1000;
    let relay = start(|config| config.max_message_bytes = Some(LIMIT)).await;
    let (mut a, mut b) = (Client::registered(&relay).await, Client::registered(&relay).await);
    let overhead = a.message_to(b.id, "").encode().len();
    let largest = a.message_to(b.id, &"x".repeat(LIMIT - overhead));
    assert_eq!(largest.encode().len(), LIMIT);
    a.send(&largest).await;
    assert_eq!(b.receive().await, largest);
    a.send(&a.message_to(b.id, &"x".repeat(LIMIT - overhead + 1))).await;
    assert_eq!(a.close_code().await, CLOSE_TOO_LARGE);
}

#[tokio::test]
async fn a_huge_message_is_closed_with_4003_while_it_is_being_sent() {
    let relay = start(|_| {}).await;
    let client = Client::registered(&relay).await;
    let (mut sink, stream) = client.socket.split();
    let sending = tokio::spawn(async move {
        // The relay may hang up before the end.
        let _ = sink.send(Message::text("x".repeat(16 << 20))).await;
        sink
    });
    let mut closes = pin!(stream.filter_map(async |frame| match frame {
        Ok(Message::Close(frame)) => frame,
        _ => None,
    }));
    let frame = soon("being closed", closes.next()).await.expect("a close frame");
    assert_eq!(u16::from(frame.code), CLOSE_TOO_LARGE);
    drop(soon("sending ends", sending).await);
}

#[tokio::test]
async fn a_frame_header_that_announces_too_much_is_enough() {
    let relay = start(|_| {}).await;
    let mut client = Client::registered(&relay).await;
    // A masked text frame of 2^40 bytes (RFC 6455, section 5.2), of which none follows.
    let mut header = vec![0x81, 0xff];
    header.extend_from_slice(&(1u64 << 40).to_be_bytes());
    header.extend_from_slice(&[1, 2, 3, 4]);
    client.socket.get_mut().write_all(&header).await.expect("sends");
    assert_eq!(client.close_code().await, CLOSE_TOO_LARGE);
}

#[tokio::test]
async fn fragments_are_counted_together() {
    let relay = start(|config| config.max_message_bytes = Some(1000)).await;
    let mut client = Client::registered(&relay).await;
    for kind in [Data::Text, Data::Continue, Data::Continue] {
        let frame = Frame::message(vec![b'x'; 400], OpCode::Data(kind), false);
        client.socket.send(Message::Frame(frame)).await.expect("sends");
    }
    assert_eq!(client.close_code().await, CLOSE_TOO_LARGE);
}
