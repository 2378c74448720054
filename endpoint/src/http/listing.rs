//! The objects kept here, in pages: `/v1/objects`.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use proxystore_shared::http::v1;
use proxystore_shared::{Digest, ObjectId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::app::SharedApp;
use super::failure::Failure;
use super::problem::{ApiError, Problem};
use super::target::query;
use crate::endpoint::RequestError;

/// Objects on a page, unless the client asks for another number.
const DEFAULT_PAGE: usize = 100;

/// Most objects on a page: about 1 MiB of JSON with ids of the usual length.
const MAX_PAGE: usize = 1000;

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageParameters {
    /// The page begins after this object id; `next` of the page before.
    after: Option<String>,
    /// Objects on the page.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// Objects in order of id.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page {
    /// The objects of this page.
    objects: Vec<Listed>,
    /// `after` of the next page; null on the last.
    #[schema(value_type = Option<String>)]
    next: Option<ObjectId>,
}

/// One object.
#[derive(Debug, Serialize, ToSchema)]
pub struct Listed {
    /// Its id.
    #[schema(value_type = String)]
    object_id: ObjectId,
    /// Bytes.
    size: u64,
    /// BLAKE3 of the bytes, in hexadecimal.
    #[schema(value_type = String)]
    digest: Digest,
    /// When it was stored, in milliseconds since the Unix epoch.
    created_ms: u64,
}

/// Objects kept at this endpoint, in order of id.
#[utoipa::path(
    get, path = v1::OBJECTS, operation_id = "list_objects", tag = "objects", params(PageParameters),
    responses(
        (status = 200, description = "A page", body = Page),
        (status = 400, description = "The query makes no sense", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub async fn list(State(app): State<SharedApp>, uri: Uri) -> Result<Json<Page>, ApiError> {
    let PageParameters { after, limit } = query(&uri)?;
    let after = after.map(ObjectId::try_from).transpose()?;
    let limit = limit.unwrap_or(DEFAULT_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        let problem = format!("limit is {limit}, but must be in 1 to {MAX_PAGE}");
        return Err(Failure::bad_request("invalid_query", problem).into());
    }
    // One more than asked for tells whether there is another page.
    let found = app.endpoint.storage().list(after.as_ref(), limit + 1).await;
    let found = found.map_err(|error| app.failure(RequestError::Storage(error)))?;
    let more = found.len() > limit;
    let objects: Vec<Listed> = found
        .into_iter()
        .take(limit)
        .map(|(object_id, meta)| Listed {
            object_id,
            size: meta.size,
            digest: meta.digest,
            created_ms: meta.created_ms,
        })
        .collect();
    let next = objects.last().filter(|_| more).map(|last| last.object_id.clone());
    Ok(Json(Page { objects, next }))
}
