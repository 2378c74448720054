//! The endpoint's Ed25519 key: made once, kept in a file only its owner can read, proven to every peer.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;
use proxystore_shared::PublicKey;
use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::sign::SigningKey;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;

/// DER of a SubjectPublicKeyInfo with an Ed25519 key (RFC 8410, section 4) up to the key itself.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Separates the key for stateless resets from every other use of the private key.
const RESET_DOMAIN: &[u8] = b"proxystore stateless reset";

/// Permission bits that let anybody but the owner at the key.
const OTHERS: u32 = 0o077;

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else may have read or replaced the key.
    #[error("the key file {path} has mode {mode:04o}, so others can read it; run `chmod 600 {path}`")]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold an Ed25519 key in PKCS #8 (RFC 5958), PEM-encoded.
    #[error(
        "the key file {0} holds no Ed25519 private key in PEM; restore it from a copy, or remove the endpoint"
    )]
    Malformed(PathBuf),
    /// The system has no randomness to make a key of.
    #[error("the system's random generator failed")]
    Random,
}

/// A private key and what is derived from it.
#[derive(Clone)]
pub struct Identity {
    signing_key: Arc<dyn SigningKey>,
    public_key: PublicKey,
    reset_secret: [u8; 32],
}

impl fmt::Debug for Identity {
    /// Shows the public half only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a key and writes it to a new file at `path`, readable by its owner only.
    pub fn create(path: &Path) -> Result<Self, IdentityError> {
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| IdentityError::Random)?;
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(to_pem(pkcs8.as_ref()).as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
        sync_parent(path).map_err(io)?;
        Self::from_pkcs8(pkcs8.as_ref()).ok_or_else(|| IdentityError::Malformed(path.to_owned()))
    }

    /// Reads the key at `path`.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(io)?.mode() & 0o7777;
        if mode & OTHERS != 0 {
            return Err(IdentityError::Permissions { path: path.to_owned(), mode });
        }
        let pem = fs::read(path).map_err(io)?;
        PrivatePkcs8KeyDer::from_pem_slice(&pem)
            .ok()
            .and_then(|key| Self::from_pkcs8(key.secret_pkcs8_der()))
            .ok_or_else(|| IdentityError::Malformed(path.to_owned()))
    }

    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let signing_key = any_eddsa_type(&PrivatePkcs8KeyDer::from(der)).ok()?;
        let public_key = public_key_of(&signing_key.public_key()?)?;
        let secret = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, der), RESET_DOMAIN);
        let reset_secret = secret.as_ref().try_into().ok()?;
        Some(Self { signing_key, public_key, reset_secret })
    }

    /// The half of the key that peers know.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The half that signs.
    pub fn signing_key(&self) -> Arc<dyn SigningKey> {
        self.signing_key.clone()
    }

    /// Secret for stateless resets (RFC 9000, section 10.3): the same after a restart, so that peers learn at once
    /// that the endpoint they spoke to is gone.
    pub fn reset_secret(&self) -> &[u8; 32] {
        &self.reset_secret
    }
}

/// The key in a raw public key certificate (RFC 7250), if it is an Ed25519 key.
pub fn public_key_of(spki: &[u8]) -> Option<PublicKey> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(PublicKey)
}

/// RFC 7468: lines of 64 characters.
fn to_pem(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (index, digit) in base64.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            pem.push('\n');
        }
        pem.push(digit);
    }
    pem + "\n-----END PRIVATE KEY-----\n"
}

/// A new file survives a crash only once its directory is written too.
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let made = Identity::create(&path).unwrap();
        let read = Identity::load(&path).unwrap();
        assert_eq!(made.public_key(), read.public_key());
        assert_eq!(made.reset_secret(), read.reset_secret());
        assert!(matches!(Identity::create(&path), Err(IdentityError::Io { .. })), "never overwritten");
    }

    #[test]
    fn a_key_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        Identity::create(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn rubbish_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        for rubbish in ["", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
            file.write_all(rubbish.as_bytes()).unwrap();
            assert!(matches!(Identity::load(&path), Err(IdentityError::Malformed(_))), "{rubbish:?}");
        }
    }
}
