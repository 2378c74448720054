//! Objects as resources: `/v1/objects/{object_id}`.

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED,
    LOCATION,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proxystore_shared::frame::ObjectMeta;
use proxystore_shared::http::v1;
use proxystore_shared::{Digest, EndpointId, ObjectId};
use serde::Serialize;

use super::app::{App, SharedApp};
use super::conditions::{Conditions, Tags, Verdict};
use super::failure::Failure;
use super::openapi::{ReadProblems, RemovalProblems, UploadProblems};
use super::problem::ApiError;
use super::python::OCTET_STREAM;
use super::target::{PlaceParameters, Target};
use super::upload::Upload;
use crate::endpoint::{GetOptions, GetOutcome, ObjectStream, PutOptions, RequestError};

/// How often an object is looked at again that was replaced between the look and the read.
const LOOKS: usize = 3;

/// What a path segment need not escape (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An object that was stored.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StoredAnswer {
    /// Its id.
    #[schema(value_type = String)]
    object_id: ObjectId,
    /// The endpoint that holds it.
    #[schema(value_type = String, format = "uuid")]
    endpoint_id: EndpointId,
    /// Bytes.
    size: u64,
    /// BLAKE3 of the bytes, in hexadecimal.
    #[schema(value_type = String)]
    digest: Digest,
    /// When it was stored, in milliseconds since the Unix epoch.
    created_ms: u64,
}

/// Stores an object, in place of any earlier version.
#[utoipa::path(
    put, path = v1::OBJECT, operation_id = "put_object", tag = "objects",
    params(
        ("object_id" = String, Path, description = "1 to 1024 bytes, percent-encoded"),
        PlaceParameters,
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is no such object"),
    ),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored", body = StoredAnswer, headers(
            ("ETag", description = "BLAKE3 of the bytes, in quotes"),
            ("Location", description = "Where it can be read"),
        )),
        UploadProblems,
    )
)]
pub async fn put(
    State(app): State<SharedApp>,
    target: Result<Target, ApiError>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    // Made first: whatever is wrong, the client's bytes must be taken before it listens.
    let upload = Upload::new(app.clone(), &parts.headers, body);
    let target = target?;
    let options = PutOptions { size: upload.size(), create_only: create_only(&parts.headers)? };
    let meta = app.endpoint.put(&target.id, target.at, options, upload.boxed()).await;
    let meta = meta.map_err(|error| app.failure(error))?;
    Ok(stored(&app, target, &meta))
}

/// Whether a `PUT` may only create; fails on what it cannot promise.
fn create_only(headers: &HeaderMap) -> Result<bool, Failure> {
    let unsupported = |what: &str| Err(Failure::bad_request("unsupported_condition", what));
    if headers.contains_key(IF_MATCH) {
        return unsupported("an object cannot be replaced with If-Match; If-None-Match: * is understood");
    }
    if headers.contains_key(CONTENT_RANGE) {
        return unsupported("part of an object cannot be stored: leave out Content-Range");
    }
    match Tags::of(headers, IF_NONE_MATCH) {
        None => Ok(false),
        Some(Tags::Any) => Ok(true),
        Some(Tags::These(_)) => unsupported("of If-None-Match, PUT understands only *"),
    }
}

/// The answer for an object that was stored.
pub fn stored(app: &App, target: Target, meta: &ObjectMeta) -> Response {
    let path =
        v1::OBJECT.replace("{object_id}", &utf8_percent_encode(target.id.as_str(), ESCAPED).to_string());
    let peer = target.at.filter(|_| app.endpoint.peers().is_some());
    let location = peer.map_or_else(|| path.clone(), |peer| format!("{path}?endpoint={peer}"));
    let answer = StoredAnswer {
        object_id: target.id,
        endpoint_id: peer.unwrap_or(app.endpoint.id()),
        size: meta.size,
        digest: meta.digest,
        created_ms: meta.created_ms,
    };
    let mut response = (StatusCode::CREATED, Json(answer)).into_response();
    response.headers_mut().insert(ETAG, header(format!("\"{}\"", meta.digest)));
    response.headers_mut().insert(LOCATION, header(location));
    response
}

/// The bytes of an object, or part of them.
#[utoipa::path(
    get, path = v1::OBJECT, operation_id = "get_object", tag = "objects",
    params(
        ("object_id" = String, Path, description = "1 to 1024 bytes, percent-encoded"),
        PlaceParameters,
        ("Range" = Option<String>, Header, description = "One range: `bytes=a-b`, `bytes=a-` or `bytes=-n`"),
        ("If-Range" = Option<String>, Header, description = "The range only if this is the object's tag"),
        ("If-Match" = Option<String>, Header, description = "Only if one of these is the object's tag"),
        ("If-None-Match" = Option<String>, Header, description = "Only if none of these is the object's tag"),
    ),
    responses(
        (status = 200, description = "The object", body = [u8], content_type = "application/octet-stream", headers(
            ("ETag", description = "BLAKE3 of the whole object, in quotes"),
            ("Last-Modified", description = "When it was stored"),
        )),
        (status = 206, description = "Part of it", body = [u8], content_type = "application/octet-stream", headers(
            ("Content-Range", description = "Which part"),
        )),
        (status = 304, description = "The client has this version"),
        ReadProblems,
    )
)]
pub async fn get(
    State(app): State<SharedApp>,
    target: Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let conditions = Conditions::of(&headers);
    let (outcome, partial) = open(&app, &target, &conditions).await?;
    match outcome {
        GetOutcome::Found(object) => Ok(found(&app, object, partial)),
        GetOutcome::NotModified(meta) => Ok(not_modified(&meta)),
        GetOutcome::Missing => Err(Failure::missing(&target.id).into()),
    }
}

