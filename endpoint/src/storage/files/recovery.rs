//! Rebuilds the index from the files, whatever state they were left in.

use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Footer, FooterError};
use super::layout::{FOLDERS, FileName, Layout};
use super::store::{Index, Indexed, Version};
use super::{OpenError, Recovery};
use crate::storage::meter::{Meter, Reservation};

/// A store as it was found.
#[derive(Default)]
pub(super) struct Found {
    pub index: Index,
    /// Above that of every file found.
    pub next_sequence: u64,
    pub recovery: Recovery,
}

impl Found {
    /// Removes what uploads left behind, sets damaged files aside, and reads the footers of all others.
    pub fn scan(layout: &Layout, meter: &Arc<Meter>) -> Result<Self, OpenError> {
        let mut found = Self::default();
        for path in entries(&layout.partials())? {
            fs::remove_file(&path).map_err(OpenError::io(&path))?;
            found.recovery.removed_partial += 1;
        }
        for index in 0..FOLDERS {
            for path in entries(&layout.folder(index))? {
                found.add(layout, meter, &path)?;
            }
        }
        found.recovery.objects = found.index.len() as u64;
        found.recovery.bytes = meter.used();
        Ok(found)
    }

    fn add(&mut self, layout: &Layout, meter: &Arc<Meter>, path: &Path) -> Result<(), OpenError> {
        let (name, footer) = match inspect(path) {
            Ok(inspected) => inspected,
            Err(Unusable::Damaged(reason)) => {
                let place = layout.set_aside(path).map_err(OpenError::io(path))?;
                self.recovery.quarantined.push((place, reason));
                return Ok(());
            }
            Err(Unusable::Unreadable(error)) => return Err(OpenError::io(path)(error)),
        };
        self.next_sequence = self.next_sequence.max(name.sequence.saturating_add(1));
        let reservation = Reservation::existing(meter, footer.meta.size);
        let version = Version { name, meta: footer.meta, groups: footer.groups };
        let indexed = Indexed::new(version, reservation);
        let superseded = match self.index.entry(footer.id) {
            Entry::Vacant(vacant) => {
                vacant.insert(indexed);
                return Ok(());
            }
            // The process ended after it had stored the later version and before it had removed the earlier one.
            Entry::Occupied(other) if other.get().name().sequence > name.sequence => name,
            Entry::Occupied(mut other) => other.insert(indexed).name(),
        };
        let superseded = layout.object(&superseded);
        fs::remove_file(&superseded).map_err(OpenError::io(&superseded))
    }
}

/// Why a file is not taken into the index.
enum Unusable {
    /// It never will be.
    Damaged(String),
    /// The disk, or a permission, may still be repaired: the file must not be given up.
    Unreadable(io::Error),
}

fn inspect(path: &Path) -> Result<(FileName, Footer), Unusable> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<FileName>().ok());
    let name = name.ok_or_else(|| Unusable::Damaged("its name is none that this store gives".into()))?;
    let file = File::open(path).map_err(Unusable::Unreadable)?;
    let footer = Footer::read(&file).map_err(|error| match error {
        FooterError::Io(error) => Unusable::Unreadable(error),
        damage => Unusable::Damaged(damage.to_string()),
    })?;
    if name.hash != FileName::hash_of(&footer.id) {
        return Err(Unusable::Damaged("it holds another object than its name says".into()));
    }
    Ok((name, footer))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let paths = |dir| fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    paths(dir).map_err(OpenError::io(dir))
}
