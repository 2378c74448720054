//! Two sides on sockets of their own.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::description::{Candidate, CandidateKind, IceCredentials, Setup, WebRtcPeer};
use tokio::time::timeout;

use super::{Connection, Desk, Destination, Event, Role, Terms};

const PATIENCE: Duration = Duration::from_secs(20);

/// A desk, and the thread that hands it what its socket receives.
struct Side {
    desk: Arc<Desk>,
    address: SocketAddr,
    ice: IceCredentials,
}

impl Side {
    fn new(name: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, receiver) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        receiver.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let desk = Arc::new(Desk::new(socket, None).unwrap());
        let weak = Arc::downgrade(&desk);
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Some(desk) = weak.upgrade() {
                if let Ok((len, from)) = receiver.recv_from(&mut buffer) {
                    desk.deliver(from, Destination::Here(Some(address.ip())), &buffer[..len]);
                }
            }
        });
        let ice = IceCredentials { ufrag: name.into(), pwd: format!("{name}0123456789012345678901") };
        Self { desk, address, ice }
    }

    fn candidates(&self) -> Vec<Candidate> {
        vec![Candidate { address: self.address, kind: CandidateKind::Host }]
    }

    fn described(&self, setup: Setup) -> WebRtcPeer {
        WebRtcPeer { ice: self.ice.clone(), fingerprint: self.desk.fingerprint().unwrap(), setup }
    }

    fn connect(&self, remote: WebRtcPeer, remote_candidates: Vec<Candidate>, role: Role) -> Connection {
        let (local, local_candidates) = (self.ice.clone(), self.candidates());
        let terms = Terms { local, local_candidates, remote, remote_candidates, role };
        Connection::new(&self.desk, terms).unwrap()
    }
}

/// A connection that one side offered with so many channels, from either side.
fn pair(channels: usize) -> (Connection, Connection) {
    let (a, b) = (Side::new("sideA"), Side::new("sideB"));
    let offerer = a.connect(b.described(Setup::Active), b.candidates(), Role::Offerer { channels });
    let answerer = b.connect(a.described(Setup::ActPass), a.candidates(), Role::Answerer);
    (offerer, answerer)
}

async fn event(connection: &mut Connection) -> Event {
    timeout(PATIENCE, connection.event()).await.expect("something happens")
}

async fn frame(connection: &mut Connection) -> Vec<u8> {
    loop {
        match event(connection).await {
            Event::Frame(frame) => return frame,
            Event::Open | Event::Room => {}
            Event::Closed(why) => panic!("{why}"),
        }
    }
}

/// Runs a side in the background until it is open, and on until the other needs it.
fn opened(mut connection: Connection) -> tokio::task::JoinHandle<Connection> {
    tokio::spawn(async move {
        match event(&mut connection).await {
            Event::Open => connection,
            other => panic!("{other:?}"),
        }
    })
}

#[tokio::test]
async fn frames_go_both_ways_over_every_channel() {
    for channels in [1, 4] {
        let (offerer, answerer) = pair(channels);
        let (offerer, answerer) = (opened(offerer), opened(answerer));
        let (mut offerer, mut answerer) = (offerer.await.unwrap(), answerer.await.unwrap());
        let sender = tokio::spawn(async move {
            let mut numbers = 0..100u8;
            loop {
                if offerer.has_room()
                    && let Some(number) = numbers.next()
                {
                    offerer.send(vec![number; 32 * 1024]);
                    continue;
                }
                match event(&mut offerer).await {
                    Event::Frame(frame) => return (frame, offerer),
                    Event::Room | Event::Open => {}
                    Event::Closed(why) => panic!("{why}"),
                }
            }
        });
        let mut numbers = Vec::new();
        while numbers.len() < 100 {
            let frame = frame(&mut answerer).await;
            assert!(frame.len() == 32 * 1024 && frame.iter().all(|byte| *byte == frame[0]));
            numbers.push(frame[0]);
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
        answerer.send(b"thanks".to_vec());
        let answering = tokio::spawn(async move { answerer.event().await });
        let (frame, offerer) = timeout(PATIENCE, sender).await.unwrap().unwrap();
        assert_eq!(frame, b"thanks");
        offerer.close(PATIENCE).await;
        assert!(
            matches!(timeout(PATIENCE, answering).await.unwrap().unwrap(), Event::Closed(_)),
            "it is told"
        );
    }
}

/// Who has the right addresses and passwords, but another certificate, is not the peer.
#[tokio::test]
async fn another_certificate_than_the_one_described_is_refused() {
    let (a, b, other) = (Side::new("sideA"), Side::new("sideB"), Side::new("other"));
    let lie = WebRtcPeer { fingerprint: other.desk.fingerprint().unwrap(), ..b.described(Setup::Active) };
    let mut offerer = a.connect(lie, b.candidates(), Role::Offerer { channels: 1 });
    let mut answerer = b.connect(a.described(Setup::ActPass), a.candidates(), Role::Answerer);
    let answering = tokio::spawn(async move { answerer.event().await });
    let Event::Closed(why) = event(&mut offerer).await else { panic!("it must not open") };
    assert!(why.contains("ingerprint"), "{why}");
    answering.abort();
}

#[tokio::test]
async fn who_does_not_know_the_password_gets_no_answer() {
    let (a, b) = (Side::new("sideA"), Side::new("sideB"));
    let mut wrong = b.described(Setup::Active);
    wrong.ice.pwd = "another-password-than-that".replace('-', "0");
    let mut offerer = a.connect(wrong, b.candidates(), Role::Offerer { channels: 1 });
    let mut answerer = b.connect(a.described(Setup::ActPass), a.candidates(), Role::Answerer);
    let both = async { tokio::join!(offerer.event(), answerer.event()) };
    assert!(timeout(Duration::from_secs(2), both).await.is_err(), "nothing opens");
}
