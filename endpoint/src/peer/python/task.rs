//! The task of a session with a Python endpoint: drives its connection, joins what arrives to messages, and hands those on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proxystore_shared::EndpointId;
use proxystore_shared::python::chunk::{Chunk, ChunkError, Joiner};
use proxystore_shared::python::request::{EndpointRequest, RequestError};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::budget::{LIMIT, OverBudget, Share};
use super::serve::Server;
use super::session::PythonSession;
use crate::peer::PeerError;
use crate::peer::actor::Command;
use crate::peer::context::Context;
use crate::transport::webrtc::{Connection, Event, Terms};

/// To tell the peer that we stop.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Requests of a peer that are served at once; more wait.
const MAX_SERVED: usize = 32;

/// What a message costs beside its bytes, at the most: the task that serves it.
const MESSAGE_OVERHEAD: usize = 4096;

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    #[error(transparent)]
    Message(#[from] RequestError),
    #[error(transparent)]
    Budget(#[from] OverBudget),
}

impl FrameError {
    /// Whether what follows would fare no better.
    fn is_final(&self) -> bool {
        matches!(self, Self::Budget(_) | Self::Chunk(ChunkError::TooMuch(_)))
    }
}

/// Connects to a peer, with what both have said of themselves.
pub async fn connect(context: Arc<Context>, terms: Terms) -> Result<Connection, PeerError> {
    let after = context.config.connect_timeout();
    let failed = |why: String| PeerError::ConnectTimeout { after, why };
    let mut connection =
        Connection::new(&context.webrtc, terms).map_err(|error| PeerError::Lost(error.to_string()))?;
    let opening = async {
        loop {
            match connection.event().await {
                Event::Open => return Ok(()),
                Event::Closed(why) => return Err(PeerError::Lost(why)),
                // Not before the channels are open.
                Event::Frame(_) | Event::Room => {}
            }
        }
    };
    match timeout(after, opening).await {
        Ok(opened) => opened.map(|()| connection),
        Err(_) => Err(failed("no address of the Python endpoint could be reached over UDP".into())),
    }
}

/// Begins to serve over a connection.
pub fn start(context: &Arc<Context>, peer: EndpointId, connection: Connection) -> Arc<PythonSession> {
    let (session, frames) = PythonSession::new(connection.view(), context.tasks.clone());
    let task = Task {
        context: context.clone(),
        peer,
        session: session.clone(),
        joiner: Joiner::new(LIMIT),
        unfinished: context.python_budget.share(),
        served: Arc::new(Semaphore::new(MAX_SERVED)),
    };
    context.tasks.spawn(task.run(connection, frames));
    session
}

struct Task {
    context: Arc<Context>,
    peer: EndpointId,
    session: Arc<PythonSession>,
    joiner: Joiner,
    unfinished: Share,
    served: Arc<Semaphore>,
}

impl Task {
    async fn run(mut self, mut connection: Connection, frames: mpsc::Receiver<Vec<u8>>) {
        let why = self.drive(&mut connection, frames).await;
        info!(peer = %self.peer, why, "session with a Python endpoint ended");
        self.session.abandon();
        connection.close(CLOSE_GRACE).await;
        let actor = self.context.actors.get(&self.peer).map(|sender| sender.clone());
        if let Some(actor) = actor {
            // A task that has ended has no use for the news.
            let _ = actor.send(Command::Down(self.session.id())).await;
        }
    }

    /// Returns why the session is over.
    async fn drive(&mut self, connection: &mut Connection, mut frames: mpsc::Receiver<Vec<u8>>) -> String {
        let (stop, closing) = (self.context.stop.clone(), self.session.closing.clone());
        loop {
            tokio::select! {
                () = stop.cancelled() => return "this endpoint is stopping".into(),
                () = closing.cancelled() => return "closed".into(),
                event = connection.event() => match event {
                    Event::Open | Event::Room => {}
                    Event::Closed(why) => return why,
                    Event::Frame(frame) => {
                        self.session.note_movement();
                        if let Err(error) = self.take(frame.into()) {
                            debug!(peer = %self.peer, %error, "a Python endpoint's frame is of no use");
                            if error.is_final() {
                                warn!(peer = %self.peer, %error, "a Python endpoint sends too much at once");
                                return error.to_string();
                            }
                        }
                    }
                },
                Some(frame) = frames.recv(), if connection.has_room() => {
                    connection.send(frame);
                    self.session.note_movement();
                }
            }
        }
    }

    fn take(&mut self, frame: Bytes) -> Result<(), FrameError> {
        let joined = self.joiner.add(Chunk::decode(frame)?)?;
        self.unfinished.set(self.joiner.held())?;
        let Some(message) = joined else { return Ok(()) };
        let len = message.iter().map(Bytes::len).sum::<usize>();
        let mut share = self.context.python_budget.share();
        share.set(len + MESSAGE_OVERHEAD)?;
        let message = EndpointRequest::decode(message)?;
        if message.is_response {
            self.session.answer((message, share));
            return Ok(());
        }
        let server = Server { context: self.context.clone(), peer: self.peer, session: self.session.clone() };
        let served = self.served.clone();
        self.context.tasks.spawn(async move {
            // Never closed.
            let _turn = served.acquire().await;
            server.serve(message).await;
            drop(share);
        });
        Ok(())
    }
}
