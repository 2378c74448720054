//! Content digests: BLAKE3 over an object, checked in pieces as it travels.
//!
//! BLAKE3 is a tree hash, so the digest of an object is a function of the digests of its *groups* of
//! [`GROUP_LEN`] bytes. Storage keeps the group digests; a receiver checks each group as it arrives, joins the
//! group digests, and knows at the end that the whole matches the object's digest, all with one pass of hashing
//! (`blake3::hazmat` documents the tree; the BLAKE3 paper, section 2.1, defines it).

use std::fmt;
use std::str::FromStr;

use blake3::hazmat::{HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

/// Bytes in a group: large enough that its 32-byte digest and one request are noise, small enough that thirty-two
/// of them in flight fill a 1 Gbit/s link at 100 ms and still fit beside everything else in memory. A power of
/// two of at least 1024, as the tree demands.
pub const GROUP_LEN: u64 = 1 << 20;

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct NotADigest;

/// A 32-byte BLAKE3 value in hexadecimal, for objects as well as groups.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of an object held in one piece.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The digest of an object held in several, in order.
    pub fn of_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for piece in pieces {
            hasher.update(piece);
        }
        Self(hasher.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| NotADigest)?;
        bytes.try_into().map(Self).map_err(|_| NotADigest)
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Number of groups in an object of `size` bytes; an empty object has one, empty.
pub fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_LEN).max(1)
}

/// Digest of the group at `index`, whose bytes are `segments` one after the other.
///
/// `alone` says that the object has only this group: its digest is then the object's own.
pub fn group_digest<'a>(index: u64, alone: bool, segments: impl IntoIterator<Item = &'a [u8]>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(index * GROUP_LEN);
    for segment in segments {
        hasher.update(segment);
    }
    if alone { Digest(hasher.finalize().into()) } else { Digest(hasher.finalize_non_root()) }
}

/// Hashes a group, which may come from anybody, as its bytes arrive: those of an object of several groups.
#[derive(Debug)]
pub struct GroupHasher(blake3::Hasher);

impl GroupHasher {
    /// For the group at `index`, of `len` bytes; none if there is no such group: it is neither empty nor longer than
    /// [`GROUP_LEN`].
    pub fn new(index: u64, len: u64) -> Option<Self> {
        let is_possible = index < u64::MAX / GROUP_LEN && (1..=GROUP_LEN).contains(&len);
        let mut hasher = blake3::Hasher::new();
        is_possible.then(|| {
            hasher.set_input_offset(index * GROUP_LEN);
            Self(hasher)
        })
    }

    /// Adds the next bytes; not more in all than were announced.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The group's digest.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize_non_root())
    }
}

/// Joins group digests, given in order, to the digest of the object.
#[derive(Debug, Default, Clone)]
pub struct GroupTree {
    /// Digests of complete subtrees, the largest first.
    subtrees: Vec<[u8; 32]>,
    groups: u64,
}

impl GroupTree {
    /// Adds the digest of the next group.
    pub fn push(&mut self, group: Digest) {
        // A subtree is merged only when another group follows it, because the last merge of all is the root's.
        // The set bits of the count are the sizes of the complete subtrees.
        while self.subtrees.len() > self.groups.count_ones() as usize {
            self.merge(merge_subtrees_non_root);
        }
        self.subtrees.push(group.0);
        self.groups += 1;
    }

    /// The digest of the object whose groups were pushed; at least one must have been.
    pub fn finish(mut self) -> Digest {
        while self.subtrees.len() > 2 {
            self.merge(merge_subtrees_non_root);
        }
        if self.subtrees.len() == 2 {
            self.merge(|left, right, mode| merge_subtrees_root(left, right, mode).into());
        }
        Digest(self.subtrees.pop().unwrap_or(Digest::of(b"").0))
    }

    fn merge(&mut self, join: impl Fn(&[u8; 32], &[u8; 32], Mode) -> [u8; 32]) {
        if let (Some(right), Some(left)) = (self.subtrees.pop(), self.subtrees.pop()) {
            self.subtrees.push(join(&left, &right, Mode::Hash));
        }
    }
}

/// Hashes an object as its bytes arrive, keeping the digest of each group.
#[derive(Debug)]
pub struct ObjectHasher {
    current: blake3::Hasher,
    in_current: u64,
    groups: Vec<Digest>,
    tree: GroupTree,
}

impl Default for ObjectHasher {
    fn default() -> Self {
        Self { current: blake3::Hasher::new(), in_current: 0, groups: Vec::new(), tree: GroupTree::default() }
    }
}

impl ObjectHasher {
    /// Adds the next bytes of the object.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.in_current == GROUP_LEN {
                self.close_group();
            }
            let room = (GROUP_LEN - self.in_current) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.current.update(now);
            self.in_current += now.len() as u64;
            bytes = later;
        }
    }

    fn close_group(&mut self) {
        let digest = Digest(self.current.finalize_non_root());
        self.groups.push(digest);
        self.tree.push(digest);
        self.current = blake3::Hasher::new();
        self.current.set_input_offset(self.groups.len() as u64 * GROUP_LEN);
        self.in_current = 0;
    }

    /// The digest of the object, and of each of its groups as [`group_digest`] gives them.
    pub fn finish(mut self) -> (Digest, Vec<Digest>) {
        if self.groups.is_empty() {
            let digest = Digest(self.current.finalize().into());
            return (digest, vec![digest]);
        }
        self.close_group();
        (self.tree.finish(), self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(size: usize, pieces: usize) {
        let data: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        let mut hasher = ObjectHasher::default();
        data.chunks(size.div_ceil(pieces).max(1)).for_each(|piece| hasher.update(piece));
        let (digest, groups) = hasher.finish();
        assert_eq!(digest, Digest::of(&data), "{size} bytes");
        assert_eq!(groups.len() as u64, group_count(size as u64));
        let mut tree = GroupTree::default();
        let alone = groups.len() == 1;
        for (index, group) in groups.iter().enumerate() {
            let start = index * GROUP_LEN as usize;
            let end = (start + GROUP_LEN as usize).min(size);
            assert_eq!(*group, group_digest(index as u64, alone, [&data[start..end]]));
            tree.push(*group);
        }
        assert_eq!(tree.finish(), digest);
    }

    #[test]
    fn what_cannot_be_a_group_is_none() {
        let bytes = vec![7; GROUP_LEN as usize + 1];
        let group = &bytes[..GROUP_LEN as usize];
        let digest = group_digest(3, false, [group]);
        let hashed = |index, bytes: &[u8]| {
            let mut hasher = GroupHasher::new(index, bytes.len() as u64)?;
            bytes.chunks(70_000).for_each(|piece| hasher.update(piece));
            Some(hasher.finish())
        };
        assert_eq!(hashed(3, group), Some(digest));
        assert_ne!(hashed(2, group), Some(digest));
        assert_eq!(hashed(3, &[]), None);
        assert_eq!(hashed(3, &bytes), None);
        assert_eq!(hashed(u64::MAX, group), None);
    }

    #[test]
    fn tree_agrees_with_plain_blake3_at_every_boundary() {
        let group = GROUP_LEN as usize;
        for size in [
            0,
            1,
            1023,
            1024,
            1025,
            group - 1,
            group,
            group + 1,
            2 * group,
            3 * group,
            5 * group + 7,
            8 * group,
        ] {
            check(size, 3);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn tree_agrees_with_plain_blake3(size in 0usize..(6 << 20), pieces in 1usize..40) {
            check(size, pieces);
        }
    }
}
