//! Datagrams between clients: who gets them, who is refused, and what too many of them do.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{CLOSE_FORBIDDEN, CLOSE_TOO_LARGE, CLOSE_UNDECODABLE};
use proxystore_shared::relayed::{MAX_DATAGRAMS_LEN, MAX_FRAME_LEN, SUBPROTOCOL};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::authentication::start_with_auth;
use crate::harness::{Client, frame_to, metric, soon, start};

#[tokio::test]
async fn datagrams_arrive_with_the_senders_id() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    for len in [1, 1200, 4000, MAX_DATAGRAMS_LEN] {
        let datagrams: Vec<u8> = (0..len).map(|index| index as u8).collect();
        a.send_datagrams(b.id, &datagrams).await;
        assert_eq!(b.receive_datagrams().await, (a.id, datagrams.clone()));
        b.send_datagrams(a.id, &datagrams).await;
        assert_eq!(a.receive_datagrams().await, (b.id, datagrams));
    }
    a.send_datagrams(a.id, b"to myself").await;
    assert_eq!(a.receive_datagrams().await, (a.id, b"to myself".to_vec()));
    assert_eq!(metric(&relay, "datagram_frames_forwarded_total").await, 9);
    assert_eq!(metric(&relay, "datagram_bytes_waiting").await, 0);
}

#[tokio::test]
async fn a_run_of_frames_keeps_its_order() {
    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    for number in 0..500u32 {
        a.send_datagrams(b.id, &number.to_be_bytes()).await;
    }
    for number in 0..500u32 {
        assert_eq!(b.receive_datagrams().await, (a.id, number.to_be_bytes().to_vec()));
    }
}

#[tokio::test]
async fn a_fragmented_frame_is_one_frame() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    let relay = start(|_| {}).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    let frame = frame_to(b.id, b"one packet");
    let (head, tail) = frame.split_at(7);
    for (part, kind, is_last) in [(head, Data::Binary, false), (tail, Data::Continue, true)] {
        let part = Frame::message(part.to_vec(), OpCode::Data(kind), is_last);
        a.socket.send(Message::Frame(part)).await.expect("sends");
    }
    assert_eq!(b.receive_datagrams().await, (a.id, b"one packet".to_vec()));
}

#[tokio::test]
async fn another_users_client_gets_nothing() {
    let relay = start_with_auth().await;
    let connect = async |token| {
        let headers = [("sec-websocket-protocol", SUBPROTOCOL), ("authorization", token)];
        let (mut client, _) = Client::upgrade(&relay, &headers).await.expect("connects");
        client.register().await;
        client
    };
    let (mut alice, mut again) = (connect("Bearer alice").await, connect("Bearer alice+2").await);
    let mut bob = connect("Bearer bob").await;
    bob.send_datagrams(alice.id, b"from bob").await;
    bob.reaches_nobody(EndpointId::random()).await;
    again.send_datagrams(alice.id, b"from alice").await;
    assert_eq!(alice.receive_datagrams().await, (again.id, b"from alice".to_vec()));
    assert_eq!(metric(&relay, "datagram_frames_dropped_total{reason=\"foreign_peer\"}").await, 1);
    assert_eq!(metric(&relay, "datagram_frames_dropped_total{reason=\"unknown_peer\"}").await, 1);
}

impl Client {
    /// Sends datagrams and then a message to somebody who is not there. That the message comes back says that the
    /// datagrams were dealt with.
    async fn reaches_nobody(&mut self, nobody: EndpointId) {
        self.send_datagrams(nobody, b"packet").await;
        self.error_from(nobody).await;
    }
}

#[tokio::test]
async fn malformed_frames_close_their_sender_and_nobody_else() {
    let relay = start(|config| config.max_message_bytes = Some(2 * MAX_FRAME_LEN)).await;
    let mut peer = Client::extended(&relay).await;
    let mut other = Client::extended(&relay).await;
    let right = frame_to(peer.id, b"packet");
    let changed = |index: usize, byte| {
        let mut frame = right.clone();
        frame[index] = byte;
        frame
    };
    let mut no_length = changed(2, 0);
    no_length[3] = 0;
    let too_long = frame_to(peer.id, &vec![0; MAX_DATAGRAMS_LEN + 1]);
    for frame in [Vec::new(), right[..20].to_vec(), changed(0, 2), no_length, too_long] {
        let mut client = Client::extended(&relay).await;
        client.send_frame(frame.clone()).await;
        assert_eq!(client.close_code().await, CLOSE_UNDECODABLE, "{:?}", &frame[..frame.len().min(20)]);
    }
    other.send_datagrams(peer.id, b"packet").await;
    assert_eq!(peer.receive_datagrams().await.0, other.id);
}

#[tokio::test]
async fn a_frame_over_both_limits_is_too_large() {
    let relay = start(|config| config.max_message_bytes = Some(1000)).await;
    let mut client = Client::extended(&relay).await;
    client.send_frame(vec![1; MAX_FRAME_LEN + 1]).await;
    assert_eq!(client.close_code().await, CLOSE_TOO_LARGE);
}

#[tokio::test]
async fn datagrams_need_a_registration() {
    let relay = start(|_| {}).await;
    let peer = Client::extended(&relay).await;
    let headers = [("sec-websocket-protocol", SUBPROTOCOL)];
    let (mut client, _) = Client::upgrade(&relay, &headers).await.expect("connects");
    client.send_datagrams(peer.id, b"packet").await;
    assert_eq!(client.close_code().await, CLOSE_FORBIDDEN);
}

