//! Objects as files in directories on several sites, which Globus Transfer keeps alike.
//!
//! For sites that reach each other through Globus but not by sockets of a program's own. Each host sees its own
//! site's directory as files; Globus is told, over its REST API, to copy a new file to all the others.

mod auth;
mod settings;
mod site;
mod transfer;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroUsize;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::future::{join_all, try_join, try_join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use lru::LruCache;
use tokio::time::{Instant, sleep_until, timeout_at};
use uuid::Uuid;

use super::{FileConnector, host};
use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::{Key, Object};

pub use settings::{Endpoint, Settings, SyncLevel};
use transfer::{Place, Status, Task, Transfer};

/// In configurations.
pub const KIND: &str = "globus";

/// Tasks that are remembered not to be waited for again: those of a few thousand objects, in some 100 KB.
const TASKS_KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add((1 << 12) - 1);

/// Requests to Globus that a batch has under way at once.
const AT_ONCE: usize = 16;

/// Keeps objects as files in a directory of this host, and has Globus copy them to those of other hosts.
///
/// A `put` is done when the object is here and Globus has accepted the copies; these arrive later. Reading an
/// object waits for its copy, at most for [`Settings::timeout`]; a file that is there before its transfer has
/// succeeded may be half of one, and is not touched. An object that this host sent is there at once. Objects that
/// were evicted disappear from other hosts some time later.
///
/// ```no_run
/// use proxystore::connectors::GlobusConnector;
/// use proxystore::connectors::globus::{Endpoint, Settings};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = |host: &str, path: &str| Endpoint {
///     host_regex: host.to_owned(),
///     endpoint_path: path.to_owned(),
///     local_path: format!("/projects{path}"),
/// };
/// let mut settings = Settings::new([
///     ("6b1a4c2e-3f0d-4d57-9d2b-1f8e6a5c7b90".parse()?, endpoint(r"login\d+\.near", "/mine/objects")),
///     ("0c9e7f35-8a64-4b1e-b7d2-5e3f2a1d6c48".parse()?, endpoint(r".*\.far", "/ours/objects")),
/// ]);
/// settings.token_file = Some("~/.globus-transfer.json".to_owned());
/// let connector = GlobusConnector::new(settings)?;
/// # Ok(())
/// # }
/// ```
pub struct GlobusConnector {
    settings: Settings,
    /// The endpoint of this host.
    here: Uuid,
    files: FileConnector,
    transfer: Transfer,
    settled: Mutex<LruCache<Uuid, Settled>>,
}

/// Why a task need not be waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// It brings nothing here, but may still read files that are here.
    PassesBy,
    Finished,
}

impl GlobusConnector {
    /// With the endpoint that is for this host. Nothing is sent to Globus yet.
    pub fn new(settings: Settings) -> Result<Self, ConnectorError> {
        settings.check()?;
        let here = settings.endpoint_on(&host::name())?;
        let files =
            FileConnector::new(settings::expand(&settings.endpoints[&here].local_path))?.without_markers();
        let transfer = Transfer::new(&settings)?;
        let settled = Mutex::new(LruCache::new(TASKS_KEPT));
        Ok(Self { files: files.clear_on_close(settings.clear), settings, here, transfer, settled })
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        Self::new(config.settings()?)
    }

