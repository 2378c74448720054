//! The UDP ports, asked by real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use proxystore_relay::{ListenError, Relay, StartError};
use proxystore_shared::stun::{Message, TransactionId};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::harness::{loopback, metric, soon, start};

/// A socket on `ip` and the addresses of the relay's ports there.
async fn client(relay: &Relay, ip: &str) -> (UdpSocket, Vec<SocketAddr>) {
    let socket = UdpSocket::bind(format!("{ip}:0")).await.expect("binds");
    let ip = socket.local_addr().expect("bound").ip();
    (socket, relay.offer().udp_ports.iter().map(|port| SocketAddr::new(ip, *port)).collect())
}

fn request(number: u8, change_port: bool) -> Vec<u8> {
    Message::Request { id: TransactionId([number; 12]), change_port }.encode()
}

/// The next datagram and where it came from.
async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2000];
    let (len, from) = soon("an answer", socket.recv_from(&mut buffer)).await.expect("reads");
    (buffer[..len].to_vec(), from)
}

#[tokio::test]
async fn both_ports_tell_the_address_and_answer_for_each_other() {
    let relay = start(|_| {}).await;
    let (socket, ports) = client(&relay, "127.0.0.1").await;
    for (index, port) in ports.iter().enumerate() {
        for change_port in [false, true] {
            let question = request(index as u8, change_port);
            socket.send_to(&question, port).await.expect("sends");
            let (answer, from) = receive(&socket).await;
            let mapped = socket.local_addr().expect("bound");
            let id = TransactionId([index as u8; 12]);
            assert_eq!(Message::decode(&answer), Some(Message::Response { id, mapped }));
            assert_eq!(from, ports[if change_port { 1 - index } else { index }]);
            assert!(answer.len() <= question.len() + 24);
        }
    }
    assert_eq!(metric(&relay, "stun_requests_answered_total").await, 4);
}

#[tokio::test]
async fn ipv6_and_ipv4_are_told_apart_on_one_port() {
    let relay = start(|config| config.host = None).await;
    for ip in ["127.0.0.1", "[::1]"] {
        let Ok(probe) = UdpSocket::bind(format!("{ip}:0")).await else { continue };
        drop(probe);
        let (socket, ports) = client(&relay, ip).await;
        socket.send_to(&request(1, true), ports[0]).await.expect("sends");
        let (answer, from) = receive(&socket).await;
        let mapped = socket.local_addr().expect("bound");
        assert_eq!(Message::decode(&answer), Some(Message::Response { id: TransactionId([1; 12]), mapped }));
        assert_eq!(from, ports[1]);
    }
}

#[tokio::test]
async fn garbage_gets_no_answer_and_harms_nothing() {
    let relay = start(|_| {}).await;
    let (socket, ports) = client(&relay, "127.0.0.1").await;
    let mapped = socket.local_addr().expect("bound");
    let response = Message::Response { id: TransactionId([9; 12]), mapped }.encode();
    let short = request(9, false)[..19].to_vec();
    for garbage in [Vec::new(), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xc0; 1200], response, short] {
        socket.send_to(&garbage, ports[0]).await.expect("sends");
    }
    socket.send_to(&request(1, false), ports[0]).await.expect("sends");
    let (answer, _) = receive(&socket).await;
    let id = TransactionId([1; 12]);
    assert_eq!(Message::decode(&answer), Some(Message::Response { id, mapped }), "the only answer");
    assert_eq!(metric(&relay, "stun_requests_ignored_total{reason=\"malformed\"}").await, 5);
}

#[tokio::test]
async fn an_address_that_asks_too_often_gets_fewer_answers() {
    let relay = start(|_| {}).await;
    let (socket, ports) = client(&relay, "127.0.0.1").await;
    let (mut answers, mut buffer) = (0, [0; 2000]);
    for number in 0..2000u32 {
        socket.send_to(&request(number as u8, false), ports[0]).await.expect("sends");
        while socket.try_recv_from(&mut buffer).is_ok() {
            answers += 1;
        }
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    while timeout(Duration::from_millis(500), socket.recv_from(&mut buffer)).await.is_ok() {
        answers += 1;
    }
    assert!((1..2000).contains(&answers), "{answers}");
    let answered = metric(&relay, "stun_requests_answered_total").await;
    assert!(answered >= answers && metric(&relay, "stun_requests_ignored_total{reason=\"rate\"}").await > 0);
}

#[tokio::test]
async fn one_port_cannot_answer_for_another() {
    let relay = start(|config| config.udp.ports = vec![0]).await;
    let (socket, ports) = client(&relay, "127.0.0.1").await;
    socket.send_to(&request(1, true), ports[0]).await.expect("sends");
    socket.send_to(&request(2, false), ports[0]).await.expect("sends");
    let (answer, _) = receive(&socket).await;
    assert!(matches!(Message::decode(&answer), Some(Message::Response { id: TransactionId([2, ..]), .. })));
    assert_eq!(metric(&relay, "stun_requests_ignored_total{reason=\"no_other_port\"}").await, 1);
}

#[tokio::test]
async fn a_taken_port_is_named_and_a_stopped_relay_frees_it() {
    let relay = start(|_| {}).await;
    let mut config = loopback();
    config.udp.ports.clone_from(&relay.offer().udp_ports);
    let taken = Relay::start(config.clone()).await;
    assert!(matches!(taken, Err(StartError::Listen(ListenError::UdpInUse(_)))), "{taken:?}");
    relay.stop().await;
    // Other tests use ports that the system chooses: one of them may have got these in between.
    match Relay::start(config).await {
        Ok(_) | Err(StartError::Listen(ListenError::UdpInUse(_))) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_host_of_their_own() {
    let relay = start(|config| config.udp.host = Some("127.0.0.2".into())).await;
    let (socket, ports) = client(&relay, "127.0.0.2").await;
    socket.send_to(&request(1, false), ports[0]).await.expect("sends");
    assert_eq!(receive(&socket).await.1, ports[0]);
}
