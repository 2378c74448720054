//! Who sets and gets objects: our endpoints, Python's, and a server with nothing around its memory.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use proxystore_bench::load::{Connection, Request};
use proxystore_bench::programs::{self, Program, Relay, Site};

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Set at the endpoint that the client talks to.
    LocalSet,
    /// Got from there.
    LocalGet,
    /// Set through it at another endpoint.
    PeerSet,
    /// Got from there.
    PeerGet,
}

impl Operation {
    /// A get follows the set that it needs.
    pub const ALL: [Self; 4] = [Self::LocalSet, Self::LocalGet, Self::PeerSet, Self::PeerGet];

    /// For the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::LocalSet => "local set",
            Self::LocalGet => "local get",
            Self::PeerSet => "peer set",
            Self::PeerGet => "peer get",
        }
    }

    fn is_get(self) -> bool {
        matches!(self, Self::LocalGet | Self::PeerGet)
    }

    fn is_remote(self) -> bool {
        matches!(self, Self::PeerSet | Self::PeerGet)
    }
}

/// Something that sets and gets, and a client's connection to it.
pub struct Contestant {
    /// For the table.
    pub name: &'static str,
    connection: Connection,
    kind: Kind,
}

/// What holds the objects.
enum Kind {
    /// The near endpoint, to which the client talks, and the other.
    Endpoints { far: String, are_alike: bool, _sites: Box<[Site; 2]> },
    /// One server.
    Bare { _server: Program },
}

impl Contestant {
    /// Our endpoints.
    pub async fn ours(relay: &Relay) -> Result<Self> {
        Self::endpoints("ours", true, [Site::ours(Some(relay))?, Site::ours(Some(relay))?]).await
    }

    /// Python's.
    pub async fn python(python: &Path, relay: &Relay) -> Result<Self> {
        let sites = [Site::python(python, Some(relay))?, Site::python(python, Some(relay))?];
        Self::endpoints("Python", true, sites).await
    }

    /// One of ours that a client asks for what a Python endpoint has.
    pub async fn ours_and_python(python: &Path, relay: &Relay) -> Result<Self> {
        let sites = [Site::ours(Some(relay))?, Site::python(python, Some(relay))?];
        Self::endpoints("ours and Python", false, sites).await
    }

    /// A Python endpoint that a client asks for what one of ours has.
    pub async fn python_and_ours(python: &Path, relay: &Relay) -> Result<Self> {
        let sites = [Site::python(python, Some(relay))?, Site::ours(Some(relay))?];
        Self::endpoints("Python and ours", false, sites).await
    }

    async fn endpoints(name: &'static str, are_alike: bool, sites: [Site; 2]) -> Result<Self> {
        let connection = Connection::open(sites[0].port).await?;
        let mut contestant = Self {
            name,
            connection,
            kind: Kind::Endpoints { far: sites[1].id.clone(), are_alike, _sites: Box::new(sites) },
        };
        let request = contestant.request(Operation::PeerSet, &Bytes::from_static(b"hello"));
        contestant.connection.meet(&request).await.with_context(|| format!("{name} among themselves"))?;
        Ok(contestant)
    }

    /// `bench-bare`, whose QUIC server has this key, and its port.
    pub async fn bare(key: &Path) -> Result<(Self, u16)> {
        let (server, port) = programs::bare(Some(key))?;
        let connection = Connection::open(port).await?;
        Ok((Self { name: "bare axum", connection, kind: Kind::Bare { _server: server } }, port))
    }

    /// Whether it takes part: only one that has another endpoint sets and gets there, and what one of a kind does for its
    /// own clients two of that kind show already.
    pub fn can(&self, operation: Operation) -> bool {
        match self.kind {
            Kind::Bare { .. } => !operation.is_remote(),
            Kind::Endpoints { are_alike, .. } => are_alike || operation.is_remote(),
        }
    }

    /// What to send; a get asks for what a set of the same bytes stored.
    pub fn request(&self, operation: Operation, object: &Bytes) -> Request {
        let key = object.len();
        let body = if operation.is_get() { Bytes::new() } else { object.clone() };
        match &self.kind {
            Kind::Bare { .. } => {
                let method = if operation.is_get() { "GET" } else { "PUT" };
                Request::http(method, &format!("/{key}"), body)
            }
            Kind::Endpoints { far, .. } => {
                let (method, route) = if operation.is_get() { ("GET", "get") } else { ("POST", "set") };
                let at = if operation.is_remote() { format!("&endpoint={far}") } else { String::new() };
                Request::http(method, &format!("/{route}?key={key}{at}"), body)
            }
        }
    }

    /// Does it `times` times; returns what one took.
    pub async fn run(&mut self, operation: Operation, object: &Bytes, times: u32) -> Result<Duration> {
        let request = self.request(operation, object);
        let start = Instant::now();
        for _ in 0..times {
            let answered = self.connection.exchange(&request).await;
            let len = answered.with_context(|| format!("{}, {}", self.name, operation.name()))?;
            ensure!(!operation.is_get() || len == object.len(), "{len} bytes of {}", object.len());
        }
        Ok(start.elapsed() / times)
    }

    /// Forgets what was set.
    pub async fn evict(&mut self, len: usize) -> Result<()> {
        let Kind::Endpoints { far, .. } = &self.kind else { return Ok(()) };
        for at in [String::new(), format!("&endpoint={far}")] {
            let request = Request::http("POST", &format!("/evict?key={len}{at}"), Bytes::new());
            self.connection.exchange(&request).await?;
        }
        Ok(())
    }
}
