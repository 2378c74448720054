//! Kafka as a broker, or anything that speaks its protocol.
//!
//! A topic's events are in one of its partitions, which keeps their order; every subscriber reads all of them, from
//! where it likes. The cluster keeps them as long as it was told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use tokio::sync::Mutex;

use super::broker::{ANSWER_DEADLINE, within};
use super::event::check_len;
use super::mailbox::{Inlet, Mailbox};
use super::{MAX_MESSAGE_LEN, Publisher, StreamError, Subscriber};

/// How long a request is repeated while brokers do not answer, or elect a new leader.
const RETRY_DEADLINE: Duration = Duration::from_secs(5);

/// How long a broker holds a request for the next events. Short enough that a vanished broker is noticed soon, long
/// enough to cost nothing.
const FETCH_HOLD: Duration = Duration::from_secs(1);

/// Bytes of an answer at most: the largest message and what is around it.
const MAX_ANSWER_LEN: usize = MAX_MESSAGE_LEN + (1 << 20);

/// Longest name of a topic, in characters.
const MAX_TOPIC_LEN: usize = 249;

/// A Kafka cluster, without encryption and login.
#[derive(Debug, Clone)]
pub struct KafkaBroker {
    name: Arc<str>,
    servers: Vec<String>,
    partition: i32,
}

/// Where in a topic a subscriber begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest event that the cluster still has.
    Oldest,
    /// With what is sent from now on.
    Now,
}

impl KafkaBroker {
    /// Of some of its servers, each `host:port`; these tell the others.
    pub fn new<N: Into<String>>(servers: impl IntoIterator<Item = N>) -> Self {
        let servers: Vec<_> = servers.into_iter().map(Into::into).collect();
        Self { name: format!("Kafka at {}", servers.join(",")).into(), servers, partition: 0 }
    }

