//! What endpoints say to each other over a QUIC connection.
//!
//! Every request is a bidirectional stream of its own: a header, then bytes where the request says so; the
//! answer comes back the same way. A header is a big-endian `u16` length and that many bytes of JSON. The
//! protocol's version is in the ALPN name.
//!
//! An object of at most one group ([`GROUP_LEN`]) travels with its answer. A larger one travels as groups, each
//! on a short stream of its own under a *ticket*: a `get` opens a ticket on one version of the object, so that
//! groups fetched later belong together even if the object is replaced meanwhile; a `put` opens one on an upload.
//! The ticket lives as long as the stream it was issued on: until the asker stops that. Small streams keep the reassembly of QUIC within
//! bounds whatever the network drops (`docs/decisions/0003-groups-over-many-streams.md`).
//!
//! ```text
//! get                                      put
//! -> Get{object_id, range, lead}           -> Put{object_id, size}
//! <- Object{meta, range, ticket, lead}     <- Continue{ticket}
//!    <- Lead{lead, index, ...}, bytes         -> Part{ticket, index, len, digest}, bytes
//!    -> Accepted                              <- Accepted
//!    ... at most 8                            ... up to 32 at a time
//!    -> Group{ticket, index}
//!    <- Group{len, digest}, bytes
//!    ... up to 32 at a time
//! -> (stops the stream)                    -> Commit{size, digest}
//!                                          <- Stored{meta}
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::GROUP_LEN;
use crate::{Digest, ObjectId};

/// ALPN name of the protocol over QUIC (RFC 7301); changes with every incompatible version.
pub const ALPN: &[u8] = b"proxystore/1";

/// Largest header. The longest object id, escaped, takes 6 KiB.
pub const MAX_HEADER_LEN: usize = 16 * 1024;

/// Most groups of one object under way at once, either way: bounds memory per transfer to 32 MiB at each
/// hop. A line of 1 Gbit/s holds 4.5 MB at 36 ms; a group that lost a packet takes a round trip or two longer, while
/// those behind it are kept: with sixteen, 0.1 % loss cost 6 % of the line.
pub const MAX_GROUPS_IN_FLIGHT: usize = 32;

/// Most groups that an owner sends with the answer that opens a read, before they are asked for: as much as a line of
/// 1 Gbit/s holds at 64 ms, and 8 MiB of memory at the reader.
pub const LEAD_GROUPS: u64 = 8;

/// Largest object that travels with its request or answer.
pub const INLINE_LEN: u64 = GROUP_LEN;

/// What an endpoint knows of an object without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the bytes.
    pub digest: Digest,
    /// When it was stored, in milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Part of an object: `start..end` in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte; none for the object's end.
    pub end: Option<u64>,
}

/// Names an open read or upload within one connection.
pub type Ticket = u64;

/// First header on a stream, from the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The bytes of an object.
    Get {
        /// Which.
        object_id: ObjectId,
        /// Which part; none for all of it.
        range: Option<ByteRange>,
        /// Only if the object's digest is another.
        if_none_match: Option<Digest>,
        /// The first groups are wanted without being asked for, if there is more than one. The asker's ticket.
        lead: Option<Ticket>,
    },
    /// What is known of an object.
    Stat {
        /// Which.
        object_id: ObjectId,
    },
    /// Forget an object.
    Evict {
        /// Which.
        object_id: ObjectId,
    },
    /// Store an object. With `inline`, that many bytes follow at once and the answer is [`Answer::Stored`].
    Put {
        /// Which.
        object_id: ObjectId,
        /// Size, when the sender knows it.
        size: Option<u64>,
        /// Refuse if the object exists.
        create_only: bool,
        /// Bytes that follow this header, at most [`INLINE_LEN`].
        inline: Option<u64>,
    },
    /// One group of an open read.
    Group {
        /// From [`Answer::Object`].
        ticket: Ticket,
        /// Counted from the start of the object.
        index: u64,
    },
    /// From the owner: one of the first groups of a read that it has just opened; `len` bytes follow.
    Lead {
        /// From [`Request::Get`].
        ticket: Ticket,
        /// Counted from the start of the object.
        index: u64,
        /// At most [`GROUP_LEN`]; 0 for a group that the owner could not read, and that has to be asked for.
        len: u64,
        /// See [`crate::digest::group_digest`].
        digest: Digest,
    },
    /// One group of an open upload; `len` bytes follow.
    Part {
        /// From [`Answer::Continue`].
        ticket: Ticket,
        /// Counted from the start of the object.
        index: u64,
        /// At most [`GROUP_LEN`]; only the last may be shorter.
        len: u64,
        /// See [`crate::digest::group_digest`]; a part is never alone.
        digest: Digest,
    },
    /// On the stream of a `Put`: every part was accepted.
    Commit {
        /// Size of the whole.
        size: u64,
        /// Digest of the whole.
        digest: Digest,
    },
    /// The side that made the offer chose this connection; carries no answer.
    Nominate,
}

impl Request {
    /// Whether its stream carries nothing more after the header and the bytes that it announces.
    pub fn is_complete(&self) -> bool {
        !matches!(self, Self::Put { inline: None, .. })
    }
}

