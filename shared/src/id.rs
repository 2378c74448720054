//! Names of things: endpoints, objects, and the keys endpoints prove their names with.
//!
//! An endpoint that was configured by this project has a *certified* id: whoever knows the id can check a
//! public key against it, so a hostile relay cannot put its own key in place of a peer's. An id that Python
//! ProxyStore made is random; its key is vouched for by the relay and pinned at first use. Both are version-4
//! UUIDs, because Python reads every id as one. So that the second, weaker rule can never be applied to an id of
//! the first kind, a certified id carries a mark: its last three bytes are a checksum of the others
//! (`docs/decisions/0002-certified-endpoint-ids.md`).

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Bytes of a certified id that come from the hash of the public key; the rest is the mark.
const CERTIFIED_HASH_LEN: usize = 13;

/// Separates the checksum of a certified id from every other use of SHA-256.
const MARK_DOMAIN: &[u8] = b"proxystore certified endpoint id";

/// Longest object id in bytes. Python's ids are 36 bytes; a kilobyte leaves room for structured names while a
/// request header stays small.
pub const MAX_OBJECT_ID_LEN: usize = 1024;

/// Why a textual id was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is not a UUID in any of the forms RFC 9562 programs write.
    #[error("{0:?} is not a valid UUID")]
    NotAUuid(String),
    /// An object id must have at least one byte.
    #[error("the object id is empty")]
    EmptyObjectId,
    /// See [`MAX_OBJECT_ID_LEN`].
    #[error("the object id has {0} bytes, more than {MAX_OBJECT_ID_LEN}")]
    LongObjectId(usize),
    /// Control characters would corrupt logs and listings.
    #[error("the object id contains a control character")]
    ControlCharacter,
    /// A key on the command line has the form `OBJECT_ID@ENDPOINT_ID`.
    #[error("{0:?} is not of the form OBJECT_ID@ENDPOINT_ID")]
    NotAKey(String),
    /// A public key is 64 hexadecimal digits.
    #[error("a public key is 64 hexadecimal digits")]
    NotAPublicKey,
}

/// The name of an endpoint: a version-4 UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndpointId(Uuid);

impl EndpointId {
    /// A random id, as Python ProxyStore makes them.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The id that certifies `key`: 13 bytes of its SHA-256 with version and variant bits set, then a checksum.
    pub fn certified_by(key: &PublicKey) -> Self {
        let mut bytes = [0u8; 16];
        bytes[..CERTIFIED_HASH_LEN].copy_from_slice(&Sha256::digest(key.0)[..CERTIFIED_HASH_LEN]);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mark = mark_of(&bytes);
        bytes[CERTIFIED_HASH_LEN..].copy_from_slice(&mark);
        Self(Uuid::from_bytes(bytes))
    }

    /// Whether this id was derived from some key, so that only that key may answer for it.
    ///
    /// A random id looks certified once in 2^24.
    pub fn is_certified(&self) -> bool {
        mark_of(self.0.as_bytes()) == self.0.as_bytes()[CERTIFIED_HASH_LEN..]
    }

    /// Whether this id was derived from `key`.
    pub fn certifies(&self, key: &PublicKey) -> bool {
        *self == Self::certified_by(key)
    }

    /// The underlying UUID.
    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// The first eight digits, for logs and tables.
    pub fn short(&self) -> String {
        self.0.simple().to_string()[..8].to_owned()
    }
}

fn mark_of(id: &[u8; 16]) -> [u8; 3] {
    let hash = Sha256::new().chain_update(MARK_DOMAIN).chain_update(&id[..CERTIFIED_HASH_LEN]).finalize();
    [hash[0], hash[1], hash[2]]
}

impl From<Uuid> for EndpointId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl FromStr for EndpointId {
    type Err = IdError;