/// Opens an object under conditions; tells whether a part was asked for.
async fn open(app: &App, target: &Target, conditions: &Conditions) -> Result<(GetOutcome, bool), Failure> {
    let get = |options| app.endpoint.get(&target.id, target.at, options);
    let failure = |error: RequestError| app.failure(error);
    if let Some(options) = conditions.as_options() {
        return Ok((get(options).await.map_err(failure)?, options.range.is_some()));
    }
    for _ in 0..LOOKS {
        let Some(meta) = app.endpoint.stat(&target.id, target.at).await.map_err(failure)? else {
            return Ok((GetOutcome::Missing, false));
        };
        let range = match conditions.judge(&meta) {
            Verdict::Serve(range) => range,
            Verdict::NotModified => return Ok((GetOutcome::NotModified(meta), false)),
            Verdict::Failed => return Err(Failure::precondition()),
        };
        match get(GetOptions { range, if_none_match: None }).await.map_err(failure)? {
            GetOutcome::Found(object) if object.meta.digest != meta.digest => {}
            outcome => return Ok((outcome, range.is_some())),
        }
    }
    Err(Failure::unsettled())
}

fn found(app: &SharedApp, object: ObjectStream, partial: bool) -> Response {
    let mut headers = describe(&object.meta);
    headers.insert(CONTENT_TYPE, OCTET_STREAM);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(object.end - object.start));
    // An empty part cannot be written as a range (section 14.4): the whole of an empty object is sent instead.
    let status = if partial && object.start < object.end {
        let range = format!("bytes {}-{}/{}", object.start, object.end - 1, object.meta.size);
        headers.insert(CONTENT_RANGE, header(range));
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    (status, headers, app.body_of(object)).into_response()
}

/// What is known of an object.
#[utoipa::path(
    head, path = v1::OBJECT, operation_id = "head_object", tag = "objects",
    params(
        ("object_id" = String, Path, description = "1 to 1024 bytes, percent-encoded"),
        PlaceParameters,
        ("If-Match" = Option<String>, Header, description = "Only if one of these is the object's tag"),
        ("If-None-Match" = Option<String>, Header, description = "Only if none of these is the object's tag"),
    ),
    responses(
        (status = 200, description = "It exists", headers(
            ("Content-Length" = u64, description = "Its bytes"),
            ("ETag", description = "BLAKE3 of the whole object, in quotes"),
            ("Last-Modified", description = "When it was stored"),
        )),
        (status = 304, description = "The client has this version"),
        (status = 400, description = "The request makes no sense"),
        (status = 404, description = "There is no such object"),
        (status = 412, description = "If-Match does not hold"),
        (status = 502, description = "The peer, or the way to it, failed"),
        (status = 504, description = "The peer did not answer"),
    )
)]
pub async fn head(
    State(app): State<SharedApp>,
    target: Target,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let meta = app.endpoint.stat(&target.id, target.at).await.map_err(|error| app.failure(error))?;
    let meta = meta.ok_or_else(|| Failure::missing(&target.id))?;
    match Conditions::of(&headers).judge(&meta) {
        Verdict::NotModified => return Ok(not_modified(&meta)),
        Verdict::Failed => return Err(Failure::precondition().into()),
        // A range has no meaning for HEAD (section 14.2).
        Verdict::Serve(_) => {}
    }
    let mut headers = describe(&meta);
    headers.insert(CONTENT_TYPE, OCTET_STREAM);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(meta.size));
    Ok(headers.into_response())
}

/// Forgets an object.
#[utoipa::path(
    delete, path = v1::OBJECT, operation_id = "delete_object", tag = "objects",
    params(("object_id" = String, Path, description = "1 to 1024 bytes, percent-encoded"), PlaceParameters),
    responses((status = 204, description = "It is gone, or was not there"), RemovalProblems)
)]
pub async fn delete(
    State(app): State<SharedApp>,
    target: Target,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        let problem = "an object cannot be deleted on condition: leave out If-Match and If-None-Match";
        return Err(Failure::bad_request("unsupported_condition", problem).into());
    }
    app.endpoint.evict(&target.id, target.at).await.map_err(|error| app.failure(error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn not_modified(meta: &ObjectMeta) -> Response {
    let mut headers = describe(meta);
    // The size that a full answer would have (section 8.6), not that of this one.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(meta.size));
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

/// Headers that describe a version of an object.
pub fn describe(meta: &ObjectMeta) -> HeaderMap {
    let created = UNIX_EPOCH + Duration::from_millis(meta.created_ms);
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(ETAG, header(format!("\"{}\"", meta.digest)));
    headers.insert(LAST_MODIFIED, header(httpdate::fmt_http_date(created)));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers
}

/// A header made of visible ASCII; nothing else reaches this.
fn header(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
