//! A small HTTP/1.1 client for servers of the same site, made for objects.
//!
//! Between the application and the socket no object is copied: a request is written from its segments, an answer is
//! read into the memory that the application gets. Connections stay open and are used again, in the runtime that
//! opened them. There is never a proxy in between, and no redirect is followed.

mod connection;
mod message;
mod response;
#[cfg(test)]
mod tests;

use std::io::{self, ErrorKind};
use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::Instant;

use crate::connector::{ConnectorError, ObjectStream};
use crate::object::Object;
use crate::runtime::PerRuntime;
use connection::Connection;
use message::{Head, Malformed};
pub(crate) use response::{MAX_PIECE_LEN, Response};

/// Connections that are kept although nobody uses them: as many as requests are usually under way at once.
const IDLE_KEPT: usize = 32;

/// How long a connection is kept although nobody uses it. Endpoints close theirs after a minute.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// What need not be escaped in a URL (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text as a part of a URL.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// A request whose body is at hand, so that it can be sent again.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// As in `GET`.
    pub method: &'a str,
    /// Path and query, escaped.
    pub target: &'a str,
    /// Media type of the body.
    pub content_type: &'a str,
    /// Body.
    pub body: Object,
}

impl<'a> Request<'a> {
    /// Asks for something.
    pub fn get(target: &'a str) -> Self {
        Self { method: "GET", target, content_type: OCTET_STREAM, body: Object::new() }
    }

    /// Sends something.
    pub fn post(target: &'a str, body: Object) -> Self {
        Self { method: "POST", target, content_type: OCTET_STREAM, body }
    }
}

/// Media type of an object's bytes.
const OCTET_STREAM: &str = "application/octet-stream";

/// A client of one server.
#[derive(Debug)]
pub(crate) struct Client {
    host: String,
    port: u16,
    peer: Peer,
    pools: PerRuntime<Pool>,
}

/// How errors speak of the server.
#[derive(Debug, Clone)]
struct Peer {
    name: Arc<str>,
    patience: Duration,
}

impl Client {
    /// Of the server at `host`, a name or an address. After `patience` without a byte in either direction a
    /// request fails.
    pub fn new(host: &str, port: u16, patience: Duration) -> Self {
        let name = format!("the endpoint at {}:{port}", in_url(host)).into();
        Self { host: host.to_owned(), port, peer: Peer { name, patience }, pools: PerRuntime::new() }
    }

    /// The server, in words.
    pub fn name(&self) -> &str {
        &self.peer.name
    }

    /// Closes connections that nobody uses.
    pub fn close(&self) {
        self.pools.clear();
    }

    /// Sends a request and gives the answer once its head is there. Sends it again if the connection turns out
    /// to have been dead already.
    pub async fn send(&self, request: &Request<'_>) -> Result<Response, ConnectorError> {
        let pool = self.pools.current(Pool::default);
        let bodiless = request.method == "GET" && request.body.is_empty();
        let length = if bodiless { None } else { Some(request.body.len() as u64) };
        let head = self.head(request.method, request.target, request.content_type, length);
        let mut pieces = Vec::with_capacity(1 + request.body.segments().len());
        pieces.push(head);
        pieces.extend_from_slice(request.body.segments());
        if let Some(mut connection) = pool.take() {
            match exchange(&mut connection, &pieces).await {
                Err(error) if is_death(&error) => {}
                outcome => return self.answer(connection, pool, outcome),
            }
        }
        let mut connection = self.connect().await?;
        let outcome = exchange(&mut connection, &pieces).await;
        self.answer(connection, pool, outcome)
    }