    /// Accepts what Python's `uuid.UUID` accepts: hyphens or none, braces, `urn:uuid:`, any case.
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::parse_str(text.trim()).map(Self).map_err(|_| IdError::NotAUuid(abbreviated(text)))
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Remote text quoted in an error stays short.
fn abbreviated(text: &str) -> String {
    text.chars().take(64).collect()
}

/// The name of an object within one endpoint: 1 to [`MAX_OBJECT_ID_LEN`] bytes of text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectId(String);

impl ObjectId {
    /// A fresh id: a random UUID, as Python's connector makes them.
    pub fn random() -> Self {
        Self(Uuid::new_v4().to_string())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ObjectId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        match text.len() {
            0 => Err(IdError::EmptyObjectId),
            len if len > MAX_OBJECT_ID_LEN => Err(IdError::LongObjectId(len)),
            _ if text.chars().any(char::is_control) => Err(IdError::ControlCharacter),
            _ => Ok(Self(text)),
        }
    }
}

impl FromStr for ObjectId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.to_owned())
    }
}

impl From<ObjectId> for String {
    fn from(id: ObjectId) -> Self {
        id.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an object is: `(object_id, endpoint_id)`, written `OBJECT_ID@ENDPOINT_ID`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// The object.
    pub object_id: ObjectId,
    /// The endpoint that holds it.
    pub endpoint_id: EndpointId,
}

impl FromStr for ObjectKey {
    type Err = IdError;

    /// Splits at the last `@`, so that an object id may contain one.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let (object, endpoint) = text.rsplit_once('@').ok_or_else(|| IdError::NotAKey(abbreviated(text)))?;
        Ok(Self { object_id: object.parse()?, endpoint_id: endpoint.parse()? })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.object_id, self.endpoint_id)
    }
}

/// An endpoint's Ed25519 public key (RFC 8032), written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl FromStr for PublicKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| IdError::NotAPublicKey)?;
        bytes.try_into().map(Self).map_err(|_| IdError::NotAPublicKey)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn python_forms_of_a_uuid_are_read() {
        let id: EndpointId = "12345678-1234-4234-9234-123456789abc".parse().expect("plain form");
        for form in [
            "123456781234423492341234 56789abc".replace(' ', ""),
            "{12345678-1234-4234-9234-123456789ABC}".into(),
            "urn:uuid:12345678-1234-4234-9234-123456789abc".into(),
        ] {
            assert_eq!(form.parse::<EndpointId>(), Ok(id), "{form}");
        }
        assert!(matches!("not-a-uuid".parse::<EndpointId>(), Err(IdError::NotAUuid(_))));
    }

    #[test]
    fn a_random_id_is_not_certified_by_any_key_we_try() {
        let id: EndpointId = "12345678-1234-4234-9234-123456789abc".parse().expect("valid");
        assert!(!id.is_certified());
        assert!(!id.certifies(&PublicKey([7; 32])));
    }

    #[test]
    fn object_ids_are_bounded() {
        assert_eq!("".parse::<ObjectId>(), Err(IdError::EmptyObjectId));
        assert_eq!("a\nb".parse::<ObjectId>(), Err(IdError::ControlCharacter));
        let long = "x".repeat(MAX_OBJECT_ID_LEN + 1);
        assert_eq!(long.parse::<ObjectId>(), Err(IdError::LongObjectId(long.len())));
    }

    proptest! {
        #[test]
        fn certified_ids_are_version_4_and_certify_only_their_key(key: [u8; 32], other: [u8; 32]) {
            let id = EndpointId::certified_by(&PublicKey(key));
            prop_assert_eq!(id.as_uuid().get_version_num(), 4);
            prop_assert_eq!(id.as_uuid().get_variant(), uuid::Variant::RFC4122);
            prop_assert!(id.is_certified());
            prop_assert!(id.certifies(&PublicKey(key)));
            prop_assert!(key == other || !id.certifies(&PublicKey(other)));
        }

        #[test]
        fn keys_round_trip(object in "[^\\p{Cc}]{1,40}", bytes: [u8; 16]) {
            let key = ObjectKey { object_id: object.parse().unwrap(), endpoint_id: Uuid::from_bytes(bytes).into() };
            prop_assert_eq!(key.to_string().parse::<ObjectKey>().unwrap(), key);
        }
    }
}
