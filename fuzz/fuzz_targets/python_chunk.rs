//! Chunks of Python endpoints: whatever comes, no more is held than the limit, and what is joined is what came.
//!
//! Each frame in the input follows a byte that says how long it is.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proxystore_shared::python::chunk::{Chunk, Joiner};

fuzz_target!(|input: &[u8]| {
    let mut joiner = Joiner::new(4096);
    let mut taken = 0;
    let mut rest = input;
    while let Some((len, frames)) = rest.split_first() {
        let (frame, after) = frames.split_at(frames.len().min((*len).into()));
        rest = after;
        let Ok(chunk) = Chunk::decode(Bytes::copy_from_slice(frame)) else { continue };
        let len = chunk.data.len();
        if let Ok(joined) = joiner.add(chunk) {
            taken += len;
            taken -= joined.map_or(0, |pieces| pieces.iter().map(Bytes::len).sum());
            assert!(taken <= 4096);
        }
    }
});
