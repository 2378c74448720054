//! Values as bytes and back.
//!
//! A serialized object begins with a line that says what follows, as in Python ProxyStore (`BS` bytes, `US` text,
//! `NP` an array as `.npy`), so that each language reads what the other wrote. Any other value is MessagePack
//! under `MP` (docs/decisions/0006): Python's own way for those is pickle, which is never loaded here.

#[cfg(feature = "arrays")]
mod arrays;

use std::any::{Any, type_name};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::de::value::{BytesDeserializer, StringDeserializer};

use crate::Object;

/// `BS`, `US`, `NP`, `MP` and a line feed.
const IDENTIFIER_LEN: usize = 3;

pub(crate) const BYTES: &[u8; IDENTIFIER_LEN] = b"BS\n";
const TEXT: &[u8; IDENTIFIER_LEN] = b"US\n";
const ARRAY: &[u8; IDENTIFIER_LEN] = b"NP\n";
const MESSAGE_PACK: &[u8; IDENTIFIER_LEN] = b"MP\n";

/// Formats that Python ProxyStore writes and this library does not read.
const ONLY_PYTHON: [(&[u8; IDENTIFIER_LEN], &str); 4] = [
    (b"PK\n", "a pickle"),
    (b"CP\n", "a cloudpickle"),
    (b"PD\n", "a pickled pandas data frame"),
    (b"PL\n", "a Polars data frame"),
];

/// Turns values of type `T` into bytes. Implement it, and [`Deserializer`], on a type of your own to give a
/// [`Store`](crate::Store) another format: `Store<MyFormat>`.
///
/// ```
/// use proxystore::serialize::{Deserializer, Serializer};
/// use proxystore::{Object, SerializeError, Store, block_on, connectors::LocalConnector};
///
/// /// Numbers as decimal text.
/// struct Decimal;
///
/// impl Serializer<u64> for Decimal {
///     fn serialize(value: &u64) -> Result<Object, SerializeError> {
///         Ok(value.to_string().into_bytes().into())
///     }
/// }
///
/// impl Deserializer<u64> for Decimal {
///     fn deserialize(object: Object) -> Result<u64, SerializeError> {
///         let text = String::from_utf8_lossy(&object.into_bytes()).into_owned();
///         let read = |error| SerializeError::Read { format: "decimal", type_name: "u64", reason: format!("{error}") };
///         text.parse::<u64>().map_err(read)
///     }
/// }
///
/// let store = Store::new("numbers", LocalConnector::new()).with_format::<Decimal>();
/// let proxy = block_on(store.proxy(&42))?;
/// assert_eq!(*proxy, 42);
/// # Ok::<(), proxystore::StoreError>(())
/// ```
pub trait Serializer<T: ?Sized>: Send + Sync + 'static {
    /// The bytes of a value.
    fn serialize(value: &T) -> Result<Object, SerializeError>;
}

/// Turns bytes into values of type `T`; see [`Serializer`].
pub trait Deserializer<T>: Send + Sync + 'static {
    /// The value that these bytes are.
    fn deserialize(object: Object) -> Result<T, SerializeError>;
}

/// The format of every store that does not name another.
///
/// | type | written as | read by Python |
/// |---|---|---|
/// | `bytes::Bytes` (shared, not copied), `Vec<u8>`, `[u8]`, [`Object`] | `BS` | as `bytes` |
/// | `String`, `str` | `US` | as `str` |
/// | arrays of `ndarray` with elements of a primitive type and up to six dimensions, or `IxDyn` | `NP` | as `numpy.ndarray` |
/// | any other type that serde serializes | `MP` | with a deserializer such as `msgpack.unpackb` |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standard;

/// Why a value could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerializeError {
    /// The type refused to be written.
    #[error("cannot serialize a {type_name}: {reason}")]
    Write {
        /// The type.
        type_name: &'static str,
        /// In the format's words.
        reason: String,
    },
    /// The bytes are of the right format, but do not hold such a value: another type, or damaged.
    #[error("cannot read {format} as {type_name}: {reason}")]
    Read {
        /// What the object says it is.
        format: &'static str,
        /// The type that was asked for.
        type_name: &'static str,
        /// In the format's words.
        reason: String,
    },
    /// A format that only Python reads.
    #[error("the object is {format}, which only Python reads: let Python store bytes, text or a NumPy array")]
    OnlyPython {
        /// Which.
        format: &'static str,
    },
    /// No format known here: foreign or truncated bytes.
    #[error("the object does not begin as a serialized object does, but with {start:?} ({len} bytes in all)")]
    Foreign {
        /// How it begins.
        start: String,
        /// Its size.
        len: usize,
    },
}

impl Serializer<str> for Standard {
    fn serialize(value: &str) -> Result<Object, SerializeError> {
        Ok(with_identifier(TEXT, Bytes::copy_from_slice(value.as_bytes())))
    }
}

impl Serializer<[u8]> for Standard {
    fn serialize(value: &[u8]) -> Result<Object, SerializeError> {
        Ok(with_identifier(BYTES, Bytes::copy_from_slice(value)))
    }
}

