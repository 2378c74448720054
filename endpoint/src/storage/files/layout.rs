//! Where the files of a store are.
//!
//! ```text
//! lock                            held by the one process that uses the store
//! partial/<n>                     uploads in progress
//! objects/<digit>/<name>          objects, by the first digit of their name
//! quarantine/<name>               damaged files, for a person to look at
//! ```
//!
//! The name of an object's file is the hash of its id, because an id may be any text, and a number that tells
//! its versions apart.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proxystore_shared::{Digest, ObjectId};

use super::OpenError;

/// Folders under `objects`, one for each first digit of a hash: a million objects are then 62,500 files a folder,
/// few enough for every file system, and sixteen folders can be synced at once.
pub(super) const FOLDERS: usize = 16;

/// Objects are their owner's alone.
const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Permission bits that let somebody else put files into a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The name of the file of one version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileName {
    pub hash: Digest,
    /// A later version has a higher one.
    pub sequence: u64,
}

impl FileName {
    pub fn new(id: &ObjectId, sequence: u64) -> Self {
        Self { hash: Self::hash_of(id), sequence }
    }

    pub fn hash_of(id: &ObjectId) -> Digest {
        Digest::of(id.as_str().as_bytes())
    }

    /// Index of the folder that holds the file.
    pub fn folder(&self) -> usize {
        usize::from(self.hash.0[0] >> 4)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.hash, self.sequence)
    }
}

impl FromStr for FileName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (hash, sequence) = text.split_once('-').ok_or(())?;
        let name = Self {
            hash: hash.parse().map_err(|_| ())?,
            sequence: u64::from_str_radix(sequence, 16).map_err(|_| ())?,
        };
        // One name, one file: other spellings of the same number are not ours.
        if name.to_string() == text { Ok(name) } else { Err(()) }
    }
}

/// The directory of a store, locked for this process.
#[derive(Debug)]
pub(super) struct Layout {
    dir: PathBuf,
    lock: File,
}

impl Layout {
    /// Creates what is missing in `dir` and locks it.
    pub fn open(dir: PathBuf, fsync: bool) -> Result<Self, OpenError> {
        let is_new = !dir.exists();
        create_dir(&dir)?;
        let lock = lock(&dir)?;
        let layout = Self { dir, lock };
        for folder in [layout.partials(), layout.quarantine(), layout.objects()] {
            create_dir(&folder)?;
            refuse_writable_by_others(&folder)?;
        }
        (0..FOLDERS).try_for_each(|index| create_dir(&layout.folder(index)))?;
        if fsync {
            let parent = is_new.then(|| layout.dir.join(".."));
            for dir in [layout.objects(), layout.dir.clone()].into_iter().chain(parent) {
                sync_dir(&dir).map_err(OpenError::io(&dir))?;
            }
        }
        Ok(layout)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn partials(&self) -> PathBuf {
        self.dir.join("partial")
    }

    pub fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub fn folder(&self, index: usize) -> PathBuf {
        self.objects().join(format!("{index:x}"))
    }

    pub fn object(&self, name: &FileName) -> PathBuf {
        self.folder(name.folder()).join(name.to_string())
    }

    /// Moves `path` into quarantine under a name that is free there, and returns where it is now.
    pub fn set_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = (0u32..)
            .map(|n| self.quarantine().join(if n == 0 { name.clone() } else { format!("{name}.{n}") }))
            .find(|place| !place.exists())
            .ok_or(io::ErrorKind::AlreadyExists)?;
        fs::rename(path, &place)?;
        Ok(place)
    }
}

impl Drop for Layout {
    /// Closing the file is not enough while a child process that is being started still has a copy of it.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

fn create_dir(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path).map_err(OpenError::io(path))
}

/// The file of an upload under its temporary name. Whatever still has that name when this is dropped is removed;
/// after the file was renamed that is nothing.
#[derive(Debug)]
pub(super) struct Partial {
    pub path: PathBuf,
    pub file: File,
}

impl Partial {
    /// An empty file at `path`, where nothing may be yet.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path)?;
        Ok(Self { path, file })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the names in a directory survive a power loss.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Two processes would each overlook what the other stores. The lock goes with the process, however that ends.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.open(&path).map_err(OpenError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(OpenError::io(&path)(error)),
    }
}

fn refuse_writable_by_others(path: &Path) -> Result<(), OpenError> {
    let metadata = fs::metadata(path).map_err(OpenError::io(path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(OpenError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_spellings_of_a_name_are_not_ours() {
        let name = FileName::new(&"a".parse().expect("valid"), 10).to_string();
        assert!(name.parse::<FileName>().is_ok());
        for other in [name.to_uppercase(), name.replace("-0", "-+"), format!("{name}.1"), String::new()] {
            assert!(other.parse::<FileName>().is_err(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(id in "[^\\p{Cc}]{1,60}", sequence: u64) {
            let name = FileName::new(&id.parse().expect("valid"), sequence);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
            prop_assert!(name.folder() < FOLDERS);
        }
    }
}
