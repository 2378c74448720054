//! Configuration of the relay: every key of Python's, and ours.

mod traffic;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::ConfigError;
use crate::relay_message::DEFAULT_PORT;
pub use traffic::{RelayDatagrams, RelayUdp};

/// Largest relay message unless configured: a session description has a few kilobytes, and Python's websocket
/// library refuses frames over 1 MiB.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Longest time in a configuration: longer ones are mistakes, such as milliseconds.
const MAX_SECONDS: u64 = 7 * 24 * 60 * 60;

/// Longest queue of one client; each entry may be as large as a message.
const MAX_QUEUE_MESSAGES: usize = 1 << 16;

/// The relay's configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayConfig {
    /// Address to listen on; every interface if absent.
    pub host: Option<String>,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Certificate chain (PEM); turns TLS on.
    pub certfile: Option<PathBuf>,
    /// Private key (PEM); taken from `certfile` if absent.
    pub keyfile: Option<PathBuf>,
    /// Who may register.
    pub auth: RelayAuth,
    /// What is logged where.
    pub logging: RelayLogging,
    /// Largest message in bytes; a client that sends a larger one is closed with 4003.
    pub max_message_bytes: Option<usize>,
    /// Deadlines and bounds of ours.
    pub limits: RelayLimits,
    /// UDP ports of ours.
    pub udp: RelayUdp,
    /// Datagrams between clients of ours.
    pub datagrams: RelayDatagrams,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            host: None,
            port: DEFAULT_PORT,
            certfile: None,
            keyfile: None,
            auth: RelayAuth::default(),
            logging: RelayLogging::default(),
            max_message_bytes: None,
            limits: RelayLimits::default(),
            udp: RelayUdp::default(),
            datagrams: RelayDatagrams::default(),
        }
    }
}

/// How clients prove who they are.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayAuth {
    /// Absent: everyone is one user.
    pub method: Option<AuthMethod>,
    /// Options of the method.
    pub kwargs: GlobusAuth,
}

/// The methods there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMethod {
    /// Bearer tokens, introspected at Globus Auth (RFC 7662).
    Globus,
}

/// Options of Globus authentication.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GlobusAuth {
    /// The relay's client id; else `$PROXYSTORE_GLOBUS_CLIENT_ID`.
    pub client_id: Option<String>,
    /// The relay's client secret; else `$PROXYSTORE_GLOBUS_CLIENT_SECRET`.
    pub client_secret: Option<String>,
    /// Audience that a token must have been issued for.
    pub audience: Option<String>,
    /// Where tokens are introspected; Globus Auth if absent.
    pub introspect_url: Option<String>,
}

impl std::fmt::Debug for RelayAuth {
    /// Names the method only: the options hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayAuth").field("method", &self.method).finish_non_exhaustive()
    }
}

/// What is logged where. The aliases are the names Python's documentation uses and its parser ignores.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayLogging {
    /// Directory for log files besides standard output.
    pub log_dir: Option<PathBuf>,
    /// Level of the relay's own log: a name, or Python's number.
    #[serde(alias = "default_log_level")]
    pub default_level: LogLevel,
    /// Level for the websocket library.
    #[serde(alias = "websockets_log_level")]
    pub websockets_level: LogLevel,
    /// Seconds between reports of the number of clients.
    #[serde(alias = "connected_client_logging_interval")]
    pub current_client_interval: Option<u64>,
    /// The report lists the clients while there are fewer than this.
    #[serde(alias = "connected_client_logging_limit")]
    pub current_client_limit: Option<usize>,
}

impl Default for RelayLogging {
    fn default() -> Self {
        Self {
            log_dir: None,
            default_level: LogLevel::Info,
            websockets_level: LogLevel::Warning,
            current_client_interval: Some(60),
            current_client_limit: Some(32),
        }
    }
}

/// Python's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "LogLevelValue")]
pub enum LogLevel {
    /// Also everything below an error that ends the program.
    Critical,
    /// Something failed.
    Error,
    /// Something may need attention.
    Warning,
    /// What happens.
    Info,
    /// How it happens.
    Debug,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a log level: CRITICAL, ERROR, WARNING, INFO, DEBUG, or Python's number for one"
)]
enum LogLevelValue {
    Name(String),
    Number(i64),
}

impl TryFrom<LogLevelValue> for LogLevel {
    type Error = String;

    fn try_from(value: LogLevelValue) -> Result<Self, String> {
        match value {
            LogLevelValue::Name(name) => name.parse(),
            LogLevelValue::Number(number) => Ok(match number {
                ..=10 => Self::Debug,
                11..=20 => Self::Info,
                21..=30 => Self::Warning,
                31..=40 => Self::Error,
                _ => Self::Critical,
            }),
        }
    }
}

impl std::str::FromStr for LogLevel {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_uppercase().as_str() {
            "CRITICAL" => Ok(Self::Critical),
            "ERROR" => Ok(Self::Error),
            "WARNING" | "WARN" => Ok(Self::Warning),
            "INFO" => Ok(Self::Info),
            "DEBUG" => Ok(Self::Debug),
            _ => Err(format!("{name:?} is no log level; use CRITICAL, ERROR, WARNING, INFO or DEBUG")),
        }
    }
}

