//! Serialized objects, which may come from anybody who has the store.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use ndarray::{Array2, ArrayD};
use proxystore::serialize::{Deserializer, Serializer};
use proxystore::{Object, Proxy, Standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Of a bit of everything.
type Value = BTreeMap<String, Vec<Option<(u64, String)>>>;

fuzz_target!(|bytes: &[u8]| {
    survives::<Vec<u8>>(bytes);
    survives::<String>(bytes);
    survives::<Value>(bytes);
    survives::<serde_json::Value>(bytes);
    // Numbers that are not numbers do not equal themselves.
    let _: Result<Array2<f64>, _> = Standard::deserialize(object(bytes));
    let _: Result<ArrayD<i16>, _> = Standard::deserialize(object(bytes));
    let _: Result<Proxy<u8>, _> = Standard::deserialize(object(bytes));
});

fn object(bytes: &[u8]) -> Object {
    Object::from(bytes.to_vec())
}

/// What is read is written to something that reads the same.
fn survives<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static>(bytes: &[u8]) {
    let Ok(value) = <Standard as Deserializer<T>>::deserialize(object(bytes)) else { return };
    let written = <Standard as Serializer<T>>::serialize(&value).expect("what was read is written");
    assert_eq!(<Standard as Deserializer<T>>::deserialize(written).expect("and read again"), value);
}