    fn settled(&self) -> MutexGuard<'_, LruCache<Uuid, Settled>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.settings.timeout
    }

    fn others(&self) -> impl Iterator<Item = Place<'_>> {
        self.settings
            .endpoints
            .iter()
            .map(|(id, endpoint)| (*id, endpoint))
            .filter(|(id, _)| *id != self.here)
    }

    /// The file and the tasks of an object. A key may come from anywhere, and both get into paths: they must be
    /// UUIDs, and no more than a `put` makes.
    fn parts(&self, key: &Key) -> Result<(Key, Vec<Uuid>), ConnectorError> {
        let foreign = || ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() };
        let Key::Globus { filename, task_ids } = key else { return Err(foreign()) };
        let tasks = task_ids.iter().map(|id| Uuid::try_parse(id)).collect::<Result<Vec<_>, _>>();
        match (Uuid::try_parse(filename), tasks) {
            (Ok(_), Ok(tasks)) if tasks.len() < self.settings.endpoints.len() => {
                Ok((Key::File { filename: filename.clone() }, tasks))
            }
            _ => Err(foreign()),
        }
    }

    /// Has files that are here copied to all other endpoints, and returns the tasks that do it. If that fails, the
    /// files are removed.
    async fn copy_out(&self, files: &[Key]) -> Result<Vec<String>, ConnectorError> {
        let filenames: Vec<_> = files.iter().filter_map(filename_of).collect();
        let from = (self.here, &self.settings.endpoints[&self.here]);
        let (level, deadline) = (self.settings.sync_level, self.deadline());
        let tasks = self.others().map(|to| self.transfer.copy(from, to, &filenames, level, deadline));
        match try_join_all(tasks).await {
            Ok(tasks) => {
                let mut settled = self.settled();
                for task in &tasks {
                    settled.put(*task, Settled::PassesBy);
                }
                Ok(tasks.iter().map(Uuid::to_string).collect())
            }
            Err(error) => {
                // Nobody will know their keys. If this fails too, the first error says more.
                join_all(files.iter().map(|file| self.files.evict(file))).await;
                Err(error)
            }
        }
    }

    /// Looks at a task until it is as wished, or over. None if there is no such task.
    async fn watch(
        &self,
        id: Uuid,
        deadline: Instant,
        wished: impl Fn(&Task) -> bool + Send,
    ) -> Result<Option<Task>, ConnectorError> {
        let mut words = None;
        loop {
            let task = match self.transfer.task(id, deadline).await {
                // What was seen of the task before says more than that the last look came too late.
                Err(ConnectorError::Timeout { target, after }) => {
                    let seen = words.map(|words| format!("{target}: task {id}, which {words},"));
                    return Err(ConnectorError::Timeout { target: seen.unwrap_or(target), after });
                }
                answer => answer?,
            };
            let Some(task) = task else { return Ok(None) };
            if wished(&task) || task.status != Status::Active {
                return Ok(Some(task));
            }
            words = Some(task.words());
            sleep_until(deadline.min(Instant::now() + self.settings.polling_interval)).await;
        }
    }

    /// Waits until a task has brought here what it was to bring; false if there is no such task.
    async fn arrived(&self, id: Uuid, deadline: Instant) -> Result<bool, ConnectorError> {
        if self.settled().get(&id).is_some() {
            return Ok(true);
        }
        let passes_by = |task: &Task| task.passes_by(self.here);
        let Some(task) = self.watch(id, deadline, passes_by).await? else { return Ok(false) };
        let settled = match task.status {
            Status::Succeeded => Settled::Finished,
            _ if passes_by(&task) => Settled::PassesBy,
            _ => return Err(self.transfer.refused(id, &task)),
        };
        self.settled().put(id, settled);
        Ok(true)
    }

    /// Waits until a task does nothing any more, whether it succeeded or not.
    async fn finished(&self, id: Uuid, deadline: Instant) -> Result<(), ConnectorError> {
        if self.settled().get(&id) == Some(&Settled::Finished) {
            return Ok(());
        }
        if self.watch(id, deadline, |_| false).await?.is_some_and(|task| task.status == Status::Succeeded) {
            self.settled().put(id, Settled::Finished);
        }
        Ok(())
    }

    /// The file of an object once it is here in full, if there ever was one.
    async fn file(&self, key: &Key, deadline: Instant) -> Result<Option<Key>, ConnectorError> {
        let (file, tasks) = self.parts(key)?;
        let arrived = try_join_all(tasks.into_iter().map(|task| self.arrived(task, deadline))).await?;
        Ok(arrived.into_iter().all(|arrived| arrived).then_some(file))
    }

    async fn exists_by(&self, key: &Key, deadline: Instant) -> Result<bool, ConnectorError> {
        match self.file(key, deadline).await? {
            Some(file) => self.files.exists(&file).await,
            None => Ok(false),
        }
    }

    async fn clear_others(&self) -> Result<(), ConnectorError> {
        let deadline = self.deadline();
        let clear = |(id, endpoint): Place<'_>| {
            let path = endpoint.endpoint_path.clone();
            async move {
                let task = self.transfer.delete(id, &path, true, deadline).await?;
                match self.watch(task, deadline, |_| false).await? {
                    Some(over) if over.status != Status::Succeeded => Err(self.transfer.refused(task, &over)),
                    _ => Ok(()),
                }
            }
        };
        try_join_all(self.others().map(clear).collect::<Vec<_>>()).await.map(drop)
    }
}

