//! Who gets the sub-protocol, and what everybody else does not notice.

use proxystore_shared::relay_message::{CLOSE_TOO_LARGE, CLOSE_UNDECODABLE};
use proxystore_shared::relayed::{HEADER, RelayOffer};

use crate::harness::{Client, frame_to, metric, start};

const ASKING: &str = "sec-websocket-protocol";

#[tokio::test]
async fn a_client_that_asks_is_told_what_there_is() {
    let relay = start(|_| {}).await;
    for list in ["proxystore-relay.1", "other,proxystore-relay.1", "other, proxystore-relay.1 , another"] {
        let (mut client, response) = Client::upgrade(&relay, &[(ASKING, list)]).await.expect("connects");
        assert_eq!(response.headers()[ASKING], "proxystore-relay.1", "{list}");
        let offer = RelayOffer::decode(response.headers()[HEADER].to_str().expect("text"));
        assert_eq!(&offer, relay.offer());
        assert!(offer.datagrams);
        assert_eq!(offer.udp_ports.len(), 2);
        assert!(offer.udp_ports.iter().all(|port| *port != 0), "the ports that the system chose: {offer:?}");
        client.register().await;
    }
}

#[tokio::test]
async fn what_is_turned_off_is_not_offered() {
    let relay = start(|config| {
        config.udp.ports = Vec::new();
        config.datagrams.enabled = false;
    })
    .await;
    let (_, response) = Client::upgrade(&relay, &[(ASKING, "proxystore-relay.1")]).await.expect("connects");
    assert_eq!(response.headers()[HEADER], "udp=; datagrams=0");
}

#[tokio::test]
async fn a_client_that_does_not_ask_notices_nothing() {
    let relay = start(|_| {}).await;
    let mut peer = Client::extended(&relay).await;
    let (mut client, response) = Client::upgrade(&relay, &[]).await.expect("connects");
    let mut names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["connection", "date", "sec-websocket-accept", "upgrade"]);
    client.register().await;
    client.reaches(&mut peer).await;
    peer.reaches(&mut client).await;
    peer.send_datagrams(client.id, b"packet").await;
    // The next that comes is text.
    peer.reaches(&mut client).await;
    assert_eq!(metric(&relay, "datagram_frames_dropped_total{reason=\"plain_peer\"}").await, 1);
    client.send_frame(frame_to(peer.id, b"packet")).await;
    assert_eq!(client.close_code().await, CLOSE_UNDECODABLE);
}

#[tokio::test]
async fn an_unknown_sub_protocol_is_not_selected() {
    let relay = start(|_| {}).await;
    // The client's library refuses an answer that selects none of several.
    let error = Client::upgrade(&relay, &[(ASKING, "proxystore-relay.2")]).await.map(|_| ());
    assert!(error.expect_err("nothing selected").to_string().to_lowercase().contains("subprotocol"));
}

#[tokio::test]
async fn text_has_its_own_limit() {
    let relay = start(|config| config.max_message_bytes = Some(1000)).await;
    let (mut a, mut b) = (Client::extended(&relay).await, Client::extended(&relay).await);
    a.send_datagrams(b.id, &[7; 60_000]).await;
    assert_eq!(b.receive_datagrams().await, (a.id, vec![7; 60_000]));
    a.send(&a.message_to(b.id, &"x".repeat(1000))).await;
    assert_eq!(a.close_code().await, CLOSE_TOO_LARGE);
}
