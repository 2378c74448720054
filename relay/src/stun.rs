//! The UDP ports: each tells whoever asks from which address the question came ([`proxystore_shared::stun`]).
//!
//! Anybody can ask, with a forged sender too, so the answers must be useless against others: one for a request, at
//! most 24 bytes longer, and only so many a second to one address. What is no request gets none.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::stun::{MAX_LEN, Message};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::listen::UdpSockets;
use crate::metrics::Metrics;
use crate::rate::{Bucket, Rate};

/// Requests a second from one address: an endpoint asks a few times when it starts and then twice a minute, and a
/// site may have hundreds behind one address.
const REQUESTS_PER_SECOND: f64 = 50.0;

/// Requests at once from one address: a site that starts all its endpoints together.
const REQUESTS_AT_ONCE: u64 = 200;

/// Addresses are spread over this many buckets, 64 KB in all. Those that meet in one share its rate.
const BUCKETS: usize = 4096;

/// After a failed read, which means that the system is out of memory.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// Why a datagram got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// Not a Binding request.
    Malformed,
    /// Its address asks too often.
    Rate,
    /// It asks for an answer from another port, and there is none.
    NoOtherPort,
    /// The system did not take the answer.
    Unsendable,
}

impl Ignored {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Malformed, Self::Rate, Self::NoOtherPort, Self::Unsendable];

    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Rate => "rate",
            Self::NoOtherPort => "no_other_port",
            Self::Unsendable => "unsendable",
        }
    }
}

/// The tasks that answer; dropping them frees the ports.
#[derive(Debug)]
pub struct Answering {
    _tasks: JoinSet<()>,
}

impl Answering {
    /// Answers on every socket from now on.
    pub fn start(sockets: UdpSockets, metrics: &Arc<Metrics>) -> Self {
        let mut tasks = JoinSet::new();
        for ports in sockets.by_address {
            for (index, socket) in ports.iter().enumerate() {
                let other = (ports.len() > 1).then(|| ports[(index + 1) % ports.len()].clone());
                tasks.spawn(answer(socket.clone(), other, metrics.clone()));
            }
        }
        if !sockets.ports.is_empty() {
            info!(ports = ?sockets.ports, "answering STUN");
        }
        Self { _tasks: tasks }
    }
}

/// Answers what comes to one socket, from there or from the `other` port of the same address.
async fn answer(socket: Arc<UdpSocket>, other: Option<Arc<UdpSocket>>, metrics: Arc<Metrics>) {
    let mut sources = Sources::new(Instant::now());
    // One byte more than the largest message, to tell longer ones.
    let mut buffer = [0; MAX_LEN + 1];
    loop {
        let (len, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "cannot read from a UDP port");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        match respond(&buffer[..len], source, &mut sources, Instant::now()) {
            Ok(response) => send(&response, source, &socket, other.as_deref(), &metrics),
            Err(reason) => metrics.ignored(reason),
        }
    }
}

fn send(
    response: &Response,
    target: SocketAddr,
    socket: &UdpSocket,
    other: Option<&UdpSocket>,
    metrics: &Metrics,
) {
    let from = if response.from_other_port { other } else { Some(socket) };
    let Some(from) = from else { return metrics.ignored(Ignored::NoOtherPort) };
    // Without waiting: a line that is full is no reason to stop answering others.
    match from.try_send_to(&response.message, target) {
        Ok(_) => {
            metrics.answered.inc();
        }
        Err(_) => metrics.ignored(Ignored::Unsendable),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    message: Vec<u8>,
    from_other_port: bool,
}

/// Decides about one datagram.
fn respond(
    datagram: &[u8],
    source: SocketAddr,
    sources: &mut Sources,
    now: Instant,
) -> Result<Response, Ignored> {
    let Some(Message::Request { id, change_port }) = Message::decode(datagram) else {
        return Err(Ignored::Malformed);
    };
    if !sources.admit(source.ip(), now) {
        return Err(Ignored::Rate);
    }
    let message = Message::Response { id, mapped: source }.encode();
    Ok(Response { message, from_other_port: change_port })
}

/// How often addresses have asked. The memory is the same for one and for all there are.
struct Sources {
    rate: Rate,
    buckets: Vec<Bucket>,
    /// Random, so that nobody can choose whom to share a bucket with.
    hasher: RandomState,
}

impl Sources {
    fn new(now: Instant) -> Self {
        Self {
            rate: Rate::new(REQUESTS_PER_SECOND, REQUESTS_AT_ONCE),
            buckets: vec![Bucket::new(now); BUCKETS],
            hasher: RandomState::new(),
        }
    }

    fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        let hash = self.hasher.hash_one(network(source));
        let index = (hash % self.buckets.len() as u64) as usize;
        self.rate.admit(&mut self.buckets[index], 1, now)
    }
}

/// What one site has: an IPv4 address, or 64 bits of IPv6 (RFC 4291, section 2.5.4).
fn network(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use proxystore_shared::stun::TransactionId;

    use super::*;

    fn request(change_port: bool) -> Vec<u8> {
        Message::Request { id: TransactionId([7; 12]), change_port }.encode()
    }

    #[test]
    fn an_answer_is_at_most_24_bytes_longer_and_names_the_source() {
        let now = Instant::now();
        let mut sources = Sources::new(now);
        for source in ["192.0.2.1:4000", "[::ffff:192.0.2.1]:4000", "[2001:db8::1]:4000"] {
            let source: SocketAddr = source.parse().expect("an address");
            for change_port in [false, true] {
                let request = request(change_port);
                let response = respond(&request, source, &mut sources, now).expect("answered");
                assert!(response.message.len() <= request.len() + 24);
                assert_eq!(response.from_other_port, change_port);
                let mapped = SocketAddr::new(source.ip().to_canonical(), source.port());
                let id = TransactionId([7; 12]);
                assert_eq!(Message::decode(&response.message), Some(Message::Response { id, mapped }));
            }
        }
    }

    #[test]
    fn what_is_no_request_gets_no_answer() {
        let now = Instant::now();
        let source = "192.0.2.1:4000".parse().expect("an address");
        let response = Message::Response { id: TransactionId([7; 12]), mapped: source }.encode();
        let request = request(false);
        let long = [request.as_slice(), &[0; MAX_LEN]].concat();
        for datagram in
            [&[][..], b"hello", &request[..19], &[request.as_slice(), b"x"].concat(), &response, &long]
        {
            let ignored = respond(datagram, source, &mut Sources::new(now), now);
            assert_eq!(ignored, Err(Ignored::Malformed), "{datagram:?}");
        }
    }

    #[test]
    fn an_address_that_asks_too_often_is_ignored_and_others_are_not() {
        let now = Instant::now();
        let mut sources = Sources::new(now);
        let mut answered = |source: &str, now| {
            let source = source.parse().expect("an address");
            (0..1000).filter(|_| respond(&request(false), source, &mut sources, now).is_ok()).count()
        };
        assert_eq!(answered("192.0.2.1:4000", now), 200);
        assert_eq!(answered("192.0.2.1:4001", now), 0, "another port of the same address");
        assert_eq!(answered("192.0.2.1:4000", now + Duration::from_secs(1)), 50);
        assert_eq!(answered("[2001:db8::1]:4000", now), 200);
        assert_eq!(answered("[2001:db8::2]:4000", now), 0, "the same network");
    }
}
