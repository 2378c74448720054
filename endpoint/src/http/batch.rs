//! Many objects in one request: `/v1/objects:batchPut` and `/v1/objects:batchGet`.
//!
//! The format is [`proxystore_shared::batch`]'s. Both directions stream, so that a batch takes some buffers, however
//! long it is.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_shared::batch::{BatchError, Entry, MAX_KEYS, MEDIA_TYPE, PREFIX_LEN, Stored, Wanted};
use proxystore_shared::http::v1;
use proxystore_shared::{EndpointId, ObjectId};
use tokio::sync::Mutex;

use super::app::SharedApp;
use super::failure::Failure;
use super::openapi::{BatchProblems, UploadProblems};
use super::problem::ApiError;
use super::target::{PlaceParameters, place_of};
use super::upload::Upload;
use crate::endpoint::{Endpoint, GetOptions, GetOutcome, Incoming, Outgoing, PutOptions, RequestError};

/// Objects of one request that are opened at once: at a peer, each takes a round trip.
const OPENED_AHEAD: usize = 16;

/// Longest list of ids in bytes: [`MAX_KEYS`] of the longest ones, in JSON.
const MAX_LIST_LEN: usize = 12 << 20;

/// Stores the objects of a batch in order, each in place of any earlier version, up to the first that fails.
#[utoipa::path(
    post, path = v1::BATCH_PUT, operation_id = "put_objects", tag = "objects", params(PlaceParameters),
    request_body(content = [u8], content_type = "application/vnd.proxystore.batch",
        description = "For each object: u16 length of its id, id, u64 length of the object, object; big-endian"),
    responses(
        (status = 200, description = "All are stored: `{\"stored\": n}`", body = Value),
        UploadProblems,
    )
)]
pub async fn put(State(app): State<SharedApp>, request: Request) -> Result<Json<Stored>, ApiError> {
    let (parts, body) = request.into_parts();
    let upload = Upload::new(app.clone(), &parts.headers, body);
    is_here(&app.endpoint, place_of(&parts.uri)?)?;
    let batch = Arc::new(Mutex::new(Batch { upload, frame: Bytes::new(), rest: 0 }));
    let mut stored = 0;
    while let Some(entry) = next_of(&batch).await.map_err(|error| after(stored, error.into()))? {
        let id = entry.object_id;
        let options = PutOptions { size: entry.len, create_only: false };
        let outcome = app.endpoint.put(&id, None, options, object_of(batch.clone())).await;
        outcome.map_err(|error| after(stored, of(&id, app.failure(error))))?;
        stored += 1;
    }
    Ok(Json(Stored { stored }))
}

/// The next entry. The lock is free again when this returns.
async fn next_of(batch: &Mutex<Batch>) -> Result<Option<Entry>, BatchFailure> {
    batch.lock().await.next().await
}

/// A batch is stored here only: object by object, a peer is as fast.
fn is_here(endpoint: &Endpoint, at: Option<EndpointId>) -> Result<(), Failure> {
    match at {
        Some(at) if at != endpoint.id() && endpoint.peers().is_some() => {
            let text = format!(
                "a batch cannot be stored at a peer: PUT {}?endpoint={at} stores one object",
                v1::OBJECT
            );
            Err(Failure::bad_request("batch_at_peer", text))
        }
        _ => Ok(()),
    }
}

fn of(id: &ObjectId, failure: Failure) -> Failure {
    Failure { detail: format!("object {:?}: {}", id.as_str(), failure.detail), ..failure }
}

/// Tells how far a batch came before its failure.
fn after(stored: u64, failure: Failure) -> Failure {
    let detail =
        format!("number {} of the batch: {}; those before it are stored", stored + 1, failure.detail);
    Failure { detail, ..failure }
}

/// A batch on its way in.
struct Batch {
    upload: Upload,
    /// Received, not yet taken.
    frame: Bytes,
    /// Bytes of the present object that are to come.
    rest: u64,
}

impl Batch {
    /// The next entry; none at the end.
    async fn next(&mut self) -> Result<Option<Entry>, BatchFailure> {
        let Some(prefix) = self.exactly(PREFIX_LEN).await? else { return Ok(None) };
        let prefix = prefix[..].try_into().map_err(|_| BatchError::Truncated)?;
        let rest = self.exactly(Entry::len_after(prefix)?).await?.ok_or(BatchError::Truncated)?;
        let entry = Entry::decode(&rest)?;
        self.rest = entry.len.ok_or(BatchFailure::Missing)?;
        Ok(Some(entry))
    }

