//! What every upload does with its bytes, wherever they are kept: bound, count and hash them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proxystore_shared::Digest;
use proxystore_shared::digest::ObjectHasher;
use proxystore_shared::frame::ObjectMeta;

use super::meter::{Meter, Reservation};
use super::{Expected, StorageError};

/// The bytes of an upload so far, without the bytes.
#[derive(Debug)]
pub(super) struct Intake {
    hasher: ObjectHasher,
    reservation: Reservation,
    max_object_size: u64,
    /// Set once bytes were refused, because an object with a hole must not be stored.
    incomplete: bool,
}

/// An upload that arrived whole.
pub(super) struct Received {
    pub meta: ObjectMeta,
    pub groups: Box<[Digest]>,
    pub reservation: Reservation,
}

impl Intake {
    /// Refuses an object whose announced size cannot fit. Nothing is reserved yet: an announcement costs its
    /// sender nothing, so it must not take room from others.
    pub fn begin(
        meter: &Arc<Meter>,
        max_object_size: u64,
        announced: Option<u64>,
    ) -> Result<Self, StorageError> {
        let announced = announced.unwrap_or(0);
        if announced > max_object_size {
            return Err(StorageError::TooLarge { limit: max_object_size });
        }
        meter.check(announced)?;
        Ok(Self {
            hasher: ObjectHasher::default(),
            reservation: Reservation::existing(meter, 0),
            max_object_size,
            incomplete: false,
        })
    }

    /// Reserves room for the next `len` bytes.
    pub fn admit(&mut self, len: usize) -> Result<(), StorageError> {
        let admitted = self.reserve(len as u64);
        self.incomplete |= admitted.is_err();
        admitted
    }

    fn reserve(&mut self, len: u64) -> Result<(), StorageError> {
        if self.reservation.bytes().saturating_add(len) > self.max_object_size {
            return Err(StorageError::TooLarge { limit: self.max_object_size });
        }
        self.reservation.grow(len)
    }

    /// Hashes bytes that were admitted, in order.
    pub fn hash(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Closes the upload and compares it with what it was to be.
    pub fn finish(self, expected: Option<Expected>) -> Result<Received, StorageError> {
        if self.incomplete {
            return Err(StorageError::Mismatch("some of its bytes were refused".into()));
        }
        let (digest, groups) = self.hasher.finish();
        let size = self.reservation.bytes();
        if let Some(expected) = expected.filter(|expected| *expected != Expected { size, digest }) {
            return Err(StorageError::Mismatch(format!(
                "{size} bytes with digest {digest} arrived instead of {} bytes with digest {}",
                expected.size, expected.digest
            )));
        }
        let meta = ObjectMeta { size, digest, created_ms: now_ms() };
        Ok(Received { meta, groups: groups.into(), reservation: self.reservation })
    }
}

/// Milliseconds since the Unix epoch; 0 on a host whose clock is before it.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
}
