//! Several objects in one message, so that many small ones do not take a round trip each.
//!
//! A batch is a sequence of entries, and ends with the message it travels in:
//!
//! ```text
//! u16 length of the object id | object id | u64 length of the object | object
//! ```
//!
//! Numbers are big-endian. In an answer, the largest length stands for "there is no such object".

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::ObjectId;
use crate::id::{IdError, MAX_OBJECT_ID_LEN};

/// Media type of a batch.
pub const MEDIA_TYPE: &str = "application/vnd.proxystore.batch";

/// Most objects that one request may ask for: as many names of the usual length take 400 KB.
pub const MAX_KEYS: usize = 10_000;

/// Bytes at the start of an entry that say how long its name is.
pub const PREFIX_LEN: usize = 2;

/// Bytes of the length of an object.
const LENGTH_LEN: usize = 8;

/// In place of a length: there is no such object.
const MISSING: u64 = u64::MAX;

/// Asks for objects, by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// In the order in which they are wanted; up to [`MAX_KEYS`].
    pub keys: Vec<ObjectId>,
}

/// Tells how many objects of a batch were stored: all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Objects.
    pub stored: u64,
}

/// What stands before an object in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names the object.
    pub object_id: ObjectId,
    /// Bytes of the object, which follow; none if there is no such object.
    pub len: Option<u64>,
}

/// What makes bytes no entry of a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// An object id that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// An object id is text.
    #[error("an object id is not UTF-8")]
    NotText,
    /// Fewer bytes than the entry says.
    #[error("the batch ends within an entry")]
    Truncated,
}

impl Entry {
    /// The bytes before the object's.
    pub fn encode(&self) -> Bytes {
        let id = self.object_id.as_str().as_bytes();
        let mut bytes = BytesMut::with_capacity(PREFIX_LEN + id.len() + LENGTH_LEN);
        // An object id has at most a kilobyte.
        bytes.put_u16(id.len() as u16);
        bytes.put_slice(id);
        bytes.put_u64(self.len.unwrap_or(MISSING));
        bytes.freeze()
    }

    /// How many bytes of the entry come between its prefix and the object.
    pub fn len_after(prefix: [u8; PREFIX_LEN]) -> Result<usize, BatchError> {
        match usize::from(u16::from_be_bytes(prefix)) {
            0 => Err(IdError::EmptyObjectId.into()),
            len if len > MAX_OBJECT_ID_LEN => Err(IdError::LongObjectId(len).into()),
            len => Ok(len + LENGTH_LEN),
        }
    }

    /// Reads what comes between prefix and object.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let (id, len) = bytes.split_last_chunk::<LENGTH_LEN>().ok_or(BatchError::Truncated)?;
        let id = std::str::from_utf8(id).map_err(|_| BatchError::NotText)?;
        let len = Some(u64::from_be_bytes(*len)).filter(|len| *len != MISSING);
        Ok(Self { object_id: id.parse()?, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Entry, BatchError> {
        let (prefix, rest) = bytes.split_first_chunk().ok_or(BatchError::Truncated)?;
        Entry::decode(rest.get(..Entry::len_after(*prefix)?).ok_or(BatchError::Truncated)?)
    }

    #[test]
    fn an_entry_is_written_as_documented() {
        let entry = Entry { object_id: "ab".parse().unwrap(), len: Some(258) };
        assert_eq!(&entry.encode()[..], b"\0\x02ab\0\0\0\0\0\0\x01\x02");
        let missing = Entry { len: None, ..entry };
        assert_eq!(&missing.encode()[..], b"\0\x02ab\xff\xff\xff\xff\xff\xff\xff\xff");
    }

    #[test]
    fn an_entry_without_a_proper_id_is_refused() {
        let entry = |id: &[u8]| [&(id.len() as u16).to_be_bytes()[..], id, &[0; 8]].concat();
        assert_eq!(decode(&entry(b"")), Err(IdError::EmptyObjectId.into()));
        assert_eq!(decode(&entry(&[b'a'; 1025])), Err(IdError::LongObjectId(1025).into()));
        assert_eq!(decode(&entry(b"a\nb")), Err(IdError::ControlCharacter.into()));
        assert_eq!(decode(&entry(b"\xff")), Err(BatchError::NotText));
        assert!(decode(&entry(&[b'a'; 1024])).is_ok());
    }

    proptest! {
        #[test]
        fn entries_come_back(id in "\\PC{1,300}", len in any::<Option<u64>>()) {
            let entry = Entry { object_id: id.parse().unwrap(), len: len.filter(|len| *len != MISSING) };
            let bytes = entry.encode();
            prop_assert_eq!(decode(&bytes), Ok(entry));
            for cut in 0..bytes.len() {
                prop_assert!(decode(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&bytes);
        }
    }
}
