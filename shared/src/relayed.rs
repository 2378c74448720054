//! What a relay offers beyond Python's protocol, to clients that ask for it: UDP ports that tell a client its address
//! ([`crate::stun`]), and datagrams carried between two of its clients.
//!
//! A client asks with the websocket sub-protocol [`SUBPROTOCOL`]. A relay that has it selects it and describes itself
//! in the header [`HEADER`] of its answer; a Python relay does neither. After that, binary frames carry datagrams:
//!
//! ```text
//! 1 byte   1: datagrams
//! 1 byte   ECN bits of the datagrams (RFC 3168)
//! 2 bytes  length of each datagram but the last, which may be shorter (big-endian)
//! 16 bytes the peer: towards the relay who is to get them, from the relay who sent them
//! the datagrams, one after the other
//! ```
//!
//! They are QUIC packets, so encrypted from end to end, and as with UDP any may be dropped.

use uuid::Uuid;

use crate::EndpointId;

/// The websocket sub-protocol (RFC 6455, section 1.9).
pub const SUBPROTOCOL: &str = "proxystore-relay.1";

/// The header in which a relay describes itself to a client that asked for [`SUBPROTOCOL`].
pub const HEADER: &str = "proxystore-relay";

/// Bytes of a frame before its datagrams.
pub const HEADER_LEN: usize = 20;

/// Largest run of datagrams in one frame: what one system call can take or give.
pub const MAX_DATAGRAMS_LEN: usize = u16::MAX as usize;

/// Largest frame.
pub const MAX_FRAME_LEN: usize = HEADER_LEN + MAX_DATAGRAMS_LEN;

/// Most UDP ports that a client takes from a relay; two tell a NAT's behaviour.
const MAX_UDP_PORTS: usize = 4;

const KIND_DATAGRAMS: u8 = 1;

/// Send buffer of the connection between a client and its relay, in bytes; Linux grants twice that. What was lost stays
/// in it for a round trip more, with all that came after: at 1 Gbit/s, 36 ms and 0.1 % loss, 8 MB carry 76 MB/s, and the
/// 4 MB that Linux goes up to by itself 48 MB/s.
const SEND_BUFFER_LEN: usize = 4 << 20;

/// The largest buffer that a program may ask Linux for.
const MOST_ASKED: &str = "/proc/sys/net/core/wmem_max";

/// The sizes between which Linux chooses by itself: least, first, most.
const UNASKED: &str = "/proc/sys/net/ipv4/tcp_wmem";

/// The send buffer (`SO_SNDBUF`) to ask for on a connection that carries datagrams; none where what the system goes up to
/// by itself is as good, which asking would end.
pub fn send_buffer_len() -> Option<usize> {
    let [most_asked, unasked] = [MOST_ASKED, UNASKED].map(|file| std::fs::read_to_string(file).ok());
    worth_asking(&most_asked?, &unasked?)
}

fn worth_asking(most_asked: &str, unasked: &str) -> Option<usize> {
    let most_asked: usize = most_asked.trim().parse().ok()?;
    let most_unasked: usize = unasked.split_whitespace().last()?.parse().ok()?;
    let len = SEND_BUFFER_LEN.min(most_asked);
    // Of what is asked for, twice as much is granted.
    (2 * len > most_unasked).then_some(len)
}

/// What a relay offers. In the header: `udp=3478,3479; datagrams=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayOffer {
    /// UDP ports that answer [`crate::stun`] requests, at the relay's own address.
    pub udp_ports: Vec<u16>,
    /// Whether datagrams are carried.
    pub datagrams: bool,
}

impl RelayOffer {
    /// Writes the header's value.
    pub fn encode(&self) -> String {
        let ports: Vec<String> = self.udp_ports.iter().map(u16::to_string).collect();
        format!("udp={}; datagrams={}", ports.join(","), u8::from(self.datagrams))
    }

    /// Reads the header's value. What this version does not know is passed over.
    pub fn decode(text: &str) -> Self {
        let mut offer = Self::default();
        for field in text.split(';') {
            match field.trim().split_once('=') {
                Some(("udp", ports)) => {
                    let ports =
                        ports.split(',').filter_map(|port| port.parse().ok()).filter(|port| *port != 0);
                    offer.udp_ports = ports.take(MAX_UDP_PORTS).collect();
                }
                Some(("datagrams", value)) => offer.datagrams = value == "1",
                _ => {}
            }
        }
        offer
    }
}

