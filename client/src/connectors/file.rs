//! Objects as files in a directory, often one that many nodes share (NFS, Lustre).
//!
//! The layout is Python ProxyStore's: one file an object, named by a UUID, and a marker beside it ([`layout`]).

mod layout;

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::runtime::blocking;
use crate::{Key, Object};
use layout::Layout;

/// In configurations.
pub const KIND: &str = "file";

/// Read at once from a file that is streamed: large enough that the system's work outweighs ours.
const CHUNK_LEN: usize = 1 << 20;

/// Keeps objects as files in a directory, which it makes if it is missing.
///
/// ```
/// use proxystore::connectors::FileConnector;
/// use proxystore::{Store, block_on};
///
/// # let parent = tempfile::tempdir().expect("a directory");
/// # let directory = parent.path().join("objects");
/// let connector = FileConnector::new(&directory)?.clear_on_close(true);
/// let store = Store::new("scratch", connector);
/// let key = block_on(store.put("hello"))?;
/// assert!(directory.exists());
/// block_on(store.close())?;
/// assert!(!directory.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FileConnector {
    directory: PathBuf,
    clear: bool,
    layout: Layout,
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
        Ok(Self { directory, clear: false, layout: Layout::Marked })
    }

    /// Whether `close` removes the directory and all objects in it. Off unless told, unlike Python's.
    pub fn clear_on_close(mut self, clear: bool) -> Self {
        self.clear = clear;
        self
    }

    /// Files without markers, for directories that something else copies.
    #[cfg(feature = "globus")]
    pub(crate) fn without_markers(self) -> Self {
        Self { layout: Layout::Plain, ..self }
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

/// An operation on the file at `path`, away from the caller's runtime.
async fn on_file<T: Send + 'static>(
    path: PathBuf,
    operation: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, ConnectorError> {
    blocking(move || operation(&path).map_err(|error| failed(&path, &error))).await
}

fn read(layout: Layout, path: &Path) -> io::Result<Option<Object>> {
    let Some(mut file) = layout.open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(Some(bytes.into()))
}

fn write(layout: Layout, path: &Path, object: &Object) -> io::Result<()> {
    let mut draft = layout.draft(path)?;
    draft.write(object.segments())?;
    draft.publish()
}

#[async_trait]
impl Connector for FileConnector {
    async fn put(&self, object: Object, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        self.set(&key, object).await?;
        Ok(key)
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        let layout = self.layout;
        on_file(self.path_of(key)?, move |path| read(layout, path)).await
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        let layout = self.layout;
        on_file(self.path_of(key)?, move |path| layout.exists(path)).await
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        let layout = self.layout;
        on_file(self.path_of(key)?, move |path| layout.remove(path)).await
    }

    fn config(&self) -> ConnectorConfig {
        let store_dir = self.directory.clone();
        ConnectorConfig::new(KIND, &Settings { store_dir, clear: self.clear })
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Ok(Key::File { filename: Uuid::new_v4().to_string() })
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        let layout = self.layout;
        on_file(self.path_of(key)?, move |path| write(layout, path, &object)).await
    }

    async fn put_stream(
        &self,
        mut stream: ObjectStream,
        _options: &PutOptions,
    ) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        let path = self.path_of(&key)?;
        let layout = self.layout;
        let mut draft = on_file(path.clone(), move |path| layout.draft(path)).await?;
        while let Some(chunk) = stream.chunks.next().await {
            let chunk = chunk?;
            draft = on_file(path.clone(), move |_| draft.write(&[chunk]).map(|()| draft)).await?;
        }
        on_file(path, |_| draft.publish()).await?;
        Ok(key)
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        let path = self.path_of(key)?;
        let layout = self.layout;
        let opened = on_file(path.clone(), move |path| {
            let Some(file) = layout.open(path)? else { return Ok(None) };
            Ok(Some((file.metadata()?.len(), file)))
        });
        let Some((len, file)) = opened.await? else { return Ok(None) };
        let chunks = stream::try_unfold((file, path), |(mut file, path)| {
            on_file(path.clone(), move |_| {
                let mut chunk = vec![0; CHUNK_LEN];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                Ok((read > 0).then(|| (Bytes::from(chunk), (file, path))))
            })
        });
        Ok(Some(ObjectStream { len: Some(len), chunks: chunks.boxed() }))
    }

    async fn close(&self) -> Result<(), ConnectorError> {
        if !self.clear {
            return Ok(());
        }
        on_file(self.directory.clone(), |directory| match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
        .await
    }
}
