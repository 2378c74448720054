//! The file of one version of an object, which describes itself.
//!
//! ```text
//! content    the bytes of the object; group i begins at i MiB
//! footer     u64 size, u64 created_ms, 32 bytes digest, u16 length of the id, the id,
//!            32 bytes for the digest of each group
//! trailer    u32 length of the footer, 32 bytes BLAKE3 of the footer, 8 bytes magic and version
//! ```
//!
//! Integers are big-endian. What is known only when the last byte has arrived stands behind the content, so that
//! an upload is written front to back once. The magic comes last of all: a file cut off anywhere lacks it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use bytes::{Buf as _, BufMut as _};
use proxystore_shared::digest::group_count;
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::id::MAX_OBJECT_ID_LEN;
use proxystore_shared::{Digest, ObjectId};

/// Ends every file; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"pxstore\x01";

/// Bytes of a digest.
const DIGEST_LEN: usize = 32;

/// Bytes of the trailer.
const TRAILER_LEN: usize = 4 + DIGEST_LEN + MAGIC.len();

/// Bytes of the footer before the id.
const FIXED_LEN: usize = 8 + 8 + DIGEST_LEN + 2;

/// Read from the end of a file at first: footer and trailer of an object of up to a hundred groups, in one go.
const TAIL_LEN: u64 = 4096;

/// What a file says about its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub id: ObjectId,
    pub meta: ObjectMeta,
    pub groups: Box<[Digest]>,
}

/// Why a file is not one that this store wrote whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum FooterError {
    #[error("it is cut off, or not a file of this store (no {MAGIC:?} at its end)")]
    NoMagic,
    #[error("its footer is damaged (checksum)")]
    Checksum,
    #[error("its footer contradicts itself")]
    Nonsense,
    #[error("it has {actual} bytes instead of {expected}")]
    Length { expected: u64, actual: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Footer {
    /// Footer and trailer, to be written behind the content. Errors with an object of more than 2^27 groups
    /// (128 TiB), whose footer would not fit the format.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let id = self.id.as_str().as_bytes();
        let footer_len = FIXED_LEN + id.len() + self.groups.len() * DIGEST_LEN;
        let footer_len_u32 = u32::try_from(footer_len)
            .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "the object has too many groups"))?;
        let mut out = Vec::with_capacity(footer_len + TRAILER_LEN);
        out.put_u64(self.meta.size);
        out.put_u64(self.meta.created_ms);
        out.put_slice(&self.meta.digest.0);
        out.put_u16(id.len() as u16);
        out.put_slice(id);
        self.groups.iter().for_each(|group| out.put_slice(&group.0));
        let checksum = Digest::of(&out);
        out.put_u32(footer_len_u32);
        out.put_slice(&checksum.0);
        out.put_slice(&MAGIC);
        Ok(out)
    }

    /// Reads the end of `file`; the content is not looked at.
    pub fn read(file: &File) -> Result<Self, FooterError> {
        let file_len = file.metadata()?.len();
        let tail = read_tail(file, file_len, file_len.min(TAIL_LEN))?;
        let trailer = Trailer::decode(&tail)?;
        let needed = trailer.check(file_len)?;
        let tail = if needed > tail.len() as u64 { read_tail(file, file_len, needed)? } else { tail };
        let footer = &tail[tail.len() - needed as usize..tail.len() - TRAILER_LEN];
        if Digest::of(footer) != trailer.checksum {
            return Err(FooterError::Checksum);
        }
        let footer = Self::decode(footer).ok_or(FooterError::Nonsense)?;
        match footer.meta.size.saturating_add(needed) {
            expected if expected != file_len => Err(FooterError::Length { expected, actual: file_len }),
            _ => Ok(footer),
        }
    }

    fn decode(mut footer: &[u8]) -> Option<Self> {
        let size = footer.try_get_u64().ok()?;
        let created_ms = footer.try_get_u64().ok()?;
        let digest = take_digest(&mut footer)?;
        let id_len = footer.try_get_u16().ok()?;
        let (id, mut groups) = footer.split_at_checked(usize::from(id_len))?;
        let id = std::str::from_utf8(id).ok()?.parse().ok()?;
        if groups.len() as u64 != group_count(size) * DIGEST_LEN as u64 {
            return None;
        }
        let groups = std::iter::from_fn(|| take_digest(&mut groups)).collect();
        Some(Self { id, meta: ObjectMeta { size, digest, created_ms }, groups })
    }
}

