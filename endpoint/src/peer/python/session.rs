//! A session with a Python endpoint: sends messages, and finds the request that a response belongs to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_shared::python::chunk::Cutter;
use proxystore_shared::python::request::EndpointRequest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::budget::Share;
use crate::endpoint::RequestError;
use crate::lock::lock;
use crate::peer::PeerError;
use crate::peer::activity::Activity;
use crate::peer::negotiation::ConnectionId;
use crate::transport::webrtc::View;

/// Frames that wait for the connection: enough that it never waits for them.
pub(super) const FRAMES: usize = 16;

/// For a response, however much goes back and forth meanwhile: a Python endpoint serves one request after the other, and
/// may have a queue of large ones.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(600);

/// A response, and the share of the budget that its data takes.
pub(super) type Response = (EndpointRequest, Share);

/// The data of a message, in pieces.
pub(super) type Data = BoxStream<'static, Result<Bytes, RequestError>>;

/// See the module's head.
#[derive(Debug)]
pub struct PythonSession {
    id: ConnectionId,
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Response>>>,
    next_message: AtomicU32,
    activity: Activity,
    /// When the connection last took or brought a frame.
    moved: Mutex<Instant>,
    view: Arc<Mutex<View>>,
    tasks: TaskTracker,
    /// Asks the task to end.
    pub(super) closing: CancellationToken,
}

/// Why a message was not sent whole.
#[derive(Debug)]
pub(super) enum SendError {
    /// Its data could not be had.
    Data(RequestError),
    /// The session failed.
    Peer(PeerError),
}

impl PythonSession {
    /// A session over a connection of which `view` tells, and which sends what the receiver gets.
    pub(super) fn new(view: Arc<Mutex<View>>, tasks: TaskTracker) -> (Arc<Self>, mpsc::Receiver<Vec<u8>>) {
        let (frames, receiver) = mpsc::channel(FRAMES);
        let session = Self {
            id: next_id(),
            frames,
            waiting: Mutex::default(),
            next_message: AtomicU32::default(),
            activity: Activity::default(),
            moved: Mutex::new(Instant::now()),
            view,
            tasks,
            closing: CancellationToken::new(),
        };
        (Arc::new(session), receiver)
    }

    /// Names the connection within this process.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Whether it can no longer be used.
    pub fn is_closed(&self) -> bool {
        self.closing.is_cancelled() || self.frames.is_closed()
    }

    /// Closes it.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// How busy it is.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Counts a request as running until the guard is dropped.
    pub(super) fn busy(&self) -> Busy<'_> {
        self.activity.begin();
        Busy(&self.activity)
    }

    /// What can be told of the connection.
    pub fn view(&self) -> View {
        *lock(&self.view)
    }

    /// The connection took a frame, or brought one; or a request begins, for which it need not have.
    pub(super) fn note_movement(&self) {
        *lock(&self.moved) = Instant::now();
    }

    /// A response came; whoever waits for it gets it.
    pub(super) fn answer(&self, response: Response) {
        let waiting = self.waiting().remove(&response.0.uuid);
        if let Some(waiting) = waiting {
            // The request may have given up.
            let _ = waiting.send(response);
        }
    }

    /// The connection is gone: nobody waits any longer.
    pub(super) fn abandon(&self) {
        self.close();
        self.waiting().clear();
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Response>>> {
        lock(&self.waiting)
    }

    /// Sends a request and waits for its response. `limit` is how long the session may stand still meanwhile.
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: EndpointRequest,
        data: Option<Vec<Bytes>>,
        limit: Duration,
    ) -> Result<Response, PeerError> {
        let _busy = self.busy();
        let (reply, response) = oneshot::channel();
        self.waiting().insert(request.uuid.clone(), reply);
        let _forget = Forget { session: self, uuid: request.uuid.clone() };
        self.note_movement();
        // The task may have ended before it could know of this request.
        if self.is_closed() {
            return Err(gone());
        }
        self.send_all(request, data, limit).await?;
        tokio::select! {
            response = response => response.map_err(|_| gone()),
            error = self.standstill(limit) => Err(error),
        }
    }

    /// Sends a message whose data is in memory. Once begun it is sent to its end, though nobody waits for it any longer:
    /// the peer keeps half a message for as long as there is the connection.
    async fn send_all(
        self: &Arc<Self>,
        message: EndpointRequest,
        data: Option<Vec<Bytes>>,
        limit: Duration,
    ) -> Result<(), PeerError> {
        let session = self.clone();
        let sending = self.tasks.spawn(async move {
            let len = data.as_ref().map(|data| data.iter().map(|piece| piece.len() as u64).sum());
            let data = stream::iter(data.unwrap_or_default()).map(Ok).boxed();
            session.send(&message, len, data, limit).await
        });
        match sending.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SendError::Peer(error))) => Err(error),
            Ok(Err(SendError::Data(error))) => Err(PeerError::Lost(error.to_string())),
            Err(panic) => Err(PeerError::Lost(panic.to_string())),
        }
    }

    async fn standstill(&self, limit: Duration) -> PeerError {
        let latest = Instant::now() + RESPONSE_TIMEOUT;
        loop {
            let due = (*lock(&self.moved) + limit).min(latest);
            if due <= Instant::now() {
                return PeerError::Stalled(limit);
            }
            sleep_until(due.into()).await;
        }
    }

    /// Sends a message with `len` bytes of data, or with none.
    pub(super) async fn send(
        &self,
        message: &EndpointRequest,
        len: Option<u64>,
        data: Data,
        limit: Duration,
    ) -> Result<(), SendError> {
        let (head, tail) = message.encode_around(len);
        let total = (head.len() + tail.len()) as u64 + len.unwrap_or(0);
        let number = self.next_message.fetch_add(1, Ordering::Relaxed);
        let too_large =
            || SendError::Peer(PeerError::Unsupported("the object is too large for WebRTC".into()));
        let mut cutter = Cutter::new(number, total).ok_or_else(too_large)?;
        let around = |bytes| stream::iter([Ok(bytes)]);
        let mut pieces = around(head).chain(data).chain(around(tail));
        while let Some(mut piece) = pieces.try_next().await.map_err(SendError::Data)? {
            while piece.has_remaining() {
                if let Some(frame) = cutter.fill(&mut piece) {
                    self.push(frame, limit).await.map_err(SendError::Peer)?;
                }
            }
        }
        Ok(())
    }

    async fn push(&self, frame: Vec<u8>, limit: Duration) -> Result<(), PeerError> {
        match timeout(limit, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(PeerError::Stalled(limit)),
        }
    }
}

fn gone() -> PeerError {
    PeerError::Lost("the connection with the Python endpoint has ended".into())
}

/// Connections over QUIC are named by where they are in memory, which is an even number.
fn next_id() -> ConnectionId {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(2, Ordering::Relaxed)
}

/// A running request.
pub(super) struct Busy<'a>(&'a Activity);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Forgets a request that no longer waits.
struct Forget<'a> {
    session: &'a PythonSession,
    uuid: String,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.session.waiting().remove(&self.uuid);
    }
}
