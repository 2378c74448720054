//! The files of a download that is not finished: `FILE.part` with the bytes, `FILE.part.etag` with their version.
//!
//! What it does blocks. The command that downloads has nothing else to do meanwhile: what arrives waits in the system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use proxystore_shared::Digest;

use super::output::Failure;
use super::resume::Partial;
use crate::write_behind::WriteBehind;

/// Bytes hashed at once.
const PIECE_LEN: usize = 1 << 20;

/// How long an endpoint may take to let go of a file whose download was interrupted: to write one more piece of it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Between looks whether it has.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A download's files, locked against another download to the same place.
pub struct PartialFile {
    target: PathBuf,
    part: PathBuf,
    tag: PathBuf,
    file: File,
    disk: WriteBehind,
    /// Over the bytes written so far, once they were read or written.
    hasher: blake3::Hasher,
    len: u64,
}

impl PartialFile {
    /// Opens what an earlier attempt left, or makes it.
    pub fn open(target: &Path) -> Result<Self, Failure> {
        if target.is_dir() {
            return Err(
                Failure::new(format!("{} is a folder", target.display())).hint("name the file to write")
            );
        }
        let part = with_suffix(target, ".part");
        let failed = || format!("write {}", part.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(Failure::io(failed()))?;
        if is_in_use(&file) {
            return Err(Failure::new(format!("another download to {} is under way", target.display())));
        }
        let len = file.metadata().map_err(Failure::io(failed()))?.len();
        Ok(Self {
            target: target.to_owned(),
            tag: with_suffix(target, ".part.etag"),
            file,
            disk: WriteBehind::default(),
            hasher: blake3::Hasher::new(),
            part,
            len,
        })
    }

    /// What can be continued.
    pub fn partial(&self) -> Option<Partial> {
        let digest = fs::read_to_string(&self.tag).ok()?.trim().parse().ok()?;
        (self.len > 0).then_some(Partial { len: self.len, digest })
    }

    /// Bytes there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The file itself, without any bytes, for somebody else to write an object into from its beginning.
    pub fn emptied(&mut self) -> Result<&File, Failure> {
        if self.len > 0 {
            self.discard()?;
        }
        Ok(&self.file)
    }

    /// Expects the bytes of a version from somebody else.
    pub fn expect(&mut self, digest: Digest) -> Result<(), Failure> {
        fs::write(&self.tag, digest.to_string()).map_err(Failure::io(format!("write {}", self.tag.display())))
    }

    /// Somebody else has written the first `len` bytes.
    pub fn handle_written(&mut self, len: u64) -> Result<(), Failure> {
        let more = len.saturating_sub(self.len) as usize;
        self.len = len;
        let written = self.disk.handle_written(&self.file, more);
        written.map_err(Failure::io(format!("write {}", self.part.display())))
    }

    /// Forgets the bytes, and expects those of another version.
    pub fn restart(&mut self, digest: Digest) -> Result<(), Failure> {
        // In this order: bytes are never found beside another version's tag.
        self.truncate().map_err(Failure::io(format!("empty {}", self.part.display())))?;
        self.expect(digest)
    }

    fn truncate(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher.reset();
        self.len = 0;
        Ok(())
    }

    /// Hashes the bytes that are there; further ones can then be written after them.
    pub fn hash_existing(&mut self) -> Result<(), Failure> {
        self.read_all().map_err(Failure::io(format!("read {}", self.part.display())))
    }

    fn read_all(&mut self) -> io::Result<()> {
        self.hasher.reset();
        self.file.seek(SeekFrom::Start(0))?;
        let mut piece = vec![0; PIECE_LEN];
        loop {
            match self.file.read(&mut piece)? {
                0 => return Ok(()),
                read => self.hasher.update(&piece[..read]),
            };
        }
    }

    /// Takes the room for a file of `size` bytes, whose length stays what it is: that there is too little is told before
    /// anything is moved, and each write has less to do. Where the file system cannot, the writes find out.
    pub fn reserve(&self, size: u64) -> Result<(), Failure> {
        let reserved = i64::try_from(size)
            .map_err(|_| Errno::EFBIG)
            .and_then(|size| fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, size));
        match reserved {
            Err(error @ (Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)) => Err(Failure::new(format!(
                "there is no room for {} of {size} bytes: {}",
                self.part.display(),
                error.desc()
            ))
            .hint("make room, or name a file on another file system; the same command continues")),
            _ => Ok(()),
        }
    }

    /// Adds bytes at the end. The system has them when this returns, so that a later attempt finds them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written =
            self.file.write_all(bytes).and_then(|()| self.disk.handle_written(&self.file, bytes.len()));
        written.map_err(Failure::io(format!("write {}", self.part.display())))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Digest of all bytes.
    pub fn digest(&self) -> Digest {
        Digest(self.hasher.finalize().into())
    }

    /// Gives the file its name.
    pub fn finish(self) -> Result<(), Failure> {
        let finished = self.disk.finish(&self.file).and_then(|()| fs::rename(&self.part, &self.target));
        finished.map_err(Failure::io(format!("write {}", self.target.display())))?;
        remove(&self.tag);
        Ok(())
    }

    /// Forgets the bytes; the next request is for the whole object.
    pub fn discard(&mut self) -> Result<(), Failure> {
        remove(&self.tag);
        self.truncate().map_err(Failure::io(format!("empty {}", self.part.display())))
    }

    /// Leaves nothing behind.
    pub fn remove(self) {
        remove(&self.tag);
        remove(&self.part);
    }
}

/// Whether another download has the file, and keeps it: after one that was interrupted, the endpoint may have it for a moment.
fn is_in_use(file: &File) -> bool {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    // A file system without locks is no reason not to download.
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        if Instant::now() > deadline {
            return true;
        }
        thread::sleep(LOCK_PAUSE);
    }
    false
}

/// What cannot be removed is overwritten next time.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_without_a_change_of_length() {
        let dir = tempfile::tempdir().unwrap();
        let file = PartialFile::open(&dir.path().join("file")).unwrap();
        file.reserve(0).unwrap();
        file.reserve(1 << 20).unwrap();
        assert_eq!(file.file.metadata().unwrap().len(), 0);
        for too_much in [i64::MAX as u64, u64::MAX] {
            assert!(file.reserve(too_much).unwrap_err().message().contains("no room"));
        }
    }

    #[test]
    fn bytes_are_found_again_with_their_version() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        let digest = Digest::of(b"hello world");
        let mut file = PartialFile::open(&target).unwrap();
        assert_eq!(file.partial(), None);
        assert!(PartialFile::open(&target).is_err(), "locked");
        file.restart(digest).unwrap();
        file.write(b"hello ").unwrap();
        drop(file);

        let mut file = PartialFile::open(&target).unwrap();
        assert_eq!(file.partial(), Some(Partial { len: 6, digest }));
        file.hash_existing().unwrap();
        file.write(b"world").unwrap();
        assert_eq!(file.digest(), digest);
        file.finish().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"hello world");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn bytes_without_a_readable_version_are_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("file");
        fs::write(dir.path().join("file.part"), "hello").unwrap();
        assert_eq!(PartialFile::open(&target).unwrap().partial(), None);
        fs::write(dir.path().join("file.part.etag"), "12ab").unwrap();
        assert_eq!(PartialFile::open(&target).unwrap().partial(), None);
    }
}
