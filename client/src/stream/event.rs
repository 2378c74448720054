//! Events as messages and back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MAX_MESSAGE_LEN, Metadata, StreamError};
use crate::{Key, StoreConfig};

/// Every message begins so: "stream event", version 1.
const IDENTIFIER: &[u8] = b"SE1\n";

/// Levels that a message may nest: 100 of metadata and those around them. Reading uses the stack.
const MAX_DEPTH: usize = 110;

/// Several events of one topic in one message.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch {
    /// Where the stored objects are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub store: Option<StoreConfig>,
    /// In order.
    pub events: Vec<Event>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Event {
    /// An object that is in the batch's store.
    Stored { key: Key, evict: bool, metadata: Metadata },
    /// An object that is here, serialized.
    Inline { object: Bytes, metadata: Metadata },
    /// Nothing more comes.
    End,
}

impl Batch {
    /// As a message for this topic.
    pub fn encode(&self, topic: &str) -> Result<Bytes, StreamError> {
        let mut message = IDENTIFIER.to_vec();
        rmp_serde::encode::write_named(&mut message, self)
            .map_err(|error| not_an_event(topic, error.to_string()))?;
        check_len(topic, message.len())?;
        Ok(message.into())
    }

    /// From a message that came on this topic.
    pub fn decode(topic: &str, message: &[u8]) -> Result<Self, StreamError> {
        check_len(topic, message.len())?;
        let refuse = |reason: &str| not_an_event(topic, reason.to_owned());
        let mut rest = message
            .strip_prefix(IDENTIFIER)
            .ok_or_else(|| refuse("it does not begin as one; Python's streams are not read here"))?;
        let mut reader = rmp_serde::Deserializer::new(&mut rest);
        reader.set_max_depth(MAX_DEPTH);
        let batch = Self::deserialize(&mut reader).map_err(|error| refuse(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(refuse(&format!("{} bytes follow it", rest.len())));
        }
        if batch.store.is_none() && batch.events.iter().any(|event| matches!(event, Event::Stored { .. })) {
            return Err(refuse("it names no store"));
        }
        Ok(batch)
    }
}

fn not_an_event(topic: &str, reason: String) -> StreamError {
    StreamError::NotAnEvent { topic: topic.to_owned(), reason }
}

/// Whether a message of this length is allowed.
pub(super) fn check_len(topic: &str, len: usize) -> Result<(), StreamError> {
    if len > MAX_MESSAGE_LEN {
        return Err(StreamError::TooLarge { topic: topic.to_owned(), len, limit: MAX_MESSAGE_LEN });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ConnectorConfig;

    fn batch() -> Batch {
        let connector = ConnectorConfig::new("file", &json!({ "store_dir": "/data" }));
        let store = StoreConfig { name: "s".to_owned(), connector, cache_size: 16, cache_bytes: 1 << 30 };
        let metadata = Metadata::from([("n".to_owned(), json!({ "a": [1, -2.5, null, "x", u64::MAX] }))]);
        let key = Key::File { filename: "f".to_owned() };
        let stored = Event::Stored { key, evict: true, metadata: metadata.clone() };
        let inline = Event::Inline { object: Bytes::from_static(b"BS\n\x00\xff"), metadata };
        Batch { store: Some(store), events: vec![stored, inline, Event::End] }
    }

    #[test]
    fn a_batch_survives() {
        let message = batch().encode("t").unwrap();
        assert_eq!(Batch::decode("t", &message).unwrap(), batch());
    }

    #[test]
    fn truncated_damaged_and_foreign_messages_are_errors_that_name_the_topic() {
        let message = batch().encode("t").unwrap();
        let refused = |message: &[u8]| {
            let error = Batch::decode("some topic", message).unwrap_err();
            assert!(error.to_string().contains("\"some topic\""), "{error}");
        };
        (0..message.len()).for_each(|len| refused(&message[..len]));
        refused(&[&message[..], b"x"].concat());
        refused(b"\x80\x05\x95 a pickle");
        refused(&vec![0; MAX_MESSAGE_LEN + 1]);
        // A list of four thousand million elements that are not there.
        refused(b"SE1\n\x81\xa6events\xdd\xff\xff\xff\xff");
        for position in IDENTIFIER.len()..message.len() {
            for bit in 0..8 {
                let mut damaged = message.to_vec();
                damaged[position] ^= 1 << bit;
                // Some flips give another valid batch; none may panic.
                let _ = Batch::decode("t", &damaged);
            }
        }
    }

    #[test]
    fn deep_metadata_is_an_error_not_a_stack_overflow() {
        // A list of one element is 0x91 and the element.
        let metadata = Metadata::from([("deep".to_owned(), json!([1]))]);
        let events = vec![Event::Inline { object: Bytes::new(), metadata }];
        let flat = Batch { store: None, events }.encode("t").unwrap();
        let start = flat.strip_suffix(b"\x91\x01").unwrap();
        let message = |levels| [start, &vec![0x91; levels], b"\x01"].concat();
        assert!(Batch::decode("t", &message(100)).is_ok());
        assert!(Batch::decode("t", &message(1_000_000)).is_err());
    }

    #[test]
    fn a_key_without_a_store_is_refused() {
        let without = Batch { store: None, ..batch() };
        let error = Batch::decode("t", &without.encode("t").unwrap()).unwrap_err();
        assert!(error.to_string().contains("names no store"), "{error}");
    }
}
