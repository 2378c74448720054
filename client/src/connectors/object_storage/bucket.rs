//! Which bucket, and how it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::ClientOptions;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::{Path, PathPart};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::{KIND, Settings};
use crate::connector::ConnectorError;
use crate::tls::install_provider;

/// A server that is up takes a connection within a round trip or two, also around the world.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// No byte of an answer for so long means that none will come. It includes the sending of a request, which is at
/// most a part of an object, four of them at once (see `upload`): enough from about a megabyte a second.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// A request that fails is not repeated after this time, so all of it is over soon after.
const RETRY_LIMIT: Duration = Duration::from_secs(20);

/// Repetitions of a request: over about two seconds, which is what a busy service asks for.
const RETRIES: usize = 5;

/// Pause before the first repetition, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two repetitions.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Where a bucket can be, by the scheme of its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    S3,
    Google,
    Azure,
}

/// A bucket, and the prefix in it. Displays as its URL, for errors.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub service: Service,
    pub prefix: Path,
    name: String,
    endpoint: Option<String>,
}

impl Bucket {
    pub fn parse(settings: &Settings) -> Result<Self, ConnectorError> {
        let refuse = |reason: String| ConnectorError::Config { kind: KIND.to_owned(), reason };
        // The URL is not quoted: if it is wrong, there might be credentials in it.
        let malformed = || refuse("`url` must be like s3://bucket/prefix (or gs://, or az://)".to_owned());
        let (scheme, rest) = settings.url.split_once("://").ok_or_else(malformed)?;
        let service = Service::from_scheme(scheme).ok_or_else(malformed)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket_name(name) {
            return Err(malformed());
        }
        let prefix = Path::parse(prefix).map_err(|error| refuse(format!("prefix in `url`: {error}")))?;
        if service != Service::S3 && (settings.endpoint.is_some() || settings.region.is_some()) {
            let reason = "`endpoint` and `region` are for s3:// only; set GOOGLE_BASE_URL or \
                AZURE_STORAGE_ENDPOINT in the environment instead";
            return Err(refuse(reason.to_owned()));
        }
        if settings.endpoint.as_deref().is_some_and(|endpoint| !is_endpoint(endpoint)) {
            let reason = "`endpoint` must be like https://host:port, without a user or a query";
            return Err(refuse(reason.to_owned()));
        }
        Ok(Self { service, prefix, name: name.to_owned(), endpoint: settings.endpoint.clone() })
    }

    /// The path that a key names, unless it leads out of the prefix.
    pub fn path(&self, key: &str) -> Option<Path> {
        let path = Path::parse(key).ok()?;
        let within: Vec<PathPart<'_>> = path.prefix_match(&self.prefix)?.collect();
        (within.len() == 1 && path.as_ref() == key).then_some(path)
    }

    /// A client, which asks nobody before its first request.
    pub fn connect(&self, settings: &Settings) -> Result<Arc<dyn ObjectStore>, ConnectorError> {
        install_provider();
        let refuse = |reason| ConnectorError::Config { kind: KIND.to_owned(), reason };
        if !settings.allow_http && self.endpoint.as_deref().is_some_and(|url| url.starts_with("http:")) {
            let reason = "`endpoint` is without encryption: use https://, or set `allow_http`";
            return Err(refuse(reason.to_owned()));
        }
        let client = self.build(settings, client_options(settings.allow_http));
        client.map_err(|error| refuse(error.to_string()))
    }

    fn build(
        &self,
        settings: &Settings,
        options: ClientOptions,
    ) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        Ok(match self.service {
            Service::S3 => {
                let mut builder = AmazonS3Builder::from_env();
                if let Some(endpoint) = &settings.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                if let Some(region) = &settings.region {
                    builder = builder.with_region(region);
                }
                let builder = builder.with_bucket_name(&self.name).with_client_options(options);
                Arc::new(builder.with_retry(retries()).build()?)
            }
            Service::Google => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&self.name);
                Arc::new(builder.with_client_options(options).with_retry(retries()).build()?)
            }
            Service::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_container_name(&self.name);
                Arc::new(builder.with_client_options(options).with_retry(retries()).build()?)
            }
        })
    }
}

impl Service {
    fn from_scheme(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Google, Self::Azure].into_iter().find(|service| service.scheme() == scheme)
    }

    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }

    /// Where credentials come from, for errors.
    pub fn credentials(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            Self::Google => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::Azure => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        }
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.service.scheme(), self.name)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

fn is_bucket_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.$".contains(&byte);
    !name.is_empty() && name.bytes().all(allowed)
}

fn is_endpoint(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['@', '?', '#']))
}

fn client_options(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_connect_timeout(CONNECT_LIMIT)
        .with_read_timeout(SILENCE_LIMIT)
        // There is no telling how long an object of any size takes in all.
        .with_timeout_disabled()
}

fn retries() -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 };
    RetryConfig { backoff, max_retries: RETRIES, retry_timeout: RETRY_LIMIT }
}
