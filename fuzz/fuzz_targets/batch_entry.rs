//! What stands before each object of a batch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::batch::{Entry, PREFIX_LEN};

fuzz_target!(|bytes: &[u8]| {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_LEN>() else { return };
    let Ok(len) = Entry::len_after(*prefix) else { return };
    let Some(rest) = rest.get(..len) else { return };
    let Ok(entry) = Entry::decode(rest) else { return };
    assert_eq!(&entry.encode()[..], &bytes[..PREFIX_LEN + len]);
});
