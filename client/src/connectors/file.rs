//! Objects as files in a directory, often one that many nodes share (NFS, Lustre).
//!
//! The layout is Python ProxyStore's: one file an object, named by a UUID. A file appears under its name only when
//! it is complete (written aside, then renamed, which POSIX makes atomic also for readers on other nodes).

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::runtime::blocking;
use crate::{Key, Object};

/// In configurations.
pub const KIND: &str = "file";

/// Read at once from a file that is streamed: large enough that the system's work outweighs ours.
const CHUNK_LEN: usize = 1 << 20;

/// Segments handed to the system in one write; Linux takes at most 1,024.
const SLICES_AT_ONCE: usize = 64;

/// Keeps objects as files in a directory, which it makes if it is missing.
#[derive(Debug)]
pub struct FileConnector {
    directory: Arc<PathBuf>,
    clear: bool,
}

/// The names are those of Python's `FileConnector`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    store_dir: PathBuf,
    #[serde(default)]
    clear: bool,
}

impl FileConnector {
    /// In `directory`, of which a relative path is made absolute, so that a configuration works elsewhere too.
    pub fn new(directory: impl AsRef<Path>) -> Result<Self, ConnectorError> {
        let directory = directory.as_ref();
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        let directory = fs::canonicalize(directory).map_err(|error| failed(directory, &error))?;
        Ok(Self { directory: Arc::new(directory), clear: false })
    }

    /// Whether `close` removes the directory and all objects in it. Off unless told, unlike Python's.
    pub fn clear_on_close(mut self, clear: bool) -> Self {
        self.clear = clear;
        self
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let settings: Settings = config.settings()?;
        Ok(Self::new(settings.store_dir)?.clear_on_close(settings.clear))
    }

    /// Where the files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn path_of(&self, key: &Key) -> Result<PathBuf, ConnectorError> {
        match key {
            // A key may come from anywhere; it must not lead out of the directory.
            Key::File { filename } if is_plain_name(filename) => Ok(self.directory.join(filename)),
            key => Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() }),
        }
    }
}

fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

fn failed(path: &Path, error: &io::Error) -> ConnectorError {
    let path = path.display().to_string();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ConnectorError::Full { target: path },
        _ => ConnectorError::Io { path, reason: error.to_string() },
    }
}

/// A file under a temporary name, removed unless it is published.
struct Draft {
    file: File,
    path: PathBuf,
    published: bool,
}

impl Draft {
    fn create(directory: &Path) -> Result<Self, ConnectorError> {
        let path = directory.join(format!(".{}.tmp", Uuid::new_v4()));
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed(&path, &error))?;
        Ok(Self { file, path, published: false })
    }

    fn write(&mut self, segments: &[Bytes]) -> Result<(), ConnectorError> {
        for segments in segments.chunks(SLICES_AT_ONCE) {
            let mut slices: Vec<_> = segments.iter().map(|segment| IoSlice::new(segment)).collect();
            write_all(&mut self.file, &mut slices).map_err(|error| failed(&self.path, &error))?;
        }
        Ok(())
    }

    fn publish(mut self, path: &Path) -> Result<(), ConnectorError> {
        fs::rename(&self.path, path).map_err(|error| failed(path, &error))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // Nothing more can be done about a file that cannot be removed; nobody takes it for an object.
            let _ = fs::remove_file(&self.path);
        }
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

fn open(path: &Path) -> Result<Option<File>, ConnectorError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, &error)),
    }
}

#[async_trait]
impl Connector for FileConnector {
    async fn put(&self, object: Object, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        self.set(&key, object).await?;
        Ok(key)
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        let path = self.path_of(key)?;
        blocking(move || match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(&path, &error)),
        })
        .await
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        let path = self.path_of(key)?;
        blocking(move || path.try_exists().map_err(|error| failed(&path, &error))).await
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        let path = self.path_of(key)?;
        blocking(move || match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path, &error)),
            _ => Ok(()),
        })
        .await
    }

    fn config(&self) -> ConnectorConfig {
        let store_dir = self.directory.as_ref().clone();
        ConnectorConfig::new(KIND, &Settings { store_dir, clear: self.clear })
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Ok(Key::File { filename: Uuid::new_v4().to_string() })
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        let path = self.path_of(key)?;
        let directory = self.directory.clone();
        blocking(move || {
            let mut draft = Draft::create(&directory)?;
            draft.write(object.segments())?;
            draft.publish(&path)
        })
        .await
    }

    async fn put_stream(
        &self,
        mut stream: ObjectStream,
        _options: &PutOptions,
    ) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        let path = self.path_of(&key)?;
        let directory = self.directory.clone();
        let mut draft = blocking(move || Draft::create(&directory)).await?;
        while let Some(chunk) = stream.chunks.next().await {
            let chunk = chunk?;
            draft = blocking(move || draft.write(&[chunk]).map(|()| draft)).await?;
        }
        blocking(move || draft.publish(&path)).await?;
        Ok(key)
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        let path = self.path_of(key)?;
        let opened = blocking(move || open(&path).map(|file| (file, path))).await?;
        let (Some(file), path) = opened else { return Ok(None) };
        let len = file.metadata().map_err(|error| failed(&path, &error))?.len();
        let chunks = stream::try_unfold((file, path), |(mut file, path)| async {
            blocking(move || {
                let mut chunk = vec![0; CHUNK_LEN];
                let read = file.read(&mut chunk).map_err(|error| failed(&path, &error))?;
                chunk.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(chunk), (file, path))))
            })
            .await
        });
        Ok(Some(ObjectStream { len: Some(len), chunks: chunks.boxed() }))
    }

    async fn close(&self) -> Result<(), ConnectorError> {
        if !self.clear {
            return Ok(());
        }
        let directory = self.directory.clone();
        blocking(move || match fs::remove_dir_all(directory.as_path()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&directory, &error)),
            _ => Ok(()),
        })
        .await
    }
}
