//! From `configure` to `remove`, with everything that may come between.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxystore_shared::config::endpoint::EndpointConfig;
use proxystore_tests::free_port;

use super::support::Home;

fn mode_of(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_endpoint_lives_from_configure_to_remove() {
    let (home, port) = Home::with_endpoint(&[]);
    assert_eq!(home.status(), "STOPPED");
    home.run(&["stop", "a"]).succeeded();

    let started = home.run(&["start", "a", "--json"]).succeeded().json();
    assert_eq!(started["address"], format!("http://127.0.0.1:{port}"));
    assert_eq!(home.status(), "RUNNING");
    assert_eq!(fs::read_to_string(home.path("a/daemon.pid")).unwrap(), started["pid"].to_string());
    let status = home.run(&["status", "a", "--json"]).succeeded().json();
    assert_eq!(status["status"]["id"], started["uuid"]);
    assert_eq!(status["status"]["relay"], serde_json::Value::Null);
    assert!(home.run(&["status", "a"]).succeeded().text().contains(started["uuid"].as_str().unwrap()));

    home.run(&["start", "a"]).failed(&["already running", "endpoint stop a"]);
    home.run(&["remove", "a"]).failed(&["must be stopped"]);
    home.run(&["stop", "a"]).succeeded();
    assert!(!home.path("a/daemon.pid").exists());
    assert_eq!(home.status(), "STOPPED");
    home.run(&["status", "a"]).failed(&["unable to connect", "endpoint start"]);

    home.run(&["remove", "a"]).succeeded();
    assert!(!home.path("a").exists());
    assert!(home.run(&["list"]).succeeded().text().contains("No valid endpoint"));
}

#[test]
fn configure_writes_what_it_was_told() {
    let home = Home::new();
    let options = [
        "--relay-address",
        "ws://relay.example.org:8700",
        "--no-relay-auth",
        "--peer-channels",
        "2",
        "--persist",
        "--max-object-size",
        "2GiB",
        "--memory-limit",
        "500M",
        "--peer-bind",
        "127.0.0.1",
        "--peer-port",
        "7000",
    ];
    let said = home.run(&[&["configure", "site-A_1", "--json"], &options[..]].concat()).succeeded().json();
    let config = EndpointConfig::from_dir(&home.path("site-A_1")).unwrap();
    assert_eq!(said["uuid"], config.uuid.to_string());
    assert!(config.uuid.is_certified());
    assert!((10_240..=20_480).contains(&config.port));
    assert_eq!(config.relay.address.as_deref(), Some("ws://relay.example.org:8700"));
    assert_eq!((config.relay.auth.method, config.relay.peer_channels), (None, 2));
    assert_eq!(config.storage.database_path, Some(home.path("site-A_1/blobs.db")));
    assert_eq!((config.storage.max_object_size, config.storage.memory_limit), (2 << 30, Some(500_000_000)));
    assert_eq!((config.peering.bind, config.peering.port), (Some([127, 0, 0, 1].into()), 7000));
    assert_eq!(mode_of(&home.path("site-A_1")), 0o700);
    assert_eq!(mode_of(&home.path("site-A_1/identity.key")), 0o600);
}

#[test]
fn what_cannot_be_configured_leaves_nothing_behind() {
    let home = Home::new();
    for name in ["", "a/b", "..", "a b", ".a"] {
        home.run(&["configure", name]).failed(&["is not a name"]);
    }
    home.run(&["configure", "a", "--relay-address", "http://relay"]).failed(&["relay.address", "ws://"]);
    for wrong in [
        ["--port", "0"],
        ["--port", "70000"],
        ["--peer-channels", "0"],
        ["--memory-limit", "lots"],
        ["--host", ""],
    ] {
        assert_eq!(home.run(&["configure", "a", wrong[0], wrong[1]]).code, 2, "{wrong:?}");
    }
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 0);
    home.run(&["configure", "a"]).succeeded();
    home.run(&["configure", "a"]).failed(&["already exists", "endpoint remove a"]);
    assert_eq!(fs::read_dir(home.path("")).unwrap().count(), 1);
}

