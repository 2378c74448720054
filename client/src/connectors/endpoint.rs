//! Objects at endpoints: the one of this site, and through it those of other sites.
//!
//! The endpoint of this site, the *home* endpoint, is found as Python's `EndpointConnector` finds it, and asked by
//! the routes of Python's endpoints, so that it may be one of either kind.

mod answer;
mod batch;
mod home;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use proxystore_shared::http::python;
use proxystore_shared::{EndpointId, ObjectId, directory};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::http::{Request, Response, escape};
use crate::{Key, Object};
use home::Home;

/// In configurations.
pub const KIND: &str = "endpoint";

/// Without a byte from or to the endpoint. Longer than the endpoint itself waits for a peer, so that its
/// explanation arrives.
const PATIENCE: Duration = Duration::from_secs(120);

/// Largest object that is fetched whole, in bytes: an answer without end must not fill all memory. Larger ones
/// can be streamed.
const MAX_OBJECT_LEN: u64 = 64 << 30;

/// Keeps objects at the home endpoint, and fetches them from any that the home endpoint can reach.
///
/// It is looked for when it is first needed, and again when it cannot be reached any more: it may have been started
/// anew elsewhere.
#[derive(Debug)]
pub struct EndpointConnector {
    endpoints: Vec<EndpointId>,
    directory: Option<PathBuf>,
    home: Mutex<Option<Arc<Home>>>,
}

/// The names are those of Python's `EndpointConnector`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    endpoints: Vec<EndpointId>,
    #[serde(default)]
    proxystore_dir: Option<PathBuf>,
}

impl EndpointConnector {
    /// For whoever has one of these endpoints at their site. Fails if there are none.
    pub fn new(endpoints: impl IntoIterator<Item = EndpointId>) -> Result<Self, ConnectorError> {
        let endpoints: Vec<_> = endpoints.into_iter().collect();
        if endpoints.is_empty() {
            let reason = "endpoints is empty: name at least one".to_owned();
            return Err(ConnectorError::Config { kind: KIND.to_owned(), reason });
        }
        Ok(Self { endpoints, directory: None, home: Mutex::new(None) })
    }

    /// Where the endpoints' folders are, if not in the ProxyStore home of whoever uses this (`$PROXYSTORE_HOME`,
    /// else `$XDG_DATA_HOME/proxystore`, else `~/.local/share/proxystore`). It should be the same path at each site.
    pub fn proxystore_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let settings: Settings = config.settings()?;
        let connector = Self::new(settings.endpoints)?;
        Ok(Self { directory: settings.proxystore_dir, ..connector })
    }

    /// The endpoint that is asked, which is looked for if none is known yet.
    pub async fn home_id(&self) -> Result<EndpointId, ConnectorError> {
        Ok(self.home().await?.id)
    }

    async fn home(&self) -> Result<Arc<Home>, ConnectorError> {
        self.home_other_than(None).await
    }

    /// The home endpoint; looked for again if it is still the one that did not answer.
    async fn home_other_than(&self, lost: Option<&Arc<Home>>) -> Result<Arc<Home>, ConnectorError> {
        let mut known = self.home.lock().await;
        match &*known {
            Some(home) if !lost.is_some_and(|lost| Arc::ptr_eq(lost, home)) => Ok(home.clone()),
            _ => {
                *known = None;
                let directory = self.directory.clone().unwrap_or_else(directory::home);
                let found = Arc::new(home::find(&self.endpoints, &directory).await?);
                Ok(known.insert(found).clone())
            }
        }
    }

    /// Does something with the home endpoint, wherever it is by now.
    async fn at_home<T, F, R>(&self, operation: F) -> Result<T, ConnectorError>
    where
        F: Fn(Arc<Home>) -> R,
        R: Future<Output = Result<T, ConnectorError>>,
    {
        let home = self.home().await?;
        match operation(home.clone()).await {
            Err(ConnectorError::Unreachable { .. }) => {
                operation(self.home_other_than(Some(&home)).await?).await
            }
            outcome => outcome,
        }
    }

    async fn ask(&self, request: &Request<'_>) -> Result<Response, ConnectorError> {
        self.at_home(|home| async move { home.client.send(request).await }).await
    }

    /// Asks for an object; none if there is none.
    async fn find(&self, key: &Key) -> Result<Option<Response>, ConnectorError> {
        let response = self.ask(&Request::get(&target(python::GET, key)?)).await?;
        match response.status {
            answer::NOT_FOUND => response.object(MAX_OBJECT_LEN).await.map(|_| None),
            _ => answer::accept(response, 0).await.map(Some),
        }
    }
}

