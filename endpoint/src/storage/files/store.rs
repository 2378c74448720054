//! The index of a file store, and every change to it. All of this blocks and is called on blocking threads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{Digest, ObjectId};

use super::FileLimits;
use super::layout::{FOLDERS, FileName, Layout, Partial, sync_dir};
use crate::lock::lock;
use crate::storage::StorageError;
use crate::storage::meter::{Meter, Reservation};

/// One version of an object, as the index and its readers know it.
#[derive(Debug)]
pub(super) struct Version {
    pub name: FileName,
    pub meta: ObjectMeta,
    pub groups: Box<[Digest]>,
}

/// The current version of an object. What readers of an earlier version still hold does not count as used.
pub(super) struct Indexed {
    version: Arc<Version>,
    _reservation: Reservation,
}

impl Indexed {
    pub fn new(version: Version, reservation: Reservation) -> Self {
        Self { version: Arc::new(version), _reservation: reservation }
    }

    pub fn name(&self) -> FileName {
        self.version.name
    }
}

pub(super) type Index = BTreeMap<ObjectId, Indexed>;

/// A finished upload on its way into the index.
pub(super) struct Arrival {
    pub partial: Partial,
    pub meta: ObjectMeta,
    pub groups: Box<[Digest]>,
    pub reservation: Reservation,
}

/// See the module.
pub(super) struct Store {
    pub layout: Layout,
    pub limits: FileLimits,
    pub meter: Arc<Meter>,
    /// Held for a look only, never while a file is touched.
    index: RwLock<Index>,
    /// One lock for each folder of objects, held while a file there appears or goes and the index follows: so
    /// the versions of one object come one after the other on disk as in the index.
    folders: Vec<Mutex<()>>,
    next_sequence: AtomicU64,
    next_partial: AtomicU64,
}

impl Store {
    pub fn new(
        layout: Layout,
        limits: FileLimits,
        meter: Arc<Meter>,
        index: Index,
        next_sequence: u64,
    ) -> Self {
        Self {
            layout,
            limits,
            meter,
            index: RwLock::new(index),
            folders: (0..FOLDERS).map(|_| Mutex::new(())).collect(),
            next_sequence: AtomicU64::new(next_sequence),
            next_partial: AtomicU64::new(0),
        }
    }

    pub fn get(&self, id: &ObjectId) -> Option<Arc<Version>> {
        self.read(|index| index.get(id).map(|indexed| indexed.version.clone()))
    }

    pub fn count(&self) -> u64 {
        self.read(|index| index.len() as u64)
    }

    pub fn list(&self, after: Option<&ObjectId>, limit: usize) -> Vec<(ObjectId, ObjectMeta)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|index| {
            let following = index.range::<ObjectId, _>((start, Bound::Unbounded));
            following.take(limit).map(|(id, indexed)| (id.clone(), indexed.version.meta.clone())).collect()
        })
    }

    /// A path for an upload, free because the folder was emptied when the store was opened.
    pub fn new_partial(&self) -> PathBuf {
        let number = self.next_partial.fetch_add(1, Ordering::Relaxed);
        self.layout.partials().join(number.to_string())
    }

    /// The current version of an object and its file.
    pub fn open(&self, id: &ObjectId) -> Result<Option<(Arc<Version>, File)>, StorageError> {
        let mut missing = None;
        // A file that is gone was replaced meanwhile, so the index has a newer one; or somebody removed it.
        while let Some(version) = self.get(id) {
            match File::open(self.layout.object(&version.name)) {
                Ok(file) => return Ok(Some((version, file))),
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.failed("cannot open an object", &error));
                }
                Err(_) if missing == Some(version.name.sequence) => {
                    return Err(self.set_aside(id, &version, "its file is missing"));
                }
                Err(_) => missing = Some(version.name.sequence),
            }
        }
        Ok(None)
    }

    /// Gives a finished upload its name, in place of any earlier version.
    pub fn publish(
        &self,
        id: &ObjectId,
        create_only: bool,
        arrival: Arrival,
    ) -> Result<ObjectMeta, StorageError> {
        let hash = FileName::hash_of(id);
        let name = |sequence| FileName { hash, sequence };
        let _folder = self.lock_folder(&name(0));
        if create_only && self.get(id).is_some() {
            return Err(StorageError::Exists);
        }
        let name = name(self.next_sequence.fetch_add(1, Ordering::Relaxed));
        let Arrival { partial, meta, groups, reservation } = arrival;
        self.settle(&partial, &name)?;
        let indexed = Indexed::new(Version { name, meta: meta.clone(), groups }, reservation);
        let earlier = self.write(|index| index.insert(id.clone(), indexed));
        if let Some(earlier) = earlier
            && let Err(error) = self.remove_file(&earlier.name())
        {
            tracing::warn!(%id, %error, "the replaced version of an object stays on disk");
        }
        Ok(meta)
    }

    /// Moves an upload to its final name, and makes sure that it stays there.
    fn settle(&self, partial: &Partial, name: &FileName) -> Result<(), StorageError> {
        let path = self.layout.object(name);
        let failed = |error| self.failed("cannot store the object", &error);
        fs::rename(&partial.path, &path).map_err(failed)?;
        self.sync_folder(name).map_err(|error| {
            // The caller is told that nothing was stored, so nothing may appear at the next start.
            let _ = fs::remove_file(&path);
            failed(error)
        })
    }

    /// Forgets an object; tells whether it was there.
    pub fn evict(&self, id: &ObjectId) -> Result<bool, StorageError> {
        let _folder = self.lock_folder(&FileName::new(id, 0));
        let Some(indexed) = self.write(|index| index.remove(id)) else { return Ok(false) };
        let name = indexed.name();
        if let Err(error) = self.remove_file(&name) {
            self.write(|index| index.insert(id.clone(), indexed));
            return Err(self.failed("cannot remove the object", &error));
        }
        self.sync_folder(&name).map_err(|error| self.failed("cannot remove the object for good", &error))?;
        Ok(true)
    }

    /// Puts a damaged version out of the way, unless it was replaced already, and tells why.
    pub fn set_aside(&self, id: &ObjectId, version: &Version, reason: &str) -> StorageError {
        let _folder = self.lock_folder(&version.name);
        if self.get(id).is_some_and(|current| current.name == version.name) {
            self.write(|index| index.remove(id));
            match self.layout.set_aside(&self.layout.object(&version.name)) {
                Ok(place) => tracing::error!(%id, reason, place = %place.display(), "object set aside"),
                Err(error) => tracing::error!(%id, reason, %error, "object dropped, but not set aside"),
            }
        }
        StorageError::Corrupt(reason.to_owned())
    }

    /// An error of the disk in words that name the store.
    pub fn failed(&self, what: &str, error: &io::Error) -> StorageError {
        let dir = self.layout.dir().display();
        StorageError::Io(io::Error::new(error.kind(), format!("{what} in {dir}: {error}")))
    }

    fn remove_file(&self, name: &FileName) -> io::Result<()> {
        match fs::remove_file(self.layout.object(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn sync_folder(&self, name: &FileName) -> io::Result<()> {
        if self.limits.fsync { sync_dir(&self.layout.folder(name.folder())) } else { Ok(()) }
    }

    fn lock_folder(&self, name: &FileName) -> MutexGuard<'_, ()> {
        lock(&self.folders[name.folder()])
    }

    fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner))
    }
}
