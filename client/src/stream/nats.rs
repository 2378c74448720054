//! NATS as a broker.
//!
//! Core NATS: each event goes to every subscriber that is there, and is not kept.

use std::fmt;
use std::sync::Arc;

use async_nats::{Client, ConnectOptions, Event};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{Mutex, watch};

use super::broker::{ANSWER_DEADLINE, secret, within};
use super::event::check_len;
use super::mailbox::{Inlet, Mailbox};
use super::{Publisher, StreamError, Subscriber};

/// Messages between the client's own task and the mailbox. They wait there only for their turn on a processor.
const HANDOVER: usize = 1024;

/// A NATS server or cluster.
#[derive(Debug, Clone)]
pub struct NatsBroker {
    name: Arc<str>,
    url: String,
    login: Login,
}

#[derive(Debug, Clone)]
enum Login {
    None,
    Token { variable: String },
    Password { user: String, variable: String },
}

/// A connection, and what became of it.
struct Link {
    client: Client,
    failure: watch::Receiver<Option<StreamError>>,
    /// What it sends to itself, to know that the server has seen everything before.
    echoes: async_nats::Subscriber,
    inbox: String,
    sent: u64,
}

impl NatsBroker {
    /// At `nats://host:port`, or `tls://` for TLS; several addresses of one cluster are separated by commas. Secrets
    /// are refused there.
    pub fn new(url: impl Into<String>) -> Result<Self, StreamError> {
        let url = url.into();
        if url.contains('@') {
            let reason = "no login belongs in the address: use token_env or password_env";
            return Err(StreamError::Config { broker: "NATS".to_owned(), reason: reason.to_owned() });
        }
        Ok(Self { name: format!("NATS at {url}").into(), url, login: Login::None })
    }

    /// Logs in with the token in this environment variable.
    pub fn token_env(mut self, variable: impl Into<String>) -> Self {
        self.login = Login::Token { variable: variable.into() };
        self
    }

    /// Logs in as `user` with the password in this environment variable.
    pub fn password_env(mut self, user: impl Into<String>, variable: impl Into<String>) -> Self {
        self.login = Login::Password { user: user.into(), variable: variable.into() };
        self
    }

    /// Publishes on topics, which become subjects. Connects at first use.
    pub fn publisher(&self) -> NatsPublisher {
        NatsPublisher { broker: self.clone(), link: Mutex::new(None) }
    }

    /// Receives what is published on a topic from now on.
    pub async fn subscriber(&self, topic: impl Into<String>) -> Result<NatsSubscriber, StreamError> {
        let topic = topic.into();
        self.check_subject(&topic)?;
        let mut link = self.connect().await?;
        let subscribing = async {
            let subscription = self.listen(&link.client, &topic).await?;
            link.confirm(self).await.map(|()| subscription)
        };
        let subscription = within(ANSWER_DEADLINE, &self.name, subscribing).await?;
        let mailbox = Mailbox::new(&topic, |inlet| read(link, subscription, inlet));
        Ok(NatsSubscriber { mailbox })
    }

    async fn connect(&self) -> Result<Link, StreamError> {
        let (report, failure) = watch::channel(None);
        let name = self.name.clone();
        let options = self.options()?.event_callback(move |event| {
            if let Some(error) = failure_of(&name, &event) {
                // The first one counts.
                report.send_if_modified(|known| {
                    let first = known.is_none();
                    known.get_or_insert(error);
                    first
                });
            }
            async {}
        });
        let connecting = async {
            options.connect(&self.url).await.map_err(|error| match error.kind() {
                async_nats::ConnectErrorKind::Io
                | async_nats::ConnectErrorKind::Dns
                | async_nats::ConnectErrorKind::TimedOut => {
                    StreamError::Unreachable { broker: self.name.to_string(), reason: error.to_string() }
                }
                _ => self.refused(&error),
            })
        };
        let client = within(ANSWER_DEADLINE, &self.name, connecting).await?;
        let inbox = client.new_inbox();
        let echoes = self.listen(&client, &inbox).await?;
        Ok(Link { client, failure, echoes, inbox, sent: 0 })
    }

    async fn listen(&self, client: &Client, subject: &str) -> Result<async_nats::Subscriber, StreamError> {
        client.subscribe(subject.to_owned()).await.map_err(|error| self.broken(&error))
    }

    fn options(&self) -> Result<ConnectOptions, StreamError> {
        let options = match &self.login {
            Login::None => ConnectOptions::new(),
            Login::Token { variable } => ConnectOptions::with_token(secret(&self.name, variable)?),
            Login::Password { user, variable } => {
                ConnectOptions::with_user_and_password(user.clone(), secret(&self.name, variable)?)
            }
        };
        let options = options.connection_timeout(ANSWER_DEADLINE).subscription_capacity(HANDOVER);
        // What is sent while the connection is down is lost: better to say so than to connect again unnoticed.
        Ok(options.max_reconnects(1))
    }

