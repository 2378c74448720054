//! A client's websocket, read and written at the same time by one task.
//!
//! Writing what waits for a client must not keep it from being heard: the acknowledgements of what one peer sends
//! come from the very client that is receiving.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::http::Socket;
use crate::outbox::Outbox;

/// Messages that are written before the client is listened to again: enough small ones to fill a system call.
const MAX_BATCH: usize = 32;

/// Bytes that are written together, or one message. Each time the system has taken them the client counts as reading.
const BATCH_LEN: usize = 64 * 1024;

/// A websocket and what is known about its writing side.
#[derive(Debug)]
pub struct Duplex {
    /// The websocket itself, for whoever wants to wait for it.
    pub socket: Socket,
    blocked_since: Option<Instant>,
    /// The message that was received last, until there is none behind it. As long as it lives the websocket library
    /// cannot read on in its memory and takes some new, a few bytes, so that the memory goes when the message goes.
    last: Option<Message>,
}

impl Duplex {
    /// A client that has just connected.
    pub fn new(socket: Socket) -> Self {
        Self { socket, blocked_since: None, last: None }
    }

    /// Since when the client has taken nothing of what is being written to it.
    pub fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// The client's next frame; until it comes, what waits in `outbox` is written. Nothing is lost if the future
    /// is dropped.
    pub async fn receive(&mut self, outbox: &Outbox) -> Option<Result<Message, Error>> {
        poll_fn(|context| {
            match self.poll_write(context, outbox) {
                Poll::Ready(Ok(())) => self.blocked_since = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {
                    self.blocked_since.get_or_insert_with(Instant::now);
                }
            }
            let next = self.socket.poll_next_unpin(context);
            // Datagrams are rewritten in place, which nobody else may hold.
            self.last = match &next {
                Poll::Ready(Some(Ok(message @ Message::Text(_)))) => Some(message.clone()),
                _ => None,
            };
            next
        })
        .await
    }

    /// Writes what waits. Ready when nothing is left, or when it is somebody else's turn.
    fn poll_write(&mut self, context: &mut Context<'_>, outbox: &Outbox) -> Poll<Result<(), Error>> {
        let mut written = 0;
        while written < MAX_BATCH {
            ready!(self.socket.poll_flush_unpin(context))?;
            self.blocked_since = None;
            let (before, mut len) = (written, 0);
            while written < MAX_BATCH && len < BATCH_LEN {
                let Poll::Ready(message) = outbox.poll_pop(context) else { break };
                len += message.len();
                self.socket.get_mut().hand_over(message);
                written += 1;
            }
            if written == before {
                return Poll::Ready(Ok(()));
            }
        }
        ready!(self.socket.poll_flush_unpin(context))?;
        context.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}
