//! Brokers as child processes, on loopback, which end with the test.

#![cfg_attr(
    not(all(feature = "redis", feature = "nats", feature = "kafka", feature = "zeromq")),
    allow(dead_code, reason = "each feature needs some of it")
)]

use std::io::{BufRead, BufReader, ErrorKind};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Generous: the machine may be busy.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A child process, killed when dropped.
pub struct Server {
    child: Child,
    /// What it printed first.
    pub line: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free just now.
pub fn free_port() -> u16 {
    proxystore_tests::free_port().unwrap()
}

/// Runs a server that will listen on `port`, or says loudly that it is not installed.
pub fn start(command: &mut Command, port: u16) -> Option<Server> {
    let name = command.get_program().to_owned();
    let child = match command.stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            proxystore_tests::skipped(&format!("{} is not installed", name.display()));
            return None;
        }
        child => child.unwrap(),
    };
    let server = Server { child, line: String::new() };
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(start.elapsed() < START_DEADLINE, "{} does not listen", name.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(server)
}

/// Runs a Python script that needs `module` and prints one line when it is ready, or says loudly that it cannot.
pub fn python(module: &str, script: &str, arguments: &[&str]) -> Option<Server> {
    let python = proxystore_tests::python();
    let import =
        Command::new(&python).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    if !import.is_ok_and(|status| status.success()) {
        proxystore_tests::skipped(&format!(
            "{} has no module {module}; set PROXYSTORE_PYTHON",
            python.display()
        ));
        return None;
    }
    let mut child =
        Command::new(&python).args(["-c", script]).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let output = child.stdout.take().unwrap();
    let server = Server { child, line: String::new() };
    BufReader::new(output).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the script printed nothing");
    let mut server = server;
    server.line = line.trim().to_owned();
    Some(server)
}
