//! The command line: Python's `proxystore-endpoint` commands with their options, and ours beside them.

use std::net::IpAddr;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use proxystore_shared::{EndpointId, ObjectId};

use super::size::{parse_size, parse_size_or_none};

const EXAMPLES: &str = "\
Examples:
  An endpoint without peers, on this machine only:
    endpoint configure scratch --no-relay-server --host 127.0.0.1
    endpoint start scratch
    endpoint put scratch results.npy
    endpoint stop scratch

  A file from one site to another (the key is what `put` printed):
    site-a$ endpoint put site-a results.npy
    site-b$ endpoint get site-b KEY -o results.npy

Endpoints live in $PROXYSTORE_HOME, else $XDG_DATA_HOME/proxystore, else ~/.local/share/proxystore.
Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// ProxyStore's public relay.
pub const DEFAULT_RELAY: &str = "wss://relay.proxystore.dev";

/// Where `--help` lists what every command takes.
const GLOBAL: &str = "Global options";

/// Manage and start ProxyStore endpoints.
#[derive(Debug, Parser)]
#[command(name = "endpoint", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Least severe messages that are logged.
    #[arg(long, global = true, value_name = "LEVEL", value_enum, ignore_case = true, default_value = "INFO")]
    #[arg(help_heading = GLOBAL)]
    pub log_level: LogLevel,
    /// Print results, and errors, as JSON for programs.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Whether this process goes on to be an endpoint.
    pub fn serves(&self) -> bool {
        matches!(&self.command, Command::Start(start) if start.no_detach)
    }
}

/// Python's names of log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum LogLevel {
    /// Only what went wrong.
    Error,
    /// Also what may go wrong.
    Warning,
    /// Also what happens.
    Info,
    /// Also why.
    Debug,
}

impl LogLevel {
    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warning => "WARNING",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Configure a new endpoint.
    Configure(Box<Configure>),
    /// Start an endpoint.
    Start(Start),
    /// Stop an endpoint.
    Stop {
        /// Name of the endpoint.
        name: String,
    },
    /// List all endpoints of this user.
    List,
    /// Remove an endpoint, its key and its stored objects.
    Remove {
        /// Name of the endpoint.
        name: String,
    },
    /// Show what a running endpoint stores and which peers it talks to.
    Status {
        /// Name of the endpoint.
        name: String,
    },
    /// Store a file as an object and print its key.
    Put(Put),
    /// Fetch an object into a file, continuing an earlier attempt that broke off.
    Get(Get),
    /// Execute test commands on an endpoint.
    Test(Test),
    /// Check what your network lets through: relay, proxy, UDP, NAT.
    CheckNat(CheckNat),
    /// Show the ProxyStore version.
    Version,
}

/// Options of `configure`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  endpoint configure site-a
  endpoint configure site-a --relay-address wss://relay.example.org --no-relay-auth --persist
  endpoint configure scratch --no-relay-server --host 127.0.0.1 --port 9000 --memory-limit 8G")]
pub struct Configure {
    /// Name of the new endpoint: letters, digits, - and _.
    pub name: String,
    /// How clients find this host: "ip", "fqdn", or an address.
    #[arg(long, default_value = "ip", value_name = "ip|fqdn|ADDR", value_parser = NonEmptyStringValueParser::new())]
    pub host: String,
    /// Port of the HTTP API; random if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Relay server address.
    #[arg(long, default_value = DEFAULT_RELAY, value_name = "ADDR")]
    pub relay_address: String,
    /// Authenticate to the relay server; the default.
    #[arg(long, overrides_with = "no_relay_auth")]
    pub relay_auth: bool,
    /// The relay server asks for no authentication.
    #[arg(long)]
    pub no_relay_auth: bool,
    /// Connect to the relay server on start; the default.
    #[arg(long, overrides_with = "no_relay_server")]
    pub relay_server: bool,
    /// Run without a relay server, and so without peers.
    #[arg(long)]
    pub no_relay_server: bool,
    /// Data channels per connection to a peer running Python.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub peer_channels: u32,
    /// Keep objects on disk.
    #[arg(long, overrides_with = "no_persist")]
    pub persist: bool,
    /// Keep objects in memory only; the default.
    #[arg(long)]
    pub no_persist: bool,
    /// Largest object, in bytes or like 500M or 2GiB [default: 100000000].
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub max_object_size: Option<u64>,
    /// Bytes of objects held in memory at most; unbounded if not given.
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// Address of the UDP socket for peers; every interface if not given.
    #[arg(long, value_name = "IP")]
    pub peer_bind: Option<IpAddr>,
    /// Port of the UDP socket for peers; chosen at start if not given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: Option<u16>,
    /// Bytes of peers' objects kept in memory at most, for those who ask again; 256 MB if not given, 0 for none.
    #[arg(long, value_name = "BYTES", value_parser = parse_size_or_none)]
    pub cache_size: Option<u64>,
}