#[test]
fn pythons_configuration_model_accepts_ours() {
    let python = proxystore_tests::python();
    if !python.exists() {
        return proxystore_tests::skipped(
            "no Python ProxyStore (PROXYSTORE_PYTHON, or .venv of this repository)",
        );
    }
    let home = Home::new();
    home.run(&["configure", "plain"]).succeeded();
    let all = [
        "--persist",
        "--memory-limit",
        "1G",
        "--peer-port",
        "7",
        "--peer-bind",
        "::1",
        "--host",
        "127.0.0.1",
    ];
    home.run(&[&["configure", "all"], &all[..]].concat()).succeeded();
    let script = "import sys; from proxystore.endpoint.config import read_config; print(read_config(sys.argv[1]).uuid)";
    for name in ["plain", "all"] {
        let read = Command::new(&python).args(["-c", script]).arg(home.path(name)).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let ours = EndpointConfig::from_dir(&home.path(name)).unwrap().uuid.to_string();
        assert_eq!(String::from_utf8_lossy(&read.stdout).trim(), ours);
    }
}

#[test]
fn start_writes_the_host_and_keeps_the_comments() {
    let (home, _) = Home::with_endpoint(&[]);
    let path = home.path("a/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    // The host's own address: whatever it is, something must be found.
    let text = text.replace("host = \"127.0.0.1\"\n", "# of the lab\n").replace("\"static\"", "\"ip\"");
    fs::write(&path, text).unwrap();
    home.run(&["start", "a"]).succeeded();
    let config = EndpointConfig::from_dir(&home.path("a")).unwrap();
    assert!(config.host.is_some_and(|host| host.parse::<std::net::IpAddr>().is_ok()));
    assert!(fs::read_to_string(&path).unwrap().contains("# of the lab"));
}

#[test]
fn a_static_host_must_be_there() {
    let (home, _) = Home::with_endpoint(&[]);
    let path = home.path("a/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("host = \"127.0.0.1\"\n", "")).unwrap();
    home.run(&["start", "a"]).failed(&["static", "set `host`"]);
    home.run(&["status", "a"]).failed(&["never started"]);
}

#[test]
fn an_unreadable_configuration_is_explained_and_can_be_removed() {
    let (home, _) = Home::with_endpoint(&[]);
    let path = home.path("a/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\nmax_objectsize = 5\n")).unwrap();
    home.run(&["start", "a"]).failed(&["config.toml", "max_objectsize", "hint"]);
    let listed = home.run(&["list"]).succeeded();
    assert!(listed.text().contains("UNKNOWN") && listed.err.contains("max_objectsize"), "{listed:?}");
    home.run(&["remove", "a"]).succeeded();
}

#[test]
fn a_missing_endpoint_is_named() {
    let home = Home::new();
    for command in ["start", "stop", "remove", "status"] {
        home.run(&[command, "a"]).failed(&["no endpoint named a", "endpoint configure a"]);
        home.run(&[command, "../a"]).failed(&["is not a name"]);
    }
    let said = home.run(&["--json", "start", "a"]).failed(&[]);
    let error: serde_json::Value = serde_json::from_str(said.err.trim()).unwrap();
    assert!(error["error"].as_str().unwrap().contains("no endpoint named a"));
    assert!(error["hint"].is_string());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (home, _) = Home::with_endpoint(&[]);
    fs::set_permissions(home.path("a/identity.key"), fs::Permissions::from_mode(0o644)).unwrap();
    home.run(&["start", "a"]).failed(&["0644", "chmod 600"]);
    assert_eq!(home.status(), "STOPPED");
}

#[test]
fn a_lost_key_is_not_replaced() {
    let (home, _) = Home::with_endpoint(&[]);
    fs::remove_file(home.path("a/identity.key")).unwrap();
    home.run(&["start", "a"]).failed(&["identity.key"]);
    assert!(!home.path("a/identity.key").exists());
    assert!(!home.path("a/daemon.pid").exists());
}

#[test]
fn a_folder_that_python_made_gets_a_key_and_a_warning() {
    let home = Home::new();
    fs::create_dir(home.path("a")).unwrap();
    let port = free_port().unwrap();
    let database = home.path("a/blobs.db");
    let config = format!(
        "name = \"a\"\nuuid = \"12345678-1234-4234-9234-123456789abc\"\nport = {port}\nhost = \"127.0.0.1\"\n\
         host_type = \"static\"\n[relay]\n[storage]\ndatabase_path = {database:?}\n"
    );
    fs::write(home.path("a/config.toml"), config).unwrap();
    fs::write(&database, "SQLite").unwrap();
    let said = home.run(&["start", "a"]).succeeded();
    assert!(said.err.contains("blobs.db are not read by this version"), "{said:?}");
    assert_eq!(mode_of(&home.path("a/identity.key")), 0o600);
    assert_eq!(fs::read_to_string(&database).unwrap(), "SQLite");
}