impl LogLevel {
    /// The level's name in a `tracing` filter.
    pub fn as_filter(self) -> &'static str {
        match self {
            Self::Critical | Self::Error => "error",
            Self::Warning => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Deadlines and bounds. Times are in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayLimits {
    /// For TLS and the HTTP upgrade together.
    pub handshake_timeout: u64,
    /// From the upgrade to the registration.
    pub registration_timeout: u64,
    /// Between pings to a silent client.
    pub ping_interval: u64,
    /// Without any sign of life from a client before it is dropped.
    pub idle_timeout: u64,
    /// Messages waiting for one client; one more drops the client, never delays another.
    pub queue_messages: usize,
    /// Clients at once; further ones get HTTP 503.
    pub max_clients: usize,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            handshake_timeout: 10,
            registration_timeout: 10,
            // Below the minute after which common NATs and load balancers forget an idle TCP connection.
            ping_interval: 20,
            idle_timeout: 60,
            queue_messages: 64,
            max_clients: 100_000,
        }
    }
}

impl RelayLimits {
    /// See [`RelayLimits::handshake_timeout`].
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout)
    }

    /// See [`RelayLimits::registration_timeout`].
    pub fn registration_timeout(&self) -> Duration {
        Duration::from_secs(self.registration_timeout)
    }

    /// See [`RelayLimits::ping_interval`].
    pub fn ping_interval(&self) -> Duration {
        Duration::from_secs(self.ping_interval)
    }

    /// See [`RelayLimits::idle_timeout`].
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }
}

impl RelayConfig {
    /// Reads and validates a configuration file.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let config: Self = super::read(path)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: &str| Err(ConfigError::Invalid { key, problem: problem.into() });
        if self.keyfile.is_some() && self.certfile.is_none() {
            return invalid("keyfile", "needs `certfile` beside it");
        }
        if self.max_message_bytes == Some(0) {
            return invalid("max_message_bytes", "must be at least 1; leave it out for the default of 1 MiB");
        }
        let limits = &self.limits;
        let times = [
            ("limits.handshake_timeout", limits.handshake_timeout),
            ("limits.registration_timeout", limits.registration_timeout),
            ("limits.ping_interval", limits.ping_interval),
            ("limits.idle_timeout", limits.idle_timeout),
            ("logging.current_client_interval", self.logging.current_client_interval.unwrap_or(1)),
        ];
        for (key, seconds) in times {
            if !(1..=MAX_SECONDS).contains(&seconds) {
                return invalid(key, "must be at least 1 second and at most a week");
            }
        }
        if limits.idle_timeout <= limits.ping_interval {
            return invalid("limits.idle_timeout", "must be longer than limits.ping_interval");
        }
        if !(1..=MAX_QUEUE_MESSAGES).contains(&limits.queue_messages) {
            return invalid("limits.queue_messages", "must be at least 1 and at most 65536");
        }
        if limits.max_clients == 0 {
            return invalid("limits.max_clients", "must be at least 1");
        }
        self.udp.validate()?;
        self.datagrams.validate()
    }

    /// The bound on a message, configured or not.
    pub fn message_limit(&self) -> usize {
        self.max_message_bytes.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn pythons_documented_example_is_read() {
        let text = r#"
            host = "0.0.0.0"
            port = 8700
            certfile = "/path/to/cert.pem"
            keyfile = "/path/to/privkey.pem"
            [auth]
            method = "globus"
            [auth.kwargs]
            client_id = "..."
            client_secret = "hush"
            [logging]
            log_dir = "/path/to/log/dir"
            default_log_level = "INFO"
            websockets_log_level = 30
            connected_client_logging_interval = 60
            connected_client_logging_limit = 32
        "#;
        let config: RelayConfig = parse(text).expect("parses");
        assert!(config.validate().is_ok());
        assert_eq!(config.auth.method, Some(AuthMethod::Globus));
        assert_eq!(config.logging.websockets_level, LogLevel::Warning);
        assert!(!format!("{config:?}").contains("hush"), "secrets stay out of logs");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, key) in [
            ("keyfile = 'k'", "keyfile"),
            ("max_message_bytes = 0", "max_message_bytes"),
            ("[limits]\nidle_timeout = 5", "limits.idle_timeout"),
            ("[limits]\nping_interval = 0", "limits.ping_interval"),
            ("[limits]\nidle_timeout = 9000000000000000000", "limits.idle_timeout"),
            ("[limits]\nqueue_messages = 9000000000000000000", "limits.queue_messages"),
            ("[limits]\nmax_clients = 0", "limits.max_clients"),
            ("[logging]\ncurrent_client_interval = 0", "logging.current_client_interval"),
        ] {
            let config: RelayConfig = parse(text).expect("parses");
            assert!(config.validate().expect_err(text).to_string().starts_with(key), "{text}");
        }
        assert!(parse::<RelayConfig>("[logging]\ndefault_level = 'LOUD'").is_err());
    }
}
