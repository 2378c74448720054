//! The bytes of an object in memory, as they arrive.
//!
//! Small frames are copied into segments of their own: a frame of an HTTP body is a slice of a larger buffer, and would keep
//! all of it alive. A group from a peer ([`proxystore_shared::digest`]) has a buffer to itself and is a segment as it is. A
//! reader of one group meets one segment where an object comes in either way, two where they are mixed.

use bytes::Bytes;
use proxystore_shared::digest::GROUP_LEN;

use crate::memory::LARGE;
use crate::piece::Piece;

/// Bytes of the first segment. The second may be a block of [`LARGE`]: an upload then takes three times the memory of what has
/// arrived, and never more than that, whatever was announced.
const FIRST_LEN: usize = GROUP_LEN as usize;

/// Frames of at least this are kept as they arrived: parts of an upload from a peer, and nothing else is as large.
const KEEP_LEN: usize = GROUP_LEN as usize;

/// Gathers what arrives.
#[derive(Debug)]
pub struct Segments {
    /// What was announced and has not arrived; none if nothing was announced.
    left: Option<u64>,
    full: Vec<Bytes>,
    current: Option<Piece>,
}

impl Segments {
    /// Of an object that is announced to have `size` bytes.
    pub fn new(size: Option<u64>) -> Self {
        Self { left: size, full: Vec::new(), current: None }
    }

    /// Appends bytes.
    pub fn extend(&mut self, mut bytes: Bytes) {
        if bytes.len() >= KEEP_LEN {
            self.arrived(bytes.len());
            self.full.extend(self.current.take().map(Piece::into_bytes));
            return self.full.push(bytes);
        }
        while !bytes.is_empty() {
            let mut segment = self.current.take().unwrap_or_else(|| self.begin());
            let before = bytes.len();
            segment.take_from(&mut bytes);
            self.arrived(before - bytes.len());
            if segment.room() == 0 {
                self.full.push(segment.into_bytes());
            } else {
                self.current = Some(segment);
            }
        }
    }

    fn arrived(&mut self, len: usize) {
        self.left = self.left.map(|left| left.saturating_sub(len as u64));
    }

    /// The object's segments, none of them empty.
    pub fn finish(self) -> Vec<Bytes> {
        let mut segments = self.full;
        segments.extend(self.current.map(Piece::into_bytes));
        segments
    }

    /// A segment for what comes next.
    fn begin(&self) -> Piece {
        let most = if self.full.is_empty() { FIRST_LEN } else { LARGE.block_len() };
        // Who sends more than was announced has announced nothing.
        let announced = self.left.filter(|left| *left > 0);
        let len = announced.map_or(most, |left| left.min(most as u64) as usize);
        if len == LARGE.block_len() { Piece::block(&LARGE) } else { Piece::small(len, announced) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK_LEN: usize = 2 * FIRST_LEN;

    /// The lengths of the segments of an object that arrives in frames of `frame` bytes.
    fn lengths(len: usize, announced: Option<u64>, frame: usize) -> Vec<usize> {
        let object: Vec<u8> = (0..len).map(|index| (index / 7) as u8).collect();
        let mut segments = Segments::new(announced);
        object.chunks(frame).for_each(|frame| segments.extend(Bytes::copy_from_slice(frame)));
        let segments = segments.finish();
        assert!(segments.concat() == object, "{len} bytes in frames of {frame}");
        segments.iter().map(Bytes::len).collect()
    }

    #[test]
    fn a_large_object_is_kept_in_blocks() {
        let len = FIRST_LEN + 2 * BLOCK_LEN + 9;
        for frame in [60_000, FIRST_LEN - 1] {
            for announced in [Some(len as u64), None] {
                assert_eq!(lengths(len, announced, frame), [FIRST_LEN, BLOCK_LEN, BLOCK_LEN, 9]);
            }
        }
    }

    #[test]
    fn a_small_object_is_kept_in_one_piece() {
        for len in [1, 1000, FIRST_LEN] {
            for announced in [Some(len as u64), None, Some(u64::MAX)] {
                assert_eq!(lengths(len, announced, 333), [len]);
            }
        }
        assert!(lengths(0, Some(0), 1).is_empty());
    }

    #[test]
    fn more_than_was_announced_is_kept_too() {
        assert_eq!(lengths(1000, Some(10), 333), [10, 990]);
    }

    #[test]
    fn frames_do_not_keep_their_buffers() {
        let buffer = Bytes::from(vec![7; 4 * BLOCK_LEN]);
        for len in [1000, 3 * BLOCK_LEN] {
            let mut segments = Segments::new(None);
            (0..len).step_by(1000).for_each(|start| segments.extend(buffer.slice(start..start + 1000)));
            let segments = segments.finish();
            assert!(buffer.is_unique(), "the object has a copy of its own");
            drop(segments);
        }
    }

    #[test]
    fn groups_are_not_copied() {
        let group = Bytes::from(vec![7; KEEP_LEN]);
        let mut segments = Segments::new(None);
        segments.extend(group.clone());
        segments.extend(group.clone());
        segments.extend(Bytes::from_static(b"end"));
        let segments = segments.finish();
        assert_eq!(segments.iter().map(Bytes::len).collect::<Vec<_>>(), [KEEP_LEN, KEEP_LEN, 3]);
        assert!(segments[..2].iter().all(|segment| segment.as_ptr() == group.as_ptr()));
    }
}
