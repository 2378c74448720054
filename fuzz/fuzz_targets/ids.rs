//! Ids, keys and digests as text: what is accepted is written as something that is accepted as the same.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use proxystore_shared::id::MAX_OBJECT_ID_LEN;
use proxystore_shared::{Digest, EndpointId, ObjectId, ObjectKey, PublicKey};

fuzz_target!(|text: &str| {
    survives::<EndpointId>(text);
    survives::<ObjectId>(text);
    survives::<ObjectKey>(text);
    survives::<Digest>(text);
    survives::<PublicKey>(text);
    if let Ok(id) = text.parse::<ObjectId>() {
        assert!((1..=MAX_OBJECT_ID_LEN).contains(&id.as_str().len()));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert!(EndpointId::certified_by(&key).certifies(&key));
    }
});

fn survives<T: FromStr + Display + PartialEq + Debug>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().expect("what was written is read"), value);
    }
}
