//! An object on its way to a file.

use std::io::{self, Write as _};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore_shared::ObjectId;
use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::ObjectMeta;
use tokio::runtime::Handle;

use super::blocking;
use super::format::Footer;
use super::layout::Partial;
use super::store::{Arrival, Store};
use crate::piece::gather;
use crate::storage::intake::{Intake, Received};
use crate::storage::{Expected, StorageError, Upload};
use crate::write_behind::WriteBehind;

/// Bytes gathered before they are written: one trip to a blocking thread for each group.
const BUFFER_LEN: usize = GROUP_LEN as usize;

/// What failed, in the words of an error.
const WRITING: &str = "cannot write the object";

/// See the module.
pub(super) struct FileUpload {
    store: Arc<Store>,
    id: ObjectId,
    create_only: bool,
    /// Absent while a blocking thread has it, and for good after a failure there.
    writer: Option<Writer>,
}

impl FileUpload {
    pub fn new(store: Arc<Store>, id: ObjectId, create_only: bool, intake: Intake) -> Self {
        let (buffer, disk) = (Vec::new(), WriteBehind::default());
        let writer = Writer { store: store.clone(), intake, buffer, partial: None, disk };
        Self { store, id, create_only, writer: Some(writer) }
    }

    fn broken() -> StorageError {
        StorageError::Io(io::Error::other("an earlier part of the upload could not be written"))
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), StorageError> {
        self.writer.as_mut().ok_or_else(Self::broken)?.intake.admit(bytes.len())?;
        while !bytes.is_empty() {
            let writer = self.writer.as_mut().ok_or_else(Self::broken)?;
            gather(&mut writer.buffer, &mut bytes, BUFFER_LEN);
            if writer.buffer.len() == BUFFER_LEN
                && let Some(mut writer) = self.writer.take()
            {
                self.writer = Some(blocking(move || writer.flush().map(|()| writer)).await?);
            }
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, expected: Option<Expected>) -> Result<ObjectMeta, StorageError> {
        let writer = self.writer.take().ok_or_else(Self::broken)?;
        let (store, id, create_only) = (self.store.clone(), self.id.clone(), self.create_only);
        blocking(move || store.publish(&id, create_only, writer.finish(&id, expected)?)).await
    }
}

impl Drop for FileUpload {
    /// Removing a large file takes a while, so it is left to a blocking thread where there is one.
    fn drop(&mut self) {
        if let (Some(writer), Ok(runtime)) = (self.writer.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || drop(writer));
        }
    }
}

/// The blocking half of an upload.
struct Writer {
    store: Arc<Store>,
    intake: Intake,
    buffer: Vec<u8>,
    /// Created with the first write, so that a refused upload never touches the disk.
    partial: Option<Partial>,
    disk: WriteBehind,
}

impl Writer {
    fn flush(&mut self) -> Result<(), StorageError> {
        self.intake.hash(&self.buffer);
        let written = partial_of(self.partial.take(), &self.store).and_then(|mut partial| {
            partial.file.write_all(&self.buffer)?;
            if self.store.limits.fsync {
                self.disk.handle_written(&partial.file, self.buffer.len())?;
            }
            Ok(partial)
        });
        self.partial = Some(written.map_err(|error| self.store.failed(WRITING, &error))?);
        self.buffer.clear();
        Ok(())
    }

    /// Completes the file; it still has its temporary name.
    fn finish(mut self, id: &ObjectId, expected: Option<Expected>) -> Result<Arrival, StorageError> {
        self.intake.hash(&self.buffer);
        let Self { store, intake, buffer, partial, disk } = self;
        let Received { meta, groups, reservation } = intake.finish(expected)?;
        let footer = Footer { id: id.clone(), meta, groups };
        let complete = || {
            let mut partial = partial_of(partial, &store)?;
            partial.file.write_all(&buffer)?;
            partial.file.write_all(&footer.encode()?)?;
            if store.limits.fsync {
                disk.finish(&partial.file)?;
            }
            Ok(partial)
        };
        let partial = complete().map_err(|error| store.failed(WRITING, &error))?;
        Ok(Arrival { partial, meta: footer.meta, groups: footer.groups, reservation })
    }
}

fn partial_of(partial: Option<Partial>, store: &Store) -> io::Result<Partial> {
    partial.map_or_else(|| Partial::create(store.new_partial()), Ok)
}
