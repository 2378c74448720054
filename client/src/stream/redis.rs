//! Redis as a broker, in two ways.
//!
//! Publish/subscribe brings each event to every subscriber that is there. A list used as a queue keeps events until
//! one of its subscribers takes them: for workers that share the objects of a stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, RedisError, cmd};
use tokio::sync::Mutex;
use tokio::time::{Instant, interval_at};

use super::broker::{ANSWER_DEADLINE, secret, within};
use super::event::check_len;
use super::mailbox::{Inlet, Mailbox};
use super::{Publisher, StreamError, Subscriber};
use crate::tls::install_provider;

/// How often a silent connection is asked whether it still lives: a server whose host vanished says nothing.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long Redis holds a request for the next event of an empty queue, in seconds. Short enough that a vanished
/// server is noticed soon, long enough to cost nothing.
const QUEUE_HOLD_SECONDS: u64 = 5;

/// A Redis server, from version 5 on.
#[derive(Debug, Clone)]
pub struct RedisBroker {
    name: Arc<str>,
    info: ConnectionInfo,
    password_env: Option<String>,
}

impl RedisBroker {
    /// At `redis://host:port/database`, or `rediss://` for TLS. A user name may stand before the host; a password
    /// is refused there, see [`password_env`](Self::password_env).
    pub fn new(url: &str) -> Result<Self, StreamError> {
        let config = |reason| StreamError::Config { broker: "Redis".to_owned(), reason };
        let info = url.into_connection_info().map_err(|error| config(error.to_string()))?;
        if info.redis_settings().password().is_some() {
            return Err(config(
                "no password belongs in the address: name a variable by password_env".to_owned(),
            ));
        }
        Ok(Self { name: format!("Redis at {}", info.addr()).into(), info, password_env: None })
    }

    /// Reads the password from this environment variable.
    pub fn password_env(mut self, variable: impl Into<String>) -> Self {
        self.password_env = Some(variable.into());
        self
    }

    /// Publishes to every subscriber that is there: [`subscriber`](Self::subscriber). Connects at first use.
    pub fn publisher(&self) -> RedisPublisher {
        RedisPublisher { command: "PUBLISH", broker: self.clone(), connection: Mutex::new(None) }
    }

    /// Appends to the list named as the topic, for [`queue_subscriber`](Self::queue_subscriber). Connects at first
    /// use.
    pub fn queue_publisher(&self) -> RedisPublisher {
        RedisPublisher { command: "RPUSH", broker: self.clone(), connection: Mutex::new(None) }
    }

    /// Receives what is published on a topic from now on.
    pub async fn subscriber(&self, topic: impl Into<String>) -> Result<RedisSubscriber, StreamError> {
        let topic = topic.into();
        let connecting = async {
            let client = self.client()?;
            let mut connection = client.get_async_pubsub().await.map_err(|error| self.unreachable(&error))?;
            connection.subscribe(&topic).await.map_err(|error| self.failed(&error))?;
            Ok(connection)
        };
        let connection = within(ANSWER_DEADLINE, &self.name, connecting).await?;
        let broker = self.clone();
        let mailbox = Mailbox::new(&topic, |inlet| async move { broker.read(connection, inlet).await });
        Ok(RedisSubscriber { mailbox })
    }

    /// Takes from the list named as the topic.
    pub async fn queue_subscriber(
        &self,
        topic: impl Into<String>,
    ) -> Result<RedisQueueSubscriber, StreamError> {
        let hold = Duration::from_secs(QUEUE_HOLD_SECONDS);
        let connection = self.connect(hold + ANSWER_DEADLINE).await?;
        Ok(RedisQueueSubscriber { topic: topic.into(), broker: self.clone(), connection, request: None })
    }

    fn client(&self) -> Result<Client, StreamError> {
        let mut settings = self.info.redis_settings().clone();
        if let Some(variable) = &self.password_env {
            settings = settings.set_password(secret(&self.name, variable)?);
        }
        let info = self.info.clone().set_redis_settings(settings);
        install_provider();
        Client::open(info).map_err(|error| self.failed(&error))
    }

