//! Which endpoint of this site is ours: found in the folders where endpoints have their configurations.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proxystore_shared::config::{self, ConfigError};
use proxystore_shared::directory::CONFIG_FILE;
use proxystore_shared::{EndpointId, http::python};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{PATIENCE, answer};
use crate::connector::ConnectorError;
use crate::http::{Client, Request};
use crate::runtime::blocking;

/// For an endpoint to say who it is, which it knows by heart.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

/// Configurations that an error tells of, at most.
const TOLD: usize = 10;

/// The endpoint that is asked for everything.
#[derive(Debug)]
pub struct Home {
    /// The endpoint.
    pub id: EndpointId,
    /// Its HTTP API.
    pub client: Client,
    /// Whether it has routes for batches, which Python's endpoints have not; once that is known.
    pub batches: OnceCell<bool>,
}

/// What a client needs of a configuration. Whatever else is in it, of our endpoints or Python's, is not looked at.
#[derive(Debug, Deserialize)]
struct Config {
    uuid: EndpointId,
    /// Written when the endpoint is started.
    host: Option<String>,
    port: u16,
}

/// The first endpoint in `directory` that is one of `wanted` and answers.
pub async fn find(wanted: &[EndpointId], directory: &Path) -> Result<Home, ConnectorError> {
    let path = directory.to_owned();
    let found = blocking(move || configurations(&path)).await;
    let mut reasons = Vec::new();
    for (path, config) in found {
        let name = path.parent().and_then(Path::file_name).unwrap_or_default().display().to_string();
        match config {
            Ok(config) if !wanted.contains(&config.uuid) => {
                reasons.push(format!("{name}: is another endpoint, {}", config.uuid));
            }
            Ok(config) => match probe(&config).await {
                Ok(home) => return Ok(home),
                Err(reason) => reasons.push(format!("{name}: {reason}")),
            },
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    Err(none_found(wanted, directory, &reasons))
}

/// Every configuration in a folder of `directory`, in order of the folders' names.
fn configurations(directory: &Path) -> Vec<(PathBuf, Result<Config, ConfigError>)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path().join(CONFIG_FILE)).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), config::read(&path))).collect()
}

/// Asks the endpoint that should be there who it is.
async fn probe(config: &Config) -> Result<Home, String> {
    let Some(host) = &config.host else { return Err("was never started: it has no host".to_owned()) };
    let client = Client::new(host, config.port, PROBE_PATIENCE);
    let id = endpoint_id(&client).await.map_err(|error| error.to_string())?;
    if id != config.uuid {
        return Err(format!("{} is {id}, which took its place", client.name()));
    }
    Ok(Home { id, client: Client::new(host, config.port, PATIENCE), batches: OnceCell::new() })
}

async fn endpoint_id(client: &Client) -> Result<EndpointId, ConnectorError> {
    #[derive(Deserialize)]
    struct Answer {
        uuid: EndpointId,
    }
    let response = client.send(&Request::get(python::ENDPOINT)).await?;
    Ok(answer::json::<Answer>(answer::accept(response, 0).await?).await?.uuid)
}

fn none_found(wanted: &[EndpointId], directory: &Path, reasons: &[String]) -> ConnectorError {
    let wanted: Vec<_> = wanted.iter().map(EndpointId::to_string).collect();
    let mut reason = format!("{} has ", directory.display());
    match reasons {
        [] => reason.push_str("no configuration of an endpoint"),
        reasons => reason.push_str(&reasons[..reasons.len().min(TOLD)].join("; ")),
    }
    if let Some(more @ 1..) = reasons.len().checked_sub(TOLD) {
        // Writing to a string does not fail.
        let _ = write!(reason, "; and {more} more");
    }
    reason.push_str(". Start one with `endpoint start NAME`, or configure where the endpoints' folders are");
    ConnectorError::Unreachable { target: format!("any endpoint of {}", wanted.join(", ")), reason }
}
