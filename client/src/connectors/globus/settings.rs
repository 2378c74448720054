//! What a Globus store needs to know, and which of its endpoints is on this host.

use std::collections::BTreeMap;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::KIND;
use crate::connector::ConnectorError;
use crate::connectors::host;

/// Between two looks at a task, at least: more often would be a load for Globus that speeds nothing up.
const SHORTEST_POLL: Duration = Duration::from_millis(10);

/// For which a task is waited at most. Globus itself gives up on one after a day unless told otherwise.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a Globus store needs to know. The names and defaults of the first five are those of Python's
/// `GlobusConnector`, except that `clear` is off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The directories that are kept alike, by the ids of the collections that they are in. At least two.
    pub endpoints: BTreeMap<Uuid, Endpoint>,
    /// Whether `close` removes all of the directories.
    #[serde(default)]
    pub clear: bool,
    /// Pause between two looks at a task; seconds in a configuration.
    #[serde(default = "default_polling_interval", with = "seconds")]
    pub polling_interval: Duration,
    /// When a file that is there already is replaced.
    #[serde(default)]
    pub sync_level: SyncLevel,
    /// How long each operation waits for Globus, and for transfers; seconds in a configuration.
    #[serde(default = "default_timeout", with = "seconds")]
    pub timeout: Duration,
    /// Environment variable with an access token for Globus Transfer, used unless there is a token file.
    #[serde(default = "default_token_env", skip_serializing_if = "is_default_token_env")]
    pub token_env: String,
    /// File with tokens: a JSON object with `access_token` and, to have it renewed, `refresh_token` and
    /// `expires_at_seconds` (Unix time). A new access token is written back. `~/` is the home directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// The application (a native app at Globus Auth) that got the refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<Uuid>,
    /// Where the Transfer API is: within `globus.org`, or on this host for tests.
    #[serde(default = "default_transfer_url", skip_serializing_if = "is_default_transfer_url")]
    pub transfer_url: String,
    /// Where Globus Auth gives tokens: within `globus.org`, or on this host for tests.
    #[serde(default = "default_auth_url", skip_serializing_if = "is_default_auth_url")]
    pub auth_url: String,
}

/// A directory in a Globus collection, which nothing else may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Regular expression that all of the name of a host matches if the directory can be reached there.
    pub host_regex: String,
    /// The directory as the collection names it.
    pub endpoint_path: String,
    /// The same directory as programs on its host name it. `~/` is the home directory.
    pub local_path: String,
}

/// When a file that is at its destination already is transferred again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "WrittenLevel")]
pub enum SyncLevel {
    /// Never.
    Exists,
    /// If the sizes differ.
    Size,
    /// If the sizes differ or the source is newer.
    #[default]
    Mtime,
    /// If the contents differ.
    Checksum,
}

/// Python takes the level by its name or by its number.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenLevel {
    Name(String),
    Number(u8),
}

impl TryFrom<WrittenLevel> for SyncLevel {
    type Error = String;

    fn try_from(level: WrittenLevel) -> Result<Self, String> {
        let name = match &level {
            WrittenLevel::Name(name) => name.clone(),
            WrittenLevel::Number(number) => number.to_string(),
        };
        match name.as_str() {
            "exists" | "0" => Ok(Self::Exists),
            "size" | "1" => Ok(Self::Size),
            "mtime" | "2" => Ok(Self::Mtime),
            "checksum" | "3" => Ok(Self::Checksum),
            _ => Err(format!("sync_level {name:?} is none of exists, size, mtime, checksum")),
        }
    }
}

