//! Session descriptions: what an offer or an answer says about its sender.
//!
//! The text is always a valid WebRTC session description (SDP, RFC 8866, with the data channel attributes of
//! RFC 8841), wrapped in the JSON that Python ProxyStore wraps it in, so that any relay and any Python peer
//! understands it. Endpoints of this project add session-level attributes, which other parsers ignore:
//!
//! ```text
//! a=proxystore-quic:1                       version of the protocol spoken over QUIC
//! a=proxystore-key:<64 hex digits>          the sender's public key
//! a=proxystore-session:<16 hex digits>      the offer this belongs to; an answer repeats the offer's
//! ```
//!
//! Addresses are the ordinary `a=candidate` lines: one UDP socket serves every transport. The rest is what WebRTC needs, and
//! is meant: an offer can be answered by either kind of endpoint, and the answer says by which.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::PublicKey;
use crate::relay_message::DescriptionKind;

/// Largest description that is parsed. One with thirty candidates and three fingerprints has 4 KB.
pub const MAX_DESCRIPTION_LEN: usize = 64 * 1024;

/// Most candidates that are kept: a host with more addresses than that is dialled on the first ones.
pub const MAX_CANDIDATES: usize = 32;

/// Version of the protocol over QUIC that this crate describes ([`crate::frame`]).
pub const QUIC_VERSION: u32 = 1;

const QUIC: &str = "a=proxystore-quic:";
const KEY: &str = "a=proxystore-key:";
const SESSION: &str = "a=proxystore-session:";
const CANDIDATE: &str = "a=candidate:";
const UFRAG: &str = "a=ice-ufrag:";
const PWD: &str = "a=ice-pwd:";
const FINGERPRINT: &str = "a=fingerprint:sha-256 ";
const SETUP: &str = "a=setup:";

/// Names one negotiation, so that a late answer is not taken for the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub u64);

/// What a peer of this project says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicPeer {
    /// Its public key; the caller checks it against the endpoint id.
    pub key: PublicKey,
    /// The negotiation.
    pub session: SessionId,
}

/// An offer or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionDescription {
    /// Which of the two.
    pub kind: DescriptionKind,
    /// Present when the sender speaks QUIC in a version we know; a Python peer does not.
    pub quic: Option<QuicPeer>,
    /// Present when the sender speaks WebRTC, which every endpoint does.
    pub webrtc: Option<WebRtcPeer>,
    /// UDP addresses where the sender may be reached, its best first.
    pub candidates: Vec<Candidate>,
}

/// What WebRTC needs to know of a peer besides its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebRtcPeer {
    /// For its address checks.
    pub ice: IceCredentials,
    /// SHA-256 of the certificate that it will show.
    pub fingerprint: [u8; 32],
    /// Who begins the DTLS handshake.
    pub setup: Setup,
}

/// Who begins the DTLS handshake, from the sender's view (RFC 4145, RFC 8842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The receiver may choose: how offers put it.
    ActPass,
    /// The sender does.
    Active,
    /// The receiver does.
    Passive,
}

impl Setup {
    fn name(self) -> &'static str {
        match self {
            Self::ActPass => "actpass",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::ActPass, Self::Active, Self::Passive].into_iter().find(|setup| setup.name() == name)
    }
}

/// Where an endpoint may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Candidate {
    /// UDP address.
    pub address: SocketAddr,
    /// Whose it is.
    pub kind: CandidateKind,
}

/// Whose an address is (RFC 8445, section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CandidateKind {
    /// The host's own.
    Host,
    /// A NAT's, which passes on to the host.
    Reflexive,
    /// A TURN server's, which passes on what the host has permitted. Of use for WebRTC only.
    Relayed,
}

/// User name and password of address checks (RFC 8445); random for each description, as RFC 8839 asks.
#[derive(Clone, PartialEq, Eq)]
pub struct IceCredentials {
    /// 4 to 256 characters.
    pub ufrag: String,
    /// 22 to 256 characters.
    pub pwd: String,
}

