//! What travels: a request with arguments, and a reply with a result.
//!
//! A message is an identifier, which names the version too, and MessagePack. A value in it is in the form in which a
//! store would keep it, so it is serialized once, before it is known which way it goes.

use std::any::type_name;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ExecutorError, MaybeProxy, ProxyRule, Transferable};
use crate::serialize::{Deserializer, SerializeError, Serializer, Standard};
use crate::{Key, Object, Proxy, Store, StoreConfig};

const IDENTIFIER_LEN: usize = 4;

pub(super) const REQUEST: &[u8; IDENTIFIER_LEN] = b"PXQ1";
pub(super) const REPLY: &[u8; IDENTIFIER_LEN] = b"PXR1";

/// Bytes in a message at most. Function services stop at some megabytes; who sends more forgot the rule.
const MESSAGE_LIMIT: usize = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub arguments: Vec<Passed>,
    /// Left out if all results travel by value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
}

/// What becomes of the result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Results {
    pub rule: ProxyRule,
    pub store: StoreConfig,
}

/// A value on its way, whose type only its ends know.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Passed {
    /// As a store would keep it.
    Value(Bytes),
    /// A proxy in MessagePack.
    Proxy(Bytes),
}

impl Passed {
    pub fn proxy<T>(proxy: &Proxy<T>) -> Result<Self, ExecutorError> {
        Ok(Self::Proxy(to_message_pack(proxy)?.into()))
    }

    pub fn stored(store: &Store, key: Key) -> Result<Self, ExecutorError> {
        // A proxy does not tell its type.
        Self::proxy(&store.proxy_from_key::<()>(key))
    }

    pub fn receive<T: Transferable>(self) -> Result<MaybeProxy<T>, ExecutorError> {
        match self {
            Self::Value(bytes) => Ok(MaybeProxy::Value(Standard::deserialize(bytes.into())?)),
            Self::Proxy(bytes) => Ok(MaybeProxy::Proxy(from_message_pack(&bytes)?)),
        }
    }
}

/// A value whose type is forgotten but for its name.
#[derive(Debug, Clone)]
pub(super) struct Serialized {
    object: Object,
    type_name: &'static str,
}

impl Serialized {
    pub fn of<T: Transferable>(value: &T) -> Result<Self, SerializeError> {
        Ok(Self { object: Standard::serialize(value)?, type_name: type_name::<T>() })
    }

    pub fn is_picked_by(&self, rule: &ProxyRule) -> bool {
        rule.picks_named(self.type_name, self.object.len() as u64)
    }

    pub fn into_value(self) -> Passed {
        Passed::Value(self.object.into_bytes())
    }
}

/// The format of a store that is given what is serialized already.
pub(super) struct Raw;

impl Serializer<Serialized> for Raw {
    fn serialize(value: &Serialized) -> Result<Object, SerializeError> {
        Ok(value.object.clone())
    }
}

pub(super) fn pack(identifier: &[u8], message: &impl Serialize) -> Result<Bytes, ExecutorError> {
    let mut bytes = identifier.to_vec();
    bytes.append(&mut to_message_pack(message)?);
    match bytes.len() {
        len if len > MESSAGE_LIMIT => Err(ExecutorError::TooLarge { len, limit: MESSAGE_LIMIT }),
        _ => Ok(bytes.into()),
    }
}

pub(super) fn unpack<T: DeserializeOwned>(identifier: &[u8], message: &[u8]) -> Result<T, ExecutorError> {
    if message.len() > MESSAGE_LIMIT {
        return Err(ExecutorError::TooLarge { len: message.len(), limit: MESSAGE_LIMIT });
    }
    let body = message.strip_prefix(identifier).ok_or_else(|| {
        let start = message[..message.len().min(IDENTIFIER_LEN)].escape_ascii();
        malformed(format!("it begins with \"{start}\", not with \"{}\"", identifier.escape_ascii()))
    })?;
    from_message_pack(body)
}

fn to_message_pack(value: &impl Serialize) -> Result<Vec<u8>, ExecutorError> {
    rmp_serde::to_vec_named(value).map_err(|error| malformed(error.to_string()))
}

fn from_message_pack<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, ExecutorError> {
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut bytes));
    match value {
        Ok(value) if bytes.is_empty() => Ok(value),
        Ok(_) => Err(malformed(format!("{} bytes follow the end", bytes.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

fn malformed(reason: String) -> ExecutorError {
    ExecutorError::Message { reason }
}
