//! One version of an object, read from its file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore_shared::digest::{GROUP_LEN, group_digest};
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{Digest, ObjectId};

use super::blocking;
use super::store::{Store, Version};
use crate::storage::{Group, StorageError, StoredObject};

/// See the module. The file stays open, so that its content outlives its name.
#[derive(Clone)]
pub(super) struct FileObject {
    pub store: Arc<Store>,
    pub id: ObjectId,
    pub version: Arc<Version>,
    pub file: Arc<File>,
}

impl FileObject {
    fn read(&self, index: u64, digest: Digest) -> Result<Group, StorageError> {
        let start = index * GROUP_LEN;
        let mut bytes = vec![0; GROUP_LEN.min(self.version.meta.size - start) as usize];
        match self.file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(self.damaged(index, "is cut off"));
            }
            Err(error) => return Err(self.store.failed("cannot read an object", &error)),
        }
        let alone = self.version.groups.len() == 1;
        if group_digest(index, alone, [bytes.as_slice()]) != digest {
            return Err(self.damaged(index, "does not match its digest"));
        }
        let segments = if bytes.is_empty() { Vec::new() } else { vec![Bytes::from(bytes)] };
        Ok(Group { segments, digest })
    }

    fn damaged(&self, index: u64, how: &str) -> StorageError {
        self.store.set_aside(&self.id, &self.version, &format!("group {index} {how}"))
    }
}

#[async_trait]
impl StoredObject for FileObject {
    fn meta(&self) -> &ObjectMeta {
        &self.version.meta
    }

    async fn group(&self, index: u64) -> Result<Group, StorageError> {
        let digest = usize::try_from(index).ok().and_then(|index| self.version.groups.get(index));
        let digest = *digest.ok_or(StorageError::NoSuchGroup(index))?;
        let object = self.clone();
        blocking(move || object.read(index, digest)).await
    }
}
