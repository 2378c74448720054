//! What is measured: something that fetches objects from the far site.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::SIZES;

/// One way to fetch objects, started and ready.
pub trait Contestant {
    /// For the table.
    fn name(&self) -> &'static str;

    /// Whether it is one that ours are compared with.
    fn is_peer(&self) -> bool {
        true
    }

    /// Whom the table compares it with.
    fn compared_with(&self) -> &'static str {
        "Redis, SSH"
    }

    /// The smallest object of which it says something.
    fn least_len(&self) -> usize {
        0
    }

    /// Stores an object of `len` bytes at the far site.
    fn put(&self, len: usize) -> Result<()>;

    /// Opens what a first fetch opens, by fetching the smallest object.
    fn warm_up(&self) -> Result<()> {
        self.fetch(SIZES[0])
    }

    /// Fetches that object at the near site, every byte of it.
    fn fetch(&self, len: usize) -> Result<()>;

    /// How long that takes, without what only the measurement needs.
    fn timed_fetch(&self, len: usize) -> Result<Duration> {
        let start = Instant::now();
        self.fetch(len).map(|()| start.elapsed())
    }
}

/// The bytes of an object: nothing that could be compressed.
pub fn object(len: usize) -> Vec<u8> {
    use rand::{RngCore as _, SeedableRng as _};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
    bytes
}
