//! Memory for large pieces of objects that are kept, which goes back to the system when they do.
//!
//! The C library's allocator keeps what is freed in such pieces for itself once it has seen enough of them: an endpoint in
//! which an object of 1 GB had been replaced four times took 1.2 GB when there was nothing left in it. What only passes
//! through is better off with the allocator: getting and giving back pages makes a get from a peer a tenth slower.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};

/// Pieces of at least this have pages of their own: large enough that asking the system for them does not count.
const LEAST: usize = 256 * 1024;

/// Memory of a fixed length, zero at first.
#[derive(Debug)]
pub struct Block(Memory);

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Pages(MmapMut),
}

impl Block {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        // All pages at once: to be given them one by one, as they are touched, makes a set of 100 MB take 1.4 times as long.
        // Where the system has no more mappings for us it may still have memory.
        let pages = if len < LEAST { None } else { MmapOptions::new().len(len).populate().map_anon().ok() };
        Self(pages.map_or_else(|| Memory::Heap(vec![0; len]), Memory::Pages))
    }

    /// The bytes, for good.
    pub fn freeze(self) -> Bytes {
        match self.0 {
            Memory::Heap(bytes) => Bytes::from(bytes),
            Memory::Pages(pages) => Bytes::from_owner(pages),
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages) => pages,
        }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Memory::Heap(bytes) => bytes,
            Memory::Pages(pages) => pages,
        }
    }
}

/// Gathers small pieces into one.
#[derive(Debug)]
pub struct Gathering {
    most: usize,
    few: Vec<u8>,
    /// From [`LEAST`] on, and how much of it is filled.
    many: Option<(Block, usize)>,
}

impl Gathering {
    /// Nothing yet, of `most` bytes at most.
    pub fn new(most: usize) -> Self {
        Self { most, few: Vec::new(), many: None }
    }

    /// Takes from the front of `bytes` as many as there is room for.
    pub fn take_from(&mut self, bytes: &mut Bytes) {
        let taken = bytes.split_to(bytes.len().min(self.most - self.len()));
        if self.many.is_none() && self.few.len() + taken.len() >= LEAST {
            let mut block = Block::zeroed(self.most);
            block[..self.few.len()].copy_from_slice(&self.few);
            self.many = Some((block, self.few.len()));
            self.few = Vec::new();
        }
        match &mut self.many {
            None => self.few.extend_from_slice(&taken),
            Some((block, filled)) => {
                block[*filled..*filled + taken.len()].copy_from_slice(&taken);
                *filled += taken.len();
            }
        }
    }

    /// Whether there is no room left.
    pub fn is_full(&self) -> bool {
        self.len() == self.most
    }

    /// What has been gathered, if anything, in memory of just its length.
    pub fn finish(self) -> Option<Bytes> {
        let Self { few, many, .. } = self;
        match many {
            Some((block, filled)) if filled == block.len() => Some(block.freeze()),
            Some((block, filled)) => {
                let mut exact = Block::zeroed(filled);
                exact.copy_from_slice(&block[..filled]);
                Some(exact.freeze())
            }
            None => (!few.is_empty()).then(|| few.into_boxed_slice().into()),
        }
    }

    fn len(&self) -> usize {
        self.many.as_ref().map_or(self.few.len(), |(_, filled)| *filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_whatever_their_lengths() {
        let whole = Bytes::from((0..2 * LEAST).map(|index| index as u8).collect::<Vec<_>>());
        for piece in [1000, LEAST - 1, LEAST, LEAST + 1] {
            let mut gathering = Gathering::new(whole.len());
            for start in (0..whole.len()).step_by(piece) {
                assert!(!gathering.is_full());
                gathering.take_from(&mut whole.slice(start..whole.len().min(start + piece)));
            }
            assert!(gathering.is_full());
            assert!(gathering.finish().is_some_and(|joined| joined == whole), "pieces of {piece}");
        }
    }

    #[test]
    fn what_finds_no_room_is_left() {
        let mut gathering = Gathering::new(5);
        let mut bytes = Bytes::from_static(b"twelve bytes");
        gathering.take_from(&mut bytes);
        assert_eq!((gathering.finish().as_deref(), &bytes[..]), (Some(&b"twelv"[..]), &b"e bytes"[..]));
        assert_eq!(Gathering::new(5).finish(), None);
    }

    #[test]
    fn less_than_there_was_room_for_is_whole() {
        for len in [3, LEAST - 1, LEAST, LEAST + 1] {
            let mut gathering = Gathering::new(4 * LEAST);
            gathering.take_from(&mut Bytes::from(vec![7; len]));
            assert_eq!(gathering.finish(), Some(vec![7; len].into()));
        }
    }
}
