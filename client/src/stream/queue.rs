//! A queue within this process: for threads and tasks of one program, and for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Publisher, StreamError, Subscriber};

const BROKER: &str = "the queue in this process";

/// Sends to subscribers in this process, which must subscribe first. Clones share the topics; when the last is
/// dropped the subscribers get an error, after what is in their queues.
#[derive(Debug, Clone)]
pub struct QueuePublisher {
    topics: Arc<Mutex<HashMap<String, mpsc::Sender<Bytes>>>>,
    capacity: usize,
    patience: Option<Duration>,
}

impl QueuePublisher {
    /// Without topics yet. Each will hold up to `capacity` messages, at least one; sending more waits until the
    /// subscriber has taken some, or is gone.
    pub fn new(capacity: usize) -> Self {
        Self { topics: Arc::default(), capacity: capacity.max(1), patience: None }
    }

    /// Waits for room in a queue no longer than this.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// The subscriber of a topic, of which there is one at a time.
    pub fn subscribe(&self, topic: impl Into<String>) -> Result<QueueSubscriber, StreamError> {
        let topic = topic.into();
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if topics.get(&topic).is_some_and(|sender| !sender.is_closed()) {
            return Err(no_topic(&topic, "it has a subscriber already"));
        }
        let (sender, messages) = mpsc::channel(self.capacity);
        topics.insert(topic.clone(), sender);
        Ok(QueueSubscriber { topic, messages })
    }

    fn sender(&self, topic: &str) -> Result<mpsc::Sender<Bytes>, StreamError> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.get(topic).cloned().ok_or_else(|| no_topic(topic, "subscribe before sending"))
    }
}

fn no_topic(topic: &str, reason: &str) -> StreamError {
    StreamError::Topic { topic: topic.to_owned(), broker: BROKER.to_owned(), reason: reason.to_owned() }
}

fn broken(reason: &str) -> StreamError {
    StreamError::Broken { broker: BROKER.to_owned(), reason: reason.to_owned() }
}

#[async_trait]
impl Publisher for QueuePublisher {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        let sender = self.sender(topic)?;
        let sending = sender.send(message);
        let sent = match self.patience {
            None => sending.await,
            Some(after) => tokio::time::timeout(after, sending)
                .await
                .map_err(|_| StreamError::Timeout { broker: BROKER.to_owned(), after })?,
        };
        sent.map_err(|_| broken("the subscriber is gone"))
    }
}

/// Receives what a [`QueuePublisher`] sends on a topic.
#[derive(Debug)]
pub struct QueueSubscriber {
    topic: String,
    messages: mpsc::Receiver<Bytes>,
}

#[async_trait]
impl Subscriber for QueueSubscriber {
    fn topic(&self) -> &str {
        &self.topic
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        self.messages.recv().await.ok_or_else(|| broken("the publishers are gone"))
    }
}
