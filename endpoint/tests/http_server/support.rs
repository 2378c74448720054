//! A server to talk to, and storages that misbehave.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use proxystore_endpoint::Endpoint;
use proxystore_endpoint::http::serve;
use proxystore_endpoint::storage::memory::{MemoryLimits, MemoryStorage};
use proxystore_endpoint::storage::{Group, Storage, StorageError, StoredObject, Upload, Usage};
use proxystore_shared::config::endpoint::HttpConfig;
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::{EndpointId, ObjectId};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Beyond this a test hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// `max_object_size` of [`Server::start`].
pub const MAX_OBJECT_SIZE: u64 = 32 << 20;

/// A server and a client for it.
pub struct Server {
    pub address: String,
    pub id: EndpointId,
    pub client: reqwest::Client,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<()>,
}

/// Objects in memory, with limits that tests reach.
pub fn memory(memory_limit: Option<u64>) -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(MemoryLimits { max_object_size: MAX_OBJECT_SIZE, memory_limit }))
}

/// Drops clients that stall after a second.
pub fn impatient() -> HttpConfig {
    HttpConfig { idle_timeout: 1, ..HttpConfig::default() }
}

impl Server {
    pub async fn start() -> Self {
        Self::with(memory(None), HttpConfig::default()).await
    }

    pub async fn with(storage: Arc<dyn Storage>, config: HttpConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let id = EndpointId::random();
        let endpoint = Endpoint::new(id, "test".into(), storage, None);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(endpoint, listener, None, config, shutdown.clone()));
        // Connections are counted: none may be kept for later.
        // Another crate of the workspace asks for TLS in the same HTTP client, which then wants a provider.
        proxystore_endpoint::transport::tls::install_provider();
        let client = reqwest::Client::builder().no_proxy().timeout(DEADLINE).pool_max_idle_per_host(0);
        let client = client.build().expect("client");
        Self { address, id, client, shutdown, task }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.expect("an answer")
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::POST, path).body(body).send().await.expect("an answer")
    }

    pub async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, path).body(body).send().await.expect("an answer")
    }

    pub async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(&self.address).await.expect("the server listens"))
    }

    /// Waits until the only connection is the one that asks.
    pub async fn until_alone(&self) {
        let alone = async {
            let quiet = "proxystore_endpoint_http_connections 1\n";
            while !self.get("/metrics").await.text().await.expect("metrics").contains(quiet) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, alone).await.expect("a connection was left behind");
    }
}

/// A client that is not bound by what HTTP libraries allow.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("the server takes it");
    }

    /// Everything until the server closes.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.0.read_to_end(&mut bytes);
        // A reset is an end, too: what arrived before it counts.
        let _ = timeout(DEADLINE, read).await.expect("the server closes the connection");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What arrives, up to and including `end`.
    pub async fn until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while !bytes.ends_with(end.as_bytes()) {
                bytes.push(self.0.read_u8().await.expect("more to come"));
            }
        };
        timeout(DEADLINE, read).await.expect("an answer");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Expects a problem with this status and code.
pub async fn assert_problem(response: Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = response.json().await.expect("JSON");
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(status.into()), Some(code)));
    assert!(problem["detail"].is_string() && problem["title"].is_string(), "{problem}");
    problem
}

/// How a [`Faulty`] storage misbehaves.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Opening an object takes that long.
    Slow(Duration),
    /// Groups after the first are damaged.
    Torn,
}

/// Objects in memory, with a fault.
#[derive(Debug)]
pub struct Faulty {
    pub inner: Arc<dyn Storage>,
    pub fault: Fault,
}

struct Torn(Arc<dyn StoredObject>);

impl fmt::Debug for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Torn")
    }
}

#[async_trait]
impl Storage for Faulty {
    async fn begin(
        &self,
        id: &ObjectId,
        size: Option<u64>,
        create_only: bool,
    ) -> Result<Box<dyn Upload>, StorageError> {
        self.inner.begin(id, size, create_only).await
    }

    async fn open(&self, id: &ObjectId) -> Result<Option<Arc<dyn StoredObject>>, StorageError> {
        let object = self.inner.open(id).await?;
        match self.fault {
            Fault::Slow(delay) => {
                sleep(delay).await;
                Ok(object)
            }
            Fault::Torn => Ok(object.map(|object| Arc::new(Torn(object)) as Arc<dyn StoredObject>)),
        }
    }

    async fn stat(&self, id: &ObjectId) -> Result<Option<ObjectMeta>, StorageError> {
        self.inner.stat(id).await
    }

    async fn evict(&self, id: &ObjectId) -> Result<bool, StorageError> {
        self.inner.evict(id).await
    }

    async fn list(
        &self,
        after: Option<&ObjectId>,
        limit: usize,
    ) -> Result<Vec<(ObjectId, ObjectMeta)>, StorageError> {
        self.inner.list(after, limit).await
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }
}

#[async_trait]
impl StoredObject for Torn {
    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    async fn group(&self, index: u64) -> Result<Group, StorageError> {
        match index {
            0 => self.0.group(0).await,
            _ => Err(StorageError::Corrupt("a test tore it".into())),
        }
    }
}
