//! Who a client is: everyone the same, or the owner of a Globus Auth token.
//!
//! Credentials arrive with the websocket handshake and are checked once a session, at its first registration,
//! because that is where Python's relay and clients expect the outcome. A token is never logged.

mod introspection;

use std::fmt;
use std::sync::Arc;

use hyper::header::HeaderValue;
use proxystore_shared::config::relay::{AuthMethod, RelayAuth};

use crate::close::Close;
use introspection::Introspector;

/// Owner of clients; sessions of one user reach each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum User {
    /// Everyone, where there is no authentication.
    Anyone,
    /// A Globus identity: the `sub` of a token.
    Globus(Arc<str>),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Globus(sub) => write!(f, "globus:{}", sub.escape_default()),
        }
    }
}

/// Why a client's user could not be established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no token to look at: the client has to send one.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The token is not good for this relay: the client needs another.
    #[error("{0}")]
    Forbidden(String),
    /// The relay could not find out: the client may try again later.
    #[error("{0}")]
    Unavailable(String),
}

impl From<AuthError> for Close {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unauthorized(reason) => Self::unauthorized(reason),
            AuthError::Forbidden(reason) => Self::forbidden(reason),
            AuthError::Unavailable(_) => Self::try_again(),
        }
    }
}

/// Why authentication could not be set up; all are faults of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Introspection needs the relay's own credentials.
    #[error("auth.kwargs.{key} is missing: set it, or the environment variable {variable}")]
    MissingCredential {
        /// Name in the configuration.
        key: &'static str,
        /// Environment variable that would do too.
        variable: &'static str,
    },
    /// Not an address that tokens could be sent to.
    #[error("auth.kwargs.introspect_url: {0:?} is not an http:// or https:// URL")]
    BadUrl(String),
    /// The HTTP client could not be built.
    #[error("cannot set up token introspection: {0}")]
    Client(String),
}

/// Establishes the user of each client.
#[derive(Debug)]
pub enum Authenticator {
    /// No authentication.
    Anyone,
    /// Globus Auth tokens.
    Globus(Box<Introspector>),
}

impl Authenticator {
    /// Builds what the configuration asks for.
    pub fn new(config: &RelayAuth) -> Result<Self, SetupError> {
        match config.method {
            None => Ok(Self::Anyone),
            Some(AuthMethod::Globus) => {
                Introspector::new(&config.kwargs).map(|introspector| Self::Globus(Box::new(introspector)))
            }
        }
    }

    /// Finds out who sent `credentials`, the value of the handshake's `Authorization` header.
    ///
    /// Takes a few seconds at most.
    pub async fn authenticate(&self, credentials: Option<&HeaderValue>) -> Result<User, AuthError> {
        match self {
            Self::Anyone => Ok(User::Anyone),
            Self::Globus(introspector) => introspector.user_of(bearer_token(credentials)?).await,
        }
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer_token(credentials: Option<&HeaderValue>) -> Result<&str, AuthError> {
    let credentials = credentials.ok_or(AuthError::Unauthorized("The Authorization header is missing."))?;
    let malformed = AuthError::Unauthorized("The Authorization header is not of the form `Bearer TOKEN`.");
    match credentials.to_str().ok().and_then(|text| text.split_once(' ')) {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && !token.contains(' ') =>
        {
            Ok(token)
        }
        _ => Err(malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens_are_read_and_nothing_else() {
        for (header, token) in [("Bearer abc", "abc"), ("bearer a.b-c", "a.b-c")] {
            assert_eq!(bearer_token(Some(&HeaderValue::from_static(header))), Ok(token));
        }
        for header in ["", "Bearer", "Bearer ", "abc", "Basic abc", "Bearer a b"] {
            let error = bearer_token(Some(&HeaderValue::from_static(header))).expect_err(header);
            assert!(matches!(error, AuthError::Unauthorized(_)), "{header}");
        }
        assert!(matches!(bearer_token(None), Err(AuthError::Unauthorized(_))));
    }

    #[tokio::test]
    async fn without_a_method_everyone_is_one_user() {
        let authenticator = Authenticator::new(&RelayAuth::default()).expect("nothing to set up");
        assert_eq!(authenticator.authenticate(None).await, Ok(User::Anyone));
    }
}