    fn check_subject(&self, topic: &str) -> Result<(), StreamError> {
        let plain = |token: &str| {
            !token.is_empty()
                && !token.contains(['*', '>'])
                && !token.contains(|c: char| c.is_whitespace() || c == '\0')
        };
        if topic.split('.').all(plain) {
            return Ok(());
        }
        let reason =
            "a subject is words separated by single dots, without white space, `*` and `>`".to_owned();
        Err(StreamError::Topic { topic: topic.to_owned(), broker: self.name.to_string(), reason })
    }

    /// The client gave up: subjects and sizes are checked before.
    fn broken(&self, error: &dyn std::error::Error) -> StreamError {
        StreamError::Broken { broker: self.name.to_string(), reason: error.to_string() }
    }

    fn refused(&self, error: &dyn std::error::Error) -> StreamError {
        StreamError::Refused { broker: self.name.to_string(), reason: error.to_string() }
    }
}

fn failure_of(broker: &str, event: &Event) -> Option<StreamError> {
    let broken = |reason: &str| StreamError::Broken { broker: broker.to_owned(), reason: reason.to_owned() };
    match event {
        Event::Disconnected | Event::Closed => Some(broken("closed by the server")),
        Event::SlowConsumer(_) => {
            Some(broken("messages came faster than they were taken, and some were lost"))
        }
        Event::ServerError(error) => {
            Some(StreamError::Refused { broker: broker.to_owned(), reason: error.to_string() })
        }
        Event::ClientError(error) => Some(broken(&error.to_string())),
        Event::Connected | Event::LameDuckMode | Event::Draining => None,
    }
}

impl Link {
    async fn publish(&mut self, broker: &NatsBroker, topic: &str, message: Bytes) -> Result<(), StreamError> {
        self.client.publish(topic.to_owned(), message).await.map_err(|error| broker.broken(&error))?;
        self.confirm(broker).await
    }

    /// Waits until the server has seen everything so far. (The client's `flush` only waits for its own socket.)
    async fn confirm(&mut self, broker: &NatsBroker) -> Result<(), StreamError> {
        self.sent += 1;
        let number = self.sent.to_string();
        let echo = self.client.publish(self.inbox.clone(), number.clone().into());
        echo.await.map_err(|error| broker.broken(&error))?;
        let failure = failed(self.failure.clone());
        tokio::pin!(failure);
        loop {
            tokio::select! {
                biased;
                Some(echo) = self.echoes.next() => if echo.payload == number { return Ok(()) },
                error = &mut failure => return Err(error),
            }
        }
    }
}

/// Waits until the connection fails.
async fn failed(mut failure: watch::Receiver<Option<StreamError>>) -> StreamError {
    match failure.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(error)) => error.clone(),
        _ => StreamError::Broken { broker: "NATS".to_owned(), reason: "the client has stopped".to_owned() },
    }
}

/// Moves messages into a mailbox until something fails.
async fn read(link: Link, mut subscription: async_nats::Subscriber, inlet: Inlet) -> StreamError {
    let failure = failed(link.failure.clone());
    tokio::pin!(failure);
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = subscription.next() => message,
            error = &mut failure => return error,
        };
        if let Err(error) = inlet.try_push(message.payload) {
            return error;
        }
    }
}

/// Sends to a NATS server.
pub struct NatsPublisher {
    broker: NatsBroker,
    /// Held while a message is sent. None until first use, and after a failure.
    link: Mutex<Option<Link>>,
}

#[async_trait]
impl Publisher for NatsPublisher {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        check_len(topic, message.len())?;
        self.broker.check_subject(topic)?;
        let mut slot = self.link.lock().await;
        let mut link = match slot.take() {
            Some(link) if link.failure.borrow().is_none() => link,
            _ => self.broker.connect().await?,
        };
        let (len, limit) = (message.len(), link.client.max_payload());
        let sent = match len > limit {
            true => Err(StreamError::TooLarge { topic: topic.to_owned(), len, limit }),
            false => {
                within(ANSWER_DEADLINE, &self.broker.name, link.publish(&self.broker, topic, message)).await
            }
        };
        if !sent.as_ref().is_err_and(StreamError::is_transient) {
            *slot = Some(link);
        }
        sent
    }

    async fn close(&self) -> Result<(), StreamError> {
        *self.link.lock().await = None;
        Ok(())
    }
}

/// Receives what is published on a topic.
#[derive(Debug)]
pub struct NatsSubscriber {
    mailbox: Mailbox,
}

#[async_trait]
impl Subscriber for NatsSubscriber {
    fn topic(&self) -> &str {
        self.mailbox.topic()
    }

    async fn next(&mut self) -> Result<Bytes, StreamError> {
        self.mailbox.next().await
    }
}

impl fmt::Debug for NatsPublisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsPublisher").field("broker", &self.broker).finish_non_exhaustive()
    }
}
