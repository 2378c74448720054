//! Reads and writes headers and bytes on the streams of a connection, within deadlines.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use noq::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream, WriteError};
use proxystore_shared::Digest;
use proxystore_shared::digest::GroupHasher;
use proxystore_shared::frame::{self, Answer, HeaderError, LENGTH_LEN, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::memory::GROUPS;

/// Why a header or a body did not arrive or could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Nothing moved for as long as is allowed.
    #[error("nothing moved for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The connection or the stream is gone; the same request may succeed on another connection.
    #[error("{0}")]
    Gone(String),
    /// The bytes are not what was agreed.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The stream ended early.
    #[error("the stream ended after {0} bytes")]
    Short(usize),
}

impl From<ConnectionError> for WireError {
    fn from(error: ConnectionError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<WriteError> for WireError {
    fn from(error: WriteError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ReadExactError> for WireError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(read) => Self::Short(read),
            ReadExactError::ReadError(error) => Self::Gone(error.to_string()),
        }
    }
}

/// Bytes read at a time: progress within this much counts as life.
const READ_STEP: usize = 64 * 1024;

/// More bytes than this wait until smaller requests and answers have gone out: beside a large object these would
/// wait for all that is queued of it.
const BULK_LEN: usize = 64 * 1024;

/// Below the priority that streams have of themselves, which is 0.
const BULK_PRIORITY: i32 = -1;

async fn within<T, E: Into<WireError>>(
    limit: Duration,
    action: impl Future<Output = Result<T, E>>,
) -> Result<T, WireError> {
    timeout(limit, action).await.map_err(|_| WireError::Stalled(limit))?.map_err(Into::into)
}

/// Makes a request on a stream of its own, and receives the header of the answer.
pub async fn ask(
    connection: &Connection,
    request: &Request,
    bytes: &[Bytes],
    limit: Duration,
) -> Result<(Answer, SendStream, RecvStream), WireError> {
    let (mut send, mut receive) = within(limit, connection.open_bi()).await?;
    send_with(&mut send, request, bytes, limit).await?;
    if request.is_complete() {
        // In the packet of the request. Fails only when the peer has stopped the stream.
        let _ = send.finish();
    }
    let answer: Answer = receive_header(&mut receive, limit).await?;
    if answer.is_last() {
        note_end(&mut receive);
    }
    Ok((answer, send, receive))
}

/// Sends a header.
pub async fn send_header<T: Serialize>(
    send: &mut SendStream,
    header: &T,
    limit: Duration,
) -> Result<(), WireError> {
    send_with(send, header, &[], limit).await
}

/// Sends a header and bytes, which are not copied. Few go together, in as few packets as they need; many give way to
/// few, one segment at a time, each within `limit`.
pub async fn send_with<T: Serialize>(
    send: &mut SendStream,
    header: &T,
    segments: &[Bytes],
    limit: Duration,
) -> Result<(), WireError> {
    let len: usize = segments.iter().map(Bytes::len).sum();
    let mut chunks = Vec::with_capacity(1 + segments.len());
    chunks.push(frame::encode(header)?);
    chunks.extend_from_slice(segments);
    if len <= BULK_LEN {
        return within(limit, send.write_all_chunks(&mut chunks)).await;
    }
    send.set_priority(BULK_PRIORITY).map_err(|error| WireError::Gone(error.to_string()))?;
    for chunk in chunks {
        within(limit, send.write_chunk(chunk)).await?;
    }
    Ok(())
}

/// Takes note of the stream's end, if it has arrived. A stream that is dropped before it was read to its end costs a
/// message that says so, and the peer's reply to that.
pub fn note_end(receive: &mut RecvStream) {
    // What it returns is known: the end, or that there is none yet.
    let _ = receive.read(&mut [0]).now_or_never();
}

/// Receives a header.
pub async fn receive_header<T: DeserializeOwned>(
    receive: &mut RecvStream,
    limit: Duration,
) -> Result<T, WireError> {
    let mut prefix = [0; LENGTH_LEN];
    within(limit, receive.read_exact(&mut prefix)).await?;
    let mut header = vec![0; frame::header_len(prefix)?];
    within(limit, receive.read_exact(&mut header)).await?;
    Ok(frame::decode(&header)?)
}

/// Receives exactly `len` bytes, which the caller has checked to be reasonable.
pub async fn receive_bytes(
    receive: &mut RecvStream,
    len: usize,
    limit: Duration,
) -> Result<Bytes, WireError> {
    receive_seeing(receive, len, limit, |_| {}).await
}

/// Receives the group at `index` of an object of several; none if it is not the one that `digest` names.
pub async fn receive_group(
    receive: &mut RecvStream,
    (index, len): (u64, u64),
    digest: Digest,
    limit: Duration,
) -> Result<Option<Bytes>, WireError> {
    let Some(mut hasher) = GroupHasher::new(index, len) else { return Ok(None) };
    let bytes = receive_seeing(receive, len as usize, limit, |piece| hasher.update(piece)).await?;
    Ok((hasher.finish() == digest).then_some(bytes))
}

/// Receives an object of `len` bytes, which the caller has checked to be reasonable; none if it is not the one that `digest`
/// names.
pub async fn receive_object(
    receive: &mut RecvStream,
    len: usize,
    digest: Digest,
    limit: Duration,
) -> Result<Option<Bytes>, WireError> {
    let mut hasher = blake3::Hasher::new();
    let see = |piece: &[u8]| {
        hasher.update(piece);
    };
    let bytes = receive_seeing(receive, len, limit, see).await?;
    Ok((Digest(hasher.finalize().into()) == digest).then_some(bytes))
}

/// Receives exactly `len` bytes, and has `see` see each piece as soon as it is there, while the next is on its way.
async fn receive_seeing(
    receive: &mut RecvStream,
    len: usize,
    limit: Duration,
    see: impl FnMut(&[u8]),
) -> Result<Bytes, WireError> {
    if len == GROUPS.block_len()
        && let Ok(mut block) = GROUPS.block()
    {
        receive_into(receive, block.append(len), limit, see).await?;
        return Ok(Bytes::from_owner(block));
    }
    let mut bytes = BytesMut::zeroed(len);
    receive_into(receive, &mut bytes, limit, see).await?;
    Ok(bytes.freeze())
}

async fn receive_into(
    receive: &mut RecvStream,
    bytes: &mut [u8],
    limit: Duration,
    mut see: impl FnMut(&[u8]),
) -> Result<(), WireError> {
    for step in bytes.chunks_mut(READ_STEP) {
        within(limit, receive.read_exact(step)).await?;
        see(step);
    }
    Ok(())
}
