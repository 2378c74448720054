//! Configuration of an endpoint: Python's `config.toml` and tables of ours beside it.
//!
//! Python refuses unknown keys in `relay.auth` and `relay.ice_servers` and ignores them elsewhere, so ours live
//! in `storage` and in the top-level tables `peering` and `http`; a directory configured here starts there.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ConfigError;
pub use super::proxy::ProxySetting;
use crate::EndpointId;
use crate::directory::CONFIG_FILE;

/// Python's default for `max_object_size`.
pub const DEFAULT_MAX_OBJECT_SIZE: u64 = 100_000_000;

/// Most data channels between two endpoints. More than a few make nothing faster.
pub const MAX_PEER_CHANNELS: u32 = 256;

/// Port of a STUN or TURN server that names none (RFCs 7064 and 7065).
const STUN_PORT: u16 = 3478;

/// The same for TURN over TLS.
const TURNS_PORT: u16 = 5349;

/// Default of [`PeeringConfig::cache_size`]: two of the largest objects that are accepted by default, and a part of
/// memory that a host on which a site's programs run can spare.
pub const DEFAULT_CACHE_SIZE: u64 = 256_000_000;

/// An endpoint's configuration file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// Name of the endpoint and of its folder.
    pub name: String,
    /// The endpoint.
    pub uuid: EndpointId,
    /// Port of the HTTP API.
    pub port: u16,
    /// How `host` is found.
    #[serde(default)]
    pub host_type: HostType,
    /// Address of the HTTP API; written by `start` for clients to find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How peers are found.
    #[serde(default)]
    pub relay: RelayClientConfig,
    /// Where objects are kept.
    #[serde(default)]
    pub storage: StorageConfig,
    /// How peers are reached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub peering: PeeringConfig,
    /// The HTTP server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub http: HttpConfig,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How the address of the HTTP API is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostType {
    /// The address the host's name resolves to.
    #[default]
    Ip,
    /// The host's full name.
    Fqdn,
    /// `host` as configured.
    Static,
}

/// How peers are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayClientConfig {
    /// `ws://` or `wss://` address; absent for an endpoint without peers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Credentials for the relay.
    pub auth: RelayClientAuth,
    /// STUN servers that are asked for this endpoint's public address besides the relay; absent or empty: none. Python
    /// asks one of Google's when this is absent. TURN servers are for Python endpoints only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ice_servers: Option<Vec<IceServer>>,
    /// Data channels that are opened towards a Python endpoint, 1 to [`MAX_PEER_CHANNELS`].
    pub peer_channels: u32,
    /// Whether the relay's certificate is checked.
    pub verify_certificate: bool,
}

impl Default for RelayClientConfig {
    fn default() -> Self {
        Self {
            address: None,
            auth: RelayClientAuth::default(),
            ice_servers: None,
            peer_channels: 1,
            verify_certificate: true,
        }
    }
}

/// Credentials for the relay.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RelayClientAuth {
    /// `globus`, or absent for a relay that asks for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Options of the method.
    pub kwargs: toml::Table,
}

impl std::fmt::Debug for RelayClientAuth {
    /// Names the method only: the options may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayClientAuth").field("method", &self.method).finish_non_exhaustive()
    }
}

/// A STUN or TURN server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    /// One address or several.
    pub urls: OneOrMany,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// For TURN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl std::fmt::Debug for IceServer {
    /// Leaves the credential out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IceServer").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl IceServer {
    fn urls(&self) -> &[String] {
        match &self.urls {
            OneOrMany::One(url) => std::slice::from_ref(url),
            OneOrMany::Many(urls) => urls.as_slice(),
        }
    }

    /// A TURN server's URL (RFC 7065), with the credential that belongs to it.
    fn turn(&self, url: &str) -> Option<TurnServer> {
        let (scheme, server) = url.split_once(':')?;
        let (server, query) = server.split_once('?').map_or((server, None), |(it, query)| (it, Some(query)));
        let (transport, port) = match (scheme, query) {
            ("turn", None | Some("transport=udp")) => (TurnTransport::Udp, STUN_PORT),
            ("turn", Some("transport=tcp")) => (TurnTransport::Tcp, STUN_PORT),
            ("turns", None | Some("transport=tcp")) => (TurnTransport::Tls, TURNS_PORT),
            _ => return None,
        };
        let (username, credential) = (self.username.clone()?, self.credential.clone()?);
        Some(TurnServer { address: with_port(server, port), transport, username, credential })
    }
}

