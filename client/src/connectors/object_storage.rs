//! Objects in a bucket: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.
//!
//! Buckets reach every site and keep what they have when all machines of a run are gone. A request costs tens of
//! milliseconds there, so this is for objects that are large, or that must outlive their makers.

mod bucket;
mod errors;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::StreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::runtime::PerRuntime;
use crate::{Key, Object};
use bucket::Bucket;

/// In configurations.
pub const KIND: &str = "object-storage";

/// Keeps objects in a bucket, one under each key, named by a UUID behind a prefix.
///
/// Credentials come from the environment of each process, or from the machine it runs on; they are never part of
/// the configuration:
///
/// | URL | environment |
/// |---|---|
/// | `s3://bucket/prefix` | `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (with `AWS_SESSION_TOKEN` if they are temporary), or the role of the machine |
/// | `gs://bucket/prefix` | `GOOGLE_APPLICATION_CREDENTIALS` (a file), or the account of the machine |
/// | `az://container/prefix` | `AZURE_STORAGE_ACCOUNT_NAME` and `AZURE_STORAGE_ACCOUNT_KEY`, or the identity of the machine |
///
/// The other variables that the `object_store` crate's builders know count too. Nobody is asked before the first
/// request, so a bucket that is missing shows then.
///
/// An upload that is cut off (the process is killed, the network fails) leaves parts in S3 and Google's storage
/// that nobody sees but that cost money: give the bucket a lifecycle rule that removes incomplete uploads.
#[derive(Debug)]
pub struct ObjectStorageConnector {
    settings: Settings,
    bucket: Bucket,
    clients: PerRuntime<Result<Arc<dyn ObjectStore>, ConnectorError>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_http: bool,
}

impl ObjectStorageConnector {
    /// In the bucket at `url`, such as `s3://bucket/prefix`; the bucket must exist.
    pub fn new(url: &str) -> Result<Self, ConnectorError> {
        Self::of(Settings { url: url.to_owned(), endpoint: None, region: None, allow_http: false })
    }

    /// At a server that speaks as S3 does, such as `https://minio.example.org:9000`, instead of Amazon's.
    ///
    /// Only for S3, where the secret signs requests and stays here. Google and Azure are sent a token that would
    /// work for whoever gets it, so where it goes is not for a configuration that travels to say: set
    /// `GOOGLE_BASE_URL` or `AZURE_STORAGE_ENDPOINT`.
    pub fn with_endpoint(self, endpoint: &str) -> Result<Self, ConnectorError> {
        Self::of(Settings { endpoint: Some(endpoint.to_owned()), ..self.settings })
    }

    /// In this region of S3, instead of `AWS_REGION`, or else `us-east-1`.
    pub fn with_region(self, region: &str) -> Result<Self, ConnectorError> {
        Self::of(Settings { region: Some(region.to_owned()), ..self.settings })
    }

    /// Whether plain HTTP will do, without encryption: for servers on this machine. Off unless told.
    pub fn allow_http(mut self, allow: bool) -> Self {
        self.settings.allow_http = allow;
        self
    }

    /// The one that is described.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        Self::of(config.settings()?)
    }

    fn of(settings: Settings) -> Result<Self, ConnectorError> {
        let bucket = Bucket::parse(&settings)?;
        Ok(Self { settings, bucket, clients: PerRuntime::new() })
    }

    fn client(&self) -> Result<Arc<dyn ObjectStore>, ConnectorError> {
        self.clients.current(|| self.bucket.connect(&self.settings)).as_ref().clone()
    }

    fn path_of(&self, key: &Key) -> Result<Path, ConnectorError> {
        let foreign = || ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() };
        let Key::ObjectStorage { path } = key else { return Err(foreign()) };
        self.bucket.path(path).ok_or_else(foreign)
    }

    fn failed(&self, error: object_store::Error) -> ConnectorError {
        errors::connector_error(&self.bucket, error)
    }
}

#[async_trait]
impl Connector for ObjectStorageConnector {
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError> {
        self.put_stream(object.into(), options).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        match self.get_stream(key).await? {
            Some(stream) => stream.collect().await.map(Some),
            None => Ok(None),
        }
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        match self.client()?.head(&self.path_of(key)?).await {
            Ok(_) => Ok(true),
            Err(error) if errors::is_missing_object(&error) => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        match self.client()?.delete(&self.path_of(key)?).await {
            Err(error) if !errors::is_missing_object(&error) => Err(self.failed(error)),
            _ => Ok(()),
        }
    }

    fn config(&self) -> ConnectorConfig {
        ConnectorConfig::new(KIND, &self.settings)
    }

    async fn new_key(&self) -> Result<Key, ConnectorError> {
        let name = Uuid::new_v4().to_string();
        Ok(Key::ObjectStorage { path: self.bucket.prefix.clone().join(name).into() })
    }

    async fn set(&self, key: &Key, object: Object) -> Result<(), ConnectorError> {
        upload::upload(&self.bucket, &*self.client()?, &self.path_of(key)?, object.into()).await
    }

    async fn put_stream(&self, stream: ObjectStream, _options: &PutOptions) -> Result<Key, ConnectorError> {
        let key = self.new_key().await?;
        upload::upload(&self.bucket, &*self.client()?, &self.path_of(&key)?, stream).await?;
        Ok(key)
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        let found = match self.client()?.get(&self.path_of(key)?).await {
            Ok(found) => found,
            Err(error) if errors::is_missing_object(&error) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let len = found.meta.size;
        let bucket = self.bucket.clone();
        let chunks = found.into_stream();
        let chunks = chunks.map(move |chunk| chunk.map_err(|error| errors::connector_error(&bucket, error)));
        Ok(Some(ObjectStream { len: Some(len), chunks: chunks.boxed() }))
    }
}