impl fmt::Debug for IceCredentials {
    /// Leaves the password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceCredentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// Why a description was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DescriptionError {
    /// See [`MAX_DESCRIPTION_LEN`].
    #[error("the session description has {0} bytes, more than {MAX_DESCRIPTION_LEN}")]
    TooLarge(usize),
    /// Not `{"sdp": ..., "type": ...}`.
    #[error("the session description is not the JSON object expected: {0}")]
    NotJson(String),
    /// An SDP starts with `v=0`.
    #[error("the session description is not SDP version 0")]
    NotSdp,
    /// One of our own attributes is malformed.
    #[error("the session description has a malformed {0} line")]
    Malformed(&'static str),
    /// The peer is newer (or older) than this program.
    #[error("the peer speaks version {0} of the protocol, this endpoint speaks version {QUIC_VERSION}")]
    Version(u32),
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    sdp: String,
    #[serde(rename = "type")]
    kind: DescriptionKind,
}

impl SessionDescription {
    /// Writes the description as the relay carries it.
    pub fn encode(&self) -> String {
        let wrapped = Wrapped { sdp: self.to_sdp(), kind: self.kind };
        serde_json::to_string(&wrapped).unwrap_or_else(|_| unreachable!("two strings always encode"))
    }

    fn to_sdp(&self) -> String {
        let session = self.quic.as_ref().map_or(0, |quic| quic.session.0);
        // RFC 8866 lets the session number be any decimal; 62 bits fit every parser's integer.
        let mut lines = vec![
            "v=0".to_owned(),
            format!("o=- {} 1 IN IP4 0.0.0.0", session >> 2),
            "s=-".into(),
            "t=0 0".into(),
            "a=group:BUNDLE 0".into(),
            "a=msid-semantic:WMS *".into(),
        ];
        if let Some(quic) = &self.quic {
            lines.push(format!("{QUIC}{QUIC_VERSION}"));
            lines.push(format!("{KEY}{}", quic.key));
            lines.push(format!("{SESSION}{:016x}", quic.session.0));
        }
        lines.push("m=application 9 UDP/DTLS/SCTP webrtc-datachannel".into());
        lines.push("c=IN IP4 0.0.0.0".into());
        lines.push("a=mid:0".into());
        lines.push("a=sctp-port:5000".into());
        lines.push("a=max-message-size:262144".into());
        let candidates = self.candidates.iter().take(MAX_CANDIDATES).enumerate();
        lines.extend(candidates.map(|(index, candidate)| candidate_line(index, *candidate)));
        lines.push("a=end-of-candidates".into());
        if let Some(webrtc) = &self.webrtc {
            lines.push(format!("{UFRAG}{}", webrtc.ice.ufrag));
            lines.push(format!("{PWD}{}", webrtc.ice.pwd));
            lines.push(format!("{FINGERPRINT}{}", with_colons(webrtc.fingerprint)));
            lines.push(format!("{SETUP}{}", webrtc.setup.name()));
        }
        lines.join("\r\n") + "\r\n"
    }

