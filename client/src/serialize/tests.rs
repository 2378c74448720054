use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn round_trip<T>(value: &T) -> T
where
    T: Serialize + DeserializeOwned + 'static,
{
    Standard::deserialize(Standard::serialize(value).unwrap()).unwrap()
}

fn read<T: DeserializeOwned + 'static>(bytes: &'static [u8]) -> Result<T, SerializeError> {
    Standard::deserialize(Object::from(Bytes::from_static(bytes)))
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
struct Sample {
    name: String,
    values: Vec<f64>,
    tags: BTreeMap<String, Option<i64>>,
}

proptest! {
    #[test]
    fn values_survive(name: String, values in prop::collection::vec(-1e300..1e300, 0..20),
                      tags: BTreeMap<String, Option<i64>>) {
        let sample = Sample { name: name.clone(), values: values.clone(), tags };
        prop_assert_eq!(round_trip(&sample), sample);
        prop_assert_eq!(round_trip(&name), name);
        prop_assert_eq!(round_trip(&values), values);
    }

    #[test]
    fn bytes_survive(bytes: Vec<u8>) {
        prop_assert_eq!(round_trip(&bytes), bytes.clone());
        prop_assert_eq!(round_trip(&Bytes::from(bytes.clone())), bytes);
    }

    #[test]
    fn hostile_bytes_are_refused_not_fatal(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_usize..4) {
        let identifier = [BYTES, TEXT, ARRAY, MESSAGE_PACK][kind];
        let object = with_identifier(identifier, Bytes::from(bytes));
        let _: Result<Sample, _> = Standard::deserialize(object.clone());
        let _: Result<String, _> = Standard::deserialize(object.clone());
        #[cfg(feature = "arrays")]
        let _: Result<ndarray::Array2<f64>, _> = Standard::deserialize(object);
    }
}

#[test]
fn bytes_and_text_are_as_python_writes_them() {
    assert_eq!(Standard::serialize(&Bytes::from_static(b"ab")).unwrap().into_bytes(), "BS\nab");
    assert_eq!(Standard::serialize(b"ab".as_slice()).unwrap().into_bytes(), "BS\nab");
    assert_eq!(Standard::serialize(&vec![b'a', b'b']).unwrap().into_bytes(), "BS\nab");
    assert_eq!(Standard::serialize("né").unwrap().into_bytes(), "US\nné");
    assert_eq!(Standard::serialize(&"né".to_owned()).unwrap().into_bytes(), "US\nné");
    assert_eq!(read::<String>("US\nné".as_bytes()), Ok("né".to_owned()));
    assert_eq!(read::<Vec<u8>>(b"BS\n"), Ok(vec![]));
}

#[test]
fn bytes_are_shared_not_copied() {
    let bytes = Bytes::from(vec![1; 4096]);
    let object = Standard::serialize(&bytes).unwrap();
    assert_eq!(object.segments()[1].as_ptr(), bytes.as_ptr());
    let received = Bytes::from([BYTES.as_slice(), &[1; 4096]].concat());
    let read: Bytes = Standard::deserialize(received.clone().into()).unwrap();
    assert_eq!(read.as_ptr(), received[IDENTIFIER_LEN..].as_ptr());
}

#[cfg(feature = "arrays")]
#[test]
fn arrays_are_npy() {
    let array = ndarray::array![[1.5, 2.0], [3.0, -4.25]];
    let object = Standard::serialize(&array).unwrap().into_bytes();
    assert!(object.starts_with(b"NP\n\x93NUMPY"));
    assert_eq!(round_trip(&array), array);
    let wrong: Result<ndarray::Array2<i64>, _> = Standard::deserialize(object.clone().into());
    assert!(wrong.unwrap_err().to_string().contains("an array"));
    let wrong: Result<Vec<f64>, _> = Standard::deserialize(object.into());
    assert!(wrong.unwrap_err().to_string().contains("is no array"));
}

#[cfg(feature = "arrays")]
#[test]
fn an_array_that_declares_more_than_it_has_is_refused_before_memory_is_taken() {
    let written = Standard::serialize(&ndarray::array![1.0, 2.0]).unwrap().into_bytes();
    let text = String::from_utf8_lossy(&written[13..131]).replace("(2,)", "(900000000000000,)");
    let hostile = [&written[..13], text.as_bytes()].concat();
    let error = <Standard as Deserializer<ndarray::Array1<f64>>>::deserialize(hostile.into()).unwrap_err();
    assert!(error.to_string().contains("more than it has"), "{error}");
}

#[test]
fn what_is_not_read_says_why() {
    assert_eq!(
        read::<String>(b"PK\n\x80\x05.").unwrap_err(),
        SerializeError::OnlyPython { format: "a pickle" }
    );
    assert!(matches!(read::<String>(b"<!").unwrap_err(), SerializeError::Foreign { len: 2, .. }));
    assert!(matches!(read::<String>(b"<html>").unwrap_err(), SerializeError::Foreign { len: 6, .. }));
    let wrong_type = read::<u64>(b"US\nabc").unwrap_err().to_string();
    assert!(wrong_type.starts_with("cannot read text as u64"), "{wrong_type}");
    let truncated = Standard::serialize(&vec![1_u32, 2, 3]).unwrap().into_bytes();
    let truncated = Object::from(truncated.slice(..truncated.len() - 1));
    let error = <Standard as Deserializer<Vec<u32>>>::deserialize(truncated).unwrap_err();
    assert!(matches!(error, SerializeError::Read { format: "MessagePack", .. }));
    let error = read::<u8>(b"MP\n\x01\x02").unwrap_err().to_string();
    assert!(error.contains("1 bytes follow"), "{error}");
}