impl<T: Serialize + 'static> Serializer<T> for Standard {
    fn serialize(value: &T) -> Result<Object, SerializeError> {
        let any = value as &dyn Any;
        if let Some(bytes) = any.downcast_ref::<Bytes>() {
            return Ok(with_identifier(BYTES, bytes.clone()));
        }
        if let Some(bytes) = any.downcast_ref::<Vec<u8>>() {
            return Self::serialize(bytes.as_slice());
        }
        if let Some(text) = any.downcast_ref::<String>() {
            return Self::serialize(text.as_str());
        }
        let write = |reason: String| SerializeError::Write { type_name: type_name::<T>(), reason };
        #[cfg(feature = "arrays")]
        if let Some(written) = arrays::write(any) {
            return Ok(with_identifier(ARRAY, written.map_err(write)?.into()));
        }
        let packed = rmp_serde::to_vec_named(value).map_err(|error| write(error.to_string()))?;
        Ok(with_identifier(MESSAGE_PACK, packed.into()))
    }
}

impl Serializer<Object> for Standard {
    fn serialize(value: &Object) -> Result<Object, SerializeError> {
        let mut object = Object::from(Bytes::from_static(BYTES));
        value.segments().iter().for_each(|segment| object.push(segment.clone()));
        Ok(object)
    }
}

impl<T: DeserializeOwned + 'static> Deserializer<T> for Standard {
    fn deserialize(object: Object) -> Result<T, SerializeError> {
        let (format, payload) = split_identifier(object)?;
        let read = |name, reason| SerializeError::Read { format: name, type_name: type_name::<T>(), reason };
        match &format {
            BYTES => read_bytes(payload).map_err(|reason| read("bytes", reason)),
            TEXT => read_text(payload).map_err(|reason| read("text", reason)),
            ARRAY => read_array(payload).map_err(|reason| read("an array", reason)),
            MESSAGE_PACK => read_message_pack(payload).map_err(|reason| read("MessagePack", reason)),
            other => Err(unreadable(other, payload.len())),
        }
    }
}

impl Deserializer<Object> for Standard {
    fn deserialize(object: Object) -> Result<Object, SerializeError> {
        let (format, payload) = split_identifier(object)?;
        match &format {
            BYTES => Ok(payload),
            other => Err(unreadable(other, payload.len())),
        }
    }
}

fn with_identifier(identifier: &'static [u8], payload: Bytes) -> Object {
    let mut object = Object::from(Bytes::from_static(identifier));
    object.push(payload);
    object
}

pub(crate) fn split_identifier(mut object: Object) -> Result<([u8; IDENTIFIER_LEN], Object), SerializeError> {
    let len = object.len();
    match object.split_prefix(IDENTIFIER_LEN).map(<[u8; IDENTIFIER_LEN]>::try_from) {
        Some(Ok(format)) => Ok((format, object)),
        _ => {
            let start = object.into_bytes();
            Err(SerializeError::Foreign { start: String::from_utf8_lossy(&start).into_owned(), len })
        }
    }
}

pub(crate) fn unreadable(identifier: &[u8; IDENTIFIER_LEN], payload_len: usize) -> SerializeError {
    match ONLY_PYTHON.iter().find(|(known, _)| *known == identifier) {
        Some((_, format)) => SerializeError::OnlyPython { format },
        None => SerializeError::Foreign {
            start: identifier.escape_ascii().to_string(),
            len: payload_len + IDENTIFIER_LEN,
        },
    }
}

/// `value` as a `T`, if `T` is that type.
fn same_type<T: 'static, V: 'static>(value: V) -> Result<T, V> {
    let mut slot = Some(value);
    let taken = (&mut slot as &mut dyn Any).downcast_mut::<Option<T>>().and_then(Option::take);
    match (taken, slot) {
        (Some(value), _) => Ok(value),
        (None, Some(value)) => Err(value),
        (None, None) => unreachable!("a value that was not taken is still there"),
    }
}

fn read_bytes<T: DeserializeOwned + 'static>(payload: Object) -> Result<T, String> {
    let bytes = match same_type::<T, Bytes>(payload.into_bytes()) {
        Ok(value) => return Ok(value),
        Err(bytes) => bytes,
    };
    match same_type::<T, Vec<u8>>(Vec::from(bytes)) {
        Ok(value) => Ok(value),
        Err(bytes) => T::deserialize(BytesDeserializer::<serde::de::value::Error>::new(&bytes))
            .map_err(|error| error.to_string()),
    }
}

fn read_text<T: DeserializeOwned>(payload: Object) -> Result<T, String> {
    let text = String::from_utf8(payload.into_bytes().into()).map_err(|error| error.to_string())?;
    T::deserialize(StringDeserializer::<serde::de::value::Error>::new(text))
        .map_err(|error| error.to_string())
}

#[cfg(feature = "arrays")]
fn read_array<T: 'static>(payload: Object) -> Result<T, String> {
    arrays::read(payload.into_bytes())
}

#[cfg(not(feature = "arrays"))]
fn read_array<T: 'static>(_payload: Object) -> Result<T, String> {
    Err("this program was built without the feature `arrays`".to_owned())
}

fn read_message_pack<T: DeserializeOwned>(payload: Object) -> Result<T, String> {
    let bytes = payload.into_bytes();
    let mut rest = bytes.as_ref();
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    let value = T::deserialize(&mut reader).map_err(|error| error.to_string())?;
    match rest.len() {
        0 => Ok(value),
        left => Err(format!("{left} bytes follow the value")),
    }
}

#[cfg(test)]
mod tests;
