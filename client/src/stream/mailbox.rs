//! What a task has received from a broker, until the subscriber's owner takes it.
//!
//! Clients of brokers read as fast as messages come. A mailbox bounds what waits, in bytes, and says why no more
//! comes after what did.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::event::check_len;
use super::{MAX_MESSAGE_LEN, StreamError};

/// Bytes that wait at most: enough for a hundred thousand events, and for several of the largest.
const CAPACITY: usize = 4 * MAX_MESSAGE_LEN;

/// What a message takes besides its content, so that empty ones count too.
const MESSAGE_COST: usize = 64;

/// The end that the subscriber's owner reads.
pub(super) struct Mailbox {
    topic: String,
    messages: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
    reader: JoinHandle<StreamError>,
    failure: Option<StreamError>,
}

/// The end that the reading task fills.
pub(super) struct Inlet {
    topic: String,
    messages: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
}

impl Mailbox {
    /// Runs `read` in a task, which ends with the mailbox. What it returns is the error that follows the messages.
    pub fn new<F>(topic: &str, read: impl FnOnce(Inlet) -> F) -> Self
    where
        F: Future<Output = StreamError> + Send + 'static,
    {
        let (sender, messages) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(CAPACITY));
        let inlet = Inlet { topic: topic.to_owned(), messages: sender, room: room.clone() };
        let reader = tokio::spawn(read(inlet));
        Self { topic: topic.to_owned(), messages, room, reader, failure: None }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The next message, or why there is none any more.
    pub async fn next(&mut self) -> Result<Bytes, StreamError> {
        if let Some(message) = self.messages.recv().await {
            self.room.add_permits(cost(&message));
            return Ok(message);
        }
        if let Some(error) = &self.failure {
            return Err(error.clone());
        }
        let error = (&mut self.reader).await.unwrap_or_else(|stopped| StreamError::Broken {
            broker: format!("the broker of topic {:?}", self.topic),
            reason: stopped.to_string(),
        });
        self.failure = Some(error.clone());
        Err(error)
    }
}

impl Inlet {
    /// Adds a message, or fails if there is no room: for sources that cannot wait.
    #[cfg(any(feature = "nats", feature = "redis"))]
    pub fn try_push(&self, message: Bytes) -> Result<(), StreamError> {
        check_len(&self.topic, message.len())?;
        let lagged = || StreamError::Lagged { topic: self.topic.clone() };
        let room = self.room.try_acquire_many(cost(&message) as u32).map_err(|_| lagged())?;
        room.forget();
        // Only fails when the mailbox is gone, and this task is about to be stopped.
        let _ = self.messages.send(message);
        Ok(())
    }

    /// Adds a message once there is room: for sources that wait.
    #[cfg(any(feature = "kafka", feature = "zeromq"))]
    pub async fn push(&self, message: Bytes) -> Result<(), StreamError> {
        check_len(&self.topic, message.len())?;
        if let Ok(room) = self.room.acquire_many(cost(&message) as u32).await {
            room.forget();
        }
        let _ = self.messages.send(message);
        Ok(())
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_COST
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("topic", &self.topic).finish_non_exhaustive()
    }
}
