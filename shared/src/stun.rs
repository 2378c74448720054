//! The one STUN exchange there is here (RFC 8489, Binding): "from which address did this datagram come?"
//!
//! A relay answers on two UDP ports. Endpoints ask from the socket that carries QUIC: what the relay saw is the
//! address that a NAT gave that socket, and two ports that saw different ones mean a NAT that is hard to traverse.
//! With `CHANGE-REQUEST` (RFC 5780, section 7.2) the answer is asked from the relay's other port, which tells whether
//! the NAT lets in what the socket did not ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Largest message of this exchange: the header and one address attribute with room for a few that others add.
pub const MAX_LEN: usize = 576;

const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_A442;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_RESPONSE: u16 = 0x0101;
const CHANGE_REQUEST: u16 = 0x0003;
const USERNAME: u16 = 0x0006;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// The flag of `CHANGE-REQUEST` that asks for an answer from the other port.
const CHANGE_PORT: u32 = 0x2;
const FAMILY_IPV4: u8 = 1;
const FAMILY_IPV6: u8 = 2;

/// Ties an answer to its request. Must be random: it is what keeps others from answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransactionId(pub [u8; 12]);

/// A message of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// "Where do I come from?"
    Request {
        /// Of this request.
        id: TransactionId,
        /// Answer from the other port.
        change_port: bool,
    },
    /// "You come from `mapped`."
    Response {
        /// Of the request.
        id: TransactionId,
        /// The address that the request came from.
        mapped: SocketAddr,
    },
}

/// Whether a datagram is STUN rather than QUIC or DTLS, which share the socket (RFC 7983, RFC 9443): the first two
/// bits are zero, the cookie is there, and the length fits.
pub fn is_stun(datagram: &[u8]) -> bool {
    let Some((header, body)) = datagram.split_at_checked(HEADER_LEN) else { return false };
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    header[0] & 0xC0 == 0
        && header[4..8] == MAGIC_COOKIE.to_be_bytes()
        && length == body.len()
        && length % 4 == 0
}

/// The first half of the user name in a request that is an address check of WebRTC (RFC 8445, section 7.2.2): the one that
/// the receiver gave itself.
pub fn checked_user(datagram: &[u8]) -> Option<&str> {
    let (header, body) = datagram.split_at_checked(HEADER_LEN).filter(|_| is_stun(datagram))?;
    if header[..2] != BINDING_REQUEST.to_be_bytes() {
        return None;
    }
    let name = str::from_utf8(attribute(body, USERNAME)?).ok()?;
    name.split_once(':').map(|(receiver, _)| receiver)
}

/// Whether a datagram is DTLS (RFC 7983, section 7).
pub fn is_dtls(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| (20..64).contains(first))
}

impl Message {
    /// Writes the message.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Request { id, change_port: false } => header(BINDING_REQUEST, 0, id),
            Self::Request { id, change_port: true } => {
                let mut message = header(BINDING_REQUEST, 8, id);
                put_attribute(&mut message, CHANGE_REQUEST, &CHANGE_PORT.to_be_bytes());
                message
            }
            Self::Response { id, mapped } => {
                let value = xor_address(mapped, id);
                let mut message = header(BINDING_RESPONSE, 4 + value.len(), id);
                put_attribute(&mut message, XOR_MAPPED_ADDRESS, &value);
                message
            }
        }
    }

    /// Reads a message from anybody; none if it is anything else. Unknown attributes are passed over.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        if !is_stun(datagram) || datagram.len() > MAX_LEN {
            return None;
        }
        let (header, body) = datagram.split_at(HEADER_LEN);
        let id = TransactionId(header[8..].try_into().ok()?);
        match u16::from_be_bytes([header[0], header[1]]) {
            BINDING_REQUEST => {
                let flags = attribute(body, CHANGE_REQUEST).and_then(|value| value.try_into().ok());
                let change_port = flags.is_some_and(|flags| u32::from_be_bytes(flags) & CHANGE_PORT != 0);
                Some(Self::Request { id, change_port })
            }
            BINDING_RESPONSE => {
                let mapped = read_xor_address(attribute(body, XOR_MAPPED_ADDRESS)?, id)?;
                Some(Self::Response { id, mapped })
            }
            _ => None,
        }
    }
}

fn header(kind: u16, length: usize, id: TransactionId) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + length);
    message.extend(kind.to_be_bytes());
    message.extend((length as u16).to_be_bytes());
    message.extend(MAGIC_COOKIE.to_be_bytes());
    message.extend(id.0);
    message
}

/// All values written here are multiples of four bytes long, so none needs padding.
fn put_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

fn attribute(mut body: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = body.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return Some(value);
        }
        body = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// The cookie and the transaction's id: some NATs rewrite addresses that they find in the open.