impl Settings {
    /// With Python's defaults.
    pub fn new(endpoints: impl IntoIterator<Item = (Uuid, Endpoint)>) -> Self {
        Self {
            endpoints: endpoints.into_iter().collect(),
            clear: false,
            polling_interval: default_polling_interval(),
            sync_level: SyncLevel::default(),
            timeout: default_timeout(),
            token_env: default_token_env(),
            token_file: None,
            client_id: None,
            transfer_url: default_transfer_url(),
            auth_url: default_auth_url(),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        if self.endpoints.len() < 2 {
            return Err(invalid("it takes at least two endpoints".to_owned()));
        }
        if self.polling_interval < SHORTEST_POLL {
            return Err(invalid(format!("polling_interval is less than {SHORTEST_POLL:?}")));
        }
        if self.timeout > LONGEST_TIMEOUT {
            return Err(invalid(format!("timeout is more than {LONGEST_TIMEOUT:?}")));
        }
        Ok(())
    }

    /// The endpoint on the host of this name.
    pub(super) fn endpoint_on(&self, hostname: &str) -> Result<Uuid, ConnectorError> {
        let mut found = None;
        for (id, endpoint) in &self.endpoints {
            if !host::matches(KIND, &endpoint.host_regex, hostname)? {
                continue;
            }
            if let Some(other) = found.replace(*id) {
                let both = format!("the endpoints {other} and {id} both match the host {hostname:?}");
                return Err(invalid(both + ": make their host_regex differ"));
            }
        }
        found.ok_or_else(|| invalid(format!("no endpoint's host_regex matches this host, {hostname:?}")))
    }
}

impl Endpoint {
    /// A file of the directory, as the collection names it.
    pub(super) fn path_of(&self, filename: &str) -> String {
        format!("{}/{filename}", self.endpoint_path.trim_end_matches('/'))
    }
}

pub(super) fn invalid(reason: String) -> ConnectorError {
    ConnectorError::Config { kind: KIND.to_owned(), reason }
}

/// With the home directory in place of a `~` at the start.
pub(super) fn expand(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

fn default_polling_interval() -> Duration {
    Duration::from_secs(1)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_token_env() -> String {
    "GLOBUS_TRANSFER_TOKEN".to_owned()
}

fn default_transfer_url() -> String {
    "https://transfer.api.globus.org/v0.10".to_owned()
}

fn default_auth_url() -> String {
    "https://auth.globus.org/v2/oauth2/token".to_owned()
}

fn is_default_token_env(name: &str) -> bool {
    name == default_token_env()
}

fn is_default_transfer_url(url: &str) -> bool {
    url == default_transfer_url()
}

fn is_default_auth_url(url: &str) -> bool {
    url == default_auth_url()
}

mod seconds {
    use super::*;

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn endpoint(host_regex: &str) -> Endpoint {
        let (endpoint_path, local_path) = ("/data/".to_owned(), "~/data".to_owned());
        Endpoint { host_regex: host_regex.to_owned(), endpoint_path, local_path }
    }

    #[test]
    fn the_endpoint_of_a_host_is_found_by_all_of_its_name() {
        let ids = [1, 2, 3].map(Uuid::from_u128);
        let patterns = [r"login\d", "node.*", "node7"];
        let settings = Settings::new(ids.into_iter().zip(patterns.map(endpoint)));
        assert_eq!(settings.endpoint_on("login1"), Ok(ids[0]));
        assert_eq!(settings.endpoint_on("node8"), Ok(ids[1]));
        let refused = |host| settings.endpoint_on(host).unwrap_err().to_string();
        assert!(refused("login12").contains("\"login12\""));
        assert!(refused("node7").contains("both match"));
    }

    #[test]
    fn what_python_writes_can_be_read() {
        let id = Uuid::from_u128(7);
        let written = json!({
            "endpoints": { id.to_string(): to_value(endpoint("a")).unwrap() },
            "clear": true, "polling_interval": 2, "sync_level": 3, "timeout": 90,
        });
        let settings: Settings = from_value(written).unwrap();
        let mut expected = Settings::new([(id, endpoint("a"))]);
        expected.clear = true;
        expected.polling_interval = Duration::from_secs(2);
        expected.sync_level = SyncLevel::Checksum;
        expected.timeout = Duration::from_secs(90);
        assert_eq!(settings, expected);
        assert_eq!(from_value::<Settings>(to_value(&settings).unwrap()).unwrap(), settings);
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let two = [1, 2].map(|id| (Uuid::from_u128(id), endpoint("a")));
        let settings = Settings::new(two);
        assert_eq!(settings.check(), Ok(()));
        assert!(Settings { polling_interval: Duration::ZERO, ..settings.clone() }.check().is_err());
        assert!(Settings { timeout: Duration::MAX, ..settings.clone() }.check().is_err());
        assert!(Settings::new([(Uuid::nil(), endpoint("a"))]).check().is_err());
        for wrong in [json!({ "timeout": -1 }), json!({ "timeout": 1e300 }), json!({ "sync_level": "often" })]
        {
            let mut written = to_value(&settings).unwrap();
            written.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
            assert!(from_value::<Settings>(written).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_are_joined_once() {
        assert_eq!(endpoint("a").path_of("x"), "/data/x");
        assert_eq!(expand("/~/data"), PathBuf::from("/~/data"));
        assert!(!expand("~/data").starts_with("~"));
    }
}
