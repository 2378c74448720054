//! What every handler shares.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::failure::Failure;
use super::metrics::Metrics;
use super::target::Target;
use crate::Endpoint;
use crate::endpoint::{GetOptions, GetOutcome, ObjectStream, Outgoing, RequestError};

/// Handlers get it as their state.
pub type SharedApp = Arc<App>;

/// State of the server.
pub struct App {
    /// What is served.
    pub endpoint: Endpoint,
    /// What is counted.
    pub metrics: Metrics,
    /// How long a client may be silent, or take nothing, in the middle of a request.
    pub idle_timeout: Duration,
    /// Every task of the server.
    pub tasks: TaskTracker,
    /// Ends every task of the server at once.
    pub abort: CancellationToken,
}

impl App {
    /// The state of a server that has no connection yet.
    pub fn new(endpoint: Endpoint, idle_timeout: Duration) -> SharedApp {
        Arc::new(Self {
            endpoint,
            metrics: Metrics::default(),
            idle_timeout,
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
        })
    }

    /// Counts a failed request and says how to answer it.
    pub fn failure(&self, error: RequestError) -> Failure {
        let failure = Failure::from(error);
        if failure.by_peer {
            self.metrics.peer_failed(failure.code);
        }
        failure
    }

    /// Opens the whole of an object.
    pub async fn open(&self, target: &Target) -> Result<ObjectStream, Failure> {
        match self.endpoint.get(&target.id, target.at, GetOptions::default()).await {
            Ok(GetOutcome::Found(object)) => Ok(object),
            Ok(_) => Err(Failure::missing(&target.id)),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// The bytes of an object as the body of an answer. An error breaks the connection.
    pub fn body_of(self: &Arc<Self>, object: ObjectStream) -> Body {
        match object.body {
            _ if object.start == object.end => Body::empty(),
            Outgoing::Rest(bytes) => {
                self.metrics.sent.inc_by(bytes.len() as u64);
                bytes.into()
            }
            pieces => self.body_from(pieces),
        }
    }

    /// A stream as the body of an answer. An error breaks the connection.
    pub fn body_from(
        self: &Arc<Self>,
        stream: impl Stream<Item = Result<Bytes, RequestError>> + Send + 'static,
    ) -> Body {
        let app = self.clone();
        Body::from_stream(stream.map(move |bytes| match bytes {
            Ok(bytes) => {
                app.metrics.sent.inc_by(bytes.len() as u64);
                Ok(bytes)
            }
            Err(error) => {
                let failure = app.failure(error);
                debug!(code = failure.code, "an answer was broken off: {}", failure.detail);
                Err(failure)
            }
        }))
    }
}
