//! The socket that QUIC runs on: the UDP socket and the relay as one, with STUN and DTLS taken out.
//!
//! QUIC sees IPv6 addresses only. IPv4 ones appear in their mapped form whether or not the UDP socket is one for both
//! families, and peers that are reached through the relay as [`relayed::address_of`] them. STUN and DTLS are told from QUIC by
//! their first bytes (RFC 7983, RFC 9443), also within the runs of datagrams that the kernel coalesces.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use noq::udp::{EcnCodepoint, RecvMeta, Transmit};
use noq::{AsyncUdpSocket, UdpSender};
use proxystore_shared::stun;
use tokio::sync::mpsc;

use super::relayed::{self, Arrival, Outlet, SocketEnd};
use super::webrtc::{Desk, Destination};

/// A STUN message and its sender.
pub type StunArrival = (SocketAddr, Vec<u8>);

/// See the module's head.
#[derive(Debug)]
pub struct SharedSocket {
    udp: Box<dyn AsyncUdpSocket>,
    /// Whether the UDP socket is for IPv4 only.
    ipv4_only: bool,
    relay: SocketEnd,
    /// What did not fit into the buffers of the last call.
    left_over: Option<Arrival>,
    stun: mpsc::Sender<StunArrival>,
    webrtc: Arc<Desk>,
    relay_first: bool,
}

impl SharedSocket {
    /// Joins the two. DTLS goes to `webrtc`, and STUN of its connections; other STUN goes to `stun`, or
    /// nowhere if that is full.
    pub fn new(
        udp: Box<dyn AsyncUdpSocket>,
        relay: SocketEnd,
        stun: mpsc::Sender<StunArrival>,
        webrtc: Arc<Desk>,
    ) -> io::Result<Self> {
        let ipv4_only = udp.local_addr()?.is_ipv4();
        Ok(Self { udp, ipv4_only, relay, left_over: None, stun, webrtc, relay_first: false })
    }

    fn poll_udp(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = match self.udp.poll_recv(context, buffers, meta) {
                Poll::Ready(Ok(received)) => received,
                other => return other,
            };
            let mut kept = 0;
            for index in 0..received {
                self.take_others(&mut buffers[index], &mut meta[index]);
                if meta[index].len > 0 {
                    buffers.swap(kept, index);
                    meta.swap(kept, index);
                    meta[kept].addr = mapped(meta[kept].addr);
                    meta[kept].dst_ip = meta[kept].dst_ip.map(mapped_ip);
                    kept += 1;
                }
            }
            if kept > 0 {
                return Poll::Ready(Ok(kept));
            }
        }
    }

    /// Takes what is not QUIC out of one run of datagrams; the rest moves together.
    fn take_others(&self, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let mut kept = 0;
        let mut start = 0;
        while start < meta.len {
            let end = (start + stride).min(meta.len);
            if !self.take(&buffer[start..end], meta) {
                if kept < start {
                    buffer.copy_within(start..end, kept);
                }
                kept += end - start;
            }
            start = end;
        }
        meta.len = kept;
    }

    /// Whether a datagram is not for QUIC.
    fn take(&self, datagram: &[u8], meta: &RecvMeta) -> bool {
        let is_stun = stun::is_stun(datagram);
        if !is_stun && !stun::is_dtls(datagram) {
            return false;
        }
        let from = canonical(meta.addr);
        let taken =
            self.webrtc.deliver(from, Destination::Here(meta.dst_ip.map(|ip| ip.to_canonical())), datagram);
        if is_stun && !taken {
            // Its sender asks again.
            let _ = self.stun.try_send((from, datagram.to_vec()));
        }
        true
    }

    fn poll_relay(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        while filled < buffers.len().min(meta.len()) {
            let arrival = match self.left_over.take() {
                Some(arrival) => arrival,
                None => match self.relay.poll_arrival(context) {
                    Poll::Ready(arrival) => arrival,
                    Poll::Pending => break,
                },
            };
            if let Some(received) = self.fill(arrival, &mut buffers[filled]) {
                meta[filled] = received;
                filled += 1;
            }
        }
        if filled > 0 { Poll::Ready(Ok(filled)) } else { Poll::Pending }
    }

    /// Copies as many whole datagrams as fit and keeps the rest; none if not even one does.
    fn fill(&mut self, mut arrival: Arrival, buffer: &mut [u8]) -> Option<RecvMeta> {
        let stride = arrival.segment_len.min(arrival.datagrams.len());
        let fitting = match arrival.datagrams.len() <= buffer.len() {
            true => arrival.datagrams.len(),
            false => buffer.len() / stride * stride,
        };
        if fitting == 0 {
            return None;
        }
        let now = arrival.datagrams.split_to(fitting);
        buffer[..fitting].copy_from_slice(&now);
        let mut meta = RecvMeta::default();
        meta.addr = relayed::address_of(arrival.peer);
        meta.len = fitting;
        meta.stride = stride;
        meta.ecn = EcnCodepoint::from_bits(arrival.ecn);
        if !arrival.datagrams.is_empty() {
            self.left_over = Some(arrival);
        }
        Some(meta)
    }
}

