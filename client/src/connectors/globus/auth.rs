//! The access token: where it comes from, and how an expired one is renewed.
//!
//! It is kept in memory and in the file that it came from, and appears nowhere else.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::settings::{Settings, expand};
use super::site::{Site, is_busy};
use crate::connector::ConnectorError;
use crate::runtime::blocking;

/// So long before it expires a token is renewed, so that it does not expire on its way; clocks differ, too.
const MARGIN: Duration = Duration::from_secs(60);

/// Bytes of a token file that are read at most; tokens have about a hundred.
const LONGEST_FILE: u64 = 1 << 16;

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Tokens {
    access_token: Secret,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Secret>,
    /// Unix time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at_seconds: Option<u64>,
    /// Whatever else is in the file, which stays there.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What Globus Auth answers with a new access token.
#[derive(Deserialize)]
struct Renewed {
    access_token: Secret,
    refresh_token: Option<Secret>,
    /// Seconds.
    expires_in: Option<u64>,
}

/// Gives out access tokens.
pub(super) struct Auth {
    site: Site,
    source: Source,
    client_id: Option<Uuid>,
    /// What deadlines are made of; for messages.
    patience: Duration,
    /// Held while a token is renewed, so that one request does it for all.
    tokens: Mutex<Option<Tokens>>,
}

enum Source {
    Variable(String),
    File(PathBuf),
}

impl Auth {
    pub fn new(settings: &Settings) -> Result<Self, ConnectorError> {
        let source = match &settings.token_file {
            Some(file) => Source::File(expand(file)),
            None => Source::Variable(settings.token_env.clone()),
        };
        let site = Site::new(&settings.auth_url)?;
        let (client_id, patience) = (settings.client_id, settings.timeout);
        Ok(Self { site, source, client_id, patience, tokens: Mutex::new(None) })
    }

    /// A token that is not known to be expired, and is not the one that was `rejected`.
    pub async fn token(
        &self,
        rejected: Option<&Secret>,
        deadline: Instant,
    ) -> Result<Secret, ConnectorError> {
        let Ok(mut kept) = timeout_at(deadline, self.tokens.lock()).await else {
            let target = format!("{}, which is to renew a token,", self.site.name());
            return Err(ConnectorError::Timeout { target, after: self.patience });
        };
        let usable = |tokens: &Tokens| Some(&tokens.access_token) != rejected && !tokens.expired();
        if let Some(tokens) = kept.as_ref().filter(|tokens| usable(tokens)) {
            return Ok(tokens.access_token.clone());
        }
        // Another process may have renewed it, or somebody logged in again.
        let mut tokens = self.source.load().await?;
        if !usable(&tokens) {
            tokens = self.renew(tokens, deadline).await?;
        }
        Ok(kept.insert(tokens).access_token.clone())
    }

    /// Drops idle connections.
    pub fn close(&self) {
        self.site.close();
    }

    async fn renew(&self, old: Tokens, deadline: Instant) -> Result<Tokens, ConnectorError> {
        let (Some(refresh), Some(client)) = (&old.refresh_token, self.client_id) else {
            return Err(self.site.refused(format!(
                "the access token in {} expired: put a new one there, or use a token file with a refresh token \
                 and configure the client id that it belongs to",
                self.source
            )));
        };
        let client = client.to_string();
        let form =
            [("grant_type", "refresh_token"), ("refresh_token", refresh.reveal()), ("client_id", &client)];
        let answer = self.site.send(Method::POST, "", deadline, |request| request.form(&form)).await?;
        if is_busy(answer.status) {
            return Err(ConnectorError::Unreachable {
                target: self.site.name().to_owned(),
                reason: answer.words(),
            });
        }
        if !answer.status.is_success() {
            let remedy = format!("the access token in {} is not renewed: log in again", self.source);
            return Err(self.site.refused(format!("{} ({remedy})", answer.words())));
        }
        let new: Renewed = self.site.parse(&answer)?;
        let tokens = Tokens {
            access_token: new.access_token,
            refresh_token: new.refresh_token.or(old.refresh_token),
            expires_at_seconds: new.expires_in.map(|seconds| unix_time().as_secs().saturating_add(seconds)),
            others: old.others,
        };
        self.source.save(&tokens).await;
        Ok(tokens)
    }
}

impl Tokens {
    fn expired(&self) -> bool {
        let now = (unix_time() + MARGIN).as_secs();
        self.expires_at_seconds.is_some_and(|at| at <= now)
    }
}

fn unix_time() -> Duration {
    // A clock before 1970 is wrong anyway; the token is then taken for valid until Globus says otherwise.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Source {
    async fn load(&self) -> Result<Tokens, ConnectorError> {
        match self {
            Self::Variable(name) => match std::env::var(name) {
                Ok(token) if !token.trim().is_empty() => Ok(Tokens {
                    access_token: Secret(token.trim().to_owned()),
                    refresh_token: None,
                    expires_at_seconds: None,
                    others: Map::new(),
                }),
                _ => Err(super::settings::invalid(format!(
                    "there is no token in {self}: put an access token for Globus Transfer there, or configure \
                     token_file"
                ))),
            },
            Self::File(path) => {
                let path = path.clone();
                blocking(move || read(&path).map_err(|error| failed(&path, &error))).await
            }
        }
    }

    /// Failing to is no reason not to use the tokens.
    async fn save(&self, tokens: &Tokens) {
        let Self::File(path) = self else { return };
        let (path, tokens) = (path.clone(), tokens.clone());
        blocking(move || {
            if let Err(error) = write(&path, &tokens) {
                let path = path.display();
                tracing::warn!(%path, %error, "the renewed Globus token is not kept for the next start");
            }
        })
        .await;
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> ConnectorError {
    ConnectorError::Io { path: path.display().to_string(), reason: error.to_string() }
}

fn read(path: &Path) -> io::Result<Tokens> {
    let mut text = Vec::new();
    File::open(path)?.take(LONGEST_FILE).read_to_end(&mut text)?;
    // Without the parser's words, which may quote from the file.
    serde_json::from_slice(&text).map_err(|_| {
        io::Error::other("this is no JSON object with an access_token, as a token file has to be")
    })
}

/// Puts the tokens in place of the file's content, for nobody but its owner to read.
fn write(path: &Path, tokens: &Tokens) -> io::Result<()> {
    let draft = path.with_extension(format!("{}.tmp", Uuid::new_v4()));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec_pretty(tokens)?)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    // What remains of a failed attempt is of no use to anybody.
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_for_its_owner_only_and_keeps_what_else_is_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.json");
        fs::write(&path, r#"{"access_token": "a", "refresh_token": "r", "scope": "s"}"#).unwrap();
        let mut tokens = read(&path).unwrap();
        tokens.access_token = Secret("b".to_owned());
        tokens.expires_at_seconds = Some(5);
        write(&path, &tokens).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let expected = serde_json::json!({
            "access_token": "b", "refresh_token": "r", "expires_at_seconds": 5, "scope": "s",
        });
        assert_eq!(written, expected);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn an_unreadable_file_is_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens.json");
        fs::write(&path, r#"{"access_token": ["hush"]}"#).unwrap();
        let error = read(&path).err().unwrap().to_string();
        assert!(!error.contains("hush"), "{error}");
        assert_eq!(format!("{:?}", Secret("hush".to_owned())), "Secret");
    }

    #[test]
    fn a_token_counts_as_expired_a_little_before_it_is() {
        let in_seconds = |seconds| Tokens {
            access_token: Secret(String::new()),
            refresh_token: None,
            expires_at_seconds: Some(unix_time().as_secs() + seconds),
            others: Map::new(),
        };
        assert!(in_seconds(30).expired());
        assert!(!in_seconds(3600).expired());
    }
}
