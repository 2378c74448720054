//! The API's own description (OpenAPI 3.1), made from the handlers.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::body::Bytes;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder, Schema};
use utoipa::{IntoResponses, OpenApi, PartialSchema};

use super::problem::Problem;
use super::{batch, info, listing, objects, python};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "ProxyStore endpoint",
        description = "Objects of one site, and through peers those of others."
    ),
    paths(
        python::root,
        python::endpoint,
        python::exists,
        python::get,
        python::set,
        python::evict,
        objects::put,
        objects::get,
        objects::head,
        objects::delete,
        listing::list,
        batch::put,
        batch::get,
        info::peers,
        info::status,
        info::openapi,
        info::healthz,
        info::metrics
    ),
    components(schemas(Problem)),
    tags(
        (name = "objects", description = "Objects as resources"),
        (name = "endpoint", description = "The endpoint and its peers"),
        (name = "python", description = "Routes of Python ProxyStore's clients; errors are plain text"),
    ),
)]
struct Description;

/// The document as JSON.
pub fn document() -> Bytes {
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&Description::openapi()).unwrap_or_default().into());
    DOCUMENT.clone()
}

type Responses = BTreeMap<String, RefOr<Response>>;

/// What any request for an object at a given endpoint may come to.
const COMMON: [(u16, &str); 3] = [
    (400, "The request makes no sense"),
    (502, "The peer, or the way to it, failed"),
    (504, "The peer did not answer"),
];

/// Problems of requests that remove an object.
pub enum RemovalProblems {}

/// Problems of requests that read several objects.
pub enum BatchProblems {}

/// Problems of requests that read an object.
pub enum ReadProblems {}

/// Problems of requests that store an object.
pub enum UploadProblems {}

/// Errors of the Python client's routes.
pub enum TextErrors {}

impl IntoResponses for RemovalProblems {
    fn responses() -> Responses {
        problems(&[])
    }
}

impl IntoResponses for BatchProblems {
    fn responses() -> Responses {
        problems(&[(408, "The list stalled")])
    }
}

impl IntoResponses for ReadProblems {
    fn responses() -> Responses {
        problems(&[
            (404, "There is no such object"),
            (412, "If-Match does not hold"),
            (416, "The range lies outside the object"),
        ])
    }
}

impl IntoResponses for UploadProblems {
    fn responses() -> Responses {
        problems(&[
            (408, "The upload stalled"),
            (412, "The object exists"),
            (413, "The object is over max_object_size"),
            (507, "There is no room"),
        ])
    }
}

impl IntoResponses for TextErrors {
    fn responses() -> Responses {
        let errors = [(400, "The request makes no sense"), (500, "The peer, or the way to it, failed")];
        answers(&errors, "text/plain", String::schema())
    }
}

fn problems(special: &[(u16, &str)]) -> Responses {
    let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
    answers(&[&COMMON, special].concat(), "application/problem+json", schema)
}

fn answers(table: &[(u16, &str)], media_type: &str, schema: RefOr<Schema>) -> Responses {
    let answer = |description: &str| {
        let content = Content::new(Some(schema.clone()));
        RefOr::T(ResponseBuilder::new().description(description).content(media_type, content).build())
    };
    table.iter().map(|(status, description)| (status.to_string(), answer(description))).collect()
}
