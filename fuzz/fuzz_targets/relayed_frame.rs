//! Binary frames between a relay and its clients, and the header in which a relay says what it offers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::relayed::{Envelope, HEADER_LEN, MAX_FRAME_LEN, RelayOffer};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(envelope) = Envelope::decode(bytes) {
        assert!(bytes.len() > HEADER_LEN && bytes.len() <= MAX_FRAME_LEN && envelope.segment_len > 0);
        let again = [envelope.encode().as_slice(), &bytes[HEADER_LEN..]].concat();
        assert_eq!(Envelope::decode(&again), Ok(envelope));
    }
    if let Ok(text) = str::from_utf8(bytes) {
        let offer = RelayOffer::decode(text);
        assert_eq!(RelayOffer::decode(&offer.encode()), offer);
    }
});
