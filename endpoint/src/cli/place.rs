//! Finding an endpoint's folder and configuration by its name.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use proxystore_shared::config::ConfigError;
use proxystore_shared::config::endpoint::{EndpointConfig, is_valid_name};
use proxystore_shared::directory::{self, CONFIG_FILE, FILES_SOCKET, LOG_FILE, PID_FILE};

use super::output::Failure;

/// An endpoint's folder.
#[derive(Debug, Clone)]
pub struct Place {
    /// Name of the endpoint.
    pub name: String,
    /// Its folder; absolute.
    pub dir: PathBuf,
}

impl Place {
    /// The folder of an endpoint called `name`, whether it exists or not.
    pub fn named(name: &str) -> Result<Self, Failure> {
        if !is_valid_name(name) {
            return Err(Failure::new(format!("{name:?} is not a name for an endpoint"))
                .hint("a name has only letters, digits, - and _"));
        }
        Ok(Self { name: name.to_owned(), dir: directory::endpoint_dir(&home()?, name) })
    }

    /// The folder of an existing endpoint.
    pub fn existing(name: &str) -> Result<Self, Failure> {
        let place = Self::named(name)?;
        if place.dir.is_dir() {
            return Ok(place);
        }
        Err(Failure::new(format!("there is no endpoint named {name} in {}", place.home().display()))
            .hint(format!("`endpoint list` shows what there is; `endpoint configure {name}` makes it")))
    }

    /// The ProxyStore home.
    pub fn home(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// The configuration.
    pub fn config(&self) -> Result<EndpointConfig, Failure> {
        EndpointConfig::from_dir(&self.dir).map_err(|error| {
            let path = self.config_path();
            let message = match &error {
                ConfigError::Invalid { .. } => format!("{}: {error}", path.display()),
                _ => error.to_string(),
            };
            Failure::new(message)
                .hint(format!("correct {}, or remove the endpoint and configure it anew", path.display()))
        })
    }

    /// Where the configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where the log is.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join(LOG_FILE)
    }

    /// Where the process id is.
    pub fn pid_path(&self) -> PathBuf {
        self.dir.join(PID_FILE)
    }

    /// Where the endpoint takes files, if it does.
    pub fn files_socket(&self) -> PathBuf {
        self.dir.join(FILES_SOCKET)
    }
}

/// The ProxyStore home as an absolute path, so that it means the same to a process with another working directory.
pub fn home() -> Result<PathBuf, Failure> {
    std::path::absolute(directory::home()).map_err(Failure::io("find the working directory"))
}

/// URL of an endpoint's HTTP API, once a start has found out the host.
pub fn http_address(config: &EndpointConfig) -> Option<String> {
    let host = config.host.as_deref()?;
    Some(match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("http://[{address}]:{}", config.port),
        Err(_) => format!("http://{host}:{}", config.port),
    })
}
