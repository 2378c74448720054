//! Datagrams on the UDP ports and the socket between peers: what decodes is encoded to something that means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxystore_shared::stun::{MAX_LEN, Message, checked_user, is_dtls, is_stun};

fuzz_target!(|datagram: &[u8]| {
    assert!(!(is_stun(datagram) && is_dtls(datagram)) || datagram[0] >= 20);
    assert!(checked_user(datagram).is_none() || is_stun(datagram));
    let Some(message) = Message::decode(datagram) else { return };
    assert!(is_stun(datagram) && datagram.len() <= MAX_LEN);
    let again = message.encode();
    assert!(is_stun(&again));
    match (message, Message::decode(&again).expect("what was encoded decodes")) {
        // An IPv4 address may come in the clothes of IPv6, which it loses.
        (Message::Response { id, mapped }, Message::Response { id: same, mapped: plain }) => {
            assert_eq!((id, mapped.ip().to_canonical(), mapped.port()), (same, plain.ip(), plain.port()));
        }
        (message, again) => assert_eq!(message, again),
    }
});
