//! What a store is made of: a [`Connector`] keeps serialized objects somewhere and names them by [`Key`]s.
//!
//! Connectors know bytes, [`Store`](crate::Store)s know types. Every connector runs the same contract suite
//! (`client/tests/connectors/contract.rs`).

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::{Key, Object};

/// Requests of a batch that are under way at once, where a connector has no batches of its own.
const BATCH_CONCURRENCY: usize = 16;

/// First pause between two looks for an object that is to come, doubled each time.
const FIRST_POLL: Duration = Duration::from_millis(2);

/// Longest pause between two looks for an object that is to come.
const LONGEST_POLL: Duration = Duration::from_secs(1);

/// Keeps serialized objects. Cheap to share; every method has a deadline of its own.
///
/// An object is written once under a key of its own and never changes, so asking again is always safe: a
/// connector repeats a `get`, `exists`, `evict` or `set` once when its connection turns out to be dead.
#[async_trait]
pub trait Connector: fmt::Debug + Send + Sync + 'static {
    /// Stores an object under a new key. Done means stored; in case of an error nothing is.
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError>;

    /// The object, or none if there is none under this key.
    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError>;

    /// Whether there is an object under this key.
    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError>;

    /// Forgets the object. No error if there is none.
    async fn evict(&self, key: &Key) -> Result<(), ConnectorError>;

    /// Everything that another process needs to make the same connector, without secrets.
    fn config(&self) -> ConnectorConfig;

    /// A key for an object to come, for [`Connector::set`].
    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Err(ConnectorError::Unsupported {
            kind: self.config().kind,
            what: "keys of objects to come".to_owned(),
        })
    }

    /// Stores the object that a [`Connector::new_key`] was made for.
    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        let _ = (key, object);
        Err(ConnectorError::Unsupported {
            kind: self.config().kind,
            what: "keys of objects to come".to_owned(),
        })
    }

    /// Stores objects, in order. In case of an error some may be stored, under keys that nobody knows.
    async fn put_batch(
        &self,
        objects: Vec<Object>,
        options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        stream::iter(objects.into_iter().map(|object| self.put(object, options)))
            .buffered(BATCH_CONCURRENCY)
            .try_collect()
            .await
    }

    /// The objects, in the order of the keys.
    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        // Collected first: a closure that borrows would have to be general over lifetimes here.
        let requests: Vec<_> = keys.iter().map(|key| self.get(key)).collect();
        stream::iter(requests).buffered(BATCH_CONCURRENCY).try_collect().await
    }

    /// Stores an object as it comes, without holding all of it if the connector can do that.
    async fn put_stream(&self, stream: ObjectStream, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.put(stream.collect().await?, options).await
    }

    /// The object as it arrives, without holding all of it if the connector can do that.
    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        Ok(self.get(key).await?.map(ObjectStream::from))
    }

    /// Waits until there is an object under this key; false if there is none at `deadline`.
    async fn wait(&self, key: &Key, deadline: Instant) -> Result<bool, ConnectorError> {
        let mut pause = FIRST_POLL;
        while !self.exists(key).await? {
            let now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            tokio::time::sleep_until(deadline.min(now + pause)).await;
            pause = (pause * 2).min(LONGEST_POLL);
        }
        Ok(true)
    }

    /// Closes connections. Objects stay, unless the connector was configured to clear them.
    async fn close(&self) -> Result<(), ConnectorError> {
        Ok(())
    }
}

/// Wishes about where a new object goes; connectors that know only one place ignore them, a
/// [`MultiConnector`](crate::connectors::MultiConnector) compares them with its policies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// All of these must be among a policy's subset tags. None given: any policy will do.
    pub subset_tags: Vec<String>,
    /// A policy must have no superset tags besides these. None given: only a policy without superset tags will do.
    pub superset_tags: Vec<String>,
}

/// Makes a connector again, in this process or another one. Carries no secrets: those come from the environment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectorConfig {
    /// Which connector, as in `file`; see [`crate::connectors::register_kind`].
    pub kind: String,
    /// What that connector needs to know.
    pub settings: Value,
}