impl AsyncUdpSocket for SharedSocket {
    fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
        let (udp, relay) = (self.udp.create_sender(), self.relay.outlet());
        Box::pin(Sender { udp, relay, ipv4_only: self.ipv4_only })
    }

    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        // In turn, so that neither starves the other.
        self.relay_first = !self.relay_first;
        if self.relay_first
            && let ready @ Poll::Ready(_) = self.poll_relay(context, buffers, meta)
        {
            return ready;
        }
        if let ready @ Poll::Ready(_) = self.poll_udp(context, buffers, meta) {
            return ready;
        }
        if self.relay_first { Poll::Pending } else { self.poll_relay(context, buffers, meta) }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr().map(mapped)
    }

    fn max_receive_segments(&self) -> NonZeroUsize {
        self.udp.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.udp.may_fragment()
    }
}

#[derive(Debug)]
struct Sender {
    udp: Pin<Box<dyn UdpSender>>,
    relay: Outlet,
    ipv4_only: bool,
}

impl UdpSender for Sender {
    fn poll_send(
        mut self: Pin<&mut Self>,
        transmit: &Transmit<'_>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(peer) = relayed::peer_at(transmit.destination) {
            let ecn = transmit.ecn.map_or(0, |ecn| ecn as u8);
            let segment_len = transmit.segment_size.unwrap_or(transmit.contents.len());
            self.relay.send(peer, ecn, segment_len, transmit.contents);
            return Poll::Ready(Ok(()));
        }
        if !self.ipv4_only {
            return self.udp.as_mut().poll_send(transmit, context);
        }
        let destination = canonical(transmit.destination);
        if destination.is_ipv6() {
            // There is no way to it from here: lost.
            return Poll::Ready(Ok(()));
        }
        let src_ip = transmit.src_ip.map(|ip| ip.to_canonical());
        self.udp.as_mut().poll_send(&Transmit { destination, src_ip, ..*transmit }, context)
    }

    fn max_transmit_segments(&self) -> NonZeroUsize {
        self.udp.max_transmit_segments()
    }
}

/// The form of a peer's address that a socket bound to `local` sends to.
pub fn reachable_from(local: SocketAddr, to: SocketAddr) -> SocketAddr {
    if local.is_ipv6() { mapped(to) } else { to }
}

/// IPv4 in its IPv6 form.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(mapped_ip(address.ip()), address.port())
}

fn mapped_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

