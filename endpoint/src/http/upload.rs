//! The body of a request on its way into storage.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::http::{HeaderMap, header};
use futures_util::{Stream, StreamExt as _};
use tokio::time::timeout;

use super::app::SharedApp;
use super::patience::Patience;

/// How long the rest of a refused upload is read and thrown away. A client that writes its whole request before
/// it looks for an answer, as Python's does, otherwise finds a broken connection in place of the refusal.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The bytes of a request, each frame as it came from the socket.
///
/// Fails when the client is silent for too long. Dropped early, it reads on for a while.
pub struct Upload {
    /// Until its end or first error.
    body: Option<BodyDataStream>,
    size: Option<u64>,
    patience: Patience,
    /// The client sends nothing before it is told to.
    waits_for_continue: bool,
    app: SharedApp,
}

impl Upload {
    /// Wraps the body of a request with these headers.
    pub fn new(app: SharedApp, headers: &HeaderMap, body: Body) -> Self {
        Self {
            size: body.size_hint().exact(),
            body: Some(body.into_data_stream()),
            patience: Patience::new(app.idle_timeout),
            waits_for_continue: headers.contains_key(header::EXPECT),
            app,
        }
    }

    /// Bytes in all, if the client announced them.
    pub fn size(&self) -> Option<u64> {
        self.size
    }
}

impl Stream for Upload {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        this.waits_for_continue = false;
        let item = match body.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(bytes))) => {
                this.patience.renew();
                this.app.metrics.received.inc_by(bytes.len() as u64);
                return Poll::Ready(Some(Ok(bytes)));
            }
            Poll::Ready(Some(Err(error))) => Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, error))),
            Poll::Ready(None) => None,
            Poll::Pending => Some(Err(std::task::ready!(this.patience.poll_exhausted(cx)))),
        };
        this.body = None;
        Poll::Ready(item)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|_| !self.waits_for_continue) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let abort = self.app.abort.clone();
        let drain = async move { while let Some(Ok(_)) = body.next().await {} };
        let bounded = async move { abort.run_until_cancelled(timeout(DRAIN_TIME, drain)).await };
        self.app.tasks.spawn_on(bounded, &runtime);
    }
}