/// A server that lends an address of its own (RFC 8656).
#[derive(Clone, PartialEq, Eq)]
pub struct TurnServer {
    /// As `host:port`.
    pub address: String,
    /// How it is reached.
    pub transport: TurnTransport,
    /// Who we are there.
    pub username: String,
    /// What proves it.
    pub credential: String,
}

impl std::fmt::Debug for TurnServer {
    /// Leaves the credential out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What carries messages to a TURN server and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnTransport {
    /// Unless the URL says otherwise.
    Udp,
    /// `?transport=tcp`, for networks that let no UDP through.
    Tcp,
    /// `turns:`, for those that let nothing but TLS through.
    Tls,
}

/// What each of the configured servers is good for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IceServers {
    /// STUN servers, as `host:port`.
    pub stun: Vec<String>,
    /// The first TURN server, as Python has it.
    pub turn: Option<TurnServer>,
    /// URLs of servers that are not used.
    pub unused: Vec<String>,
}

impl RelayClientConfig {
    /// Sorts the servers by what they are good for.
    pub fn sorted_ice_servers(&self) -> IceServers {
        let mut sorted = IceServers::default();
        for server in self.ice_servers.iter().flatten() {
            for url in server.urls() {
                match (url.strip_prefix("stun:"), server.turn(url)) {
                    (Some(server), _) => sorted.stun.push(with_port(server, STUN_PORT)),
                    (None, Some(turn)) if sorted.turn.is_none() => sorted.turn = Some(turn),
                    _ => sorted.unused.push(url.clone()),
                }
            }
        }
        sorted
    }
}

/// `host`, `host:port`, `[IPv6]` or `[IPv6]:port`, with `port` unless it has one.
fn with_port(server: &str, port: u16) -> String {
    let after_host = server.rsplit_once(']').map_or(server, |(_, rest)| rest);
    if after_host.contains(':') { server.to_owned() } else { format!("{server}:{port}") }
}

/// Python accepts a string or a list of strings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// Where objects are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// Python's database; its presence asks for objects that survive a restart. Ours are files in a folder
    /// `objects` beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_path: Option<PathBuf>,
    /// Largest object in bytes.
    pub max_object_size: u64,
    /// Bytes of objects held in memory at most; absent for no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// Whether a persistent object that was acknowledged survives a power loss, not only the end of the process.
    #[serde(skip_serializing_if = "is_true")]
    pub fsync: bool,
}

fn is_true(value: &bool) -> bool {
    *value
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            database_path: None,
            max_object_size: DEFAULT_MAX_OBJECT_SIZE,
            memory_limit: None,
            fsync: true,
        }
    }
}

/// How peers are reached. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PeeringConfig {
    /// Address of the UDP socket; absent for every interface.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// Port of the UDP socket; 0 lets the system choose.
    pub port: u16,
    /// Addresses at which peers reach that socket besides those that are found out: forwarded by a router, say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
    /// Whether the site's router is asked to forward the port (PCP, NAT-PMP, UPnP).
    #[serde(skip_serializing_if = "is_true")]
    pub port_mapping: bool,
    /// HTTP proxy on the way to the relay, and to a TURN server over TCP; absent for what the environment says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxySetting>,
    /// To open a session with a peer, from the offer to the first byte.
    pub connect_timeout: u64,
    /// Without a byte from a peer that owes one.
    pub read_timeout: u64,
    /// Without a request before a session is closed.
    pub session_idle_timeout: u64,
    /// Bytes of peers' objects that are kept in memory at most, for those who ask again; 0 for none.
    pub cache_size: u64,
}