/// Path and query of a request about the object that `key` names.
fn target(route: &str, key: &Key) -> Result<String, ConnectorError> {
    let Key::Endpoint { object_id, endpoint_id } = key else {
        return Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() });
    };
    let at = endpoint_id.map(|id| format!("&endpoint={id}")).unwrap_or_default();
    Ok(format!("{route}?key={}{at}", escape(object_id.as_str())))
}

/// A key for a new object at `home`.
fn new_key(home: &Home) -> Key {
    Key::Endpoint { object_id: ObjectId::random(), endpoint_id: Some(home.id) }
}

/// Stores an object at `home`.
async fn store(home: Arc<Home>, object: Object) -> Result<Key, ConnectorError> {
    let (key, len) = (new_key(&home), object.len() as u64);
    let response = home.client.send(&Request::post(&target(python::SET, &key)?, object)).await?;
    stored(response, len).await.map(|()| key)
}

/// Reads the answer to an upload of `len` bytes.
async fn stored(response: Response, len: u64) -> Result<(), ConnectorError> {
    answer::accept(response, len).await?.object(answer::MAX_LEN).await.map(|_| ())
}

/// The same stream, which fails where its length turns out to be another than it said.
fn as_announced(stream: ObjectStream) -> ObjectStream {
    let Some(len) = stream.len else { return stream };
    let wrong = move |so_far: u64| ConnectorError::Refused {
        target: "an endpoint store".to_owned(),
        reason: format!("the stream announced {len} bytes, and has {so_far}"),
    };
    let chunks = stream::try_unfold((stream.chunks, 0), move |(mut chunks, so_far)| async move {
        match chunks.try_next().await? {
            Some(chunk) => {
                let so_far = so_far + chunk.len() as u64;
                if so_far > len { Err(wrong(so_far)) } else { Ok(Some((chunk, (chunks, so_far)))) }
            }
            None if so_far < len => Err(wrong(so_far)),
            None => Ok(None),
        }
    });
    ObjectStream { len: Some(len), chunks: chunks.boxed() }
}

#[async_trait]
impl Connector for EndpointConnector {
    async fn put(&self, object: Object, _options: &PutOptions) -> Result<Key, ConnectorError> {
        self.at_home(|home| store(home, object.clone())).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        match self.find(key).await? {
            Some(response) => response.object(MAX_OBJECT_LEN).await.map(Some),
            None => Ok(None),
        }
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        #[derive(Deserialize)]
        struct Answer {
            exists: bool,
        }
        let response = self.ask(&Request::get(&target(python::EXISTS, key)?)).await?;
        Ok(answer::json::<Answer>(answer::accept(response, 0).await?).await?.exists)
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        let response = self.ask(&Request::post(&target(python::EVICT, key)?, Object::new())).await?;
        stored(response, 0).await
    }

    fn config(&self) -> ConnectorConfig {
        let (endpoints, proxystore_dir) = (self.endpoints.clone(), self.directory.clone());
        ConnectorConfig::new(KIND, &Settings { endpoints, proxystore_dir })
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        Ok(new_key(&*self.home().await?))
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        let len = object.len() as u64;
        stored(self.ask(&Request::post(&target(python::SET, key)?, object)).await?, len).await
    }

    async fn put_batch(
        &self,
        objects: Vec<Object>,
        _options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        match objects.len() {
            0 => Ok(Vec::new()),
            _ => self.at_home(|home| batch::put(home, &objects)).await,
        }
    }

    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        match keys.len() {
            0 => Ok(Vec::new()),
            _ => self.at_home(|home| batch::get(self, home, keys)).await,
        }
    }

    async fn put_stream(&self, stream: ObjectStream, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let mut home = self.home().await?;
        let mut key = new_key(&home);
        let mut stream = as_announced(stream);
        let len = stream.len.unwrap_or_default();
        let mut outcome = home.client.upload(&target(python::SET, &key)?, &mut stream).await;
        if let Err(ConnectorError::Unreachable { .. }) = outcome {
            home = self.home_other_than(Some(&home)).await?;
            key = new_key(&home);
            outcome = home.client.upload(&target(python::SET, &key)?, &mut stream).await;
        }
        stored(outcome?, len).await.map(|()| key)
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        Ok(self.find(key).await?.map(Response::into_stream))
    }

    async fn close(&self) -> Result<(), ConnectorError> {
        if let Some(home) = &*self.home.lock().await {
            home.client.close();
        }
        Ok(())
    }
}
