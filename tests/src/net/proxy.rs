//! An HTTP proxy on a router: tinyproxy.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tempfile::TempDir;

use super::namespace::Namespace;
use super::plan::ProxyLogin;
use super::program::Program;
use super::relay;

/// Its port, a usual one for proxies.
const PORT: u16 = 8888;

/// A port that TURN servers have for TLS (RFC 7065).
const TURNS_PORT: u16 = 5349;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    _program: Program,
    _dir: TempDir,
    /// Where it is, for `https_proxy`.
    pub url: String,
}

impl Proxy {
    /// Starts a proxy at an address of `router` that connects to relays and TURN servers only.
    pub fn start(router: &Arc<Namespace>, address: Ipv4Addr, login: ProxyLogin) -> Result<Self> {
        let (credentials, basic_auth) = match login {
            ProxyLogin::Open => ("", ""),
            ProxyLogin::Password => ("ada:hush@", "BasicAuth ada hush\n"),
        };
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("tinyproxy.conf");
        let relay = relay::PORT;
        let ports = format!("ConnectPort {relay}\nConnectPort {TURNS_PORT}\n");
        fs::write(&config, format!("Listen {address}\nPort {PORT}\n{ports}{basic_auth}"))?;
        let program =
            Program::start(router, Path::new("tinyproxy"), &dir.path().join("log.txt"), |command| {
                command.arg("-d").arg("-c").arg(&config);
            })?;
        Ok(Self { _program: program, _dir: dir, url: format!("http://{credentials}{address}:{PORT}") })
    }
}