#[test]
fn a_taken_port_is_explained_by_the_log() {
    let (home, port) = Home::with_endpoint(&[]);
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    home.run(&["start", "a"]).failed(&["cannot listen on", &port.to_string(), "log.txt"]);
    assert!(!home.path("a/daemon.pid").exists());
}

#[test]
fn a_relay_with_authentication_wants_a_token() {
    let home = Home::new();
    home.run(&["configure", "a", "--relay-address", "ws://127.0.0.1:1"]).succeeded();
    home.run(&["start", "a"]).failed(&["PROXYSTORE_RELAY_TOKEN", "relay_token", "--no-relay-auth"]);
    fs::write(home.path("a/relay_token"), "secret").unwrap();
    fs::set_permissions(home.path("a/relay_token"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = home.run(&["start", "a"]).failed(&["chmod 600"]);
    assert!(!said.err.contains("secret"));
}

#[test]
fn a_stale_process_id_is_cleared_away() {
    let (home, _) = Home::with_endpoint(&[]);
    // No process, some other program, and no number at all.
    let other = std::process::id().to_string();
    for stale in ["2147483647", &other, "soon", "-1"] {
        fs::write(home.path("a/daemon.pid"), stale).unwrap();
        assert_eq!(home.status(), "HANGING", "{stale}");
        home.run(&["remove", "a"]).failed(&["must be stopped"]);
        let stopped = home.run(&["stop", "a"]).succeeded();
        assert!(stopped.text().contains("is not running"), "{stopped:?}");
        assert_eq!(home.status(), "STOPPED", "{stale}");
    }
    fs::write(home.path("a/daemon.pid"), "2147483647").unwrap();
    let started = home.run(&["start", "a"]).succeeded();
    assert!(started.err.contains("was not stopped properly"), "{started:?}");
    assert_eq!(home.status(), "RUNNING");
}

#[test]
fn a_process_id_of_another_host_is_left_alone() {
    let (home, _) = Home::with_endpoint(&[]);
    let path = home.path("a/config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"127.0.0.1\"", "\"192.0.2.1\"").replace("\"static\"", "\"ip\"")).unwrap();
    fs::write(home.path("a/daemon.pid"), "2147483647").unwrap();
    home.run(&["start", "a"]).failed(&["another host", "192.0.2.1", "daemon.pid"]);
    assert!(home.path("a/daemon.pid").exists());
}

#[test]
fn a_killed_endpoint_can_be_started_again() {
    let (home, _) = Home::running();
    let pid: i32 = fs::read_to_string(home.path("a/daemon.pid")).unwrap().parse().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until(|| home.status() == "HANGING");
    home.run(&["start", "a"]).succeeded();
    assert_eq!(home.status(), "RUNNING");
}

#[test]
fn in_the_foreground_a_signal_stops_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (home, _) = Home::with_endpoint(&[]);
        let mut child = home.command(&["start", "a", "--no-detach"]).spawn().unwrap();
        wait_until(|| home.run(&["status", "a"]).code == 0);
        assert_eq!(home.status(), "RUNNING");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(!home.path("a/daemon.pid").exists());
        assert!(fs::read_to_string(home.path("a/log.txt")).unwrap().contains("listens on"));
    }
}

#[test]
fn wrong_usage_is_told_apart_and_help_helps() {
    let home = Home::new();
    for wrong in
        [&["explode"][..], &["start"], &["start", "a", "--port", "1"], &["--log-level", "loud", "list"]]
    {
        assert_eq!(home.run(wrong).code, 2, "{wrong:?}");
    }
    for help in [&["help"][..], &["--help"], &["put", "--help"]] {
        assert!(home.run(help).succeeded().text().contains("Example"), "{help:?}");
    }
    assert_eq!(home.run(&["version"]).succeeded().text().trim(), "ProxyStore v0.1.0 (Rust)");
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for too long");
        std::thread::sleep(Duration::from_millis(50));
    }
}
