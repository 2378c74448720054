//! A piece of an object, gathered from the frames in which it arrives.

use bytes::Bytes;

use crate::memory::{Block, Pool};

/// Gathers bytes up to a length.
#[derive(Debug)]
pub enum Piece {
    /// In memory of the allocator, of this length at most.
    Small(Vec<u8>, usize),
    /// As long as the block.
    Block(Block),
}

impl Piece {
    /// A piece of at most `len` bytes. As many as are announced to come are asked of the allocator at once: what is not
    /// touched costs nothing.
    pub fn small(len: usize, announced: Option<u64>) -> Self {
        let expected = announced.map_or(0, |announced| announced.min(len as u64));
        Self::Small(Vec::with_capacity(expected as usize), len)
    }

    /// A piece as long as the blocks of `pool`, for what is likely to fill it.
    pub fn block(pool: &'static Pool) -> Self {
        // Without large pages there may still be small ones.
        pool.block()
            .map_or_else(|_| Self::small(pool.block_len(), Some(pool.block_len() as u64)), Self::Block)
    }

    /// How many bytes there is room for.
    pub fn room(&self) -> usize {
        match self {
            Self::Small(bytes, len) => len - bytes.len(),
            Self::Block(block) => block.room(),
        }
    }

    /// Moves bytes here from the front of `bytes`, as long as there is room.
    pub fn take_from(&mut self, bytes: &mut Bytes) {
        match self {
            Self::Small(gathered, len) => gather(gathered, bytes, *len),
            Self::Block(block) => block.extend(&bytes.split_to(bytes.len().min(block.room()))),
        }
    }

    /// What was gathered, in memory of just its length: the room that is left would count for nobody.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Small(bytes, _) => bytes.into_boxed_slice().into(),
            Self::Block(block) if block.room() == 0 => Bytes::from_owner(block),
            Self::Block(block) => Bytes::copy_from_slice(block.as_ref()),
        }
    }
}

/// Moves bytes from the front of `bytes` to the end of `buffer`, until that holds `max` bytes.
///
/// The buffer grows by doubling but never beyond `max`: a first frame does not make it larger than twice what has arrived.
pub fn gather(buffer: &mut Vec<u8>, bytes: &mut Bytes, max: usize) {
    let taken = bytes.split_to(bytes.len().min(max - buffer.len()));
    let needed = buffer.len() + taken.len();
    if needed > buffer.capacity() {
        let capacity = needed.max(2 * buffer.capacity()).min(max);
        buffer.reserve_exact(capacity - buffer.len());
    }
    buffer.extend_from_slice(&taken);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::GROUPS;

    #[test]
    fn pieces_take_what_there_is_room_for() {
        let len = GROUPS.block_len();
        for mut piece in [Piece::small(len, Some(len as u64)), Piece::small(len, None), Piece::block(&GROUPS)]
        {
            piece.take_from(&mut Bytes::from_static(b"begin"));
            let mut bytes = Bytes::from(vec![7; len]);
            piece.take_from(&mut bytes);
            assert_eq!((piece.room(), bytes.len()), (0, 5));
            let gathered = piece.into_bytes();
            assert!(gathered.len() == len && gathered.starts_with(b"begin\x07"));
        }
    }

    #[test]
    fn what_does_not_fill_a_piece_is_whole() {
        for mut piece in [Piece::small(1000, Some(3)), Piece::small(1000, None), Piece::block(&GROUPS)] {
            piece.take_from(&mut Bytes::from_static(b"abc"));
            assert_eq!(piece.into_bytes(), "abc");
        }
    }
}
