//! Where objects are kept.
//!
//! One trait, two implementations: [`memory`] and [`files`]. An object is immutable; storing under an existing
//! id makes a new version, and whoever is reading the old one goes on reading it. Both implementations run the
//! same contract suite (`contract.rs`).

#[cfg(test)]
mod contract;
pub mod files;
mod intake;
pub mod memory;
mod meter;
mod segments;

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{Digest, ObjectId};

/// Objects by id. Implementations are safe to share between tasks.
#[async_trait]
pub trait Storage: fmt::Debug + Send + Sync {
    /// Opens an upload. Nothing is visible before [`Upload::commit`]; dropping the upload forgets it.
    ///
    /// `size` is the size announced by the client, if any: an object that cannot fit is refused here, before
    /// its bytes travel. With `create_only`, an existing object is refused (here, and again at commit).
    async fn begin(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        create_only: bool,
    ) -> Result<Box<dyn Upload>, StorageError>;

    /// Opens the current version of an object, or none.
    async fn open(&self, id: &ObjectId) -> Result<Option<Arc<dyn StoredObject>>, StorageError>;

    /// What is known of an object, or none.
    async fn stat(&self, id: &ObjectId) -> Result<Option<ObjectMeta>, StorageError>;

    /// Forgets an object; tells whether it was there. Open readers are not disturbed.
    async fn evict(&self, id: &ObjectId) -> Result<bool, StorageError>;

    /// Up to `limit` objects in order of id, those after `after`.
    async fn list(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, ObjectMeta)>, StorageError>;

    /// How much is stored.
    fn usage(&self) -> Usage;
}

/// An object on its way in.
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// Makes the object visible, in place of any earlier version, at once and as durably as configured.
    ///
    /// With `expected`, only if size and digest are those; else nothing is stored.
    async fn commit(self: Box<Self>, expected: Option<Expected>) -> Result<ObjectMeta, StorageError>;
}

/// One version of an object, readable for as long as this is held.
#[async_trait]
pub trait StoredObject: Send + Sync {
    /// Size, digest, age.
    fn meta(&self) -> &ObjectMeta;

    /// The group at `index` (see [`proxystore_shared::digest`]), verified where it came from a disk.
    async fn group(&self, index: u64) -> Result<Group, StorageError>;
}

/// A group of an object's bytes.
#[derive(Debug, Clone)]
pub struct Group {
    /// The bytes, in order; shared with the store, not copied.
    pub segments: Vec<Bytes>,
    /// Digest over all of them.
    pub digest: Digest,
}

impl Group {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }

    /// Whether this is the single group of an empty object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What an upload must turn out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the bytes.
    pub digest: Digest,
}

/// How much is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Objects.
    pub objects: u64,
    /// Bytes of objects, uploads in progress included.
    pub bytes: u64,
    /// The most there may be, if bounded.
    pub limit: Option<u64>,
}

/// Why storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The object is over `max_object_size`: split it, or ask the operator to raise the limit.
    #[error("the object is larger than {limit} bytes, the max_object_size of this endpoint")]
    TooLarge {
        /// The limit in force.
        limit: u64,
    },
    /// No room: evict something, or try later.
    #[error("no room for the object: {used} of {limit} bytes are in use (memory_limit)")]
    Full {
        /// Bytes in use.
        used: u64,
        /// The limit in force.
        limit: u64,
    },
    /// A create-only upload met an existing object; nothing was changed.
    #[error("the object exists already")]
    Exists,
    /// The bytes that arrived are not the bytes announced; nothing was stored.
    #[error("the upload is not what was announced: {0}")]
    Mismatch(String),
    /// The stored bytes are damaged; the object was set aside and is gone.
    #[error("the stored object is damaged and was set aside: {0}")]
    Corrupt(String),
    /// A group index beyond the object: a bug of the caller.
    #[error("the object has no group {0}")]
    NoSuchGroup(u64),
    /// The disk failed; a full one is [`StorageError::Full`]'s cousin with the system's own words.
    #[error("storage failed: {0}")]
    Io(#[from] io::Error),
}