impl ConnectorConfig {
    /// Of the connector called `kind`, whose settings serialize to a JSON object.
    pub fn new(kind: &str, settings: &impl Serialize) -> Self {
        let settings = serde_json::to_value(settings).unwrap_or_default();
        Self { kind: kind.to_owned(), settings }
    }

    /// The settings, in the connector's own type.
    pub fn settings<T: for<'a> Deserialize<'a>>(&self) -> Result<T, ConnectorError> {
        T::deserialize(&self.settings)
            .map_err(|error| ConnectorError::Config { kind: self.kind.clone(), reason: error.to_string() })
    }
}

/// An object that arrives chunk by chunk. Dropping it ends the transfer.
pub struct ObjectStream {
    /// In bytes, if known beforehand.
    pub len: Option<u64>,
    /// The bytes in order. After an error nothing follows.
    pub chunks: BoxStream<'static, Result<Bytes, ConnectorError>>,
}

impl ObjectStream {
    /// All of it in memory.
    pub async fn collect(self) -> Result<Object, ConnectorError> {
        self.chunks.try_collect::<Vec<_>>().await.map(Object::from_iter)
    }
}

impl From<Object> for ObjectStream {
    fn from(object: Object) -> Self {
        let len = Some(object.len() as u64);
        Self { len, chunks: stream::iter(object.into_segments().into_iter().map(Ok)).boxed() }
    }
}

impl fmt::Debug for ObjectStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStream").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Why a connector could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// Nobody answers there. Trying later may help.
    #[error("cannot reach {target}: {reason}")]
    Unreachable {
        /// Whom.
        target: String,
        /// What the system said.
        reason: String,
    },
    /// The connection was lost in the middle. Trying again may help.
    #[error("the connection to {target} broke: {reason}")]
    Broken {
        /// With whom.
        target: String,
        /// What the system said.
        reason: String,
    },
    /// No answer in time. Trying again may help.
    #[error("{target} did not answer within {after:?}")]
    Timeout {
        /// Who.
        target: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The other side will not, and says why.
    #[error("{target} refused: {reason}")]
    Refused {
        /// Who.
        target: String,
        /// In its words.
        reason: String,
    },
    /// The store takes no object of this size.
    #[error("{target} takes no object of {len} bytes: {reason}")]
    TooLarge {
        /// Who.
        target: String,
        /// Size of the object.
        len: u64,
        /// In its words.
        reason: String,
    },
    /// No room is left: evict objects, or make room.
    #[error("no space is left in {target}: evict objects or make room")]
    Full {
        /// Where.
        target: String,
    },
    /// A file operation failed.
    #[error("{path}: {reason}")]
    Io {
        /// Which file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// The key was made by another kind of connector.
    #[error("the key {key} does not belong to a {kind} store")]
    ForeignKey {
        /// The key.
        key: Key,
        /// This connector.
        kind: String,
    },
    /// What is stored under the key is not what was put there.
    #[error("the object {key} is damaged: {reason}")]
    Damaged {
        /// The key.
        key: Key,
        /// How that was seen.
        reason: String,
    },
    /// No policy takes the object.
    #[error("no connector's policy takes an object of {len} bytes with these tags: {options:?}")]
    NoPolicy {
        /// Size of the object.
        len: u64,
        /// What was wished.
        options: PutOptions,
    },
    /// The connector that has the object works only on other hosts.
    #[error(
        "the connector {name:?}, which has {key}, is dormant on this host: its host pattern does not match"
    )]
    Dormant {
        /// The connector's name.
        name: String,
        /// The key.
        key: Key,
    },
    /// The connector cannot do this.
    #[error("a {kind} store has no {what}")]
    Unsupported {
        /// This connector.
        kind: String,
        /// What it lacks.
        what: String,
    },
    /// A configuration that this connector cannot work with.
    #[error("configuration of a {kind} store: {reason}")]
    Config {
        /// This connector.
        kind: String,
        /// What is wrong.
        reason: String,
    },
    /// A configuration for a connector that is not known here.
    #[error("there is no connector called {kind:?}; known here: {known}")]
    UnknownKind {
        /// As configured.
        kind: String,
        /// Those that are, separated by commas.
        known: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl ConnectorError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Timeout { .. } | Self::Full { .. }
        )
    }
}