/// Header of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The object exists; without a ticket the bytes of the range follow.
    Object {
        /// The version that is open.
        meta: ObjectMeta,
        /// The part that was asked for, within the object.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// For [`Request::Group`], when the range spans more than one group.
        ticket: Option<Ticket>,
        /// Groups, from the first of the range, that come by [`Request::Lead`].
        lead: u64,
    },
    /// There is no such object.
    Missing,
    /// The object's digest is the one the caller has.
    NotModified {
        /// The version that is there.
        meta: ObjectMeta,
    },
    /// The object exists.
    Known {
        /// The version that is there.
        meta: ObjectMeta,
    },
    /// The object is gone; `existed` tells whether it was there.
    Evicted {
        /// Whether it was there.
        existed: bool,
    },
    /// Send parts.
    Continue {
        /// For [`Request::Part`].
        ticket: Ticket,
    },
    /// `len` bytes follow.
    Group {
        /// At most [`GROUP_LEN`].
        len: u64,
        /// See [`crate::digest::group_digest`].
        digest: Digest,
    },
    /// The part will be in the object, or the group of a lead has arrived.
    Accepted,
    /// The object is stored, as durably as the endpoint promises.
    Stored {
        /// What was stored.
        meta: ObjectMeta,
    },
    /// The request failed.
    Failed {
        /// What the caller may do.
        reason: Refusal,
        /// For a person.
        message: String,
    },
}

impl Answer {
    /// Whether its stream carries nothing more.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Object { .. } | Self::Continue { .. } | Self::Group { .. })
    }
}

/// Why a peer did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The object is over the peer's `max_object_size`: store it elsewhere.
    TooLarge,
    /// The peer's storage is full: evict something or try later.
    Full,
    /// A create-only put met an existing object.
    Exists,
    /// The range lies outside the object.
    Range,
    /// The request makes no sense (unknown ticket, part out of order, digest mismatch).
    Invalid,
    /// The stored object is damaged and was set aside.
    Corrupt,
    /// Something else went wrong at the peer; its log says what.
    Internal,
}

/// Why a header was refused.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// See [`MAX_HEADER_LEN`].
    #[error("a header has {0} bytes, more than {MAX_HEADER_LEN}")]
    TooLong(usize),
    /// Not a header this version knows.
    #[error("a header is not understood: {0}")]
    Unknown(#[from] serde_json::Error),
}

/// Bytes of the length in front of a header.
pub const LENGTH_LEN: usize = 2;

/// Length of the header that the first [`LENGTH_LEN`] bytes announce, checked before anything is allocated.
pub fn header_len(prefix: [u8; LENGTH_LEN]) -> Result<usize, HeaderError> {
    match usize::from(u16::from_be_bytes(prefix)) {
        len if len > MAX_HEADER_LEN => Err(HeaderError::TooLong(len)),
        len => Ok(len),
    }
}

/// Writes a header with its length.
pub fn encode<T: Serialize>(header: &T) -> Result<Bytes, HeaderError> {
    let mut out = BytesMut::with_capacity(256);
    out.put_u16(0);
    let mut writer = out.writer();
    serde_json::to_writer(&mut writer, header)?;
    let mut out = writer.into_inner();
    let len = out.len() - LENGTH_LEN;
    if len > MAX_HEADER_LEN {
        return Err(HeaderError::TooLong(len));
    }
    out[..LENGTH_LEN].copy_from_slice(&(len as u16).to_be_bytes());
    Ok(out.freeze())
}

/// Reads a header without its length.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HeaderError> {
    Ok(serde_json::from_slice(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_a_header_stay_what_they_are() {
        let request = Request::Stat { object_id: "a".parse().expect("valid") };
        let bytes = encode(&request).expect("encodes");
        let json = br#"{"stat":{"object_id":"a"}}"#;
        assert_eq!(bytes[..LENGTH_LEN], [0, json.len() as u8]);
        assert_eq!(&bytes[LENGTH_LEN..], json);
        assert_eq!(decode::<Request>(&bytes[LENGTH_LEN..]).expect("decodes"), request);
    }

    #[test]
    fn a_long_header_is_refused_before_it_is_read() {
        assert!(matches!(header_len([0xff, 0xff]), Err(HeaderError::TooLong(0xffff))));
    }

    #[test]
    fn the_longest_object_id_fits() {
        let object_id = "\u{2028}".repeat(341).parse().expect("valid");
        assert!(encode(&Request::Stat { object_id }).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
        }

        #[test]
        fn headers_round_trip(object in "[^\\p{Cc}]{1,60}", start: u64, end: Option<u64>, digest: [u8; 32]) {
            let request = Request::Get {
                object_id: object.parse().unwrap(), range: Some(ByteRange { start, end }), if_none_match: Some(Digest(digest)),
                lead: Some(start),
            };
            let bytes = encode(&request).unwrap();
            prop_assert_eq!(header_len([bytes[0], bytes[1]]).unwrap(), bytes.len() - LENGTH_LEN);
            prop_assert_eq!(decode::<Request>(&bytes[LENGTH_LEN..]).unwrap(), request);
        }
    }
}
