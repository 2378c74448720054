//! How an object lies in the directory, so that nobody ever reads half of one.
//!
//! Python ProxyStore's layout: the object is the file NAME, and is there once the file NAME.ready is, which Python
//! makes empty. Here NAME.ready is a hard link to NAME, made when NAME is complete: one operation makes the object
//! visible, and one `open` finds and reads it. Where there are no hard links the marker is empty, as Python's.
//!
//! In directories that something else keeps alike there are no markers: a file is renamed when it is complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

/// Segments handed to the system in one write; Linux takes at most 1,024.
const SLICES_AT_ONCE: usize = 64;

/// How complete objects are told from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// By a marker.
    Marked,
    /// By their names.
    Plain,
}

/// A file that is being written, removed unless it becomes an object.
pub(crate) struct Draft {
    file: File,
    /// Where it is written: under its own name if that is free, else aside.
    path: PathBuf,
    object: PathBuf,
    layout: Layout,
    kept: bool,
}

impl Draft {
    fn create(object: &Path, layout: Layout) -> io::Result<Self> {
        let create = |path: &Path| File::options().write(true).create_new(true).open(path);
        let in_place = match layout {
            Layout::Marked => create(object),
            Layout::Plain => Err(ErrorKind::AlreadyExists.into()),
        };
        let (file, path) = match in_place {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let aside = hidden_beside(object);
                (create(&aside)?, aside)
            }
            file => (file?, object.to_owned()),
        };
        Ok(Self { file, path, object: object.to_owned(), layout, kept: false })
    }

    pub fn write(&mut self, segments: &[Bytes]) -> io::Result<()> {
        for segments in segments.chunks(SLICES_AT_ONCE) {
            let mut slices: Vec<_> = segments.iter().map(|segment| IoSlice::new(segment)).collect();
            write_all(&mut self.file, &mut slices)?;
        }
        Ok(())
    }

    /// Makes the file the object, in place of an earlier one if there is one.
    pub fn publish(mut self) -> io::Result<()> {
        match self.layout {
            Layout::Plain => fs::rename(&self.path, &self.object)?,
            Layout::Marked if self.path == self.object => mark(&self.path, &marker_of(&self.object))?,
            Layout::Marked => self.replace()?,
        }
        self.kept = true;
        Ok(())
    }

    fn replace(&self) -> io::Result<()> {
        let new_marker = hidden_beside(&self.object);
        mark(&self.path, &new_marker)?;
        fs::rename(&self.path, &self.object)?;
        fs::rename(new_marker, marker_of(&self.object))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            // Nothing more can be done about a file that cannot be removed; without marker it is no object.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Layout {
    /// An object to be written.
    pub fn draft(self, object: &Path) -> io::Result<Draft> {
        Draft::create(object, self)
    }

    /// The complete object, or none.
    pub fn open(self, object: &Path) -> io::Result<Option<File>> {
        if self == Self::Plain {
            return found(File::open(object));
        }
        let Some(marker) = found(File::open(marker_of(object)))? else { return Ok(None) };
        if marker.metadata()?.len() > 0 {
            return Ok(Some(marker));
        }
        found(File::open(object))
    }

    pub fn exists(self, object: &Path) -> io::Result<bool> {
        match self {
            Self::Marked => marker_of(object).try_exists(),
            Self::Plain => object.try_exists(),
        }
    }

    pub fn remove(self, object: &Path) -> io::Result<()> {
        if self == Self::Marked {
            // First, so that nobody takes a leftover for an object.
            found(fs::remove_file(marker_of(object)))?;
        }
        found(fs::remove_file(object)).map(drop)
    }
}

fn mark(complete: &Path, marker: &Path) -> io::Result<()> {
    match fs::hard_link(complete, marker) {
        // File systems without hard links say one or the other.
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            File::create(marker).map(drop)
        }
        outcome => outcome,
    }
}

fn marker_of(object: &Path) -> PathBuf {
    let mut name = object.as_os_str().to_owned();
    name.push(".ready");
    name.into()
}

fn hidden_beside(object: &Path) -> PathBuf {
    object.with_file_name(format!(".{}", Uuid::new_v4()))
}

fn found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