    /// Sends a `POST` whose body comes as a stream, once: on a connection that is new. The stream is untouched if
    /// the server cannot be reached. Bytes that do not fit the announced length are the caller's fault, and the
    /// server's to refuse.
    pub async fn upload(&self, target: &str, body: &mut ObjectStream) -> Result<Response, ConnectorError> {
        let pool = self.pools.current(Pool::default);
        let mut connection = self.connect().await?;
        let head = self.head("POST", target, OCTET_STREAM, body.len);
        let mut unanswered = self.sent(connection.send(&[head]).await)?;
        while let Some(chunk) = body.chunks.next().await {
            let chunk = chunk?;
            if unanswered && !chunk.is_empty() {
                let framed = match body.len {
                    Some(_) => vec![chunk],
                    None => vec![format!("{:x}\r\n", chunk.len()).into(), chunk, Bytes::from_static(b"\r\n")],
                };
                unanswered = self.sent(connection.send(&framed).await)?;
            }
            if !unanswered {
                break;
            }
        }
        if unanswered && body.len.is_none() {
            unanswered = self.sent(connection.send(&[Bytes::from_static(b"0\r\n\r\n")]).await)?;
        }
        let outcome = take_head(&mut connection, unanswered).await;
        self.answer(connection, pool, outcome)
    }

    async fn connect(&self) -> Result<Connection, ConnectorError> {
        let connection = Connection::open(&self.host, self.port, self.peer.patience).await;
        connection.map_err(|error| ConnectorError::Unreachable {
            target: self.peer.name.to_string(),
            reason: error.to_string(),
        })
    }

    fn sent(&self, outcome: io::Result<bool>) -> Result<bool, ConnectorError> {
        outcome.map_err(|error| self.peer.failed(&error))
    }

    fn head(&self, method: &str, target: &str, content_type: &str, length: Option<u64>) -> Bytes {
        let (host, port) = (in_url(&self.host), self.port);
        let framing = match (method, length) {
            ("GET", None) => String::new(),
            (_, Some(length)) => format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n"),
            (_, None) => format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"),
        };
        format!("{method} {target} HTTP/1.1\r\nHost: {host}:{port}\r\n{framing}\r\n").into()
    }

    fn answer(
        &self,
        connection: Connection,
        pool: Arc<Pool>,
        outcome: io::Result<Head>,
    ) -> Result<Response, ConnectorError> {
        let head = outcome.map_err(|error| self.peer.failed(&error))?;
        Ok(Response::new(head, connection, pool, self.peer.clone()))
    }
}

/// Sends a request and receives the head of its answer.
async fn exchange(connection: &mut Connection, pieces: &[Bytes]) -> io::Result<Head> {
    let whole = connection.send(pieces).await?;
    take_head(connection, whole).await
}

/// The head of the answer to a request, which was sent whole or not.
async fn take_head(connection: &mut Connection, whole: bool) -> io::Result<Head> {
    loop {
        match Head::take(&mut connection.buffer).map_err(malformed)? {
            // Answers of this kind come before the proper one (RFC 9110, section 15.2).
            Some(head) if head.status < 200 => {}
            Some(head) if !whole && head.status < 300 => {
                return Err(io::Error::other("it answered before it had the whole request"));
            }
            Some(head) => return Ok(Head { keep_alive: head.keep_alive && whole, ..head }),
            None => connection.receive().await?,
        }
    }
}

/// Whether the other side was gone before the request came. It may also have gone because of the request, which
/// makes no difference: objects never change.
fn is_death(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn malformed(error: Malformed) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// A host as URLs have it.
fn in_url(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

impl Peer {
    fn failed(&self, error: &io::Error) -> ConnectorError {
        let target = self.name.to_string();
        match error.kind() {
            // The system has such an error of its own, for a host that went away.
            ErrorKind::TimedOut if error.raw_os_error().is_none() => {
                ConnectorError::Timeout { target, after: self.patience }
            }
            _ => ConnectorError::Broken { target, reason: error.to_string() },
        }
    }
}

/// Connections that nobody uses just now.
#[derive(Debug, Default)]
struct Pool {
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// The one that was used last, if it still seems to be good.
    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle.pop()?;
        if connection.used.elapsed() < IDLE_TIME && connection.is_quiet() {
            return Some(connection);
        }
        // The others have waited longer, so that they are hardly better.
        idle.clear();
        None
    }

    fn put(&self, mut connection: Connection) {
        connection.used = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_KEPT {
            idle.push(connection);
        }
    }
}