    /// Reads a description from any peer. Lines this program does not know are passed over.
    pub fn decode(text: &str) -> Result<Self, DescriptionError> {
        if text.len() > MAX_DESCRIPTION_LEN {
            return Err(DescriptionError::TooLarge(text.len()));
        }
        let wrapped: Wrapped =
            serde_json::from_str(text).map_err(|error| DescriptionError::NotJson(error.to_string()))?;
        let mut lines = wrapped.sdp.lines();
        if lines.next() != Some("v=0") {
            return Err(DescriptionError::NotSdp);
        }
        let mut quic = QuicFields::default();
        let mut webrtc = WebRtcFields::default();
        let mut candidates = Vec::new();
        for line in lines {
            if let Some(value) = line.strip_prefix(CANDIDATE) {
                let known = candidates.len() < MAX_CANDIDATES;
                candidates.extend(parse_candidate(value).filter(|_| known));
            } else {
                quic.read(line)?;
                webrtc.read(line);
            }
        }
        Ok(Self { kind: wrapped.kind, quic: quic.finish()?, webrtc: webrtc.finish(), candidates })
    }
}

/// Candidates in order of preference (RFC 8839, section 5.1; priorities of RFC 8445, section 5.1.2). What lies behind a
/// NAT is nobody's business, so the related address is the one that RFC 8839 has for that.
fn candidate_line(index: usize, candidate: Candidate) -> String {
    let (preference, kind) = match candidate.kind {
        CandidateKind::Host => (126u32, "host"),
        CandidateKind::Reflexive => (100, "srflx raddr 0.0.0.0 rport 9"),
        CandidateKind::Relayed => (0, "relay raddr 0.0.0.0 rport 9"),
    };
    let local_preference = 65_535 - index as u32;
    let priority = (preference << 24) | (local_preference << 8) | 255;
    let address = candidate.address;
    format!("{CANDIDATE}{index} 1 udp {priority} {} {} typ {kind}", address.ip(), address.port())
}

/// UDP candidates with a literal address; others (TCP, mDNS names) are of no use to us.
fn parse_candidate(value: &str) -> Option<Candidate> {
    let mut words = value.split_ascii_whitespace();
    let (_foundation, _component) = (words.next()?, words.next()?);
    let transport = words.next()?;
    let (_priority, ip, port) = (words.next()?, words.next()?, words.next()?);
    if !transport.eq_ignore_ascii_case("udp") {
        return None;
    }
    let (ip, port): (IpAddr, u16) = (ip.parse().ok()?, port.parse().ok()?);
    let kind = match (words.next()?, words.next()?) {
        ("typ", "host") => CandidateKind::Host,
        ("typ", "relay") => CandidateKind::Relayed,
        _ => CandidateKind::Reflexive,
    };
    let dialable = port != 0 && !ip.is_unspecified() && !ip.is_multicast();
    dialable.then_some(Candidate { address: SocketAddr::new(ip, port), kind })
}

#[derive(Default)]
struct QuicFields {
    version: Option<u32>,
    key: Option<PublicKey>,
    session: Option<SessionId>,
}

impl QuicFields {
    fn read(&mut self, line: &str) -> Result<(), DescriptionError> {
        if let Some(value) = line.strip_prefix(QUIC) {
            self.version = Some(value.parse().map_err(|_| DescriptionError::Malformed("proxystore-quic"))?);
        } else if let Some(value) = line.strip_prefix(KEY) {
            self.key = Some(value.parse().map_err(|_| DescriptionError::Malformed("proxystore-key"))?);
        } else if let Some(value) = line.strip_prefix(SESSION) {
            let number = u64::from_str_radix(value, 16);
            self.session =
                Some(SessionId(number.map_err(|_| DescriptionError::Malformed("proxystore-session"))?));
        }
        Ok(())
    }

    fn finish(self) -> Result<Option<QuicPeer>, DescriptionError> {
        match (self.version, self.key, self.session) {
            (None, None, None) => Ok(None),
            (Some(QUIC_VERSION), Some(key), Some(session)) => Ok(Some(QuicPeer { key, session })),
            (Some(QUIC_VERSION), None, _) => Err(DescriptionError::Malformed("proxystore-key")),
            (Some(QUIC_VERSION), _, None) => Err(DescriptionError::Malformed("proxystore-session")),
            (Some(version), ..) => Err(DescriptionError::Version(version)),
            (None, ..) => Err(DescriptionError::Malformed("proxystore-quic")),
        }
    }
}

/// What a media section says; there is one only, for the data channels. Lines that say nothing usable count for none.
#[derive(Default)]
struct WebRtcFields {
    ufrag: Option<String>,
    pwd: Option<String>,
    fingerprint: Option<[u8; 32]>,
    setup: Option<Setup>,
}

impl WebRtcFields {
    fn read(&mut self, line: &str) {
        if let Some(value) = line.strip_prefix(UFRAG) {
            self.ufrag = Some(value.to_owned()).filter(|value| is_ice_text(value, 4));
        } else if let Some(value) = line.strip_prefix(PWD) {
            self.pwd = Some(value.to_owned()).filter(|value| is_ice_text(value, 22));
        } else if let Some(value) = line.strip_prefix(FINGERPRINT) {
            self.fingerprint = without_colons(value);
        } else if let Some(value) = line.strip_prefix(SETUP) {
            self.setup = Setup::named(value);
        }
    }

