//! Which key belongs to which peer.
//!
//! An id that certifies a key needs no memory. An id that Python made does: its key is remembered when the peer
//! first proves it, in `known_peers.toml`, and any other key is refused from then on.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use proxystore_shared::{EndpointId, PublicKey};

use crate::atomic_file;
use crate::lock::lock;

/// Why a key is not the peer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityMismatch {
    /// The id was derived from another key.
    #[error(
        "the peer's key {key} is not the one its id {id} stands for: the relay, or somebody on it, is lying"
    )]
    NotCertified {
        /// The peer.
        id: EndpointId,
        /// The key that was offered.
        key: PublicKey,
    },
    /// Another key was pinned.
    #[error(
        "the key of peer {id} has changed from {pinned} to {key}; if its operator made a new key, remove the line \
         of this id from {file}"
    )]
    Changed {
        /// The peer.
        id: EndpointId,
        /// The key on record.
        pinned: PublicKey,
        /// The key that was offered.
        key: PublicKey,
        /// Where the record is.
        file: PathBuf,
    },
    /// The id stands for a key, and the peer shows none.
    #[error(
        "peer {0} describes itself as a Python endpoint, but its id stands for a key, which Python endpoints do not have: \
         the relay, or somebody on it, is lying; a Python endpoint needs an id of its own"
    )]
    CertifiedWithoutKey(EndpointId),
    /// A key was pinned, and the peer shows none.
    #[error(
        "peer {id} describes itself as a Python endpoint, but has proven key {pinned} before; if its operator went \
         back to Python ProxyStore, remove the line of this id from {file}"
    )]
    KeyGone {
        /// The peer.
        id: EndpointId,
        /// The key on record.
        pinned: PublicKey,
        /// Where the record is.
        file: PathBuf,
    },
}

/// The pinned keys.
#[derive(Debug)]
pub struct Pins {
    file: PathBuf,
    keys: Mutex<BTreeMap<EndpointId, PublicKey>>,
}

impl Pins {
    /// Reads the pins in `file`; a missing file has none.
    pub fn load(file: &Path) -> io::Result<Self> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let keys =
            toml::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self { file: file.to_owned(), keys: Mutex::new(keys) })
    }

    /// Whether `key` may answer for `id`.
    pub fn check(&self, id: EndpointId, key: PublicKey) -> Result<(), IdentityMismatch> {
        if id.is_certified() {
            return if id.certifies(&key) { Ok(()) } else { Err(IdentityMismatch::NotCertified { id, key }) };
        }
        match lock(&self.keys).get(&id) {
            Some(pinned) if *pinned != key => {
                Err(IdentityMismatch::Changed { id, pinned: *pinned, key, file: self.file.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether `id` may be a peer without a key, as Python endpoints are.
    pub fn check_keyless(&self, id: EndpointId) -> Result<(), IdentityMismatch> {
        if id.is_certified() {
            return Err(IdentityMismatch::CertifiedWithoutKey(id));
        }
        match self.pinned(id) {
            Some(pinned) => Err(IdentityMismatch::KeyGone { id, pinned, file: self.file.clone() }),
            None => Ok(()),
        }
    }

    /// The key that `id` has proven before, if its id alone does not say.
    pub fn pinned(&self, id: EndpointId) -> Option<PublicKey> {
        lock(&self.keys).get(&id).copied()
    }

    /// Remembers a key that `id` has proven, where that is needed. Call after [`Pins::check`].
    pub fn pin(&self, id: EndpointId, key: PublicKey) -> io::Result<()> {
        if id.is_certified() {
            return Ok(());
        }
        let mut keys = lock(&self.keys);
        if keys.insert(id, key) == Some(key) {
            return Ok(());
        }
        let text = toml::to_string(&*keys).map_err(io::Error::other)?;
        atomic_file::replace(&self.file, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    #[test]
    fn a_certified_id_takes_only_its_key_and_is_never_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::load(&dir.path().join("known_peers.toml")).unwrap();
        let id = EndpointId::certified_by(&KEY);
        assert_eq!(pins.check(id, KEY), Ok(()));
        assert_eq!(pins.check(id, OTHER), Err(IdentityMismatch::NotCertified { id, key: OTHER }));
        pins.pin(id, KEY).unwrap();
        assert!(!dir.path().join("known_peers.toml").exists());
    }

    #[test]
    fn a_foreign_id_keeps_its_first_key_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_peers.toml");
        let id: EndpointId = "12345678-1234-4234-9234-123456789abc".parse().unwrap();
        let pins = Pins::load(&file).unwrap();
        assert_eq!(pins.check(id, OTHER), Ok(()), "nothing is on record yet");
        pins.pin(id, KEY).unwrap();
        let again = Pins::load(&file).unwrap();
        assert_eq!(again.check(id, KEY), Ok(()));
        let error = again.check(id, OTHER).unwrap_err();
        assert!(error.to_string().contains("known_peers.toml"), "{error}");
    }

    #[test]
    fn who_has_a_key_is_no_python_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::load(&dir.path().join("known_peers.toml")).unwrap();
        let id: EndpointId = "12345678-1234-4234-9234-123456789abc".parse().unwrap();
        assert_eq!(pins.check_keyless(id), Ok(()));
        pins.pin(id, KEY).unwrap();
        assert!(matches!(pins.check_keyless(id), Err(IdentityMismatch::KeyGone { .. })));
        let certified = EndpointId::certified_by(&KEY);
        assert_eq!(pins.check_keyless(certified), Err(IdentityMismatch::CertifiedWithoutKey(certified)));
    }

    #[test]
    fn a_damaged_file_is_an_error_not_an_empty_list() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known_peers.toml");
        std::fs::write(&file, "12345678 = maybe").unwrap();
        assert!(Pins::load(&file).is_err());
    }
}
