//! Datagrams that go through the relay: how QUIC names such a way, and the queues between its socket and the
//! connection to the relay.
//!
//! Queues drop what does not fit, as a network does; so a relay that is slow, or gone, never holds up the UDP socket.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use proxystore_shared::EndpointId;
use proxystore_shared::relayed::{Envelope, FrameError, HEADER_LEN, MAX_DATAGRAMS_LEN};
use tokio::sync::mpsc;
use uuid::Uuid;

/// First byte of the IPv6 addresses that mean "this peer, through the relay". `ef00::/8` belongs to nobody and is
/// routed nowhere (RFC 4291, section 2.4, reserves it).
const PREFIX: u8 = 0xEF;

/// High byte of such an address's port, so that it is never zero. Address and port together hold an endpoint's id.
const PORT_PREFIX: u16 = 0x5000;

/// Frames that wait in either direction. At up to 64 KiB each they are what a fast path has on its way in 50 ms, and
/// at most 8 MB.
const QUEUE: usize = 128;

/// The address by which QUIC means `peer` through the relay.
pub fn address_of(peer: EndpointId) -> SocketAddr {
    let id = peer.as_uuid().into_bytes();
    let mut ip = [0; 16];
    ip[0] = PREFIX;
    ip[1..].copy_from_slice(&id[..15]);
    SocketAddr::new(Ipv6Addr::from(ip).into(), PORT_PREFIX | u16::from(id[15]))
}

/// The peer that `address` means, if it means one.
pub fn peer_at(address: SocketAddr) -> Option<EndpointId> {
    let IpAddr::V6(ip) = address.ip() else { return None };
    let ip = ip.octets();
    if ip[0] != PREFIX || address.port() & 0xFF00 != PORT_PREFIX {
        return None;
    }
    let mut id = [0; 16];
    id[..15].copy_from_slice(&ip[1..]);
    id[15] = address.port() as u8;
    Some(Uuid::from_bytes(id).into())
}

/// Datagrams that came through the relay.
#[derive(Debug)]
pub struct Arrival {
    /// Who sent them.
    pub peer: EndpointId,
    /// ECN bits.
    pub ecn: u8,
    /// Length of each but the last.
    pub segment_len: usize,
    /// One after the other.
    pub datagrams: Bytes,
}

/// The end for QUIC's socket.
#[derive(Debug)]
pub struct SocketEnd {
    outlet: Outlet,
    arrivals: mpsc::Receiver<Arrival>,
}

/// The end for the connection to the relay.
#[derive(Debug)]
pub struct RelayEnd {
    /// Frames for the relay.
    pub departures: Departures,
    /// Takes frames of the relay.
    pub arrivals: Arrivals,
    open: Arc<AtomicBool>,
}

/// Frames for the relay.
#[derive(Debug)]
pub struct Departures(mpsc::Receiver<Bytes>);

/// Takes frames of the relay.
#[derive(Debug)]
pub struct Arrivals(mpsc::Sender<Arrival>);

/// Takes datagrams for the relay. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outlet {
    departures: mpsc::Sender<Bytes>,
    open: Arc<AtomicBool>,
}

/// Both ends of the queues, closed until the relay is connected.
pub fn queues() -> (SocketEnd, RelayEnd) {
    let (to_relay, departures) = mpsc::channel(QUEUE);
    let (from_relay, arrivals) = mpsc::channel(QUEUE);
    let open = Arc::new(AtomicBool::new(false));
    let outlet = Outlet { departures: to_relay, open: open.clone() };
    let departures = Departures(departures);
    (SocketEnd { outlet, arrivals }, RelayEnd { departures, arrivals: Arrivals(from_relay), open })
}

impl SocketEnd {
    /// Where datagrams for the relay go.
    pub fn outlet(&self) -> Outlet {
        self.outlet.clone()
    }

    /// What comes next. Once the relay's end is gone nothing does.
    pub fn poll_arrival(&mut self, context: &mut Context<'_>) -> Poll<Arrival> {
        match self.arrivals.poll_recv(context) {
            Poll::Ready(Some(arrival)) => Poll::Ready(arrival),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Outlet {
    /// Whether the relay takes datagrams now.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Sends datagrams of `segment_len` bytes each, of which only the last may be shorter; drops them if the relay is
    /// not there or has too much to do.
    pub fn send(&self, peer: EndpointId, ecn: u8, segment_len: usize, datagrams: &[u8]) {
        let Ok(segment_len) = u16::try_from(segment_len) else { return };
        if !self.is_open() || datagrams.is_empty() || datagrams.len() > MAX_DATAGRAMS_LEN {
            return;
        }
        let Ok(place) = self.departures.try_reserve() else { return };
        let mut frame = BytesMut::with_capacity(HEADER_LEN + datagrams.len());
        frame.extend_from_slice(&Envelope { peer, ecn, segment_len }.encode());
        frame.extend_from_slice(datagrams);
        place.send(frame.freeze());
    }
}

impl RelayEnd {
    /// Lets datagrams through, or no longer. What waited while the relay was away is out of date.
    pub fn set_open(&mut self, open: bool) {
        while self.departures.waiting().is_some() {}
        self.open.store(open, Ordering::Relaxed);
    }
}

impl Departures {
    /// The next frame; none once QUIC is gone.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    /// A frame that waits already.
    pub fn waiting(&mut self) -> Option<Bytes> {
        self.0.try_recv().ok()
    }
}

impl Arrivals {
    /// Hands a frame to QUIC, which may be too busy for it.
    pub fn deliver(&self, mut frame: Bytes) -> Result<(), FrameError> {
        let Envelope { peer, ecn, segment_len } = Envelope::decode(&frame)?;
        let datagrams = frame.split_off(HEADER_LEN);
        let arrival = Arrival { peer, ecn, segment_len: segment_len.into(), datagrams };
        // What does not fit is lost, as on any network.
        let _ = self.0.try_send(arrival);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_addresses_mean_no_peer() {
        for address in
            ["[::1]:20480", "[fd00::1]:20480", "192.0.2.1:20480", "[ff02::1]:20480", "[ef00::1]:80"]
        {
            assert_eq!(peer_at(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn datagrams_are_dropped_while_the_relay_is_away() {
        let (socket, mut relay) = queues();
        let outlet = socket.outlet();
        let peer = EndpointId::random();
        outlet.send(peer, 0, 3, b"abcdef");
        assert!(relay.departures.next().now_or_never().is_none());
        relay.set_open(true);
        outlet.send(peer, 2, 3, b"abcde");
        let frame = relay.departures.next().now_or_never().flatten().expect("a frame");
        assert_eq!(Envelope::decode(&frame), Ok(Envelope { peer, ecn: 2, segment_len: 3 }));
        outlet.send(peer, 0, 3, b"late");
        relay.set_open(false);
        assert!(relay.departures.waiting().is_none(), "what waited is out of date");
    }

    #[test]
    fn a_full_queue_drops_and_does_not_wait() {
        let (socket, mut relay) = queues();
        relay.set_open(true);
        for _ in 0..2 * QUEUE {
            socket.outlet().send(EndpointId::random(), 0, 1, b"x");
        }
        assert_eq!(std::iter::from_fn(|| relay.departures.waiting()).count(), QUEUE);
    }

    proptest! {
        #[test]
        fn every_id_has_an_address(id: [u8; 16]) {
            let peer = EndpointId::from(Uuid::from_bytes(id));
            prop_assert_eq!(peer_at(address_of(peer)), Some(peer));
        }
    }
}
