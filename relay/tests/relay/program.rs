//! The program as a person starts it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn relay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, stdout } = relay(arguments).output().expect("runs");
    (status.code(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

/// Reads the log until it says where the relay listens.
fn address_of(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("listening")));
    let line = line.expect("a line").expect("text");
    let address = line.split("address=").nth(1).expect("an address").split(' ').next().expect("a word");
    // Somebody has to read on, or the relay could block on a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    address.to_owned()
}

#[test]
fn help_and_version_are_there() {
    let (code, help) = run(&["--help"]);
    assert_eq!(code, Some(0));
    for option in
        ["--config", "--host", "--port", "--udp-ports", "--log-dir", "--log-level", "SIGTERM", "Exit codes"]
    {
        assert!(help.contains(option), "{option} is missing in: {help}");
    }
    assert_eq!(run(&["--version"]), (Some(0), format!("relay {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_bad_configuration_is_explained_with_exit_code_2() {
    let directory = tempfile::tempdir().expect("creates");
    let path = directory.path().join("relay.toml");
    let path = path.to_str().expect("text");
    for (text, expected) in [
        ("cert_file = 'x'", "did you mean `certfile`?"),
        ("[limits]\nmax_clients = 0", "max_clients"),
        ("[logging]\ncurrent_client_interval = 0", "current_client_interval"),
        ("certfile = '/nonexistent.pem'\nport = 0", "/nonexistent.pem"),
        ("port = 'x'", "line 1"),
    ] {
        std::fs::write(path, text).expect("writes");
        let (code, output) = run(&["--config", path]);
        assert_eq!(code, Some(2), "{text}: {output}");
        assert!(output.contains(expected) && output.contains("hint:"), "{text}: {output}");
    }
    assert_eq!(run(&["-c", "/nonexistent/relay.toml"]).0, Some(2));
    assert_eq!(run(&["--log-level", "loud"]).0, Some(2));
    assert_eq!(run(&["--port", "70000"]).0, Some(2));
}

#[test]
fn a_taken_port_is_explained_with_exit_code_1() {
    let held = TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = held.local_addr().expect("bound").port().to_string();
    let (code, output) = run(&["--host", "127.0.0.1", "--port", &port]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("already in use") && output.contains(&port), "{output}");
}

#[test]
fn a_signal_ends_it_with_exit_code_0_and_a_complete_log() {
    for signal in ["TERM", "INT"] {
        let directory = tempfile::tempdir().expect("creates");
        let (config, log) = (directory.path().join("relay.toml"), directory.path().join("logs/server.log"));
        std::fs::write(&config, "port = 1\n[logging]\ncurrent_client_interval = 1").expect("writes");
        let log_dir = log.parent().expect("a directory").to_str().expect("text");
        let mut arguments = vec!["--config", config.to_str().expect("text"), "--log-dir", log_dir];
        arguments.extend([
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--udp-ports",
            "0,0",
            "--log-level",
            "debug",
        ]);
        let mut child = relay(&arguments).spawn().expect("starts");
        let address = address_of(&mut child);
        let _half_open = std::net::TcpStream::connect(&address).expect("connects");
        wait_for(&log, "connected clients");
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("runs").success());
        assert_eq!(child.wait().expect("ends").code(), Some(0), "{signal}");
        let log = std::fs::read_to_string(log).expect("a log");
        assert!(log.contains(&address) && log.contains("stopped"), "{log}");
    }
}

/// Waits until the log has `text`, for as long as a loaded machine may need.
fn wait_for(log: &Path, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !std::fs::read_to_string(log).expect("a log").contains(text) {
        assert!(Instant::now() < deadline, "{text} never came");
        std::thread::sleep(Duration::from_millis(50));
    }
}
