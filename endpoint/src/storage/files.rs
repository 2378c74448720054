//! Objects in files, which outlive the process.
//!
//! Each version of an object is a file that describes itself (`format.rs`); there is no other record that could
//! disagree with it. The index in memory is rebuilt from the files at the start (`recovery.rs`). A file gets its
//! final name only when it is complete and on the disk, so that neither a killed process nor a power loss leaves
//! half an object, and takes none whose upload was acknowledged.

mod format;
mod layout;
mod object;
mod recovery;
mod store;
#[cfg(test)]
mod tests;
mod upload;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use proxystore_shared::ObjectId;
use proxystore_shared::frame::ObjectMeta;

use self::layout::Layout;
use self::object::FileObject;
use self::recovery::Found;
use self::store::Store;
use self::upload::FileUpload;
use super::intake::Intake;
use super::meter::Meter;
use super::{Storage, StorageError, StoredObject, Upload, Usage};

/// Bounds of a [`FileStorage`]; the disk is the bound of all objects together.
#[derive(Debug, Clone, Copy)]
pub struct FileLimits {
    /// Largest object in bytes.
    pub max_object_size: u64,
    /// Whether an object that was acknowledged survives a power loss. Without, it survives the process only, and
    /// small objects are stored in a fraction of the time.
    pub fsync: bool,
}

/// What was found when a store was opened, for the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Objects that are whole, as far as their footers tell; contents are verified when they are read.
    pub objects: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Interrupted uploads that were removed.
    pub removed_partial: u64,
    /// Damaged files: where each is now, and what is wrong with it.
    pub quarantined: Vec<(PathBuf, String)>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Stop the other process, or choose another directory.
    #[error(
        "the storage directory {dir} is in use by another process; stop that, or choose another directory"
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Others could plant objects.
    #[error("others may write to {path} (mode {mode:03o}); make sure they did not, then `chmod go-w {path}`")]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file system refused.
    #[error("cannot use {path} for storage: {error}")]
    Io {
        /// What was to be created or read.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

impl OpenError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }
}

/// See the module.
pub struct FileStorage {
    store: Arc<Store>,
}

impl FileStorage {
    /// Opens the store in `dir`, creates it if there is none, and repairs what an abrupt end left behind. The
    /// directory is locked until the storage and all its uploads and readers are dropped.
    ///
    /// Reads the end of every file and blocks meanwhile.
    pub fn open(dir: PathBuf, limits: FileLimits) -> Result<(Self, Recovery), OpenError> {
        let layout = Layout::open(dir, limits.fsync)?;
        let meter = Meter::new(None);
        let Found { index, next_sequence, recovery } = Found::scan(&layout, &meter)?;
        let store = Store::new(layout, limits, meter, index, next_sequence);
        Ok((Self { store: Arc::new(store) }, recovery))
    }
}

impl fmt::Debug for FileStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStorage").field("dir", &self.store.layout.dir()).finish_non_exhaustive()
    }
}

#[async_trait]
impl Storage for FileStorage {
    async fn begin(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        create_only: bool,
    ) -> Result<Box<dyn Upload>, StorageError> {
        if create_only && self.store.get(id).is_some() {
            return Err(StorageError::Exists);
        }
        let intake = Intake::begin(&self.store.meter, self.store.limits.max_object_size, size)?;
        Ok(Box::new(FileUpload::new(self.store.clone(), id.clone(), create_only, intake)))
    }

    async fn open(&self, id: &ObjectId) -> Result<Option<Arc<dyn StoredObject>>, StorageError> {
        if self.store.get(id).is_none() {
            return Ok(None);
        }
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || {
            let opened = store.open(&id)?;
            Ok(opened.map(|(version, file)| {
                Arc::new(FileObject { store, id, version, file: Arc::new(file) }) as Arc<dyn StoredObject>
            }))
        })
        .await
    }

    async fn stat(&self, id: &ObjectId) -> Result<Option<ObjectMeta>, StorageError> {
        Ok(self.store.get(id).map(|version| version.meta.clone()))
    }

    async fn evict(&self, id: &ObjectId) -> Result<bool, StorageError> {
        if self.store.get(id).is_none() {
            return Ok(false);
        }
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || store.evict(&id)).await
    }

    async fn list(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, ObjectMeta)>, StorageError> {
        Ok(self.store.list(after, limit))
    }

    fn usage(&self) -> Usage {
        Usage { objects: self.store.count(), bytes: self.store.meter.used(), limit: None }
    }
}

/// Does what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| StorageError::Io(io::Error::other(error)))?
}
