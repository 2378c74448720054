//! One HTTP request to Globus: where it may go, how long it may take, and how much comes back.

use std::error::Error;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::settings::invalid;
use crate::connector::ConnectorError;
use crate::runtime::PerRuntime;
use crate::tls::install_provider;

/// For one request and its answer. Globus answers in less than a second, and after a minute the answer is lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// To connect, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read at most; documents of tasks have a few thousand.
const LONGEST_ANSWER: usize = 1 << 20;

/// Characters of what Globus says that get into an error message.
const LONGEST_WORDS: usize = 500;

/// Whom requests go to: a service of Globus, or a stand-in on this host.
///
/// A configuration, which may come from elsewhere, names both this address and where the token is; therefore a
/// token is never sent to anybody else.
pub(super) struct Site {
    base: String,
    host: String,
    loopback: bool,
    clients: PerRuntime<Result<Client, ConnectorError>>,
}

/// What came back, whatever it says.
pub(super) struct Answer {
    pub status: StatusCode,
    /// Before then the other side does not want to be asked again.
    pub retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Site {
    /// `base` without a slash at its end is what paths are appended to.
    pub fn new(base: &str) -> Result<Self, ConnectorError> {
        let wrong = |why: &str| invalid(format!("{base:?} {why}"));
        let url = Url::parse(base).map_err(|error| wrong(&format!("is no URL: {error}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            // Not printed: it may be a secret.
            return Err(invalid(
                "a URL has a user or a password in it, which Globus does not need".to_owned(),
            ));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let loopback = matches!(host.as_str(), "127.0.0.1" | "[::1]" | "localhost");
        let globus = url.scheme() == "https" && (host == "globus.org" || host.ends_with(".globus.org"));
        let stand_in = loopback && matches!(url.scheme(), "http" | "https");
        if !globus && !stand_in {
            return Err(wrong(
                "is no place for a Globus token: only https within globus.org is, or this host",
            ));
        }
        let base = base.trim_end_matches('/').to_owned();
        Ok(Self { base, host, loopback, clients: PerRuntime::new() })
    }

    /// For messages.
    pub fn name(&self) -> &str {
        &self.host
    }

    /// Drops idle connections.
    pub fn close(&self) {
        self.clients.clear();
    }

    /// Sends one request, once, and reads the answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        deadline: Instant,
        fill: impl FnOnce(RequestBuilder) -> RequestBuilder + Send,
    ) -> Result<Answer, ConnectorError> {
        let client = self.clients.current(|| self.client()).as_ref().clone()?;
        let request = fill(client.request(method, format!("{}{path}", self.base)));
        let start = Instant::now();
        let exchange = async {
            let response = request.send().await.map_err(|error| self.failed(error))?;
            self.read(response).await
        };
        match timeout_at(deadline.min(start + REQUEST_TIMEOUT), exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(ConnectorError::Timeout { target: self.host.clone(), after: start.elapsed() }),
        }
    }

    fn client(&self) -> Result<Client, ConnectorError> {
        install_provider();
        let builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("proxystore/", env!("CARGO_PKG_VERSION")))
            // The API has no redirects, and a token must not follow one.
            .redirect(Policy::none());
        let builder = if self.loopback { builder.no_proxy() } else { builder };
        builder.build().map_err(|error| self.failed(error))
    }

    async fn read(&self, mut response: Response) -> Result<Answer, ConnectorError> {
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failed(error))? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(self.refused(format!("an answer is longer than {LONGEST_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, retry_after: retry_after.map(Duration::from_secs), body })
    }

    /// With what this site said or did.
    pub fn refused(&self, reason: String) -> ConnectorError {
        ConnectorError::Refused { target: self.host.clone(), reason }
    }

    /// An answer in the form that is expected of this site.
    pub fn parse<T: for<'a> Deserialize<'a>>(&self, answer: &Answer) -> Result<T, ConnectorError> {
        serde_json::from_slice(&answer.body)
            .map_err(|error| self.refused(format!("an answer that is not understood ({error})")))
    }

    fn failed(&self, error: reqwest::Error) -> ConnectorError {
        let target = self.host.clone();
        let connecting = error.is_connect();
        let error = error.without_url();
        let mut reason = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            reason = format!("{reason}: {error}");
            cause = error.source();
        }
        if connecting {
            ConnectorError::Unreachable { target, reason }
        } else {
            ConnectorError::Broken { target, reason }
        }
    }
}

impl Answer {
    /// Why the other side will not, in its words, which are as Globus Transfer or as OAuth have them.
    pub fn words(&self) -> String {
        #[derive(Default, Deserialize)]
        struct Words {
            code: Option<String>,
            message: Option<String>,
            request_id: Option<String>,
            error: Option<String>,
            error_description: Option<String>,
        }
        let words: Words = serde_json::from_slice(&self.body).unwrap_or_default();
        let known = [words.code, words.message, words.error, words.error_description];
        let mut parts: Vec<_> = known.into_iter().flatten().collect();
        parts.extend(words.request_id.map(|id| format!("request {id}")));
        parts.insert(0, self.status.to_string());
        plain(&parts.join(", "))
    }
}

/// Whether a status says that the same request may succeed later.
pub(super) fn is_busy(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// What somebody else wrote, as one line of a message.
pub(super) fn plain(words: &str) -> String {
    words.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_globus_only() {
        for right in
            ["https://transfer.api.globus.org/v0.10", "https://auth.preview.globus.org", "http://127.0.0.1:9"]
        {
            assert!(Site::new(right).is_ok(), "{right}");
        }
        for wrong in [
            "http://transfer.api.globus.org",
            "https://globus.org.evil.example",
            "https://evilglobus.org",
            "https://evil.example/globus.org",
            "https://127.0.0.1.evil.example",
            "ftp://127.0.0.1",
            "globus.org",
        ] {
            assert!(Site::new(wrong).is_err(), "{wrong}");
        }
        let refused = Site::new("https://me:hush@auth.globus.org").err().unwrap().to_string();
        assert!(!refused.contains("hush"), "{refused}");
    }

    #[test]
    fn a_client_has_a_provider_of_encryption() {
        Site::new("https://transfer.api.globus.org").unwrap().client().unwrap();
    }

    #[test]
    fn words_of_both_services_are_understood() {
        let words = |status: StatusCode, body: &str| {
            Answer { status, retry_after: None, body: body.as_bytes().to_vec() }.words()
        };
        let transfer = r#"{"code": "PermissionDenied", "message": "not\nyours", "request_id": "r1"}"#;
        assert_eq!(
            words(StatusCode::FORBIDDEN, transfer),
            "403 Forbidden, PermissionDenied, not yours, request r1"
        );
        assert_eq!(
            words(StatusCode::BAD_REQUEST, r#"{"error": "invalid_grant"}"#),
            "400 Bad Request, invalid_grant"
        );
        assert_eq!(words(StatusCode::BAD_GATEWAY, "<html>"), "502 Bad Gateway");
        assert!(plain(&"x".repeat(10_000)).len() <= LONGEST_WORDS);
    }
}
