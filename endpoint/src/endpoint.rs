//! The endpoint as its HTTP API and its command line see it: four operations on objects, here or at a peer.

use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt as _};
use proxystore_shared::frame::{ByteRange, ObjectMeta};
use proxystore_shared::{Digest, EndpointId, ObjectId};

use crate::local;
use crate::peer::{PeerError, PeerManager};
use crate::storage::{Storage, StorageError};

/// Bytes of an object on their way in, as a client sends them.
pub type Incoming = BoxStream<'static, io::Result<Bytes>>;

/// Bytes of an object on their way out. An error ends the stream: the object was not delivered whole.
pub enum Outgoing {
    /// All that is left.
    Rest(Bytes),
    /// Piece after piece.
    Pieces(BoxStream<'static, Result<Bytes, RequestError>>),
}

impl From<Vec<Bytes>> for Outgoing {
    fn from(mut pieces: Vec<Bytes>) -> Self {
        match pieces.len() {
            0 | 1 => Self::Rest(pieces.pop().unwrap_or_default()),
            _ => Self::Pieces(stream::iter(pieces).map(Ok).boxed()),
        }
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, RequestError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Rest(bytes) => Poll::Ready((!bytes.is_empty()).then(|| Ok(mem::take(bytes)))),
            Self::Pieces(pieces) => pieces.as_mut().poll_next(cx),
        }
    }
}

/// An object, or part of one, being read.
pub struct ObjectStream {
    /// The version that is being read.
    pub meta: ObjectMeta,
    /// First byte of the part.
    pub start: u64,
    /// One past its last byte.
    pub end: u64,
    /// The bytes of the part.
    pub body: Outgoing,
}

/// What became of a `get`.
pub enum GetOutcome {
    /// Here it comes.
    Found(ObjectStream),
    /// The object's digest is the one the caller has.
    NotModified(ObjectMeta),
    /// There is no such object.
    Missing,
}

/// What a `get` asks for besides the object.
#[derive(Debug, Clone, Copy, Default)]
pub struct GetOptions {
    /// Only this part.
    pub range: Option<ByteRange>,
    /// Only if the digest is another.
    pub if_none_match: Option<Digest>,
}

/// What a `put` says besides the bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// Bytes in all, when the client announced them.
    pub size: Option<u64>,
    /// Refuse if the object exists.
    pub create_only: bool,
}

/// Why a request failed, and with that what its caller may do.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// This endpoint's own storage refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The range lies outside the object.
    #[error("the range lies outside the object, which has {size} bytes")]
    Range {
        /// Bytes of the object.
        size: u64,
    },
    /// The client's upload broke off; nothing was stored.
    #[error("the upload broke off: {0}")]
    Upload(#[source] io::Error),
    /// The peer could not be reached, or failed.
    #[error("request to peer {peer} failed: {error}")]
    Peer {
        /// The endpoint that was asked for.
        peer: EndpointId,
        /// What happened.
        error: PeerError,
    },
}

/// A running endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    id: EndpointId,
    name: String,
    started: Instant,
    storage: Arc<dyn Storage>,
    /// Absent in solo mode.
    peers: Option<PeerManager>,
}

impl Endpoint {
    /// Ties storage and peers together; without peers the endpoint runs in solo mode.
    pub fn new(id: EndpointId, name: String, storage: Arc<dyn Storage>, peers: Option<PeerManager>) -> Self {
        Self { inner: Arc::new(Inner { id, name, started: Instant::now(), storage, peers }) }
    }

    /// This endpoint's id.
    pub fn id(&self) -> EndpointId {
        self.inner.id
    }

    /// This endpoint's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Time since the endpoint was started.
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// The objects kept here.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.inner.storage
    }

    /// Sessions with peers; none in solo mode.
    pub fn peers(&self) -> Option<&PeerManager> {
        self.inner.peers.as_ref()
    }

    /// The peer a request is for; none when it is for this endpoint, or when there are no peers at all, as
    /// Python's solo mode has it.
    fn peer_of(&self, at: Option<EndpointId>) -> Option<(&PeerManager, EndpointId)> {
        let peer = at.filter(|at| *at != self.inner.id)?;
        self.inner.peers.as_ref().map(|peers| (peers, peer))
    }

    /// Opens an object, here or at the endpoint `at`.
    pub async fn get(
        &self,
        id: &ObjectId,
        at: Option<EndpointId>,
        options: GetOptions,
    ) -> Result<GetOutcome, RequestError> {
        match self.peer_of(at) {
            Some((peers, peer)) => peers.get(peer, id, options).await,
            None => local::get(&self.inner.storage, id, options).await,
        }
    }

    /// What is known of an object, here or at the endpoint `at`.
    pub async fn stat(
        &self,
        id: &ObjectId,
        at: Option<EndpointId>,
    ) -> Result<Option<ObjectMeta>, RequestError> {
        match self.peer_of(at) {
            Some((peers, peer)) => peers.stat(peer, id).await,
            None => Ok(self.inner.storage.stat(id).await?),
        }
    }

    /// Whether there is an object, here or at the endpoint `at`. A Python endpoint can say that without sending it.
    pub async fn exists(&self, id: &ObjectId, at: Option<EndpointId>) -> Result<bool, RequestError> {
        match self.peer_of(at) {
            Some((peers, peer)) => peers.exists(peer, id).await,
            None => Ok(self.inner.storage.stat(id).await?.is_some()),
        }
    }

    /// Stores an object, here or at the endpoint `at`, in place of any earlier version. When this returns, the
    /// object is there.
    pub async fn put(
        &self,
        id: &ObjectId,
        at: Option<EndpointId>,
        options: PutOptions,
        body: Incoming,
    ) -> Result<ObjectMeta, RequestError> {
        match self.peer_of(at) {
            Some((peers, peer)) => peers.put(peer, id, options, body).await,
            None => local::put(&self.inner.storage, id, options, body).await,
        }
    }

    /// Forgets an object, here or at the endpoint `at`; tells whether it was there.
    pub async fn evict(&self, id: &ObjectId, at: Option<EndpointId>) -> Result<bool, RequestError> {
        match self.peer_of(at) {
            Some((peers, peer)) => peers.evict(peer, id).await,
            None => Ok(self.inner.storage.evict(id).await?),
        }
    }
}
