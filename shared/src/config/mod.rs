//! Configuration files: TOML, strict, with errors that say where and what instead.

pub mod endpoint;
mod proxy;
pub mod relay;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Largest configuration file that is read; the samples have 3 KB.
const MAX_CONFIG_LEN: u64 = 1 << 20;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing or may not be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file cannot be a configuration.
    #[error("{0} is over 1 MiB: is it a configuration file?")]
    TooLarge(PathBuf),
    /// Syntax, type, or an unknown key.
    #[error("{message}")]
    Parse {
        /// With line, excerpt and, for an unknown key, the nearest valid one.
        message: String,
    },
    /// A value that parses but makes no sense.
    #[error("{key}: {problem}")]
    Invalid {
        /// Dotted name of the key.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Reads a configuration file and leaves its validation to the caller.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_CONFIG_LEN {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text).map_err(|error| match error {
        ConfigError::Parse { message } => {
            ConfigError::Parse { message: format!("{}: {message}", path.display()) }
        }
        other => other,
    })
}

/// Parses a configuration.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let hint = nearest_key(error.message())
            .map(|key| format!("hint: did you mean `{key}`?"))
            .unwrap_or_default();
        ConfigError::Parse { message: format!("{error}{hint}") }
    })
}

/// For serde's "unknown field `a`, expected one of `b`, `c`": the candidate that looks most like `a`.
fn nearest_key(message: &str) -> Option<&str> {
    let (unknown, expected) = message.strip_prefix("unknown field `")?.split_once('`')?;
    let candidates = expected.split('`').skip(1).step_by(2);
    candidates.max_by(|a, b| {
        let (a, b) = (strsim::jaro_winkler(unknown, a), strsim::jaro_winkler(unknown, b));
        a.total_cmp(&b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        port: Option<u16>,
        certfile: Option<String>,
    }

    #[test]
    fn known_keys_are_read() {
        let sample = parse::<Sample>("port = 1\ncertfile = 'x'\n").expect("parses");
        assert_eq!((sample.port, sample.certfile.as_deref()), (Some(1), Some("x")));
    }

    #[test]
    fn an_unknown_key_is_refused_with_line_and_nearest_name() {
        let error = parse::<Sample>("port = 1\ncert_file = 'x'\n").expect_err("unknown key").to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("unknown field `cert_file`"), "{error}");
        assert!(error.contains("did you mean `certfile`?"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read::<Sample>(Path::new("/nonexistent/relay.toml")).expect_err("missing").to_string();
        assert!(error.contains("/nonexistent/relay.toml"), "{error}");
    }
}
