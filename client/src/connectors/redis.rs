//! Objects in a Redis server or cluster.
//!
//! An object is a string under a UUID, as Python ProxyStore has it, so both read each other's objects. Redis takes
//! objects of up to 512 MiB.

mod batch;
mod error;
mod link;
mod part;
mod settings;
mod transfer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::cmd;
use uuid::Uuid;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::{Key, Object};
use settings::Settings;
use transfer::Redis;

/// In configurations.
pub const KIND: &str = "redis";

/// Keeps objects in a Redis server or cluster. Connects when it is first asked for something.
///
/// ```no_run
/// use proxystore::connectors::RedisConnector;
///
/// let connector = RedisConnector::new("redis.example.org", 6379).tls(true).password_env("REDIS_PASSWORD");
/// ```
#[derive(Debug)]
pub struct RedisConnector {
    redis: Arc<Redis>,
}

impl RedisConnector {
    /// At this host and port, without encryption or a password unless told.
    pub fn new(hostname: impl Into<String>, port: u16) -> Self {
        Self::of(Settings::new(hostname.into(), port))
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let settings: Settings = config.settings()?;
        settings.check()?;
        Ok(Self::of(settings))
    }

    /// Whether `close` removes everything in the database, other programs' data included. Off unless told.
    pub fn clear_on_close(self, clear: bool) -> Self {
        self.with(|settings| settings.clear = clear)
    }

    /// Whom to log in as; Redis' default user unless told.
    pub fn username(self, username: impl Into<String>) -> Self {
        self.with(|settings| settings.username = Some(username.into()))
    }

    /// The environment variable that holds the password. The password itself is never part of a configuration:
    /// wherever a proxy is resolved the variable must be set.
    pub fn password_env(self, variable: impl Into<String>) -> Self {
        self.with(|settings| settings.password_env = Some(variable.into()))
    }

    /// Whether to encrypt. The server must then have a certificate for its host name.
    pub fn tls(self, tls: bool) -> Self {
        self.with(|settings| settings.tls = tls)
    }

    /// A PEM file with the certificates to trust, instead of the system's. Works with [`Self::tls`] only.
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        self.with(|settings| settings.ca_file = Some(path.into()))
    }

    /// Takes the server for a node of a cluster, whose other nodes it finds by itself. These further nodes, each
    /// as `host:port`, are tried if the first one does not answer; one of them may be the first one again.
    pub fn cluster(self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with(|settings| settings.cluster = nodes.into_iter().map(Into::into).collect())
    }

    /// Which of the server's numbered databases; zero unless told. Clusters have no others.
    pub fn database(self, database: u32) -> Self {
        self.with(|settings| settings.database = database)
    }

    /// How long to wait for an answer; 30 s unless told. Objects larger than 4 MiB travel in several requests, each
    /// with this deadline. A connection must be there after 10 s, or after this time if it is shorter.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.with(|settings| settings.timeout = Some(timeout.as_secs_f64()))
    }

    fn of(settings: Settings) -> Self {
        Self { redis: Arc::new(Redis::new(settings)) }
    }

    fn with(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.redis.settings.as_ref().clone();
        change(&mut settings);
        Self::of(settings)
    }
}

fn new_name() -> String {
    Uuid::new_v4().to_string()
}

fn key_of(redis_key: String) -> Key {
    Key::Redis { redis_key }
}

fn name_of(key: &Key) -> Result<&str, ConnectorError> {
    match key {
        Key::Redis { redis_key } => Ok(redis_key),
        key => Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() }),
    }
}

#[async_trait]
impl Connector for RedisConnector {
    async fn put(&self, object: Object, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let name = new_name();
        self.redis.set(&name, object).await?;
        Ok(key_of(name))
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        self.redis.get(name_of(key)?).await
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        self.redis.ask(cmd("EXISTS").arg(name_of(key)?)).await
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        self.redis.remove(&[name_of(key)?.to_owned()]).await
    }

    fn config(&self) -> ConnectorConfig {
        ConnectorConfig::new(KIND, self.redis.settings.as_ref())
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Ok(key_of(new_name()))
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        self.redis.set(name_of(key)?, object).await
    }

    async fn put_batch(
        &self,
        objects: Vec<Object>,
        _options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        let names: Vec<_> = objects.iter().map(|_| new_name()).collect();
        self.redis.set_batch(&names, &objects).await?;
        Ok(names.into_iter().map(key_of).collect())
    }

    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        let names = keys.iter().map(|key| name_of(key).map(str::to_owned));
        self.redis.get_batch(&names.collect::<Result<Vec<_>, _>>()?).await
    }

    async fn put_stream(&self, stream: ObjectStream, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let name = new_name();
        self.redis.set_stream(&name, stream).await?;
        Ok(key_of(name))
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        self.redis.get_stream(name_of(key)?).await
    }

    async fn close(&self) -> Result<(), ConnectorError> {
        let outcome = if self.redis.settings.clear {
            // Redis frees the memory in the background, which may take longer than any deadline.
            self.redis.ask(cmd("FLUSHDB").arg("ASYNC")).await
        } else {
            Ok(())
        };
        self.redis.links.clear();
        outcome
    }
}
