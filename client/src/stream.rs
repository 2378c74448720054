//! Streams of objects: the objects go through a store, small events about them through a message broker.
//!
//! A [`StreamProducer`] puts each object in a [`Store`](crate::Store) and publishes its key; a
//! [`StreamConsumer`] receives the event and hands out a [`Proxy`](crate::Proxy). The broker, which is good at
//! order and notification, never sees the bulk of the data; whoever only passes an item on never fetches it.
//!
//! | broker | module | each event reaches | kept for later subscribers |
//! |---|---|---|---|
//! | a queue in this process | [`queue`] | the subscriber | until it takes them, up to a capacity |
//! | Redis, publish/subscribe | [`redis`] | every subscriber | no |
//! | Redis, a list as a queue | [`redis`] | one subscriber | yes |
//! | NATS | [`nats`] | every subscriber | no |
//! | ZeroMQ, without a broker | [`zeromq`] | every subscriber | no |
//! | Kafka and what speaks its protocol | [`kafka`] | every subscriber | yes |
//!
//! Any other broker is an implementation of [`Publisher`] and [`Subscriber`].
//!
//! ```
//! use proxystore::stream::{StreamConsumer, StreamProducer, queue::QueuePublisher};
//! use proxystore::{Store, connectors::LocalConnector};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let publisher = QueuePublisher::new(16);
//! let mut consumer = StreamConsumer::<Vec<f64>>::new(publisher.subscribe("samples")?);
//!
//! let store = Store::new("samples", LocalConnector::new());
//! let mut producer = StreamProducer::new(publisher).default_store(store);
//! producer.send("samples", vec![0.5; 1000]).await?;
//! producer.close_topics(["samples"]).await?;
//!
//! while let Some(item) = consumer.next().await? {
//!     assert_eq!(item.object().await?.len(), 1000);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What may be relied on
//!
//! Events of one producer on one topic arrive in the order in which they were sent, the end of the stream last.
//! Each arrives at least once: a producer that is told to try again after an error may repeat a batch of events
//! that had arrived after all. Brokers that keep nothing lose what is sent while nobody subscribes.
//!
//! Publishers and subscribers hold sockets of the runtime that opened them: use each within one runtime.
//!
//! # Format of the events
//!
//! A message is `SE1`, a line feed, and a batch of events in MessagePack, which has the store's configuration once
//! and for each object its key, its metadata, and whether to evict it. Python ProxyStore pickles its events, with
//! import paths of Python classes, so streams do not cross between the two; objects and keys do.

#[cfg(any(feature = "kafka", feature = "nats", feature = "redis", feature = "zeromq"))]
mod broker;
mod consumer;
mod error;
mod event;
pub mod filter;
#[cfg(feature = "kafka")]
pub mod kafka;
#[cfg(any(feature = "kafka", feature = "nats", feature = "redis", feature = "zeromq"))]
mod mailbox;
#[cfg(feature = "nats")]
pub mod nats;
mod producer;
pub mod queue;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "zeromq")]
pub mod zeromq;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

pub use consumer::{Item, StreamConsumer};
pub use error::StreamError;
pub use producer::{SendOptions, StreamProducer};

/// Bytes of a message at most, on every broker. Events take a few hundred bytes each; an object that needs more
/// than this belongs in a store.
pub const MAX_MESSAGE_LEN: usize = 16 << 20;

/// What a producer says about an object, for filters and for the consumer: names and JSON values, nested at most
/// 100 deep.
pub type Metadata = BTreeMap<String, Value>;

/// Sends messages to a broker.
#[async_trait]
pub trait Publisher: fmt::Debug + Send + Sync + 'static {
    /// Sends a message of up to [`MAX_MESSAGE_LEN`] bytes. Done means that the broker has it. Messages that one
    /// task sends on one topic keep their order.
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError>;

    /// Waits until everything is on its way, and closes connections.
    async fn close(&self) -> Result<(), StreamError> {
        Ok(())
    }
}

/// Receives the messages of one topic.
#[async_trait]
pub trait Subscriber: fmt::Debug + Send + 'static {
    /// The topic, as publishers name it.
    fn topic(&self) -> &str;

    /// The next message; waits for it. Dropping this future loses no message. An error comes at once, or within
    /// seconds, when the broker is gone.
    async fn next(&mut self) -> Result<Bytes, StreamError>;

    /// Closes connections.
    async fn close(&mut self) -> Result<(), StreamError> {
        Ok(())
    }
}

#[async_trait]
impl<P: Publisher + ?Sized> Publisher for Arc<P> {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        (**self).publish(topic, message).await
    }

    async fn close(&self) -> Result<(), StreamError> {
        (**self).close().await
    }
}

#[async_trait]
impl<S: Subscriber + ?Sized> Subscriber for Box<S> {
    fn topic(&self) -> &str {
        (**self).topic()
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        (**self).next().await
    }

    async fn close(&mut self) -> Result<(), StreamError> {
        (**self).close().await
    }
}
