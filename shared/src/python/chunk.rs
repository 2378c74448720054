//! Chunks of messages, as Python ProxyStore's `p2p/chunks.py` cuts them.
//!
//! ```text
//! 0   u16  1 bytes, 2 text           all numbers big-endian
//! 2   u32  length, this header of 18 bytes included
//! 6   u32  stream: names the message
//! 10  u32  number of the chunk in the message, from 0
//! 14  u32  chunks in the message
//! 18  data
//! ```
//!
//! A reader goes by `length` and ignores what follows it. Python counts characters of text but sends UTF-8, so text that
//! is not ASCII is cut short; endpoints send bytes only, and text is refused here.

use std::collections::{BTreeMap, HashMap};

use bytes::{Buf, Bytes};

/// Bytes of the header.
pub const HEADER_LEN: usize = 18;

/// Most bytes of data in a chunk that is sent, as Python has it.
pub const CHUNK_LEN: usize = 1 << 15;

/// What an incomplete chunk costs beside its bytes, at the most: it keeps a peer from filling memory with empty ones.
const OVERHEAD: usize = 128;

const BYTES: u16 = 1;

/// Why a chunk was refused. The message it belongs to is lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// Shorter than its header says, or than a header.
    #[error("a chunk of {0} bytes is shorter than it says")]
    Short(usize),
    /// Not bytes.
    #[error("a chunk is of type {0}, which is not bytes")]
    Type(u16),
    /// Its number is beyond the last, another number of chunks was announced before, or it came before.
    #[error("chunk {index} of {count} does not fit its message")]
    Misplaced {
        /// Its number.
        index: u32,
        /// Chunks in the message.
        count: u32,
    },
    /// What waits for its missing chunks is too much.
    #[error("more than {0} bytes of unfinished messages")]
    TooMuch(usize),
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The message.
    pub stream: u32,
    /// Its place there.
    pub index: u32,
    /// Chunks in the message.
    pub count: u32,
    /// Its part of the message.
    pub data: Bytes,
}

impl Chunk {
    /// Reads a chunk that came from anybody; its data is not copied.
    pub fn decode(frame: Bytes) -> Result<Self, ChunkError> {
        if frame.len() < HEADER_LEN {
            return Err(ChunkError::Short(frame.len()));
        }
        let mut header = &frame[..HEADER_LEN];
        let kind = header.get_u16();
        let len = header.get_u32() as usize;
        if kind != BYTES {
            return Err(ChunkError::Type(kind));
        }
        if len < HEADER_LEN || len > frame.len() {
            return Err(ChunkError::Short(frame.len()));
        }
        let (stream, index, count) = (header.get_u32(), header.get_u32(), header.get_u32());
        if index >= count {
            return Err(ChunkError::Misplaced { index, count });
        }
        Ok(Self { stream, index, count, data: frame.slice(HEADER_LEN..len) })
    }
}

/// Cuts one message into chunks, as its bytes come.
#[derive(Debug)]
pub struct Cutter {
    stream: u32,
    index: u32,
    count: u32,
    /// Bytes of the message that are not in a chunk yet.
    left: u64,
    frame: Vec<u8>,
}

impl Cutter {
    /// For a message of `len` bytes, which must not be 0; none if that is more than can be numbered (128 TiB).
    pub fn new(stream: u32, len: u64) -> Option<Self> {
        let count = u32::try_from(len.div_ceil(CHUNK_LEN as u64)).ok()?;
        Some(Self { stream, index: 0, count, left: len, frame: Vec::new() })
    }

    /// Moves bytes of the message from `bytes` into the chunk that is being filled, which is given when it is full.
    pub fn fill(&mut self, bytes: &mut impl Buf) -> Option<Vec<u8>> {
        if self.frame.is_empty() {
            self.begin();
        }
        let room = self.frame.capacity() - self.frame.len();
        let taken = room.min(bytes.remaining());
        self.frame.extend_from_slice(&bytes.copy_to_bytes(taken));
        self.left -= taken as u64;
        (taken == room).then(|| std::mem::take(&mut self.frame))
    }

    fn begin(&mut self) {
        let len = HEADER_LEN + self.left.min(CHUNK_LEN as u64) as usize;
        self.frame = Vec::with_capacity(len);
        self.frame.extend_from_slice(&BYTES.to_be_bytes());
        self.frame.extend_from_slice(&(len as u32).to_be_bytes());
        for number in [self.stream, self.index, self.count] {
            self.frame.extend_from_slice(&number.to_be_bytes());
        }
        self.index += 1;
    }
}

/// Joins chunks to messages, whatever their order.
#[derive(Debug)]
pub struct Joiner {
    limit: usize,
    held: usize,
    messages: HashMap<u32, Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    count: u32,
    chunks: BTreeMap<u32, Bytes>,
}

