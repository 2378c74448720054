//! What is measured: something that fetches objects from the far site.

use anyhow::Result;

/// One way to fetch objects, started and ready.
pub trait Contestant {
    /// For the table.
    fn name(&self) -> &'static str;

    /// Whether it is one that ours are compared with.
    fn is_peer(&self) -> bool {
        true
    }

    /// Stores an object of `len` bytes at the far site.
    fn put(&self, len: usize) -> Result<()>;

    /// Fetches that object at the near site, every byte of it.
    fn fetch(&self, len: usize) -> Result<()>;
}

/// The bytes of an object: nothing that could be compressed.
pub fn object(len: usize) -> Vec<u8> {
    use rand::{RngCore as _, SeedableRng as _};
    let mut bytes = vec![0; len];
    rand::rngs::StdRng::seed_from_u64(len as u64).fill_bytes(&mut bytes);
    bytes
}
