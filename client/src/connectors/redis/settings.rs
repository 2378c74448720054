//! What a Redis connector needs to know, and the client library's form of it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisResult,
    TlsCertificates,
};
use serde::{Deserialize, Serialize};

use super::KIND;
use crate::connector::ConnectorError;

/// For one answer, unless told otherwise. No request moves more than a few mebibytes, so only a link slower than
/// some 100 kB a second, or a server that is stuck, needs longer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// After this much silence the system asks whether the other host still lives. Routers forget idle connections
/// after some minutes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// `hostname`, `port` and `clear` are those of Python's `RedisConnector`. What is not set is left out of
/// configurations, since proxies carry them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub hostname: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "is_default")]
    pub clear: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub username: Option<String>,
    /// The environment variable that holds the password.
    #[serde(default, skip_serializing_if = "is_default")]
    pub password_env: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls: bool,
    /// PEM; the system's certificates if none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ca_file: Option<PathBuf>,
    /// Further nodes, as `host:port`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cluster: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub database: u32,
    /// In seconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout: Option<f64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Settings {
    pub fn new(hostname: String, port: u16) -> Self {
        Self {
            hostname,
            port,
            clear: false,
            username: None,
            password_env: None,
            tls: false,
            ca_file: None,
            cluster: Vec::new(),
            database: 0,
            timeout: None,
        }
    }

    /// Whom errors name.
    pub fn target(&self) -> String {
        let scheme = if self.tls { "rediss" } else { "redis" };
        format!("{scheme}://{}:{}", self.hostname, self.port)
    }

    /// How long an answer is waited for.
    pub fn timeout(&self) -> Duration {
        self.timeout.and_then(positive).unwrap_or(DEFAULT_TIMEOUT)
    }

    pub fn is_cluster(&self) -> bool {
        !self.cluster.is_empty()
    }

    /// Of what can be seen without a connection.
    pub fn check(&self) -> Result<(), ConnectorError> {
        if self.hostname.is_empty() {
            return Err(invalid("hostname is empty".to_owned()));
        }
        if self.timeout.is_some_and(|seconds| positive(seconds).is_none()) {
            return Err(invalid("timeout is not a positive number of seconds".to_owned()));
        }
        if self.ca_file.is_some() && !self.tls {
            return Err(invalid("ca_file is of no use without tls".to_owned()));
        }
        self.cluster.iter().try_for_each(|node| address(node).map(drop))
    }

    /// Of the one server. Reads the password and the certificates.
    pub fn client(&self) -> Result<Client, ConnectorError> {
        let info = self.connection_info(self.hostname.clone(), self.port)?;
        let client = match self.certificates()? {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        client.map_err(|error| invalid(error.to_string()))
    }

    /// Of all nodes. Reads the password and the certificates.
    pub fn cluster_client(&self) -> Result<ClusterClient, ConnectorError> {
        let mut nodes = vec![self.connection_info(self.hostname.clone(), self.port)?];
        for node in &self.cluster {
            let (host, port) = address(node)?;
            nodes.push(self.connection_info(host, port)?);
        }
        let mut builder = ClusterClientBuilder::new(nodes)
            .tcp_settings(tcp_settings())
            .connection_timeout(self.timeout())
            .response_timeout(self.timeout())
            .database_id(self.database.into());
        if let Some(certificates) = self.certificates()? {
            builder = builder.certs(certificates);
        }
        builder.build().map_err(|error| invalid(error.to_string()))
    }

    fn connection_info(&self, host: String, port: u16) -> Result<ConnectionInfo, ConnectorError> {
        let address = if self.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let mut login = RedisConnectionInfo::default().set_db(self.database.into());
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = self.password()? {
            login = login.set_password(password);
        }
        let info: RedisResult<ConnectionInfo> = address.into_connection_info();
        let info = info.map_err(|error| invalid(error.to_string()))?;
        Ok(info.set_redis_settings(login).set_tcp_settings(tcp_settings()))
    }

    fn password(&self) -> Result<Option<String>, ConnectorError> {
        let Some(name) = &self.password_env else { return Ok(None) };
        let password = env::var(name).map_err(|_| {
            invalid(format!("the environment variable {name:?} (password_env) is not set to a text here"))
        })?;
        Ok(Some(password))
    }

    fn certificates(&self) -> Result<Option<TlsCertificates>, ConnectorError> {
        let Some(path) = &self.ca_file else { return Ok(None) };
        let pem = fs::read(path).map_err(|error| invalid(format!("ca_file {}: {error}", path.display())))?;
        Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(pem) }))
    }
}

fn positive(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
}

/// Splits `host:port`, where an IPv6 address stands in brackets.
fn address(node: &str) -> Result<(String, u16), ConnectorError> {
    let parts = node.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parts {
        Some((host, port)) if !host.is_empty() => {
            Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
        }
        _ => Err(invalid(format!("{node:?} (cluster) is not of the form host:port"))),
    }
}

fn tcp_settings() -> TcpSettings {
    // Without `nodelay` the end of a request can wait for the acknowledgement of its beginning.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE);
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

fn invalid(reason: String) -> ConnectorError {
    ConnectorError::Config { kind: KIND.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_not_written() {
        let settings = Settings::new("localhost".to_owned(), 6379);
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(text, r#"{"hostname":"localhost","port":6379}"#);
        let python = r#"{"hostname":"localhost","port":6379,"clear":false}"#;
        assert_eq!(serde_json::from_str::<Settings>(python).unwrap(), settings);
    }

    #[test]
    fn nodes_are_hosts_and_ports() {
        assert_eq!(address("node-1:7000").unwrap(), ("node-1".to_owned(), 7000));
        assert_eq!(address("[::1]:7000").unwrap(), ("::1".to_owned(), 7000));
        for node in ["", "node", ":7000", "node:", "node:70000"] {
            assert!(address(node).unwrap_err().to_string().contains("host:port"), "{node}");
        }
    }

    #[test]
    fn nonsense_is_found_before_connecting() {
        let good = Settings::new("localhost".to_owned(), 6379);
        good.check().unwrap();
        for timeout in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Settings { timeout: Some(timeout), ..good.clone() }.check().is_err());
        }
        assert!(Settings { ca_file: Some("ca.pem".into()), ..good.clone() }.check().is_err());
        assert!(Settings { hostname: String::new(), ..good }.check().is_err());
    }
}