impl Joiner {
    /// Unfinished messages may hold `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: 0, messages: HashMap::new() }
    }

    /// What unfinished messages hold.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes a chunk, and gives the message that it completes, as the data of its chunks in order.
    pub fn add(&mut self, chunk: Chunk) -> Result<Option<Vec<Bytes>>, ChunkError> {
        let Chunk { stream, index, count, data } = chunk;
        let cost = data.len() + OVERHEAD;
        if self.held + cost > self.limit {
            return Err(ChunkError::TooMuch(self.limit));
        }
        let message =
            self.messages.entry(stream).or_insert_with(|| Unfinished { count, chunks: BTreeMap::new() });
        if message.count != count || message.chunks.contains_key(&index) {
            return Err(ChunkError::Misplaced { index, count });
        }
        message.chunks.insert(index, data);
        self.held += cost;
        if message.chunks.len() < count as usize {
            return Ok(None);
        }
        let chunks = self.messages.remove(&stream).map(|message| message.chunks).unwrap_or_default();
        let chunks: Vec<Bytes> = chunks.into_values().collect();
        self.held -= chunks.iter().map(|data| data.len() + OVERHEAD).sum::<usize>();
        Ok(Some(chunks))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(stream: u32, pieces: &[Vec<u8>]) -> Vec<Bytes> {
        let len = pieces.iter().map(Vec::len).sum::<usize>() as u64;
        let mut cutter = Cutter::new(stream, len).expect("few chunks");
        let mut frames = Vec::new();
        for piece in pieces {
            let mut bytes = Bytes::from(piece.clone());
            while bytes.has_remaining() {
                frames.extend(cutter.fill(&mut bytes).map(Bytes::from));
            }
        }
        frames
    }

    fn chunk(stream: u32, index: u32, count: u32, data: &'static [u8]) -> Chunk {
        Chunk { stream, index, count, data: Bytes::from_static(data) }
    }

    #[test]
    fn a_chunk_is_what_python_packs() {
        // bytes(Chunk(stream_id=7, seq_id=0, seq_len=1, data=b'abc')) of ProxyStore 1.1.
        let expected = b"\0\x01\0\0\0\x15\0\0\0\x07\0\0\0\0\0\0\0\x01abc";
        assert_eq!(cut(7, &[b"abc".to_vec()]), [&expected[..]]);
        let mut padded = expected.to_vec();
        padded.push(0);
        assert_eq!(Chunk::decode(padded.into()), Ok(chunk(7, 0, 1, b"abc")));
    }

    #[test]
    fn what_is_not_a_chunk_is_refused() {
        let frame = cut(7, &[b"abc".to_vec()]).remove(0);
        assert_eq!(Chunk::decode(frame.slice(..17)), Err(ChunkError::Short(17)));
        assert_eq!(Chunk::decode(frame.slice(..20)), Err(ChunkError::Short(20)));
        let with = |at: usize, byte: u8| {
            let mut bytes = frame.to_vec();
            bytes[at] = byte;
            Chunk::decode(bytes.into())
        };
        assert_eq!(with(1, 2), Err(ChunkError::Type(2)));
        assert_eq!(with(5, 17), Err(ChunkError::Short(21)), "shorter than its header");
        assert_eq!(with(13, 1), Err(ChunkError::Misplaced { index: 1, count: 1 }));
    }

    #[test]
    fn chunks_that_contradict_each_other_are_refused() {
        let mut joiner = Joiner::new(10_000);
        assert_eq!(joiner.add(chunk(1, 0, 3, b"a")), Ok(None));
        assert_eq!(joiner.add(chunk(1, 0, 3, b"b")), Err(ChunkError::Misplaced { index: 0, count: 3 }));
        assert_eq!(joiner.add(chunk(1, 1, 2, b"b")), Err(ChunkError::Misplaced { index: 1, count: 2 }));
    }

    #[test]
    fn unfinished_messages_are_bounded_and_finished_ones_make_room() {
        let mut joiner = Joiner::new(10 * OVERHEAD);
        for stream in 0..10 {
            assert_eq!(joiner.add(chunk(stream, 0, u32::MAX, b"")), Ok(None));
        }
        assert_eq!(joiner.add(chunk(10, 0, 2, b"")), Err(ChunkError::TooMuch(10 * OVERHEAD)));
        let mut joiner = Joiner::new(10 * OVERHEAD);
        for stream in 0..100 {
            assert_eq!(joiner.add(chunk(stream, 0, 2, b"a")), Ok(None));
            assert_eq!(
                joiner.add(chunk(stream, 1, 2, b"b")).expect("fits").map(|it| it.concat()),
                Some(b"ab".to_vec())
            );
        }
    }

    proptest! {
        #[test]
        fn a_message_survives_any_cut_and_any_order(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40_000), 1..4),
            seed in proptest::collection::vec(any::<u32>(), 8),
        ) {
            let whole = pieces.concat();
            let frames = cut(3, &pieces);
            prop_assert_eq!(frames.len(), whole.len().div_ceil(CHUNK_LEN));
            let mut order: Vec<usize> = (0..frames.len()).collect();
            order.sort_by_key(|index| seed[index % seed.len()]);
            let mut joiner = Joiner::new(whole.len() + frames.len() * OVERHEAD);
            let mut joined = None;
            for index in order {
                prop_assert!(joined.is_none());
                joined = joiner.add(Chunk::decode(frames[index].clone()).unwrap()).unwrap();
            }
            prop_assert_eq!(joined.map(|chunks| chunks.concat()), Some(whole));
        }
    }
}
