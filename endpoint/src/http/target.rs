//! Which object, and where.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use proxystore_shared::{EndpointId, ObjectId};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::failure::Failure;
use super::problem::ApiError;

/// The object a request is about.
pub struct Target {
    /// Its id.
    pub id: ObjectId,
    /// The endpoint that was asked for, if one was.
    pub at: Option<EndpointId>,
}

/// Query of the Python client's routes.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct KeyParameters {
    /// Object id.
    #[param(required = true)]
    key: Option<String>,
    /// Endpoint that holds the object; this one if absent.
    #[param(format = "uuid")]
    endpoint: Option<String>,
}

/// Query of the resource API's requests for one object.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PlaceParameters {
    /// Endpoint that holds the object; this one if absent.
    #[param(format = "uuid")]
    endpoint: Option<String>,
}

impl Target {
    /// Reads `?key=` and `?endpoint=`, as Python's clients write them.
    pub fn from_query(uri: &Uri) -> Result<Self, Failure> {
        if let Some((key, endpoint)) = uri.query().and_then(plain) {
            return Ok(Self { id: key.parse()?, at: place(endpoint)? });
        }
        let KeyParameters { key, endpoint } = query(uri)?;
        let missing = || Failure::bad_request("missing_key", "the request has no parameter \"key\"");
        Ok(Self { id: key.ok_or_else(missing)?.try_into()?, at: place(endpoint.as_deref())? })
    }
}

impl<S: Sync> FromRequestParts<S> for Target {
    type Rejection = ApiError;

    /// Reads `/v1/objects/{object_id}?endpoint=`; an encoded slash belongs to the id.
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, &()).await;
        let Path(id) = path.map_err(|error| Failure::bad_request("invalid_object_id", error.body_text()))?;
        Ok(Self { at: place_of(&parts.uri)?, id: ObjectId::try_from(id)? })
    }
}

/// Reads `?endpoint=`.
pub fn place_of(uri: &Uri) -> Result<Option<EndpointId>, Failure> {
    let PlaceParameters { endpoint } = query(uri)?;
    place(endpoint.as_deref())
}

/// The key and the endpoint of a query as Python's clients write it when nothing must be escaped. The parser for any
/// query takes a fifth of a small get's instructions.
fn plain(query: &str) -> Option<(&str, Option<&str>)> {
    if query.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return None;
    }
    let values = query.strip_prefix("key=")?;
    let Some((key, rest)) = values.split_once('&') else { return Some((values, None)) };
    let endpoint = rest.strip_prefix("endpoint=")?;
    (!endpoint.contains('&')).then_some((key, Some(endpoint)))
}

/// Parses a query string.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    let parsed = Query::try_from_uri(uri);
    parsed.map(|Query(parameters)| parameters).map_err(|error| {
        Failure::bad_request("invalid_query", format!("the query string is not understood: {error}"))
    })
}

fn place(text: Option<&str>) -> Result<Option<EndpointId>, Failure> {
    Ok(text.map(str::parse).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_query_is_read_as_any_other() {
        for (text, expected) in [
            ("key=a", Some(("a", None))),
            ("key=a=b", Some(("a=b", None))),
            ("key=a&endpoint=e", Some(("a", Some("e")))),
            ("key=", Some(("", None))),
            ("key=\u{e9}", Some(("\u{e9}", None))),
        ] {
            assert_eq!(plain(text), expected, "{text}");
            let uri = Uri::builder().path_and_query(format!("/get?{text}")).build().expect("a target");
            let KeyParameters { key, endpoint } = query(&uri).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(expected, Some((key.as_deref().expect("a key"), endpoint.as_deref())), "{text}");
        }
    }

    #[test]
    fn other_queries_are_left_to_the_parser() {
        for text in [
            "",
            "a",
            "key",
            "endpoint=e",
            "endpoint=e&key=a",
            "key=%61",
            "key=a+b",
            "key=a&other=b",
            "key=a&key=b",
            "key=a&",
            "key=a&endpoint=e&b=c",
        ] {
            assert_eq!(plain(text), None, "{text}");
        }
    }
}
