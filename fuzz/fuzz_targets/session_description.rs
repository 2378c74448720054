//! Offers and answers of peers: what decodes has few candidates and is encoded to something that means the same.
//!
//! The input is the SDP itself if it starts with `v=`, so that the fuzzer need not learn to escape JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::description::{MAX_CANDIDATES, SessionDescription};

fuzz_target!(|text: &str| {
    let wrapped = text.starts_with("v=").then(|| serde_json::json!({"type": "offer", "sdp": text}).to_string());
    let Ok(description) = SessionDescription::decode(wrapped.as_deref().unwrap_or(text)) else { return };
    assert!(description.candidates.len() <= MAX_CANDIDATES);
    assert_eq!(SessionDescription::decode(&description.encode()), Ok(description));
});
