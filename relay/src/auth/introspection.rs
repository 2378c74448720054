//! Asking Globus Auth about a token (RFC 7662).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::config::relay::GlobusAuth;
use reqwest::{Response, StatusCode, Url};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{AuthError, SetupError, User};

/// Where Globus Auth introspects tokens (Globus Auth API reference).
const GLOBUS_INTROSPECT_URL: &str = "https://auth.globus.org/v2/oauth2/token/introspect";
/// ProxyStore's relay as a Globus resource server: the audience of tokens that Python's clients ask for.
const PROXYSTORE_RELAY_AUDIENCE: &str = "ebd5bbed-95e2-47cf-9c80-39e2064274bd";
/// Python's clients give up a registration after 10 s; they should get an answer before.
const INTROSPECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Globus Auth's answers have about a kilobyte, more with the identity set of a user with many identities.
const MAX_ANSWER_LEN: usize = 64 * 1024;
/// Requests at once; a crowd of reconnecting clients waits here instead of opening a connection each.
const MAX_REQUESTS: usize = 32;

/// The relay's side of token introspection.
pub struct Introspector {
    client: reqwest::Client,
    url: Url,
    client_id: String,
    client_secret: String,
    audience: String,
    requests: Semaphore,
}

impl fmt::Debug for Introspector {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspector").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// What is read of an answer (RFC 7662, section 2.2).
#[derive(Deserialize)]
struct TokenInfo {
    active: bool,
    #[serde(default)]
    aud: Audience,
    sub: Option<String>,
}

/// One audience or several (RFC 7519, section 4.1.3).
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

impl Audience {
    fn includes(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Many(many) => many.iter().any(|one| one == audience),
            Self::None => false,
        }
    }
}

impl Introspector {
    /// Prepares requests; credentials that are not configured come from the environment.
    pub fn new(config: &GlobusAuth) -> Result<Self, SetupError> {
        let url = config.introspect_url.as_deref().unwrap_or(GLOBUS_INTROSPECT_URL);
        let url = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| SetupError::BadUrl(url.to_owned()))?;
        Ok(Self {
            client: http_client()?,
            url,
            client_id: credential(&config.client_id, "client_id", "PROXYSTORE_GLOBUS_CLIENT_ID")?,
            client_secret: credential(
                &config.client_secret,
                "client_secret",
                "PROXYSTORE_GLOBUS_CLIENT_SECRET",
            )?,
            audience: config.audience.clone().unwrap_or_else(|| PROXYSTORE_RELAY_AUDIENCE.to_owned()),
            requests: Semaphore::new(MAX_REQUESTS),
        })
    }

    /// The user that `token` was issued to.
    pub async fn user_of(&self, token: &str) -> Result<User, AuthError> {
        let answer = tokio::time::timeout(INTROSPECTION_TIMEOUT, self.introspect(token)).await;
        let info = answer.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(|problem| {
            warn!(url = %self.url, problem, "cannot introspect a token");
            AuthError::Unavailable("The relay cannot check tokens at the moment, try again later.".to_owned())
        })?;
        judge(info, &self.audience)
    }

    async fn introspect(&self, token: &str) -> Result<TokenInfo, String> {
        let _permit = self.requests.acquire().await.map_err(|error| error.to_string())?;
        let request = self
            .client
            .post(self.url.clone())
            .basic_auth(&self.client_id, Some(&self.client_secret))
            .form(&[("token", token)]);
        // An error's URL is the configured one; the token is in the body, which errors do not show.
        let response = request.send().await.map_err(|error| error_chain(&error))?;
        match response.status() {
            StatusCode::OK => parse(&bounded_body(response).await?),
            StatusCode::UNAUTHORIZED => {
                Err("auth.kwargs.client_id and client_secret are not accepted".into())
            }
            status => Err(format!("the answer is {status}")),
        }
    }
}

fn http_client() -> Result<reqwest::Client, SetupError> {
    let failed = |error: &dyn fmt::Display| SetupError::Client(error.to_string());
    let mut roots = RootCertStore::empty();
    // A certificate of the system's that does not parse matters only if it is the one that is needed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .timeout(INTROSPECTION_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("proxystore-relay/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(&error))
}

fn credential(
    configured: &Option<String>,
    key: &'static str,
    variable: &'static str,
) -> Result<String, SetupError> {
    let value = configured.clone().or_else(|| std::env::var(variable).ok());
    value.filter(|value| !value.is_empty()).ok_or(SetupError::MissingCredential { key, variable })
}

/// reqwest's own message names only the step that failed; the causes say why.
fn error_chain(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

async fn bounded_body(mut response: Response) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error_chain(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_LEN {
            return Err(format!("the answer has more than {MAX_ANSWER_LEN} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn parse(body: &[u8]) -> Result<TokenInfo, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is no token introspection: {error}"))
}

/// Whether a token is good for a relay with `audience`, and whose it is.
fn judge(info: TokenInfo, audience: &str) -> Result<User, AuthError> {
    if !info.active {
        return Err(AuthError::Forbidden("The token has expired or was revoked.".into()));
    }
    if !info.aud.includes(audience) {
        return Err(AuthError::Forbidden(format!("The token was not issued for {audience}.")));
    }
    match info.sub {
        Some(sub) if !sub.is_empty() => Ok(User::Globus(sub.into())),
        _ => Err(AuthError::Forbidden("The token does not name a user.".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(body: &str) -> Result<User, AuthError> {
        judge(parse(body.as_bytes()).expect("parses"), "relay")
    }

    #[test]
    fn an_active_token_for_this_relay_names_its_user() {
        let alice = User::Globus("alice".into());
        for aud in [r#""relay""#, r#"["other","relay"]"#] {
            let body = format!(r#"{{"active":true,"aud":{aud},"sub":"alice","username":"a@b"}}"#);
            assert_eq!(judged(&body), Ok(alice.clone()));
        }
    }

    #[test]
    fn every_other_token_is_forbidden() {
        for body in [
            r#"{"active":false}"#,
            r#"{"active":false,"aud":"relay","sub":"alice"}"#,
            r#"{"active":true,"sub":"alice"}"#,
            r#"{"active":true,"aud":null,"sub":"alice"}"#,
            r#"{"active":true,"aud":"relays","sub":"alice"}"#,
            r#"{"active":true,"aud":[],"sub":"alice"}"#,
            r#"{"active":true,"aud":"relay"}"#,
            r#"{"active":true,"aud":"relay","sub":""}"#,
        ] {
            assert!(matches!(judged(body), Err(AuthError::Forbidden(_))), "{body}");
        }
    }

    #[test]
    fn nonsense_is_no_answer() {
        for body in ["", "[]", "{}", r#"{"active":"yes"}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_by_name() {
        for url in ["", "auth.globus.org", "ftp://host/", "file:///etc/passwd"] {
            let config = GlobusAuth { introspect_url: Some(url.into()), ..GlobusAuth::default() };
            let error = Introspector::new(&config).expect_err(url);
            assert!(matches!(error, SetupError::BadUrl(_)), "{url}: {error}");
        }
    }

    #[test]
    fn missing_credentials_are_named_and_present_ones_are_not_shown() {
        let mut config = GlobusAuth { client_id: Some("id".into()), ..GlobusAuth::default() };
        config.client_secret = Some(String::new());
        let error = Introspector::new(&config).expect_err("no secret").to_string();
        assert!(error.contains("PROXYSTORE_GLOBUS_CLIENT_SECRET"), "{error}");
        config.client_secret = Some("hush".into());
        let introspector = Introspector::new(&config).expect("complete");
        assert!(!format!("{introspector:?}").contains("hush"));
    }
}
