//! What went wrong, in this crate's terms.

use std::error::Error;
use std::io::{self, ErrorKind as IoKind};
use std::sync::Arc;

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::connector::ConnectorError;

/// An attempt to connect failed.
pub(super) fn connecting(target: String, error: &RedisError) -> ConnectorError {
    match error.kind() {
        // What rustls says of a certificate that it does not trust.
        ErrorKind::Io if io_kind(error) == Some(IoKind::InvalidData) => {
            ConnectorError::Refused { target, reason: format!("{error}; check tls and ca_file") }
        }
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => {
            ConnectorError::Unreachable { target, reason: error.to_string() }
        }
        _ => asking(target, error),
    }
}

/// A request failed.
pub(super) fn asking(target: String, error: &RedisError) -> ConnectorError {
    let reason = error.to_string();
    match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => ConnectorError::Broken { target, reason },
        ErrorKind::AuthenticationFailed => {
            let reason = "wrong username or password; check username and password_env".to_owned();
            ConnectorError::Refused { target, reason }
        }
        ErrorKind::Parse => {
            let reason = "the answer is not of the Redis protocol; check hostname, port and tls".to_owned();
            ConnectorError::Refused { target, reason }
        }
        // It is starting, or its cluster looks for a new master.
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain,
        ) => ConnectorError::Unreachable { target, reason },
        _ if error.code() == Some("OOM") => ConnectorError::Full { target },
        _ => ConnectorError::Refused { target, reason },
    }
}

fn io_kind(error: &RedisError) -> Option<IoKind> {
    // The client library hands out the pointer that it shares the system's error by.
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    Some(shared.downcast_ref::<io::Error>()?.kind())
}
