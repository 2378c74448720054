//! A client of an endpoint's HTTP API, on the same network: never through a proxy, never without a deadline.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use proxystore_shared::http::{python, v1};
use proxystore_shared::{EndpointId, ObjectId};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::output::Failure;
use crate::transport::tls::install_provider;

/// To open a connection within a site.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Without a byte from the endpoint. Longer than the endpoint itself waits for a peer, so that its explanation
/// arrives.
pub const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest answer that is not an object.
const MAX_ANSWER_LEN: usize = 16 << 20;

/// Bytes of an error answer that are shown at most.
const SHOWN_LEN: usize = 500;

/// Why a request to an endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address in the configuration is not one.
    #[error("{0:?} is not the address of an endpoint")]
    Address(String),
    /// Nothing listens: is the endpoint started?
    #[error("unable to connect to the endpoint at {0}")]
    Unreachable(String),
    /// The endpoint hangs, or waits for somebody who does.
    #[error("the endpoint sent nothing for {} s", READ_TIMEOUT.as_secs())]
    Silent,
    /// The connection broke. Trying again may help.
    #[error("the connection to the endpoint broke: {0}")]
    Broken(String),
    /// The endpoint will not; its words say why.
    #[error("{message} (HTTP {status})")]
    Refused {
        /// The answer's status.
        status: StatusCode,
        /// The endpoint's words.
        message: String,
        /// The endpoint's advice.
        hint: Option<String>,
    },
    /// Whatever listens there is no endpoint, or one of another version.
    #[error("the answer is not an endpoint's: {0}")]
    Nonsense(String),
    /// Path segments of dots are removed from every URL on its way (RFC 3986, section 5.2.4).
    #[error("an object called {0:?} cannot be named in a URL")]
    DotSegment(ObjectId),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            ClientError::Unreachable(_) => {
                failure.hint("`endpoint list` shows which endpoints run; `endpoint start NAME` starts one")
            }
            ClientError::Refused { hint: Some(hint), .. } => failure.hint(hint),
            ClientError::Silent => {
                failure.hint("the log of the endpoint (log.txt in its folder) may say why")
            }
            ClientError::Broken(_) => {
                failure.hint("try again; the log of the endpoint (log.txt in its folder) may say more")
            }
            _ => failure,
        }
    }
}

/// An error answer of the resource API (RFC 9457).
#[derive(Debug, Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    hint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct EndpointAnswer {
    uuid: EndpointId,
}

/// A client of one endpoint.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// For the endpoint at `address`, as in `http://127.0.0.1:8765`.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        let base = Url::parse(address).map_err(|_| ClientError::Address(address.to_owned()))?;
        // The client asks for a TLS provider even though the endpoint is on plain HTTP.
        install_provider();
        let http = reqwest::Client::builder()
            .no_proxy()
            // For the same reason it would read all that the system trusts, which took longer than a small request.
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| ClientError::Broken(cause_of(&error)))?;
        Ok(Self { http, base })
    }

    /// A request to one of Python's routes.
    pub fn python(&self, route: &str, id: &ObjectId, at: Option<EndpointId>) -> RequestBuilder {
        let method = match route {
            python::SET | python::EVICT => reqwest::Method::POST,
            _ => reqwest::Method::GET,
        };
        let mut url = self.url(route);
        url.query_pairs_mut().append_pair("key", id.as_str());
        append_endpoint(&mut url, at);
        self.http.request(method, url)
    }

    /// A request for an object by the resource API.
    pub fn object(
        &self,
        method: reqwest::Method,
        id: &ObjectId,
        at: Option<EndpointId>,
    ) -> Result<RequestBuilder, ClientError> {
        if matches!(id.as_str(), "." | "..") {
            return Err(ClientError::DotSegment(id.clone()));
        }
        let mut url = self.url(v1::OBJECTS);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.push(id.as_str());
        }
        append_endpoint(&mut url, at);
        Ok(self.http.request(method, url))
    }

    fn url(&self, route: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(route);
        url
    }

    /// Sends a request without a body, or with a small one, and gives the answer if it is a success.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        self.accept(self.exchange(request).await?).await
    }

    /// Sends a request and gives the answer, whatever its status.
    pub async fn exchange(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        in_time(request.send()).await?.map_err(|error| self.failed(&error))
    }

    /// The error for a request that got no answer.
    pub fn failed(&self, error: &reqwest::Error) -> ClientError {
        match error.is_connect() {
            true => ClientError::Unreachable(self.base.origin().ascii_serialization()),
            false => ClientError::Broken(cause_of(error)),
        }
    }

    /// Turns an error answer into an error.
    pub async fn accept(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = read_answer(response).await.unwrap_or_default();
        Err(refusal(status, &body))
    }

    /// The id of the endpoint that answers.
    pub async fn endpoint_id(&self) -> Result<EndpointId, ClientError> {
        Ok(self.json::<EndpointAnswer>(python::ENDPOINT).await?.uuid)
    }

    /// The JSON at `route`.
    pub async fn json<T: DeserializeOwned>(&self, route: &str) -> Result<T, ClientError> {
        let response = self.send(self.http.get(self.url(route))).await?;
        parse_json(response).await
    }
}

