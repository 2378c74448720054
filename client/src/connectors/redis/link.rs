//! A connection that is opened when it is needed, and opened again when it turns out to be dead.
//!
//! All tasks of a runtime share it: Redis answers in the order of the requests, so they need not wait for each
//! other's answers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use redis::aio::MultiplexedConnection;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::error;
use super::settings::Settings;
use crate::connector::ConnectorError;
use crate::tls::install_provider;

/// Longest wait for a connection, login included: an answer from the other side of the world takes a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests of up to [`super::transfer::CHUNK_LEN`] bytes that are under way at once. Two keep a link busy; more
/// would cost memory, and make small requests wait behind them.
const BULK_REQUESTS: usize = 4;

/// To be asked of Redis.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

/// The connection of one runtime.
#[derive(Debug)]
pub(super) struct Link {
    settings: Arc<Settings>,
    slot: Mutex<Slot>,
    bulk: Semaphore,
}

#[derive(Debug, Default)]
struct Slot {
    attempts: u64,
    current: Option<Attempt>,
}

/// To connect: under way, or over.
#[derive(Debug, Clone)]
struct Attempt {
    number: u64,
    outcome: Shared<BoxFuture<'static, Result<Connection, ConnectorError>>>,
}

#[derive(Clone)]
enum Connection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    pub fn new(settings: Arc<Settings>) -> Self {
        Self { settings, slot: Mutex::default(), bulk: Semaphore::new(BULK_REQUESTS) }
    }

    /// Asks, over a new connection if the one that was open turns out to be dead. For requests that may well
    /// be carried out twice.
    pub async fn ask<T: FromRedisValue>(&self, request: Request<'_>) -> Result<T, ConnectorError> {
        let attempt = self.attempt();
        let was_open = attempt.outcome.peek().is_some();
        match self.ask_over(attempt, request).await {
            Err(ConnectorError::Broken { .. }) if was_open => self.ask_once(request).await,
            outcome => outcome,
        }
    }

    /// Asks. For requests that must not be carried out twice.
    pub async fn ask_once<T: FromRedisValue>(&self, request: Request<'_>) -> Result<T, ConnectorError> {
        self.ask_over(self.attempt(), request).await
    }

    /// Waits for its turn to move many bytes; keeps it until the result is dropped. The deadline of a request
    /// starts when its turn has come.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        self.bulk.acquire().await.expect("nobody closes it")
    }

    async fn ask_over<T: FromRedisValue>(
        &self,
        attempt: Attempt,
        request: Request<'_>,
    ) -> Result<T, ConnectorError> {
        let connection = attempt.outcome.await.inspect_err(|_| self.forget(attempt.number))?;
        let answer = connection.ask(request, &self.settings).await;
        // After a timeout, too: what is asked next would wait for the answer that is missing.
        if let Err(ConnectorError::Broken { .. } | ConnectorError::Timeout { .. }) = answer {
            self.forget(attempt.number);
        }
        answer
    }

    /// The connection that is open, or the attempt to open one that is under way, or a new one.
    fn attempt(&self) -> Attempt {
        let mut slot = self.slot();
        if let Some(attempt) = &slot.current {
            return attempt.clone();
        }
        // A task of its own: the others need not start again when the one who came first gives up.
        let task = tokio::spawn(connect(self.settings.clone()));
        let target = self.settings.target();
        let outcome = task.map(|outcome| {
            outcome.unwrap_or_else(|error| {
                Err(ConnectorError::Unreachable { target, reason: error.to_string() })
            })
        });
        slot.attempts += 1;
        let attempt = Attempt { number: slot.attempts, outcome: outcome.boxed().shared() };
        slot.current = Some(attempt.clone());
        attempt
    }

    fn forget(&self, number: u64) {
        let mut slot = self.slot();
        if slot.current.as_ref().is_some_and(|attempt| attempt.number == number) {
            slot.current = None;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(settings: Arc<Settings>) -> Result<Connection, ConnectorError> {
    let after = settings.timeout().min(CONNECT_TIMEOUT);
    let opening = open(&settings);
    match timeout(after, opening).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectorError::Timeout { target: settings.target(), after }),
    }
}

async fn open(settings: &Settings) -> Result<Connection, ConnectorError> {
    settings.check()?;
    if settings.tls {
        install_provider();
    }
    let failed = |error| error::connecting(settings.target(), &error);
    if settings.is_cluster() {
        let opened = settings.cluster_client()?.get_async_connection().await;
        return opened.map(Connection::Cluster).map_err(failed);
    }
    // The deadlines are ours.
    let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = settings.client()?;
    let opened = client.get_multiplexed_async_connection_with_config(&config).await;
    opened.map(Connection::Server).map_err(failed)
}

impl Connection {
    async fn ask<T: FromRedisValue>(
        mut self,
        request: Request<'_>,
        settings: &Settings,
    ) -> Result<T, ConnectorError> {
        let after = settings.timeout();
        match timeout(after, self.query(request)).await {
            Ok(answer) => answer.map_err(|error| error::asking(settings.target(), &error)),
            Err(_) => Err(ConnectorError::Timeout { target: settings.target(), after }),
        }
    }

    async fn query<T: FromRedisValue>(&mut self, request: Request<'_>) -> RedisResult<T> {
        match (self, request) {
            (Self::Server(connection), Request::One(command)) => command.query_async(connection).await,
            (Self::Server(connection), Request::Many(pipeline)) => pipeline.query_async(connection).await,
            (Self::Cluster(connection), Request::One(command)) => command.query_async(connection).await,
            (Self::Cluster(connection), Request::Many(pipeline)) => pipeline.query_async(connection).await,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Cluster(_) => "Cluster",
        })
    }
}