impl Default for PeeringConfig {
    fn default() -> Self {
        Self {
            bind: None,
            port: 0,
            addresses: Vec::new(),
            port_mapping: true,
            proxy: None,
            connect_timeout: 10,
            read_timeout: 30,
            session_idle_timeout: 300,
            cache_size: DEFAULT_CACHE_SIZE,
        }
    }
}

impl PeeringConfig {
    /// See [`PeeringConfig::connect_timeout`].
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout)
    }

    /// See [`PeeringConfig::read_timeout`].
    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.read_timeout)
    }

    /// See [`PeeringConfig::session_idle_timeout`].
    pub fn session_idle_timeout(&self) -> Duration {
        Duration::from_secs(self.session_idle_timeout)
    }
}

/// The HTTP server. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Without a byte from, or taken by, a client in the middle of a request.
    pub idle_timeout: u64,
    /// Requests at once; further connections wait.
    pub max_connections: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        // Python's server gives a body 300 s in all; here a minute without progress is enough.
        Self { idle_timeout: 60, max_connections: 4096 }
    }
}

impl HttpConfig {
    /// See [`HttpConfig::idle_timeout`].
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }
}

impl EndpointConfig {
    /// Reads and validates the configuration in an endpoint's folder.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let config: Self = super::read(&dir.join(CONFIG_FILE))?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what the types cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |key, problem: String| Err(ConfigError::Invalid { key, problem });
        if !is_valid_name(&self.name) {
            return invalid("name", format!("{:?} has characters other than A-Z a-z 0-9 _ -", self.name));
        }
        if self.port == 0 {
            return invalid("port", "must be in 1 to 65535".into());
        }
        if let Some(address) = &self.relay.address
            && !(address.starts_with("ws://") || address.starts_with("wss://"))
        {
            return invalid("relay.address", format!("{address:?} does not start with ws:// or wss://"));
        }
        if !(1..=MAX_PEER_CHANNELS).contains(&self.relay.peer_channels) {
            return invalid("relay.peer_channels", format!("must be in 1 to {MAX_PEER_CHANNELS}"));
        }
        if let Some(method) = &self.relay.auth.method
            && method != "globus"
        {
            return invalid(
                "relay.auth.method",
                format!("{method:?} is unknown; the only method is \"globus\""),
            );
        }
        if self.storage.max_object_size == 0 {
            return invalid("storage.max_object_size", "must be at least 1 byte".into());
        }
        if let Some(proxy) = &self.peering.proxy
            && !(proxy.is_off() || proxy.as_str().starts_with("http://"))
        {
            // Not shown: it may hold a password.
            let problem =
                "reads like \"http://user:password@host:3128\", or \"none\"; there is no other kind";
            return invalid("peering.proxy", problem.into());
        }
        let times = [
            ("peering.connect_timeout", self.peering.connect_timeout),
            ("peering.read_timeout", self.peering.read_timeout),
            ("peering.session_idle_timeout", self.peering.session_idle_timeout),
            ("http.idle_timeout", self.http.idle_timeout),
        ];
        match times.iter().find(|(_, seconds)| *seconds == 0) {
            Some((key, _)) => invalid(key, "must be at least 1 second".into()),
            None if self.http.max_connections == 0 => {
                invalid("http.max_connections", "must be at least 1".into())
            }
            None => Ok(()),
        }
    }
}