fn take_digest(bytes: &mut &[u8]) -> Option<Digest> {
    let (digest, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Digest(*digest))
}

struct Trailer {
    footer_len: u32,
    checksum: Digest,
}

impl Trailer {
    /// From the last bytes of a file.
    fn decode(tail: &[u8]) -> Result<Self, FooterError> {
        let start = tail.len().checked_sub(TRAILER_LEN).ok_or(FooterError::NoMagic)?;
        let mut trailer = &tail[start..];
        let footer_len = trailer.get_u32();
        let checksum = take_digest(&mut trailer).ok_or(FooterError::NoMagic)?;
        if trailer != MAGIC {
            return Err(FooterError::NoMagic);
        }
        Ok(Self { footer_len, checksum })
    }

    /// Bytes of footer and trailer, once it is clear that a file of `file_len` bytes can have such a footer: a
    /// damaged length must not become an allocation.
    fn check(&self, file_len: u64) -> Result<u64, FooterError> {
        let longest = (FIXED_LEN + MAX_OBJECT_ID_LEN) as u64 + group_count(file_len) * DIGEST_LEN as u64;
        let footer_len = u64::from(self.footer_len);
        let needed = footer_len + TRAILER_LEN as u64;
        if footer_len > longest || needed > file_len {
            return Err(FooterError::Nonsense);
        }
        Ok(needed)
    }
}

fn read_tail(file: &File, file_len: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut tail = vec![0; len as usize];
    file.read_exact_at(&mut tail, file_len - len)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(bytes).expect("written");
        file
    }

    fn footer_of(id: &str, size: u64) -> Footer {
        let groups = (0..group_count(size)).map(|index| Digest::of(&index.to_be_bytes())).collect();
        let meta = ObjectMeta { size, digest: Digest::of(id.as_bytes()), created_ms: 1_700_000_000_000 };
        Footer { id: id.parse().expect("valid id"), meta, groups }
    }

    /// The format outlives the program that wrote it.
    #[test]
    fn the_bytes_of_a_footer_stay_what_they_are() {
        let bytes = footer_of("a", 3).encode().expect("encodes");
        assert_eq!(bytes.len(), FIXED_LEN + 1 + DIGEST_LEN + TRAILER_LEN);
        assert_eq!(bytes[..8], 3u64.to_be_bytes());
        assert_eq!(bytes[8..16], 1_700_000_000_000u64.to_be_bytes());
        assert_eq!(bytes[48..51], [0, 1, b'a']);
        assert_eq!(bytes[83..87], 83u32.to_be_bytes());
        assert_eq!(bytes[119..], *b"pxstore\x01");
        assert_eq!(bytes[87..119], Digest::of(&bytes[..83]).0);
    }

    #[test]
    fn a_footer_longer_than_the_first_read_is_read() {
        let size = 300 << 20;
        let footer = footer_of("large", size);
        let file = tempfile::tempfile().expect("temporary file");
        file.write_all_at(&footer.encode().expect("encodes"), size).expect("written");
        assert_eq!(Footer::read(&file).expect("reads"), footer);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn footers_round_trip(id in "[^\\p{Cc}]{1,200}", content: Vec<u8>) {
            let footer = footer_of(&id, content.len() as u64);
            let file = file_of(&[content, footer.encode().expect("encodes")].concat());
            prop_assert_eq!(Footer::read(&file).expect("reads"), footer);
        }

        #[test]
        fn a_cut_or_changed_footer_is_refused(content in 0usize..50, cut in 1usize..200, flip in 0usize..127, bit in 0u32..8) {
            let mut bytes = vec![7; content];
            bytes.extend(footer_of("a", content as u64).encode().expect("encodes"));
            let shorter = &bytes[..bytes.len().saturating_sub(cut)];
            prop_assert!(Footer::read(&file_of(shorter)).is_err());
            bytes[content + flip] ^= 1 << bit;
            prop_assert!(Footer::read(&file_of(&bytes)).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>, footer_len: u32) {
            bytes.put_u32(footer_len);
            bytes.extend([0; DIGEST_LEN]);
            bytes.extend(MAGIC);
            prop_assert!(Footer::read(&file_of(&bytes)).is_err());
        }
    }
}