fn mask(id: TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&id.0);
    mask
}

fn xor_address(address: SocketAddr, id: TransactionId) -> Vec<u8> {
    let (family, mut octets) = match address.ip().to_canonical() {
        IpAddr::V4(ip) => (FAMILY_IPV4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (FAMILY_IPV6, ip.octets().to_vec()),
    };
    octets.iter_mut().zip(mask(id)).for_each(|(octet, mask)| *octet ^= mask);
    let port = address.port() ^ (MAGIC_COOKIE >> 16) as u16;
    let mut value = vec![0, family];
    value.extend(port.to_be_bytes());
    value.extend(octets);
    value
}

fn read_xor_address(value: &[u8], id: TransactionId) -> Option<SocketAddr> {
    let (head, octets) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2], head[3]]) ^ (MAGIC_COOKIE >> 16) as u16;
    let mut plain = octets.to_vec();
    plain.iter_mut().zip(mask(id)).for_each(|(octet, mask)| *octet ^= mask);
    let ip = match head[1] {
        FAMILY_IPV4 => IpAddr::from(<[u8; 4]>::try_from(plain).map(Ipv4Addr::from).ok()?),
        FAMILY_IPV6 => IpAddr::from(<[u8; 16]>::try_from(plain).map(Ipv6Addr::from).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5769, section 2.2: a response to 192.0.2.1:32853, without its trailing integrity attributes.
    #[test]
    fn the_address_of_the_rfc_is_read() {
        let id = TransactionId(*b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");
        let mut message = header(BINDING_RESPONSE, 28, id);
        put_attribute(&mut message, 0x8022, b"test vector ");
        put_attribute(&mut message, XOR_MAPPED_ADDRESS, b"\x00\x01\xa1\x47\xe1\x12\xa6\x43");
        let mapped = "192.0.2.1:32853".parse().unwrap();
        assert_eq!(Message::decode(&message), Some(Message::Response { id, mapped }));
    }

    #[test]
    fn an_address_check_names_its_receiver() {
        let with = |kind, name: &[u8]| {
            let mut message = header(kind, 4 + name.len(), TransactionId([1; 12]));
            put_attribute(&mut message, USERNAME, name);
            message
        };
        assert_eq!(checked_user(&with(BINDING_REQUEST, b"ours:theirs1")), Some("ours"));
        assert_eq!(checked_user(&with(BINDING_REQUEST, b"oursonly")), None);
        assert_eq!(checked_user(&with(BINDING_REQUEST, b"\xff\xfe:abc..")), None);
        assert_eq!(checked_user(&with(BINDING_RESPONSE, b"ours:theirs1")), None);
        assert_eq!(checked_user(&header(BINDING_REQUEST, 0, TransactionId([1; 12]))), None);
    }

    #[test]
    fn dtls_begins_with_its_content_types() {
        assert!(is_dtls(&[22, 254, 253]) && is_dtls(&[20]) && is_dtls(&[63]));
        assert!(!is_dtls(&[]) && !is_dtls(&[0, 1]) && !is_dtls(&[64]) && !is_dtls(&[19]));
    }

    #[test]
    fn quic_is_not_stun() {
        for first in [0x40, 0x7f, 0xc3, 0xff] {
            let mut packet = header(BINDING_REQUEST, 0, TransactionId([0; 12]));
            packet[0] = first;
            assert!(!is_stun(&packet));
        }
    }

    #[test]
    fn an_answer_is_little_longer_than_its_question() {
        let id = TransactionId([7; 12]);
        let mapped = "[2001:db8::1]:4000".parse().unwrap();
        let question = Message::Request { id, change_port: false }.encode().len();
        let answer = Message::Response { id, mapped }.encode().len();
        assert!(
            answer <= question + 24,
            "{answer} to {question}: whoever forges senders must not gain by it"
        );
    }

    proptest! {
        #[test]
        fn messages_round_trip(id: [u8; 12], v4: [u8; 4], v6: [u8; 16], six: bool, port: u16, change_port: bool) {
            let ip = if six { Ipv6Addr::from(v6).to_canonical() } else { Ipv4Addr::from(v4).into() };
            let id = TransactionId(id);
            for message in [
                Message::Request { id, change_port },
                Message::Response { id, mapped: SocketAddr::new(ip, port) },
            ] {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }

        #[test]
        fn anything_else_is_refused_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), fix: bool) {
            if fix && bytes.len() >= HEADER_LEN {
                bytes.truncate(bytes.len() / 4 * 4);
                let length = (bytes.len() - HEADER_LEN) as u16;
                bytes[..2].copy_from_slice(&BINDING_RESPONSE.to_be_bytes());
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
            }
            let _ = Message::decode(&bytes);
        }
    }
}