    async fn connect(&self, answer_deadline: Duration) -> Result<MultiplexedConnection, StreamError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_DEADLINE))
            .set_response_timeout(Some(answer_deadline));
        let client = self.client()?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        connecting.await.map_err(|error| self.unreachable(&error))
    }

    /// Moves messages into a mailbox until something fails.
    async fn read(&self, connection: PubSub, inlet: Inlet) -> StreamError {
        let (mut requests, mut messages) = connection.split();
        let mut pings = interval_at(Instant::now() + PING_INTERVAL, PING_INTERVAL);
        loop {
            let step = tokio::select! {
                biased;
                message = messages.next() => match message {
                    Some(message) => inlet.try_push(Bytes::copy_from_slice(message.get_payload_bytes())),
                    None => Err(self.broken("closed by the server")),
                },
                _ = pings.tick() => within(ANSWER_DEADLINE, &self.name, async {
                    requests.ping::<redis::Value>().await.map_err(|error| self.failed(&error))
                })
                .await
                .map(drop),
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn unreachable(&self, error: &RedisError) -> StreamError {
        if error.is_io_error() {
            return StreamError::Unreachable { broker: self.name.to_string(), reason: error.to_string() };
        }
        self.failed(error)
    }

    fn failed(&self, error: &RedisError) -> StreamError {
        if error.is_timeout() {
            return StreamError::Timeout { broker: self.name.to_string(), after: ANSWER_DEADLINE };
        }
        if error.is_io_error() || error.is_connection_dropped() {
            return self.broken(&error.to_string());
        }
        StreamError::Refused { broker: self.name.to_string(), reason: error.to_string() }
    }

    fn broken(&self, reason: &str) -> StreamError {
        StreamError::Broken { broker: self.name.to_string(), reason: reason.to_owned() }
    }
}

/// Sends to a Redis server.
pub struct RedisPublisher {
    command: &'static str,
    broker: RedisBroker,
    /// Held while a message is sent, which keeps the order. None until first use, and after a failure.
    connection: Mutex<Option<MultiplexedConnection>>,
}

#[async_trait]
impl Publisher for RedisPublisher {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        check_len(topic, message.len())?;
        let mut slot = self.connection.lock().await;
        // Put back once it has proved good, which it never does if this future is dropped.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.broker.connect(ANSWER_DEADLINE).await?,
        };
        let request = cmd(self.command).arg(topic).arg(message.as_ref()).take();
        let sent = request.query_async::<()>(&mut connection).await;
        let works = |error: &RedisError| !error.is_unrecoverable_error() && !error.is_timeout();
        if sent.as_ref().err().is_none_or(works) {
            *slot = Some(connection);
        }
        sent.map_err(|error| self.broker.failed(&error))
    }

    async fn close(&self) -> Result<(), StreamError> {
        *self.connection.lock().await = None;
        Ok(())
    }
}

/// Receives what is published on a topic. The server disconnects a subscriber that does not keep up.
#[derive(Debug)]
pub struct RedisSubscriber {
    mailbox: Mailbox,
}

#[async_trait]
impl Subscriber for RedisSubscriber {
    fn topic(&self) -> &str {
        self.mailbox.topic()
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        self.mailbox.next().await
    }
}

type Taken = Result<Option<(Vec<u8>, Vec<u8>)>, RedisError>;

/// Takes events from a list that it shares with other subscribers. Redis forgets an event as it hands it out: a
/// subscriber that is dropped while a request is under way may take one with it.
pub struct RedisQueueSubscriber {
    topic: String,
    broker: RedisBroker,
    connection: MultiplexedConnection,
    /// Under way. Kept here, since what it takes would be lost if it were dropped with the caller's future.
    request: Option<BoxFuture<'static, Taken>>,
}

#[async_trait]
impl Subscriber for RedisQueueSubscriber {
    fn topic(&self) -> &str {
        &self.topic
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        loop {
            let taken = self.request.get_or_insert_with(|| take(&self.connection, &self.topic)).await;
            self.request = None;
            if let Some((_, message)) = taken.map_err(|error| self.broker.failed(&error))? {
                check_len(&self.topic, message.len())?;
                return Ok(message.into());
            }
        }
    }
}

fn take(connection: &MultiplexedConnection, topic: &str) -> BoxFuture<'static, Taken> {
    let mut connection = connection.clone();
    let request = cmd("BLPOP").arg(topic).arg(QUEUE_HOLD_SECONDS).take();
    async move { request.query_async(&mut connection).await }.boxed()
}

impl fmt::Debug for RedisPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisPublisher").field("broker", &self.broker).finish_non_exhaustive()
    }
}

impl fmt::Debug for RedisQueueSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQueueSubscriber")
            .field("topic", &self.topic)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}
