//! What can go wrong with a stream.

use std::time::Duration;

use crate::{SerializeError, StoreError};

/// Why a stream could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// No broker answers there. Trying later may help.
    #[error("cannot reach {broker}: {reason}")]
    Unreachable {
        /// Whom.
        broker: String,
        /// What the system said.
        reason: String,
    },
    /// The connection was lost. A publisher connects again at the next attempt; a subscriber is finished.
    #[error("the connection to {broker} broke: {reason}")]
    Broken {
        /// To whom.
        broker: String,
        /// What the system said.
        reason: String,
    },
    /// The broker did not answer in time. Trying again may help.
    #[error("{broker} did not answer within {after:?}")]
    Timeout {
        /// Who.
        broker: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The broker will not, and says why.
    #[error("{broker} refused: {reason}")]
    Refused {
        /// Who.
        broker: String,
        /// In its words.
        reason: String,
    },
    /// These settings do not work.
    #[error("settings for {broker}: {reason}")]
    Config {
        /// Which broker.
        broker: String,
        /// What is wrong.
        reason: String,
    },
    /// The broker has no topic of this name.
    #[error("{broker} has no topic {topic:?}: {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// Which broker.
        broker: String,
        /// Why.
        reason: String,
    },
    /// A message is larger than it may be; it was dropped.
    #[error(
        "a message of {len} bytes on topic {topic:?} is more than the {limit} that are allowed: put objects in a \
         store, or send smaller batches"
    )]
    TooLarge {
        /// The topic.
        topic: String,
        /// Its size.
        len: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// The topic was closed by this producer.
    #[error("the topic {topic:?} was closed: nothing more can be sent on it")]
    TopicClosed {
        /// The topic.
        topic: String,
    },
    /// Nothing came for as long as the consumer is willing to wait. It may go on.
    #[error("nothing came on topic {topic:?} within {after:?}")]
    NotInTime {
        /// The topic.
        topic: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Messages came faster than they were taken, and the buffer is full. The subscriber is finished.
    #[error(
        "messages on topic {topic:?} were lost: they came faster than they were taken. Use a broker that keeps \
         them, or more consumers"
    )]
    Lagged {
        /// The topic.
        topic: String,
    },
    /// A message that no producer of this library sent, or part of one. It was dropped.
    #[error("a message on topic {topic:?} is not a stream event: {reason}")]
    NotAnEvent {
        /// The topic.
        topic: String,
        /// How that was seen.
        reason: String,
    },
    /// An object that goes inside its event cannot be written or read.
    #[error("topic {topic:?}: {error}")]
    Serialize {
        /// The topic.
        topic: String,
        /// What the serializer said.
        #[source]
        error: SerializeError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(Box<StoreError>),
}

impl From<StoreError> for StreamError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl StreamError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::NotInTime { .. } => true,
            _ => false,
        }
    }
}
