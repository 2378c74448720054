//! `configure`: a new endpoint's folder, complete or not at all.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::{
    DEFAULT_CACHE_SIZE, DEFAULT_MAX_OBJECT_SIZE, EndpointConfig, HostType, HttpConfig, PeeringConfig,
    RelayClientAuth, RelayClientConfig, StorageConfig,
};
use proxystore_shared::directory::{CONFIG_FILE, DATABASE_FILE, KEY_FILE};
use rand::Rng as _;
use serde_json::json;

use super::args::Configure;
use super::output::{Failure, Printer};
use super::place::Place;
use crate::identity::Identity;

/// Python's range for a random port: above the well-known ones, below those Linux gives to connections.
const RANDOM_PORTS: std::ops::RangeInclusive<u16> = 10_240..=20_480;

const HEADER: &str = "# A ProxyStore endpoint. The sample configuration explains every key.\n\n";

/// Runs `configure`.
pub fn configure(options: &Configure, printer: Printer) -> Result<(), Failure> {
    let place = Place::named(&options.name)?;
    if place.dir.exists() {
        return Err(already_exists(&place));
    }
    fs::create_dir_all(place.home()).map_err(Failure::io(format!("create {}", place.home().display())))?;
    let draft = Draft::create(&place)?;
    let identity =
        Identity::create(&draft.dir.join(KEY_FILE)).map_err(|error| Failure::new(error.to_string()))?;
    let config = config_of(options, EndpointId::certified_by(&identity.public_key()), &place.dir);
    config.validate().map_err(|error| Failure::new(error.to_string()))?;
    write_config(&draft.dir, &config)?;
    draft.publish(&place)?;

    let text = format!(
        "Configured endpoint: {} <{}>\nConfig and log file directory: {}\nStart the endpoint with:\n  $ endpoint start {0}",
        config.name,
        config.uuid,
        place.dir.display(),
    );
    printer.result(
        &json!({ "name": config.name, "uuid": config.uuid, "dir": place.dir, "port": config.port }),
        &text,
    )
}

fn already_exists(place: &Place) -> Failure {
    Failure::new(format!("an endpoint named {} already exists", place.name))
        .hint(format!("to reconfigure it, `endpoint remove {}` and try again", place.name))
}

fn config_of(options: &Configure, uuid: EndpointId, dir: &Path) -> EndpointConfig {
    let (host_type, host) = match options.host.trim().to_lowercase().as_str() {
        "ip" => (HostType::Ip, None),
        "fqdn" => (HostType::Fqdn, None),
        _ => (HostType::Static, Some(options.host.trim().to_owned())),
    };
    EndpointConfig {
        name: options.name.clone(),
        uuid,
        port: options.port.unwrap_or_else(|| rand::rng().random_range(RANDOM_PORTS)),
        host_type,
        host,
        relay: RelayClientConfig {
            address: (!options.no_relay_server).then(|| options.relay_address.clone()),
            auth: RelayClientAuth {
                method: (!options.no_relay_auth).then(|| "globus".to_owned()),
                ..RelayClientAuth::default()
            },
            peer_channels: options.peer_channels,
            ..RelayClientConfig::default()
        },
        storage: StorageConfig {
            database_path: (options.persist && !options.no_persist).then(|| dir.join(DATABASE_FILE)),
            max_object_size: options.max_object_size.unwrap_or(DEFAULT_MAX_OBJECT_SIZE),
            memory_limit: options.memory_limit,
            ..StorageConfig::default()
        },
        peering: PeeringConfig {
            bind: options.peer_bind,
            port: options.peer_port.unwrap_or(0),
            cache_size: options.cache_size.unwrap_or(DEFAULT_CACHE_SIZE),
            ..PeeringConfig::default()
        },
        http: HttpConfig::default(),
    }
}

fn write_config(dir: &Path, config: &EndpointConfig) -> Result<(), Failure> {
    let text = toml::to_string(config)
        .map_err(|error| Failure::new(format!("cannot write the configuration: {error}")))?;
    let write = || -> io::Result<()> {
        let mut file = File::create_new(dir.join(CONFIG_FILE))?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Failure::io("write the configuration"))
}

/// A folder in the making, under a name that no endpoint can have. Dropping it removes it.
struct Draft {
    dir: PathBuf,
}

impl Draft {
    fn create(place: &Place) -> Result<Self, Failure> {
        let dir = place.home().join(format!(".{}.{}", place.name, std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(Failure::io(format!("create {}", dir.display())))?;
        Ok(Self { dir })
    }

    /// Gives the folder its name.
    fn publish(self, place: &Place) -> Result<(), Failure> {
        fs::rename(&self.dir, &place.dir).map_err(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory => already_exists(place),
            _ => Failure::io(format!("create {}", place.dir.display()))(error),
        })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already if it was published.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
