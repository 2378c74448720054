//! The routes of Python ProxyStore's endpoint, for its clients: errors are text, and a peer's failure is a 500.

use axum::Json;
use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proxystore_shared::EndpointId;
use proxystore_shared::http::python;
use serde::Serialize;

use super::app::SharedApp;
use super::failure::Failure;
use super::openapi::TextErrors;
use super::target::{KeyParameters, Target};
use super::upload::Upload;
use crate::endpoint::{Incoming, PutOptions, RequestError};

/// Media type of an object's bytes.
pub const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A failure as Python's clients know it.
pub struct PlainError(Failure);

impl<E: Into<Failure>> From<E> for PlainError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PlainError {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        let status = if failure.by_peer { StatusCode::INTERNAL_SERVER_ERROR } else { failure.status };
        (status, failure.detail).into_response()
    }
}

/// Answer of `/endpoint`.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EndpointAnswer {
    /// This endpoint.
    #[schema(value_type = String, format = "uuid")]
    uuid: EndpointId,
}

/// Answer of `/exists`.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ExistsAnswer {
    /// Whether the object is there.
    exists: bool,
}

/// Something answers here.
#[utoipa::path(
    get, path = python::ROOT, operation_id = "python_root", tag = "python",
    responses((status = 200, description = "Empty"))
)]
pub async fn root() {}

/// Which endpoint this is.
#[utoipa::path(
    get, path = python::ENDPOINT, operation_id = "python_endpoint", tag = "python",
    responses((status = 200, description = "Its id", body = EndpointAnswer))
)]
pub async fn endpoint(State(app): State<SharedApp>) -> Json<EndpointAnswer> {
    Json(EndpointAnswer { uuid: app.endpoint.id() })
}

/// Whether an object exists.
#[utoipa::path(
    get, path = python::EXISTS, operation_id = "python_exists", tag = "python", params(KeyParameters),
    responses((status = 200, description = "Whether it does", body = ExistsAnswer), TextErrors)
)]
pub async fn exists(State(app): State<SharedApp>, uri: Uri) -> Result<Json<ExistsAnswer>, PlainError> {
    let target = Target::from_query(&uri)?;
    let exists = app.endpoint.exists(&target.id, target.at).await.map_err(|error| app.failure(error))?;
    Ok(Json(ExistsAnswer { exists }))
}

/// The bytes of an object.
#[utoipa::path(
    get, path = python::GET, operation_id = "python_get", tag = "python", params(KeyParameters),
    responses(
        (status = 200, description = "The object", body = [u8], content_type = "application/octet-stream"),
        (status = 404, description = "There is no such object", body = String),
        TextErrors,
    )
)]
pub async fn get(State(app): State<SharedApp>, uri: Uri) -> Result<Response, PlainError> {
    object(&app, &uri).await
}

/// Answers [`get`].
pub async fn object(app: &SharedApp, uri: &Uri) -> Result<Response, PlainError> {
    let target = Target::from_query(uri)?;
    let object = app.open(&target).await?;
    let len = object.end - object.start;
    let mut answer = Response::new(app.body_of(object));
    answer.headers_mut().insert(CONTENT_TYPE, OCTET_STREAM);
    // The server announces the length of what is there already, with less work.
    if answer.body().size_hint().exact().is_none() {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
    }
    Ok(answer)
}

/// Stores an object.
#[utoipa::path(
    post, path = python::SET, operation_id = "python_set", tag = "python", params(KeyParameters),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "Stored"),
        (status = 413, description = "The object is over max_object_size", body = String),
        (status = 507, description = "There is no room", body = String),
        TextErrors,
    )
)]
pub async fn set(State(app): State<SharedApp>, request: Request) -> Result<(), PlainError> {
    let (parts, body) = request.into_parts();
    let upload = Upload::new(app.clone(), &parts.headers, body);
    let target = Target::from_query(&parts.uri)?;
    let options = PutOptions { size: upload.size(), create_only: false };
    let body = not_empty(upload).await.map_err(|error| app.failure(error))?;
    let body = body.ok_or_else(|| Failure::bad_request("empty_object", "the request has no body"))?;
    app.endpoint.put(&target.id, target.at, options, body).await.map_err(|error| app.failure(error))?;
    Ok(())
}

/// The upload, or none if it has no bytes. Python's clients do not announce a size, so one must look.
async fn not_empty(mut upload: Upload) -> Result<Option<Incoming>, RequestError> {
    match upload.size() {
        Some(0) => return Ok(None),
        Some(_) => return Ok(Some(upload.boxed())),
        None => {}
    }
    let first: Option<Bytes> = upload.try_next().await.map_err(RequestError::Upload)?;
    Ok(first.map(|first| stream::iter([Ok(first)]).chain(upload).boxed()))
}

/// Forgets an object.
#[utoipa::path(
    post, path = python::EVICT, operation_id = "python_evict", tag = "python", params(KeyParameters),
    responses((status = 200, description = "It is gone, or was not there"), TextErrors)
)]
pub async fn evict(State(app): State<SharedApp>, uri: Uri) -> Result<(), PlainError> {
    let target = Target::from_query(&uri)?;
    app.endpoint.evict(&target.id, target.at).await.map_err(|error| app.failure(error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PeerError;
    use crate::storage::StorageError;

    #[test]
    fn a_peer_failure_is_a_500_whatever_it_was() {
        let status = |error: RequestError| PlainError::from(error).into_response().status();
        let peer = EndpointId::random();
        assert_eq!(status(RequestError::Peer { peer, error: PeerError::Stopping }), 500);
        assert_eq!(status(RequestError::Peer { peer, error: PeerError::Unknown("who?".into()) }), 500);
        assert_eq!(status(RequestError::Storage(StorageError::TooLarge { limit: 1 })), 413);
    }
}
