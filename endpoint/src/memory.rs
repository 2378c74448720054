//! Memory for large pieces of objects: asked of the system in large pages, and used again for a while.
//!
//! Filling fresh memory took longer than receiving what fills it: the system hands it out and clears it in pages of 4 KiB,
//! at 0.4 s a GiB where this was measured; in pages of 2 MiB at 0.1 s; and memory that is still there costs nothing
//! (docs/decisions/0013). What nobody uses goes back to the system soon, where the C library's allocator would keep it.

use std::fmt;
use std::io;
use std::mem;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use memmap2::{MmapMut, MmapOptions};
use proxystore_shared::digest::GROUP_LEN;
use tokio::time::sleep;

use crate::lock::lock;

/// Bytes of a large page, of x86-64 and of most ARM systems. Where they are of another size the system ignores what is asked
/// of it.
const LARGE_PAGE: usize = 2 << 20;

/// Memory that has not been used for this long, and at most twice as long, goes back to the system: an object that
/// replaces another, or the next one of a stream, comes sooner.
const AGE: Duration = Duration::from_secs(5);

/// For what is kept of large objects.
pub static LARGE: Pool = Pool::of(LARGE_PAGE);

/// For groups of objects on their way between endpoints.
pub static GROUPS: Pool = Pool::of(GROUP_LEN as usize);

/// For as long as it runs, memory that nobody uses goes back to the system.
pub async fn tidy() {
    loop {
        sleep(AGE).await;
        LARGE.age();
        GROUPS.age();
    }
}

/// Hands out blocks of one length, and takes their memory back.
pub struct Pool {
    len: usize,
    unused: Mutex<Unused>,
}

struct Unused {
    /// Since the last [`Pool::age`].
    young: Vec<Memory>,
    old: Vec<Memory>,
}

impl Pool {
    const fn of(len: usize) -> Self {
        Self { len, unused: Mutex::new(Unused { young: Vec::new(), old: Vec::new() }) }
    }

    /// Bytes of a block.
    pub fn block_len(&self) -> usize {
        self.len
    }

    /// An empty block; fails if the system gives no memory.
    pub fn block(&'static self) -> io::Result<Block> {
        let unused = {
            let mut unused = self.unused();
            unused.young.pop().or_else(|| unused.old.pop())
        };
        let memory = unused.map_or_else(|| Memory::of(self.len), Ok)?;
        Ok(Block { memory: Some(memory), filled: 0, pool: self })
    }

    /// Gives back to the system what has not been used since the last call.
    fn age(&self) {
        let mut unused = self.unused();
        let old = mem::take(&mut unused.young);
        let gone = mem::replace(&mut unused.old, old);
        // Which takes a while, and nobody need wait for it.
        drop(unused);
        drop(gone);
    }

    fn unused(&self) -> MutexGuard<'_, Unused> {
        lock(&self.unused)
    }
}

/// Memory of a fixed length, filled from the front.
pub struct Block {
    /// Until the block is dropped.
    memory: Option<Memory>,
    filled: usize,
    pool: &'static Pool,
}

impl Block {
    /// How many bytes there is room for.
    pub fn room(&self) -> usize {
        self.pool.len - self.filled
    }

    /// Appends bytes, for which there must be room.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.append(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends `len` bytes, for which there must be room, to be written by the caller: they are of any value.
    pub fn append(&mut self, len: usize) -> &mut [u8] {
        let start = self.filled;
        self.filled += len;
        self.memory.as_mut().map_or(&mut [], |memory| &mut memory.bytes_mut()[start..start + len])
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory.bytes()[..self.filled])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.unused().young.extend(self.memory.take());
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("filled", &self.filled).finish_non_exhaustive()
    }
}

/// Memory for one block. May hold the bytes of an earlier one.
struct Memory {
    pages: MmapMut,
    /// Where in the pages the block is.
    start: usize,
    len: usize,
}

impl Memory {
    fn of(len: usize) -> io::Result<Self> {
        let (pages, start) = Self::map(len)?;
        advise(&pages, start, len);
        Ok(Self { pages, start, len })
    }

    /// Pages, and where among them those begin that can be a large one. Linux sees to that by itself from 6.7 on; before,
    /// they are in twice as many, of which the others are never touched.
    fn map(len: usize) -> io::Result<(MmapMut, usize)> {
        let pages = MmapOptions::new().len(len).map_anon()?;
        if len < LARGE_PAGE || pages.as_ptr().align_offset(LARGE_PAGE) == 0 {
            return Ok((pages, 0));
        }
        let pages = MmapOptions::new().len(len + LARGE_PAGE).map_anon()?;
        let start = pages.as_ptr().align_offset(LARGE_PAGE);
        Ok((pages, start))
    }

    fn bytes(&self) -> &[u8] {
        &self.pages[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pages[self.start..self.start + self.len]
    }
}

/// Asks for large pages, and for all of them at once. Neither has to succeed: not every Linux has large pages, and memory comes
/// when it is touched.
#[cfg(target_os = "linux")]
fn advise(pages: &MmapMut, start: usize, len: usize) {
    use memmap2::Advice;
    if len >= LARGE_PAGE {
        let _ = pages.advise_range(Advice::HugePage, start, len);
    }
    let _ = pages.advise_range(Advice::PopulateWrite, start, len);
}

#[cfg(not(target_os = "linux"))]
fn advise(_: &MmapMut, _: usize, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_filled_from_the_front() {
        static POOL: Pool = Pool::of(4096);
        // The second has the memory of the first.
        for _ in 0..2 {
            let mut block = POOL.block().unwrap();
            assert_eq!((block.as_ref(), block.room()), (&b""[..], 4096));
            block.extend(b"abc");
            block.append(2).copy_from_slice(b"de");
            assert_eq!((block.as_ref(), block.room()), (&b"abcde"[..], 4091));
            block.extend(&[7; 4091]);
            assert_eq!((block.as_ref().len(), block.room()), (4096, 0));
        }
    }

    #[test]
    fn large_blocks_begin_where_large_pages_do() {
        for memory in (0..3).map(|_| Memory::of(LARGE_PAGE).unwrap()) {
            assert_eq!(memory.bytes().as_ptr().align_offset(LARGE_PAGE), 0);
        }
    }

    #[test]
    fn memory_is_used_again_until_it_is_old() {
        static POOL: Pool = Pool::of(4096);
        drop([POOL.block().unwrap(), POOL.block().unwrap()]);
        let left = || {
            let unused = POOL.unused();
            (unused.young.len(), unused.old.len())
        };
        assert_eq!(left(), (2, 0));
        POOL.age();
        assert_eq!(left(), (0, 2));
        drop(POOL.block().unwrap());
        assert_eq!(left(), (1, 1));
        POOL.age();
        assert_eq!(left(), (0, 1));
        POOL.age();
        assert_eq!(left(), (0, 0));
    }
}