#[tokio::test]
async fn the_off_switch_drops_datagrams_and_nothing_else() {
    let relay = start(|config| config.datagrams.enabled = false).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    a.send_datagrams(b.id, b"packet").await;
    a.reaches(&mut b).await;
    assert_eq!(metric(&relay, "datagram_frames_dropped_total{reason=\"disabled\"}").await, 1);
    assert_eq!(metric(&relay, "datagram_frames_forwarded_total").await, 0);
}

#[tokio::test]
async fn a_flooding_client_is_held_to_its_rate_and_hinders_nobody() {
    const RATE: u64 = 500_000;
    const BURST: u64 = 200_000;
    let relay = start(|config| {
        config.datagrams.bytes_per_second = RATE;
        config.datagrams.burst_bytes = BURST;
    })
    .await;
    let (mut flooder, mut victim) = (Client::extended(&relay).await, Client::extended(&relay).await);
    let mut other = Client::extended(&relay).await;
    let began = Instant::now();
    let flood = vec![1; 10_000];
    for round in 0..10u8 {
        for _ in 0..20 {
            flooder.send_datagrams(victim.id, &flood).await;
        }
        // Everybody's messages pass, the flooder's own too, and another client has a rate of its own.
        flooder.reaches_past_datagrams(&mut victim).await;
        other.send_datagrams(victim.id, &[round; 100]).await;
        while victim.receive_datagrams().await != (other.id, vec![round; 100]) {}
    }
    let forwarded = metric(&relay, "datagram_bytes_forwarded_total").await;
    let dropped = metric(&relay, "datagram_frames_dropped_total{reason=\"rate\"}").await;
    let most = BURST + (RATE as f64 * began.elapsed().as_secs_f64()) as u64 + 10 * 120;
    assert!(forwarded <= most, "{forwarded} bytes of at most {most}");
    assert!(forwarded >= BURST - 10_020, "the burst was admitted: {forwarded}");
    let frames = metric(&relay, "datagram_frames_forwarded_total").await;
    assert_eq!(frames + dropped, 200 + 10, "each frame was either forwarded or counted");
}

impl Client {
    /// The message arrives at `receiver`, behind datagrams or before them.
    async fn reaches_past_datagrams(&mut self, receiver: &mut Self) {
        let message = self.message_to(receiver.id, "a description");
        self.send(&message).await;
        let text = message.encode();
        loop {
            match soon("a message", receiver.socket.next()).await.expect("open").expect("reads") {
                Message::Text(received) => return assert_eq!(received.as_str(), text),
                Message::Binary(_) | Message::Ping(_) => {}
                other => panic!("got {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_daily_quota_is_the_users() {
    let relay = start(|config| config.datagrams.bytes_per_day = Some(70_000)).await;
    let mut b = Client::extended(&relay).await;
    for expected in [1, 0] {
        let mut a = Client::extended(&relay).await;
        let before = metric(&relay, "datagram_frames_forwarded_total").await;
        a.send_datagrams(b.id, &[0; 60_000]).await;
        a.reaches_past_datagrams(&mut b).await;
        let after = metric(&relay, "datagram_frames_forwarded_total").await;
        assert_eq!(after - before, expected);
    }
    assert_eq!(metric(&relay, "datagram_frames_dropped_total{reason=\"day\"}").await, 1);
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_datagrams_but_stays() {
    let relay = start(|config| config.datagrams.queue_bytes = 300_000).await;
    let mut slow = Client::extended(&relay).await;
    let mut sender = Client::extended(&relay).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    let frame = vec![1; 60_000];
    // More than the system buffers for a socket: the queue must fill up at some point.
    while metric(&relay, "datagram_frames_dropped_total{reason=\"queue_full\"}").await == 0 {
        for _ in 0..20 {
            sender.send_datagrams(slow.id, &frame).await;
        }
        a.send_datagrams(b.id, b"packet").await;
        assert_eq!(b.receive_datagrams().await.0, a.id);
    }
    assert!(metric(&relay, "datagram_bytes_waiting").await <= 300_000);
    assert_eq!(relay.client_count(), 4);
    // The relay hears a client that does not take what is written to it.
    slow.send(&slow.message_to(a.id, "a description")).await;
    assert_eq!(a.receive().await, slow.message_to(a.id, "a description"));
    sender.reaches_past_datagrams(&mut slow).await;
    assert_eq!(relay.client_count(), 4);
}

#[tokio::test]
async fn two_clients_that_flood_each_other_both_receive() {
    let relay = start(|_| {}).await;
    let (a, b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    let run = async |client: Client, peer: EndpointId| {
        let frame = Message::binary(frame_to(peer, &[1; 60_000]));
        let (mut sink, mut stream) = client.socket.split();
        let sending = tokio::spawn(async move { while sink.send(frame.clone()).await.is_ok() {} });
        for _ in 0..300 {
            soon("a frame", stream.next()).await.expect("open").expect("reads");
            // Slower than the other sends.
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        sending.abort();
    };
    let (a_id, b_id) = (a.id, b.id);
    tokio::join!(run(a, b_id), run(b, a_id));
}
