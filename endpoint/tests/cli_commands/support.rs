//! A ProxyStore home of its own, and the program run in it.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use proxystore_tests::free_port;
use serde_json::Value;
use tempfile::TempDir;

/// A home; what still runs in it at the end is stopped.
pub struct Home {
    dir: TempDir,
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The same, if the program did what it was told.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// The same, if the program failed and its error has these parts.
    #[track_caller]
    pub fn failed(self, parts: &[&str]) -> Self {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(self.err.contains("error"), "{self:?}");
        parts.iter().for_each(|part| assert!(self.err.contains(part), "{part:?} in {self:?}"));
        self
    }
}

impl Home {
    /// An empty home.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// A home with an endpoint `a` for this machine only, and its port.
    pub fn with_endpoint(options: &[&str]) -> (Self, u16) {
        let home = Self::new();
        let port = free_port().unwrap();
        let port_text = port.to_string();
        let solo = ["configure", "a", "--no-relay-server", "--host", "127.0.0.1", "--port", &port_text];
        home.run(&[&solo, options].concat()).succeeded();
        (home, port)
    }

    /// A home with a running endpoint `a`.
    pub fn running() -> (Self, u16) {
        let (home, port) = Self::with_endpoint(&[]);
        home.run(&["start", "a"]).succeeded();
        (home, port)
    }

    /// A path in the home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new file next to the endpoints.
    pub fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The program with these arguments, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_endpoint"));
        command
            .args(arguments)
            .env("PROXYSTORE_HOME", self.dir.path())
            // The program must ignore it.
            .env("http_proxy", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1")
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .env_remove("PROXYSTORE_RELAY_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program.
    pub fn run(&self, arguments: &[&str]) -> Said {
        said(self.command(arguments).output().unwrap())
    }

    /// Runs the program with this standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Said {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        said(child.wait_with_output().unwrap())
    }

    /// The status of endpoint `a`, as `list` has it.
    pub fn status(&self) -> String {
        let list = self.run(&["list", "--json"]).succeeded().json();
        list[0]["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path()).unwrap().flatten() {
            if entry.path().join("daemon.pid").exists() {
                self.run(&["stop", entry.file_name().to_str().unwrap()]);
            }
        }
    }
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap_or(-1),
        out: output.stdout,
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