    /// That many bytes; none if there are no more at all.
    async fn exactly(&mut self, count: usize) -> Result<Option<BytesMut>, BatchFailure> {
        let mut bytes = BytesMut::with_capacity(count);
        while bytes.len() < count && self.refill().await? {
            let taken = self.frame.len().min(count - bytes.len());
            bytes.extend_from_slice(&self.frame.split_to(taken));
        }
        match bytes.len() {
            0 => Ok(None),
            len if len < count => Err(BatchError::Truncated.into()),
            _ => Ok(Some(bytes)),
        }
    }

    /// Makes sure that there are bytes to take; tells whether there are.
    async fn refill(&mut self) -> io::Result<bool> {
        while self.frame.is_empty() {
            match self.upload.try_next().await? {
                Some(frame) => self.frame = frame,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// More of the present object; none at its end.
    async fn data(&mut self) -> io::Result<Option<Bytes>> {
        if self.rest == 0 {
            return Ok(None);
        }
        if !self.refill().await? {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the batch ends within an object"));
        }
        let count = self.frame.len().min(usize::try_from(self.rest).unwrap_or(usize::MAX));
        self.rest -= count as u64;
        Ok(Some(self.frame.split_to(count)))
    }
}

/// The present object of a batch.
fn object_of(batch: Arc<Mutex<Batch>>) -> Incoming {
    let data = stream::try_unfold(batch, |batch| async {
        let data = batch.lock().await.data().await?;
        Ok(data.map(|data| (data, batch)))
    });
    data.boxed()
}

/// Why the next object of a batch cannot be told.
#[derive(Debug, thiserror::Error)]
enum BatchFailure {
    #[error(transparent)]
    Format(#[from] BatchError),
    #[error("an object without a length cannot be stored")]
    Missing,
    #[error(transparent)]
    Upload(#[from] io::Error),
}

impl From<BatchFailure> for Failure {
    fn from(failure: BatchFailure) -> Self {
        match failure {
            BatchFailure::Upload(error) => RequestError::Upload(error).into(),
            other => Self::bad_request("invalid_batch", other.to_string()),
        }
    }
}

/// Objects, in the order in which they are asked for.
#[utoipa::path(
    post, path = v1::BATCH_GET, operation_id = "get_objects", tag = "objects", params(PlaceParameters),
    request_body(content = Value, description = "`{\"keys\": [...]}`: up to 10,000 object ids"),
    responses(
        (status = 200, description = "As in a batch that is stored; the length 2^64 - 1 stands for a missing object",
            body = [u8], content_type = "application/vnd.proxystore.batch"),
        BatchProblems,
    )
)]
pub async fn get(
    State(app): State<SharedApp>,
    uri: Uri,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, ApiError> {
    let upload = Upload::new(app.clone(), &headers, request.into_body());
    let at = place_of(&uri)?;
    let keys = wanted(upload).await?;
    let endpoint = app.endpoint.clone();
    let open = move |id| open(endpoint.clone(), id, at);
    let mut entries = stream::iter(keys).map(open).buffered(OPENED_AHEAD).boxed();
    // What goes wrong at once, as with a peer that is not there, can still be told.
    let first = entries.try_next().await.map_err(|error| app.failure(error))?;
    let entries = stream::iter(first.map(Ok)).chain(entries).try_flatten();
    Ok(([(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE))], app.body_from(entries)).into_response())
}

/// Reads the list of ids.
async fn wanted(mut upload: Upload) -> Result<Vec<ObjectId>, Failure> {
    let too_many = || {
        let text = format!("a request may ask for {MAX_KEYS} objects at most: make it several");
        Failure::bad_request("batch_too_long", text)
    };
    let mut list = Vec::new();
    while let Some(bytes) = upload.try_next().await.map_err(RequestError::Upload)? {
        if list.len() + bytes.len() > MAX_LIST_LEN {
            return Err(too_many());
        }
        list.extend_from_slice(&bytes);
    }
    let Wanted { keys } = serde_json::from_slice(&list)
        .map_err(|error| Failure::bad_request("invalid_batch", format!("no list of object ids: {error}")))?;
    if keys.len() > MAX_KEYS { Err(too_many()) } else { Ok(keys) }
}

/// An entry of the answer and the object after it.
async fn open(
    endpoint: Endpoint,
    object_id: ObjectId,
    at: Option<EndpointId>,
) -> Result<Outgoing, RequestError> {
    let entry = |len| Entry { object_id: object_id.clone(), len }.encode();
    match endpoint.get(&object_id, at, GetOptions::default()).await? {
        GetOutcome::Found(object) => {
            let entry = stream::iter([Ok(entry(Some(object.end - object.start)))]);
            Ok(Outgoing::Pieces(entry.chain(object.body).boxed()))
        }
        _ => Ok(Outgoing::Rest(entry(None))),
    }
}