/// Names are folder names and appear in commands: letters, digits, `_` and `-`.
pub fn is_valid_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    /// What Python 1.1 writes for `configure --persist`, and again on `start`.
    const PYTHON: &str = r#"
        name = "site-a"
        uuid = "12345678-1234-4234-9234-123456789abc"
        port = 12345
        host = "127.0.0.1"
        host_type = "ip"
        [relay]
        address = "wss://relay.proxystore.dev"
        peer_channels = 1
        verify_certificate = true
        ice_servers = [{ urls = "stun:example.org" }, { urls = ["turn:a", "turn:b"], username = "u", credential = "hush" }]
        [relay.auth]
        method = "globus"
        [relay.auth.kwargs]
        [storage]
        database_path = "/home/me/blobs.db"
        max_object_size = 100000000
    "#;

    #[test]
    fn a_python_configuration_is_read_and_written_back() {
        let config: EndpointConfig = parse(PYTHON).expect("parses");
        config.validate().expect("valid");
        assert!(!format!("{config:?}").contains("hush"), "secrets stay out of logs");
        let written = toml::to_string(&config).expect("writes");
        assert_eq!(parse::<EndpointConfig>(&written).expect("parses again"), config);
        assert!(!written.contains("peering"), "defaults of ours are not written: {written}");
    }

    #[test]
    fn ice_servers_are_sorted() {
        let config: EndpointConfig = parse(PYTHON).expect("parses");
        let sorted = config.relay.sorted_ice_servers();
        assert_eq!((sorted.stun, sorted.unused), (vec!["example.org:3478".into()], vec!["turn:b".into()]));
        let turn = sorted.turn.expect("there is one");
        assert!(!format!("{turn:?}").contains("hush"), "secrets stay out of logs");
        let expected = (String::from("a:3478"), TurnTransport::Udp, "u", "hush");
        assert_eq!((turn.address, turn.transport, &*turn.username, &*turn.credential), expected);
        assert_eq!(RelayClientConfig::default().sorted_ice_servers(), IceServers::default());
    }

    #[test]
    fn a_turn_server_says_how_it_is_reached_and_needs_a_credential() {
        let urls = OneOrMany::One(String::new());
        let named = IceServer { urls, username: Some("u".into()), credential: Some("c".into()) };
        let read = |url| named.turn(url).map(|turn| (turn.address, turn.transport));
        for (url, address, transport) in [
            ("turn:example.org", "example.org:3478", TurnTransport::Udp),
            ("turn:example.org:80?transport=tcp", "example.org:80", TurnTransport::Tcp),
            ("turn:[2001:db8::1]?transport=udp", "[2001:db8::1]:3478", TurnTransport::Udp),
            ("turns:example.org", "example.org:5349", TurnTransport::Tls),
            ("turns:example.org:443?transport=tcp", "example.org:443", TurnTransport::Tls),
        ] {
            assert_eq!(read(url), Some((address.into(), transport)));
        }
        let over_dtls = "turns:example.org?transport=udp";
        for unusable in [over_dtls, "turn:example.org?transport=sctp", "stun:example.org", "example.org"] {
            assert_eq!(read(unusable), None);
        }
        assert_eq!(IceServer { credential: None, ..named.clone() }.turn("turn:example.org"), None);
    }

    #[test]
    fn a_server_without_a_port_has_the_usual_one() {
        for (server, expected) in [
            ("example.org:19302", "example.org:19302"),
            ("[2001:db8::1]", "[2001:db8::1]:3478"),
            ("[2001:db8::1]:19302", "[2001:db8::1]:19302"),
        ] {
            assert_eq!(with_port(server, STUN_PORT), expected);
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let with = |line: &str| {
            format!("name = 'a'\nuuid = '12345678-1234-4234-9234-123456789abc'\nport = 1\n{line}")
        };
        for (line, key) in [
            ("[relay]\naddress = 'http://x'", "relay.address"),
            ("[relay]\npeer_channels = 0", "relay.peer_channels"),
            ("[relay.auth]\nmethod = 'magic'", "relay.auth.method"),
            ("[storage]\nmax_object_size = 0", "storage.max_object_size"),
            ("[peering]\nread_timeout = 0", "peering.read_timeout"),
            ("[peering]\nproxy = 'socks5://x'", "peering.proxy"),
        ] {
            let config: EndpointConfig = parse(&with(line)).expect("parses");
            assert!(config.validate().expect_err(line).to_string().starts_with(key), "{line}");
        }
        let error = parse::<EndpointConfig>(&with("[storage]\nmax_objectsize = 1")).expect_err("unknown key");
        assert!(error.to_string().contains("did you mean `max_object_size`?"), "{error}");
    }

    #[test]
    fn names_are_folder_names() {
        assert!(is_valid_name("site-A_1"));
        assert!(!is_valid_name("") && !is_valid_name("a/b") && !is_valid_name("..") && !is_valid_name("a b"));
    }
}