fn filename_of(file: &Key) -> Option<&str> {
    match file {
        Key::File { filename } => Some(filename),
        _ => None,
    }
}

fn key_of(file: Key, task_ids: Vec<String>) -> Key {
    match file {
        Key::File { filename } => Key::Globus { filename, task_ids },
        other => other,
    }
}

#[async_trait]
impl Connector for GlobusConnector {
    /// In case of an error, copies that Globus had accepted already may stay on other hosts.
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.put_stream(object.into(), options).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        match self.file(key, self.deadline()).await? {
            Some(file) => self.files.get(&file).await,
            None => Ok(None),
        }
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        self.exists_by(key, self.deadline()).await
    }

    /// Waits for transfers of the object first: they would bring it back, or fail for want of it.
    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        let (file, tasks) = self.parts(key)?;
        let deadline = self.deadline();
        try_join_all(tasks.into_iter().map(|task| self.finished(task, deadline))).await?;
        if !self.files.exists(&file).await? {
            return Ok(());
        }
        let filename = filename_of(&file).unwrap_or_default();
        let delete = |(id, endpoint): Place<'_>| {
            let path = endpoint.path_of(filename);
            async move { self.transfer.delete(id, &path, false, deadline).await }
        };
        try_join_all(self.others().map(delete).collect::<Vec<_>>()).await?;
        // Last, so that it is there to be evicted again if that failed.
        self.files.evict(&file).await
    }

    fn config(&self) -> ConnectorConfig {
        ConnectorConfig::new(KIND, &self.settings)
    }

    /// All files go in one task to each endpoint. Globus works on three transfers of a user at a time, so that a
    /// batch arrives much sooner than as many single objects.
    async fn put_batch(
        &self,
        objects: Vec<Object>,
        options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.files.put_batch(objects, options).await?;
        let task_ids = self.copy_out(&files).await?;
        Ok(files.into_iter().map(|file| key_of(file, task_ids.clone())).collect())
    }

    /// The keys of one batch share their tasks; each of these is waited for once.
    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        let deadline = self.deadline();
        let parts = keys.iter().map(|key| self.parts(key)).collect::<Result<Vec<_>, _>>()?;
        let tasks: BTreeSet<_> = parts.into_iter().flat_map(|(_, tasks)| tasks).collect();
        let arrivals: Vec<_> = tasks.into_iter().map(|task| self.arrived(task, deadline)).collect();
        stream::iter(arrivals).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let objects: Vec<_> = keys.iter().map(|key| self.get(key)).collect();
        stream::iter(objects).buffered(AT_ONCE).try_collect().await
    }

    async fn put_stream(&self, stream: ObjectStream, options: &PutOptions) -> Result<Key, ConnectorError> {
        let file = self.files.put_stream(stream, options).await?;
        let task_ids = self.copy_out(slice::from_ref(&file)).await?;
        Ok(key_of(file, task_ids))
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        match self.file(key, self.deadline()).await? {
            Some(file) => self.files.get_stream(&file).await,
            None => Ok(None),
        }
    }

    /// Once its transfers are over an object is there or never will be.
    async fn wait(&self, key: &Key, deadline: Instant) -> Result<bool, ConnectorError> {
        match timeout_at(deadline, self.exists_by(key, deadline)).await {
            Err(_) | Ok(Err(ConnectorError::Timeout { .. })) => Ok(false),
            Ok(found) => found,
        }
    }

    /// With `clear`, removes the directories on all hosts.
    async fn close(&self) -> Result<(), ConnectorError> {
        if self.settings.clear {
            try_join(self.clear_others(), self.files.close()).await?;
        }
        self.transfer.close();
        Ok(())
    }
}

impl fmt::Debug for GlobusConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlobusConnector")
            .field("here", &self.here)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