/// What stands before the datagrams of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// Towards the relay the receiver, from the relay the sender.
    pub peer: EndpointId,
    /// ECN bits.
    pub ecn: u8,
    /// Length of each datagram but the last.
    pub segment_len: u16,
}

/// Why a binary frame was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its header and one byte, or longer than [`MAX_FRAME_LEN`].
    #[error("a binary frame of {0} bytes is too short or too long for datagrams")]
    Length(usize),
    /// A kind of a later version.
    #[error("binary frames of kind {0} are unknown")]
    Kind(u8),
    /// Datagrams without a length.
    #[error("a binary frame has a malformed header")]
    Header,
}

impl Envelope {
    /// Writes the header of a frame.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0] = KIND_DATAGRAMS;
        header[1] = self.ecn & 0b11;
        header[2..4].copy_from_slice(&self.segment_len.to_be_bytes());
        header[4..].copy_from_slice(self.peer.as_uuid().as_bytes());
        header
    }

    /// Reads the header of a frame from anybody; the datagrams are what follows [`HEADER_LEN`].
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        if frame.len() <= HEADER_LEN || frame.len() > MAX_FRAME_LEN {
            return Err(FrameError::Length(frame.len()));
        }
        if frame[0] != KIND_DATAGRAMS {
            return Err(FrameError::Kind(frame[0]));
        }
        let segment_len = u16::from_be_bytes([frame[2], frame[3]]);
        let peer = Uuid::from_slice(&frame[4..HEADER_LEN]).map_err(|_| FrameError::Header)?;
        if segment_len == 0 {
            return Err(FrameError::Header);
        }
        Ok(Self { peer: peer.into(), ecn: frame[1] & 0b11, segment_len })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_offer_reads_as_it_is_documented() {
        let offer = RelayOffer { udp_ports: vec![3478, 3479], datagrams: true };
        assert_eq!(offer.encode(), "udp=3478,3479; datagrams=1");
        assert_eq!(RelayOffer::decode("later=x; udp=3478,3479 ; datagrams=1"), offer);
        assert_eq!(RelayOffer::decode("udp=; datagrams=0"), RelayOffer::default());
        assert_eq!(RelayOffer::decode("udp=0,99999,x,1,2,3,4,5").udp_ports, [1, 2, 3, 4]);
    }

    #[test]
    fn a_frame_without_datagrams_is_refused() {
        let header = Envelope { peer: EndpointId::random(), ecn: 1, segment_len: 1200 }.encode();
        assert_eq!(Envelope::decode(&header), Err(FrameError::Length(HEADER_LEN)));
        assert_eq!(Envelope::decode(&[2; 40]), Err(FrameError::Kind(2)));
    }

    #[test]
    fn a_send_buffer_is_asked_for_where_that_makes_it_larger() {
        let unasked = "4096\t16384\t4194304\n";
        assert_eq!(worth_asking("4194304\n", unasked), Some(4 << 20));
        assert_eq!(worth_asking("100000000\n", unasked), Some(4 << 20));
        assert_eq!(worth_asking("3000000\n", unasked), Some(3_000_000));
        assert_eq!(worth_asking("212992\n", unasked), None, "Linux' own limit");
        assert_eq!(worth_asking("4194304\n", "4096 16384 16777216"), None);
        assert_eq!(worth_asking("", ""), None);
    }

    proptest! {
        #[test]
        fn envelopes_round_trip(id: [u8; 16], ecn in 0u8..4, segment_len in 1u16.., extra in 1usize..100) {
            let envelope = Envelope { peer: Uuid::from_bytes(id).into(), ecn, segment_len };
            let mut frame = envelope.encode().to_vec();
            frame.resize(HEADER_LEN + extra, 0);
            prop_assert_eq!(Envelope::decode(&frame), Ok(envelope));
        }

        #[test]
        fn anything_else_is_refused_without_panic(frame in proptest::collection::vec(any::<u8>(), 0..60), text in ".{0,60}") {
            let _ = Envelope::decode(&frame);
            let _ = RelayOffer::decode(&text);
        }
    }
}