    /// Uses this partition of each topic, instead of the first one, 0.
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = partition;
        self
    }

    /// Sends to topics. One that does not exist is made if the cluster does so by itself. Connects at first use.
    pub fn publisher(&self) -> KafkaPublisher {
        KafkaPublisher { broker: self.clone(), topics: Mutex::default() }
    }

    /// Receives what is sent on a topic. One that does not exist is made if the cluster does so by itself.
    pub async fn subscriber(
        &self,
        topic: impl Into<String>,
        start: Start,
    ) -> Result<KafkaSubscriber, StreamError> {
        let topic = topic.into();
        let partition = self.open(&topic).await?;
        let at = match start {
            Start::Oldest => OffsetAt::Earliest,
            Start::Now => OffsetAt::Latest,
        };
        let offset = within(ANSWER_DEADLINE, &self.name, async {
            partition.get_offset(at).await.map_err(|error| self.failed(&topic, &error))
        });
        let offset = offset.await?;
        let broker = self.clone();
        let mailbox =
            Mailbox::new(&topic, |inlet| async move { broker.read(partition, offset, inlet).await });
        Ok(KafkaSubscriber { mailbox })
    }

    async fn open(&self, topic: &str) -> Result<PartitionClient, StreamError> {
        self.check_name(topic)?;
        within(ANSWER_DEADLINE, &self.name, async {
            let client = self.connect().await.map_err(|error| self.unreachable(topic, &error))?;
            let opening = client.partition_client(topic, self.partition, UnknownTopicHandling::Retry);
            opening.await.map_err(|error| self.unreachable(topic, &error))
        })
        .await
    }

    async fn connect(&self) -> Result<Client, Error> {
        let backoff_config = BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
            deadline: Some(RETRY_DEADLINE),
        };
        let client = ClientBuilder::new(self.servers.clone()).client_id("proxystore");
        client.backoff_config(backoff_config).max_message_size(MAX_ANSWER_LEN).build().await
    }

    /// Moves messages into a mailbox until something fails.
    async fn read(&self, partition: PartitionClient, mut offset: i64, inlet: Inlet) -> StreamError {
        let topic = partition.topic();
        loop {
            let fetching = async {
                let sizes = 1..MAX_MESSAGE_LEN as i32;
                let fetched = partition.fetch_records(offset, sizes, FETCH_HOLD.as_millis() as i32).await;
                fetched.map_err(|error| self.failed(topic, &error))
            };
            let records = match within(FETCH_HOLD + ANSWER_DEADLINE, &self.name, fetching).await {
                Ok((records, _)) => records,
                Err(error) => return error,
            };
            for record in records {
                // A batch may begin before the offset that was asked for.
                if record.offset < offset {
                    continue;
                }
                offset = record.offset + 1;
                let message = record.record.value.unwrap_or_default();
                if let Err(error) = inlet.push(message.into()).await {
                    return error;
                }
            }
        }
    }

    fn check_name(&self, topic: &str) -> Result<(), StreamError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if (1..=MAX_TOPIC_LEN).contains(&topic.len())
            && topic.chars().all(plain)
            && !matches!(topic, "." | "..")
        {
            return Ok(());
        }
        let reason = format!("a name is 1 to {MAX_TOPIC_LEN} letters, digits, dots, hyphens and underscores");
        Err(StreamError::Topic { topic: topic.to_owned(), broker: self.name.to_string(), reason })
    }

    fn unreachable(&self, topic: &str, error: &Error) -> StreamError {
        match self.failed(topic, error) {
            StreamError::Broken { broker, reason } => StreamError::Unreachable { broker, reason },
            other => other,
        }
    }

    fn failed(&self, topic: &str, error: &Error) -> StreamError {
        let (broker, reason) = (self.name.to_string(), error.to_string());
        match error {
            Error::Connection(_) | Error::Request(_) | Error::RetryFailed(_) | Error::Timeout => {
                StreamError::Broken { broker, reason }
            }
            Error::ServerError { protocol_error: ProtocolError::UnknownTopicOrPartition, .. } => {
                StreamError::Topic { topic: topic.to_owned(), broker, reason }
            }
            _ => StreamError::Refused { broker, reason },
        }
    }
}

/// Sends to a Kafka cluster.
pub struct KafkaPublisher {
    broker: KafkaBroker,
    /// Held while a message is sent, which keeps the order. Opened at first use, and after a failure.
    topics: Mutex<BTreeMap<String, PartitionClient>>,
}

#[async_trait]
impl Publisher for KafkaPublisher {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        check_len(topic, message.len())?;
        let mut topics = self.topics.lock().await;
        let partition = match topics.remove(topic) {
            Some(partition) => partition,
            None => self.broker.open(topic).await?,
        };
        let record =
            Record { key: None, value: Some(message.into()), headers: BTreeMap::new(), timestamp: now() };
        let sent = within(ANSWER_DEADLINE, &self.broker.name, async {
            let sent = partition.produce(vec![record], Compression::NoCompression).await;
            sent.map_err(|error| self.broker.failed(topic, &error))
        });
        sent.await?;
        topics.insert(topic.to_owned(), partition);
        Ok(())
    }

    async fn close(&self) -> Result<(), StreamError> {
        self.topics.lock().await.clear();
        Ok(())
    }
}

/// Receives what is sent on a topic.
#[derive(Debug)]
pub struct KafkaSubscriber {
    mailbox: Mailbox,
}

#[async_trait]
impl Subscriber for KafkaSubscriber {
    fn topic(&self) -> &str {
        self.mailbox.topic()
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        self.mailbox.next().await
    }
}

impl fmt::Debug for KafkaPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaPublisher").field("broker", &self.broker).finish_non_exhaustive()
    }
}

fn now() -> DateTime<Utc> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    DateTime::from_timestamp_millis(since_1970.as_millis().try_into().unwrap_or(i64::MAX)).unwrap_or_default()
}