    fn finish(self) -> Option<WebRtcPeer> {
        let ice = IceCredentials { ufrag: self.ufrag?, pwd: self.pwd? };
        Some(WebRtcPeer { ice, fingerprint: self.fingerprint?, setup: self.setup? })
    }
}

/// Characters and lengths of RFC 8839, section 5.4.
fn is_ice_text(text: &str, at_least: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    (at_least..=256).contains(&text.len()) && text.bytes().all(allowed)
}

/// The form of RFC 8122.
fn with_colons(hash: [u8; 32]) -> String {
    let mut text = String::with_capacity(95);
    for byte in hash {
        let separator = if text.is_empty() { "" } else { ":" };
        write!(text, "{separator}{byte:02X}").unwrap_or_else(|_| unreachable!("writing to a string"));
    }
    text
}

fn without_colons(text: &str) -> Option<[u8; 32]> {
    let digits = text.split(':').map(|byte| if byte.len() == 2 { byte } else { "?" }).collect::<String>();
    data_encoding::HEXUPPER_PERMISSIVE.decode(digits.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn webrtc(setup: Setup) -> Option<WebRtcPeer> {
        let ice = IceCredentials { ufrag: "abcd".into(), pwd: "0123456789abcdef012345".into() };
        Some(WebRtcPeer { ice, fingerprint: [0xa7; 32], setup })
    }

    fn host(address: SocketAddr) -> Candidate {
        Candidate { address, kind: CandidateKind::Host }
    }

    fn ours(session: u64, candidates: Vec<Candidate>) -> SessionDescription {
        SessionDescription {
            kind: DescriptionKind::Offer,
            quic: Some(QuicPeer { key: PublicKey([9; 32]), session: SessionId(session) }),
            webrtc: webrtc(Setup::ActPass),
            candidates,
        }
    }

    /// What aiortc 1.16 sends, with two fingerprints of three.
    const PYTHON_OFFER: &str = "v=0\r\no=- 3921 3921 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic:WMS *\r\nm=application 51000 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 192.0.2.4\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\na=candidate:f 1 udp 2130706431 192.0.2.4 51000 typ host\r\na=candidate:g 1 tcp 2130706431 192.0.2.4 9 typ host\r\na=candidate:h 1 udp 1 name.local 51000 typ host\r\na=end-of-candidates\r\na=ice-ufrag:oUqP\r\na=ice-pwd:abcdefghijklmnopqrstuv\r\na=fingerprint:sha-256 {FINGERPRINT}\r\na=fingerprint:sha-512 AA:BB\r\na=setup:actpass\r\n";

    #[test]
    fn a_python_offer_is_read_and_has_no_quic() {
        let read = |fingerprint: &str| {
            let sdp = PYTHON_OFFER.replace("{FINGERPRINT}", fingerprint);
            let text = serde_json::json!({"sdp": sdp, "type": "offer"}).to_string();
            SessionDescription::decode(&text).expect("decodes")
        };
        let description = read(&with_colons([0xa7; 32]));
        assert_eq!(description.quic, None);
        let ice = IceCredentials { ufrag: "oUqP".into(), pwd: "abcdefghijklmnopqrstuv".into() };
        let expected = WebRtcPeer { ice, fingerprint: [0xa7; 32], setup: Setup::ActPass };
        assert_eq!(description.webrtc, Some(expected));
        assert_eq!(read("AA:BB").webrtc, None, "half a fingerprint is none");
        assert_eq!(description.candidates, [host("192.0.2.4:51000".parse().expect("address"))]);
    }

    #[test]
    fn another_version_is_named() {
        let text = ours(1, vec![]).encode().replace("proxystore-quic:1", "proxystore-quic:7");
        assert_eq!(SessionDescription::decode(&text), Err(DescriptionError::Version(7)));
    }

    #[test]
    fn half_of_our_attributes_is_an_error() {
        let text = ours(1, vec![]).encode().replace("a=proxystore-session", "a=x");
        assert_eq!(SessionDescription::decode(&text), Err(DescriptionError::Malformed("proxystore-session")));
    }

    #[test]
    fn candidates_are_bounded() {
        let many = (1..200).map(|port| host(SocketAddr::new([192, 0, 2, 1].into(), port))).collect();
        let read = SessionDescription::decode(&ours(1, many).encode()).expect("decodes");
        assert_eq!(read.candidates.len(), MAX_CANDIDATES);
    }

    proptest! {
        #[test]
        fn ours_round_trip(session: u64, ports in proptest::collection::vec(1u16.., 0..8), v6: bool) {
            let ip: IpAddr = if v6 { "2001:db8::1".parse().unwrap() } else { "192.0.2.1".parse().unwrap() };
            let kind = if session % 2 == 0 { CandidateKind::Host } else { CandidateKind::Reflexive };
            let candidate = |port| Candidate { address: SocketAddr::new(ip, port), kind };
            let description = ours(session, ports.into_iter().map(candidate).collect());
            prop_assert_eq!(SessionDescription::decode(&description.encode()), Ok(description));
        }

        #[test]
        fn any_sdp_is_read_or_refused(sdp in "v=0\r\n(a=(candidate|proxystore-(quic|key|session)):.{0,40}\r\n){0,6}") {
            let _ = SessionDescription::decode(&serde_json::json!({"sdp": sdp, "type": "answer"}).to_string());
        }
    }
}