/// IPv4 in its own form.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::UdpSocket;
    use std::task::Waker;

    use bytes::Bytes;
    use proxystore_shared::EndpointId;
    use proxystore_shared::relayed::Envelope;
    use proxystore_shared::stun::{Message, TransactionId};

    use super::*;

    const SENDER: &str = "192.0.2.1:4000";

    /// A UDP socket that has received these runs of datagrams, each with the length of one.
    #[derive(Debug)]
    struct Canned(VecDeque<(Vec<u8>, usize)>);

    impl AsyncUdpSocket for Canned {
        fn create_sender(&self) -> Pin<Box<dyn UdpSender>> {
            unreachable!("nothing is sent here")
        }

        fn poll_recv(
            &mut self,
            _: &mut Context<'_>,
            buffers: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some((run, stride)) = self.0.pop_front() else { return Poll::Pending };
            buffers[0][..run.len()].copy_from_slice(&run);
            meta[0].addr = SENDER.parse().unwrap();
            (meta[0].len, meta[0].stride) = (run.len(), stride);
            Poll::Ready(Ok(1))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok("0.0.0.0:7".parse().unwrap())
        }
    }

    struct Rig {
        socket: SharedSocket,
        relay: relayed::RelayEnd,
        stun: mpsc::Receiver<StunArrival>,
    }

    fn rig(received: impl IntoIterator<Item = (Vec<u8>, usize)>) -> Rig {
        let (end, mut relay) = relayed::queues();
        relay.set_open(true);
        let (sender, stun) = mpsc::channel(4);
        let udp = Box::new(Canned(received.into_iter().collect()));
        let webrtc = Arc::new(Desk::new(UdpSocket::bind("127.0.0.1:0").unwrap(), None).unwrap());
        Rig { socket: SharedSocket::new(udp, end, sender, webrtc).unwrap(), relay, stun }
    }

    /// What one call gives: the sender, the bytes, the length of one datagram.
    fn receive(socket: &mut SharedSocket, buffer_len: usize) -> Vec<(SocketAddr, Vec<u8>, usize)> {
        let mut memory = [vec![0; buffer_len], vec![0; buffer_len]];
        let mut meta = [RecvMeta::default(); 2];
        let mut buffers = memory.each_mut().map(|buffer| IoSliceMut::new(buffer));
        let polled = socket.poll_recv(&mut Context::from_waker(Waker::noop()), &mut buffers, &mut meta);
        let Poll::Ready(Ok(count)) = polled else { return Vec::new() };
        (0..count).map(|i| (meta[i].addr, memory[i][..meta[i].len].to_vec(), meta[i].stride)).collect()
    }

    #[test]
    fn stun_is_taken_out_of_the_middle_of_a_run() {
        let question = Message::Request { id: TransactionId([1; 12]), change_port: false }.encode();
        let (first, last) = (vec![0x41; question.len()], vec![0x42; 5]);
        let run = [&first[..], &question, &last].concat();
        let mut rig = rig([(run, question.len())]);
        let received = receive(&mut rig.socket, 2000);
        let mapped_sender = "[::ffff:192.0.2.1]:4000".parse().unwrap();
        assert_eq!(received, [(mapped_sender, [first, last].concat(), question.len())]);
        assert_eq!(rig.stun.try_recv().unwrap(), (SENDER.parse().unwrap(), question));
    }

    #[test]
    fn a_run_of_stun_only_is_no_arrival() {
        let question = Message::Request { id: TransactionId([1; 12]), change_port: false }.encode();
        let runs = (0..9).map(|_| (question.repeat(2), question.len()));
        let mut rig = rig(runs.chain([(vec![0x40; 9], 9)]));
        let received = receive(&mut rig.socket, 2000);
        assert_eq!(received.len(), 1, "the queue for STUN is full, and QUIC still arrives");
        assert_eq!(received[0].1, [0x40; 9]);
    }

    #[test]
    fn dtls_is_not_for_quic() {
        let mut rig = rig([([vec![22; 7], vec![0x41; 7], vec![63; 7]].concat(), 7)]);
        let received = receive(&mut rig.socket, 2000);
        assert_eq!(received.iter().map(|(_, bytes, _)| bytes.clone()).collect::<Vec<_>>(), [vec![0x41; 7]]);
        assert!(rig.stun.try_recv().is_err());
    }

    #[test]
    fn what_came_through_the_relay_is_split_between_datagrams_only() {
        let mut rig = rig([]);
        let peer = EndpointId::random();
        let mut frame = Envelope { peer, ecn: 0, segment_len: 10 }.encode().to_vec();
        frame.extend([7; 25]);
        rig.relay.arrivals.deliver(Bytes::from(frame)).unwrap();
        let received = receive(&mut rig.socket, 12);
        let from = relayed::address_of(peer);
        assert_eq!(received, [(from, vec![7; 10], 10), (from, vec![7; 10], 10)]);
        assert_eq!(receive(&mut rig.socket, 12), [(from, vec![7; 5], 5)]);
        assert!(receive(&mut rig.socket, 12).is_empty());
    }
}