/// Options of `start`.
#[derive(Debug, Args)]
#[command(after_help = "\
A relay server with authentication wants a token: set PROXYSTORE_RELAY_TOKEN, or put it in the file
relay_token (mode 0600) in the endpoint's folder.")]
pub struct Start {
    /// Name of the endpoint.
    pub name: String,
    /// Run in the background; the default.
    #[arg(long, overrides_with = "no_detach")]
    pub detach: bool,
    /// Run in the foreground until Ctrl-C.
    #[arg(long)]
    pub no_detach: bool,
    /// Marks the background process that `start` starts: its standard error is the log file.
    #[arg(long, hide = true)]
    pub daemon: bool,
}

/// Options of `put`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  endpoint put site-a results.npy
  tar c results | endpoint put site-a - --key results-2024.tar
  endpoint put site-a results.npy --remote 12345678-1234-4234-9234-123456789abc")]
pub struct Put {
    /// Name of the endpoint to send to.
    pub name: String,
    /// File to store, or - for standard input.
    pub file: String,
    /// Name of the object; a random UUID if not given. An existing object is replaced.
    #[arg(long, value_name = "OBJECT_ID")]
    pub key: Option<ObjectId>,
    /// Store at this peer instead.
    #[arg(long, value_name = "UUID")]
    pub remote: Option<EndpointId>,
}

/// Options of `get`.
#[derive(Debug, Args)]
#[command(after_help = "\
While it downloads, FILE.part holds the bytes and FILE.part.etag the version they belong to. If the
download breaks off, the same command continues it. FILE appears only when its content is verified.

Examples:
  endpoint get site-b 7d7a…@12345678-1234-4234-9234-123456789abc -o results.npy
  endpoint get site-b results-2024.tar -o - | tar x")]
pub struct Get {
    /// Name of the endpoint to ask.
    pub name: String,
    /// OBJECT_ID@ENDPOINT_ID as `put` prints it, or OBJECT_ID for an object of this endpoint.
    pub key: String,
    /// File to write, or - for standard output.
    #[arg(short, long, value_name = "FILE|-")]
    pub output: String,
}

/// Options of `test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Name of the endpoint.
    pub name: String,
    /// Optional UUID of remote endpoint to use.
    #[arg(long, value_name = "UUID")]
    pub remote: Option<EndpointId>,
    /// The operation.
    #[command(subcommand)]
    pub action: TestAction,
}

/// What `test` does.
#[derive(Debug, Subcommand)]
pub enum TestAction {
    /// Put a text in an endpoint.
    Put {
        /// The text.
        data: String,
    },
    /// Get an object from an endpoint.
    Get {
        /// The object.
        key: ObjectId,
    },
    /// Check if object exists in an endpoint.
    Exists {
        /// The object.
        key: ObjectId,
    },
    /// Evict object from an endpoint.
    Evict {
        /// The object.
        key: ObjectId,
    },
}

/// Options of `check-nat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a name or --relay the relay is wss://relay.proxystore.dev; with --server alone, none is asked.
Exit code 1 if an endpoint in this network would reach no other.

Examples:
  endpoint check-nat site-a
  endpoint check-nat --relay wss://relay.example.org:8700
  endpoint check-nat --server stun1.example.org:3478 --server stun2.example.org:3478")]
pub struct CheckNat {
    /// Name of the endpoint whose relay and settings are used.
    pub name: Option<String>,
    /// Relay server address.
    #[arg(long, value_name = "ADDR", conflicts_with = "name")]
    pub relay: Option<String>,
    /// STUN server to ask besides the relay; may be given several times.
    #[arg(long = "server", value_name = "HOST:PORT")]
    pub servers: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn of_two_opposite_flags_the_last_wins() {
        let parse = |flags: &[&str]| {
            let words = ["endpoint", "configure", "a"].iter().chain(flags).copied();
            match Cli::try_parse_from(words).unwrap().command {
                Command::Configure(options) => options.no_relay_auth,
                other => panic!("{other:?}"),
            }
        };
        assert!(parse(&["--no-relay-auth"]));
        assert!(!parse(&["--no-relay-auth", "--relay-auth"]));
        assert!(parse(&["--relay-auth", "--no-relay-auth"]));
    }

    #[test]
    fn log_levels_are_read_in_any_case() {
        for level in ["debug", "DEBUG", "Debug"] {
            let cli = Cli::try_parse_from(["endpoint", "--log-level", level, "list"]).unwrap();
            assert_eq!(cli.log_level, LogLevel::Debug);
        }
    }
}
