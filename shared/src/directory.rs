//! Where endpoints live on disk: one folder each under the ProxyStore home.
//!
//! The layout is Python ProxyStore's, so that its `EndpointConnector` finds our endpoints and we start its.

use std::env;
use std::path::{Path, PathBuf};

/// Configuration of an endpoint.
pub const CONFIG_FILE: &str = "config.toml";
/// Log of a detached endpoint.
pub const LOG_FILE: &str = "log.txt";
/// Process id of a running endpoint.
pub const PID_FILE: &str = "daemon.pid";
/// Python's database of persistent objects.
pub const DATABASE_FILE: &str = "blobs.db";
/// Our persistent objects.
pub const OBJECTS_DIR: &str = "objects";
/// The endpoint's private key.
pub const KEY_FILE: &str = "identity.key";
/// Pinned keys of peers whose id does not certify one.
pub const KNOWN_PEERS_FILE: &str = "known_peers.toml";
/// Whom the relay has introduced lately, and where they were.
pub const ACQUAINTANCES_FILE: &str = "acquaintances.toml";

/// The socket of a running endpoint through which commands on the same host hand over files.
pub const FILES_SOCKET: &str = "files.sock";

/// The ProxyStore home: `$PROXYSTORE_HOME`, else `$XDG_DATA_HOME/proxystore`, else `~/.local/share/proxystore`.
pub fn home() -> PathBuf {
    home_from(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn home_from(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    variable("PROXYSTORE_HOME").unwrap_or_else(|| {
        let data = variable("XDG_DATA_HOME")
            .unwrap_or_else(|| variable("HOME").unwrap_or_else(|| PathBuf::from("/")).join(".local/share"));
        data.join("proxystore")
    })
}

/// The folder of the endpoint called `name`.
pub fn endpoint_dir(home: &Path, name: &str) -> PathBuf {
    home.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_with(set: &[(&str, &str)]) -> PathBuf {
        home_from(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn home_follows_pythons_order() {
        assert_eq!(home_with(&[("PROXYSTORE_HOME", "/p"), ("XDG_DATA_HOME", "/x")]), Path::new("/p"));
        assert_eq!(home_with(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]), Path::new("/x/proxystore"));
        assert_eq!(home_with(&[("HOME", "/h")]), Path::new("/h/.local/share/proxystore"));
    }
}