fn append_endpoint(url: &mut Url, at: Option<EndpointId>) {
    if let Some(at) = at {
        url.query_pairs_mut().append_pair("endpoint", &at.to_string());
    }
}

/// Reads an answer in JSON.
pub async fn parse_json<T: DeserializeOwned>(response: Response) -> Result<T, ClientError> {
    let body = read_answer(response).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::Nonsense(error.to_string()))
}

/// The next bytes of a body; none at its end.
pub async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, ClientError> {
    in_time(response.chunk()).await?.map_err(|error| ClientError::Broken(cause_of(&error)))
}

async fn read_answer(mut response: Response) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    while let Some(chunk) = next_chunk(&mut response).await? {
        if body.len() + chunk.len() > MAX_ANSWER_LEN {
            return Err(ClientError::Nonsense(format!("it has over {MAX_ANSWER_LEN} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Waits for something of the endpoint, with a deadline.
pub async fn in_time<F: Future>(future: F) -> Result<F::Output, ClientError> {
    tokio::time::timeout(READ_TIMEOUT, future).await.map_err(|_| ClientError::Silent)
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    if let Ok(Problem { title, detail, hint }) = serde_json::from_slice(body) {
        let message = detail.or(title).unwrap_or_else(|| "the endpoint refused the request".into());
        return ClientError::Refused { status, message, hint };
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN_LEN)]);
    match text.trim() {
        text if text.is_empty() || text.starts_with('<') => {
            ClientError::Nonsense(format!("{status}; Python's endpoints understand only `endpoint test`"))
        }
        text => ClientError::Refused { status, message: text.to_owned(), hint: None },
    }
}

/// The innermost error: the outer ones only repeat the URL.
fn cause_of(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object_url(id: &str) -> Result<String, ClientError> {
        let client = Client::new("http://127.0.0.1:1").unwrap();
        let request = client.object(reqwest::Method::GET, &id.parse().unwrap(), None)?;
        Ok(request.build().unwrap().url().to_string())
    }

    #[test]
    fn object_ids_are_one_path_segment() {
        assert_eq!(
            object_url("a/b?c#d%2F e").unwrap(),
            "http://127.0.0.1:1/v1/objects/a%2Fb%3Fc%23d%252F%20e"
        );
        assert!(matches!(object_url(".."), Err(ClientError::DotSegment(_))));
    }

    #[test]
    fn the_endpoints_words_are_passed_on() {
        let body =
            br#"{"title":"Too large","status":413,"detail":"over 5 bytes","code":"x","hint":"split it"}"#;
        match refusal(StatusCode::PAYLOAD_TOO_LARGE, body) {
            ClientError::Refused { message, hint, .. } => {
                assert_eq!((message.as_str(), hint.as_deref()), ("over 5 bytes", Some("split it")));
            }
            other => panic!("{other:?}"),
        }
        let page = refusal(StatusCode::NOT_FOUND, b"<!doctype html>");
        assert!(matches!(page, ClientError::Nonsense(_)), "{page}");
        let plain = refusal(StatusCode::INTERNAL_SERVER_ERROR, b"request to peer failed");
        assert_eq!(plain.to_string(), "request to peer failed (HTTP 500 Internal Server Error)");
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::new(&address).unwrap().endpoint_id().await.unwrap_err();
        assert!(matches!(&error, ClientError::Unreachable(named) if *named == address), "{error}");
    }
}
