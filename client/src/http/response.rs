//! The body of an answer, read as far as its reader wants it.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, StreamExt};

use super::connection::Connection;
use super::message::{Body, Head, Next};
use super::{Peer, Pool, malformed};
use crate::connector::{ConnectorError, ObjectStream};
use crate::object::Object;

/// Longest piece of memory that is allocated because an answer announces so many bytes. Larger objects come in
/// several segments.
pub(crate) const MAX_PIECE_LEN: usize = 1 << 30;

/// Longest segment of an object that does not announce its length.
const CHUNK_LEN: usize = 1 << 20;

/// An answer whose head is there.
#[derive(Debug)]
pub(crate) struct Response {
    /// As in RFC 9110, section 15.
    pub status: u16,
    body: Body,
    connection: Connection,
    pool: Option<Arc<Pool>>,
    peer: Peer,
}

impl Response {
    pub(super) fn new(head: Head, connection: Connection, pool: Arc<Pool>, peer: Peer) -> Self {
        Self { status: head.status, body: head.body, connection, pool: head.keep_alive.then_some(pool), peer }
    }

    /// The server, in words.
    pub fn name(&self) -> &str {
        &self.peer.name
    }

    /// Whether this is a success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Bytes of the rest of the body, if announced.
    pub fn len(&self) -> Option<u64> {
        match self.body {
            Body::Counted(len) => Some(len),
            Body::Chunked(_) => None,
        }
    }

    /// The next `wanted` bytes in one piece, or fewer at the end of the body; none after that. Allocates what is
    /// announced, up to `wanted`.
    pub async fn read(&mut self, wanted: usize) -> Result<Bytes, ConnectorError> {
        self.fill(wanted).await.map_err(|error| self.peer.failed(&error))
    }

    async fn fill(&mut self, wanted: usize) -> io::Result<Bytes> {
        let mut piece = BytesMut::new();
        while piece.len() < wanted {
            let rest = match self.body.next(&mut self.connection.buffer).map_err(malformed)? {
                Next::Data(rest) => usize::try_from(rest).unwrap_or(usize::MAX),
                Next::End => break,
                Next::Unknown => {
                    self.connection.receive().await?;
                    continue;
                }
            };
            let missing = wanted - piece.len();
            let count = self.connection.read(&mut piece, rest.min(missing)).await?;
            self.body.taken(count as u64);
        }
        Ok(piece.freeze())
    }

    /// Reads to the end of the body, which must come now, and leaves the connection for other requests.
    pub async fn finish(mut self) -> Result<(), ConnectorError> {
        match self.read(1).await?.is_empty() {
            true => self.release(),
            false => return Err(self.nonsense("it goes on after its end")),
        }
        Ok(())
    }

    fn release(self) {
        if let Some(pool) = self.pool {
            pool.put(self.connection);
        }
    }

    /// All of the body. Fails if it has more than `limit` bytes.
    pub async fn object(mut self, limit: u64) -> Result<Object, ConnectorError> {
        if self.len().is_some_and(|len| len > limit) {
            return Err(self.too_long(limit));
        }
        let wanted = if self.len().is_some() { MAX_PIECE_LEN } else { CHUNK_LEN };
        let mut object = Object::new();
        loop {
            let piece = self.read(wanted).await?;
            let last = piece.len() < wanted;
            object.push(piece);
            if object.len() as u64 > limit {
                return Err(self.too_long(limit));
            }
            if last {
                self.release();
                return Ok(object);
            }
        }
    }

    fn too_long(&self, limit: u64) -> ConnectorError {
        self.nonsense(&format!("its answer has over {limit} bytes"))
    }

    /// The error for an answer that is not an endpoint's.
    pub fn nonsense(&self, reason: &str) -> ConnectorError {
        ConnectorError::Refused { target: self.peer.name.to_string(), reason: reason.to_owned() }
    }

    /// The body as it arrives.
    pub fn into_stream(self) -> ObjectStream {
        let len = self.len();
        let chunks = stream::try_unfold(Some(self), |response| async {
            let Some(mut response) = response else { return Ok(None) };
            let chunk = response.read(CHUNK_LEN).await?;
            if chunk.len() == CHUNK_LEN {
                return Ok(Some((chunk, Some(response))));
            }
            response.release();
            Ok((!chunk.is_empty()).then_some((chunk, None)))
        });
        ObjectStream { len, chunks: chunks.boxed() }
    }
}
