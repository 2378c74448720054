//! Headers on the streams between peers: a length, then a request or an answer.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use proxystore_shared::frame::{self, Answer, HeaderError, LENGTH_LEN, MAX_HEADER_LEN, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|bytes: &[u8]| {
    let Some((prefix, header)) = bytes.split_first_chunk::<LENGTH_LEN>() else { return };
    if let Ok(len) = frame::header_len(*prefix) {
        assert!(len <= MAX_HEADER_LEN);
    }
    survives::<Request>(header);
    survives::<Answer>(header);
});

/// What decodes is encoded to something that means the same, under a length that is true.
fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(header: &[u8]) {
    let Ok(value) = frame::decode::<T>(header) else { return };
    let bytes = match frame::encode(&value) {
        Ok(bytes) => bytes,
        Err(HeaderError::TooLong(len)) => return assert!(len > MAX_HEADER_LEN),
        Err(error) => panic!("{value:?} decodes but does not encode: {error}"),
    };
    let (prefix, header) = bytes.split_first_chunk::<LENGTH_LEN>().expect("a length");
    assert_eq!(frame::header_len(*prefix).expect("a true length"), header.len());
    assert_eq!(frame::decode::<T>(header).expect("what was encoded decodes"), value);
}
