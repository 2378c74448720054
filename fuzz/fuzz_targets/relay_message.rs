//! Text frames between a relay and its clients: what decodes is encoded to something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::relay_message::RelayMessage;

fuzz_target!(|text: &str| {
    if let Ok(message) = RelayMessage::decode(text) {
        let again = RelayMessage::decode(&message.encode()).expect("what was encoded decodes");
        assert_eq!(again, message);
    }
});
