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

/// A websocket and what is known about its writing side.
#[derive(Debug)]
pub struct Duplex {
    /// The websocket itself, for whoever wants to wait for it.
    pub socket: Socket,
    /// Some of what was given to the websocket may not have been given to the system.
    unflushed: bool,
    blocked_since: Option<Instant>,
}

impl Duplex {
    /// A client that has just connected.
    pub fn new(socket: Socket) -> Self {
        Self { socket, unflushed: false, blocked_since: None }
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
            self.socket.poll_next_unpin(context)
        })
        .await
    }

    /// Writes what waits. Ready when nothing is left, or when it is somebody else's turn.
    fn poll_write(&mut self, context: &mut Context<'_>, outbox: &Outbox) -> Poll<Result<(), Error>> {
        let mut written = 0;
        while written < MAX_BATCH {
            ready!(self.socket.poll_ready_unpin(context))?;
            self.blocked_since = None;
            let Poll::Ready(message) = outbox.poll_pop(context) else { break };
            self.unflushed = true;
            self.socket.start_send_unpin(message)?;
            written += 1;
        }
        if self.unflushed {
            ready!(self.socket.poll_flush_unpin(context))?;
            self.unflushed = false;
        }
        if written == MAX_BATCH {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}
