//! What a program would call without stores.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use uuid::Uuid;

/// The usual client of a place.
pub enum Bare {
    /// Write, rename, read.
    File(PathBuf),
    /// The Redis client.
    Redis(MultiplexedConnection),
    /// An HTTP client, and the endpoint's address.
    Http(reqwest::Client, String),
}

impl Bare {
    /// Stores the bytes under a new name.
    pub async fn put(&self, value: Bytes) -> Result<String> {
        let name = Uuid::new_v4().to_string();
        match self {
            Self::File(directory) => {
                let temporary = directory.join(".temporary");
                fs::write(&temporary, &value)?;
                fs::rename(temporary, directory.join(&name))?;
            }
            Self::Redis(connection) => connection.clone().set::<_, _, ()>(&name, value.as_ref()).await?,
            Self::Http(client, base) => {
                let request = client.post(format!("{base}/set")).query(&[("key", &name)]).body(value);
                request.send().await?.error_for_status()?;
            }
        }
        Ok(name)
    }

    /// Fetches the bytes and says how many they are.
    pub async fn get(&self, name: &str) -> Result<usize> {
        Ok(match self {
            Self::File(directory) => fs::read(directory.join(name))?.len(),
            Self::Redis(connection) => {
                let value: Option<Vec<u8>> = connection.clone().get(name).await?;
                value.context("gone")?.len()
            }
            Self::Http(client, base) => {
                let request = client.get(format!("{base}/get")).query(&[("key", name)]);
                request.send().await?.error_for_status()?.bytes().await?.len()
            }
        })
    }

    /// Forgets the bytes.
    pub async fn evict(&self, name: &str) -> Result<()> {
        match self {
            Self::File(directory) => fs::remove_file(directory.join(name))?,
            Self::Redis(connection) => connection.clone().del::<_, ()>(name).await?,
            Self::Http(client, base) => {
                client.post(format!("{base}/evict")).query(&[("key", name)]).send().await?;
            }
        }
        Ok(())
    }
}
