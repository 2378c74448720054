//! Redis at the far site, reached through an SSH tunnel: what people without ProxyStore's endpoints do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use proxystore_bench::load::Request;
use proxystore_tests::net::{Program, is_installed};

use crate::client::Client;
use crate::contestant::{Contestant, object};
use crate::world::{FAR, World, listening, run};

/// Redis' port, and the tunnel's end at the near site.
const PORT: u16 = 6379;

/// The SSH server's port.
const SSH_PORT: u16 = 2222;

/// The server, the tunnel, and a client at each site.
pub struct Redis {
    near: Client,
    far: Client,
    _programs: [Program; 3],
}

impl Redis {
    /// Starts everything; none if something of it is not installed, and says so.
    pub fn start(world: &World) -> Result<Option<Self>> {
        let sshd = Path::new("/usr/sbin/sshd");
        if !is_installed("redis-server") || !is_installed("ssh") || !sshd.is_file() {
            eprintln!("SKIPPED: Redis through SSH: redis-server, sshd or ssh is not installed");
            return Ok(None);
        }
        let dir = world.dir.path();
        let log = |name: &str| dir.join(format!("{name}.log"));
        let server = Program::start(&world.far, Path::new("redis-server"), &log("redis"), |command| {
            command.args(["--port", &PORT.to_string(), "--save", "", "--appendonly", "no"]);
            command.current_dir(dir);
        })?;
        listening(&world.far, PORT, &server)?;
        let key = keys(dir)?;
        let sshd = Program::start(&world.far, sshd, &log("sshd"), |command| {
            command.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        })?;
        listening(&world.far, SSH_PORT, &sshd)?;
        let tunnel = Program::start(&world.near, Path::new("ssh"), &log("ssh"), |command| {
            command.args(["-N", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes"]);
            command.args(["-o", "UserKnownHostsFile=/dev/null", "-p", &SSH_PORT.to_string(), "-i"]).arg(&key);
            command.args(["-L", &format!("127.0.0.1:{PORT}:127.0.0.1:{PORT}"), &format!("root@{FAR}")]);
        })?;
        listening(&world.near, PORT, &tunnel)?;
        let (near, far) = (Client::open(&world.near, PORT)?, Client::open(&world.far, PORT)?);
        Ok(Some(Self { near, far, _programs: [server, sshd, tunnel] }))
    }
}

/// Keys that are thrown away with the folder, and the server's configuration beside them.
fn keys(dir: &Path) -> Result<PathBuf> {
    let (host, user) = (dir.join("host"), dir.join("user"));
    for key in [&host, &user] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key))?;
    }
    let authorized = dir.join("authorized_keys");
    fs::copy(user.with_extension("pub"), &authorized)?;
    fs::set_permissions(&authorized, fs::Permissions::from_mode(0o600))?;
    fs::create_dir_all("/run/sshd").context("sshd wants /run/sshd")?;
    let (host, authorized) = (host.display(), authorized.display());
    let config = format!(
        "Port {SSH_PORT}\nListenAddress 0.0.0.0\nHostKey {host}\nAuthorizedKeysFile {authorized}\nStrictModes no\n\
         UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\n"
    );
    fs::write(dir.join("sshd_config"), config)?;
    Ok(user)
}

impl Contestant for Redis {
    fn name(&self) -> &'static str {
        "Redis, SSH"
    }

    fn put(&self, len: usize) -> Result<()> {
        let key = len.to_string();
        let request = Request::redis(&[b"SET", key.as_bytes(), &object(len)]);
        self.far.exchange(&request).map(drop)
    }

    fn fetch(&self, len: usize) -> Result<()> {
        self.near.fetch(&Request::redis(&[b"GET", len.to_string().as_bytes()]), len)
    }
}
