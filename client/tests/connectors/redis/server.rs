//! A real Redis server as a child process.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use proxystore::connectors::RedisConnector;
use proxystore_tests::free_port;
use tempfile::TempDir;

/// A loaded machine takes long to start a process.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps nothing beyond its end, and is killed when dropped.
pub struct Server {
    child: Child,
    arguments: Vec<String>,
    dir: TempDir,
    pub port: u16,
}

impl Server {
    /// None, after saying so, if Redis is not installed.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        let (dir, port) = (tempfile::tempdir().unwrap(), free_port().unwrap());
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let child = spawn(&arguments, dir.path(), port)?;
        Some(Self { child, arguments, dir, port })
    }

    /// Three of them, each with a third of the objects.
    pub fn start_cluster() -> Option<Vec<Self>> {
        let node = || {
            let bus = free_port().unwrap().to_string();
            Self::start(&["--cluster-enabled", "yes", "--cluster-port", &bus])
        };
        let nodes = vec![node()?, node()?, node()?];
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(addresses).arg("--cluster-yes");
        let output = create.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        Some(nodes)
    }

    pub fn connector(&self) -> RedisConnector {
        RedisConnector::new("127.0.0.1", self.port)
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, and empty.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.arguments, self.dir.path(), self.port).unwrap();
    }

    /// Stops answering, but keeps its connections.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let signal = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(signal.unwrap().success());
    }

    /// Asks as another program would.
    pub fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(("127.0.0.1", self.port)).unwrap();
        command.query(&mut client.get_connection().unwrap()).unwrap()
    }

    /// How many objects it has.
    pub fn count(&self) -> usize {
        self.ask(&redis::cmd("DBSIZE"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(arguments: &[String], dir: &Path, port: u16) -> Option<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]).arg(port.to_string());
    command.args(arguments).arg("--dir").arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            proxystore_tests::skipped("redis-server is not installed");
            None
        }
        child => {
            let start = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(start.elapsed() < PATIENCE, "redis-server {arguments:?} does not listen");
                std::thread::sleep(Duration::from_millis(10));
            }
            Some(child.unwrap())
        }
    }
}

/// An authority, and a certificate of this host by it, as files.
pub struct Certificates {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
    _dir: TempDir,
}

impl Certificates {
    pub fn new() -> Self {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, authority_key);
        let host_key = rcgen::KeyPair::generate().unwrap();
        let host = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let host = host.signed_by(&host_key, &issuer).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let write = |name, text: String| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        Self {
            authority: write("ca.pem", authority.pem()),
            certificate: write("host.pem", host.pem()),
            key: write("host.key", host_key.serialize_pem()),
            _dir: dir,
        }
    }
}
