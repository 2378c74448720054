//! Who answers many clients at once: our endpoint, Python's, Redis, and a server that is nothing but axum,
//! whose rate is the most that an endpoint built on it can have.

use std::path::Path;

use anyhow::Result;
use bytes::Bytes;
use proxystore_bench::load::Request;
use proxystore_bench::programs::{self, Program, Site};
use tempfile::TempDir;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Store an object, in place of the one before.
    Set,
    /// Fetch it.
    Get,
}

impl Operation {
    /// A get follows the set that it needs.
    pub const ALL: [Self; 2] = [Self::Set, Self::Get];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Get => "get",
        }
    }
}

/// One server.
pub struct Contestant {
    /// For the table.
    pub name: &'static str,
    /// Where it listens, on loopback.
    pub port: u16,
    kind: Kind,
}

/// What it is, kept running.
enum Kind {
    /// An endpoint.
    Endpoint { _site: Site },
    /// `bench-bare`.
    Bare { _server: Program },
    /// A Redis server, and its folder.
    Redis { _server: Program, _folder: TempDir },
}

impl Contestant {
    /// Our endpoint.
    pub fn ours() -> Result<Self> {
        Ok(Self::endpoint("ours", Site::ours(None)?))
    }

    /// Python's.
    pub fn python(python: &Path) -> Result<Self> {
        Ok(Self::endpoint("Python", Site::python(python, None)?))
    }

    fn endpoint(name: &'static str, site: Site) -> Self {
        Self { name, port: site.port, kind: Kind::Endpoint { _site: site } }
    }

    /// Axum alone.
    pub fn bare() -> Result<Self> {
        let (server, port) = programs::bare(None)?;
        Ok(Self { name: "bare axum", port, kind: Kind::Bare { _server: server } })
    }

    /// Redis; none if it is not installed.
    pub fn redis() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let Some((server, port)) = programs::redis(folder.path())? else { return Ok(None) };
        Ok(Some(Self { name: "Redis", port, kind: Kind::Redis { _server: server, _folder: folder } }))
    }

    /// What client number `client` sends.
    pub fn request(&self, operation: Operation, client: usize, object: &Bytes) -> Request {
        let key = format!("{client}-{}", object.len());
        match (&self.kind, operation) {
            (Kind::Endpoint { .. }, Operation::Set) => {
                Request::http("POST", &format!("/set?key={key}"), object.clone())
            }
            (Kind::Endpoint { .. }, Operation::Get) => {
                Request::http("GET", &format!("/get?key={key}"), Bytes::new())
            }
            (Kind::Bare { .. }, Operation::Set) => Request::http("PUT", &format!("/{key}"), object.clone()),
            (Kind::Bare { .. }, Operation::Get) => Request::http("GET", &format!("/{key}"), Bytes::new()),
            (Kind::Redis { .. }, Operation::Set) => Request::redis(&[b"SET", key.as_bytes(), object]),
            (Kind::Redis { .. }, Operation::Get) => Request::redis(&[b"GET", key.as_bytes()]),
        }
    }
}
