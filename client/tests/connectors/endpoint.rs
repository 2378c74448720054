//! Against endpoints of ours, alone and in pairs, and Python's.

#![allow(clippy::unwrap_used)]

mod across;
mod batches;
mod killed;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proxystore::connectors::EndpointConnector;
use proxystore::{Connector, ConnectorError, Key, Object, ObjectStream, PutOptions};
use proxystore_shared::EndpointId;
use proxystore_tests::{Site, SiteBuilder, free_port, noise, relay, url};
use tempfile::TempDir;

use crate::{contract, runtime};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A home directory as `endpoint configure` and `start` leave it behind.
fn home_with(sites: &[&Site]) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for site in sites {
        announce(home.path(), site);
    }
    home
}

fn announce(home: &Path, site: &Site) {
    write_config(home, &site.config.name, &toml::to_string(&site.config).unwrap());
}

fn write_config(home: &Path, name: &str, text: &str) {
    fs::create_dir_all(home.join(name)).unwrap();
    fs::write(home.join(name).join("config.toml"), text).unwrap();
}

fn connector(home: &Path, endpoints: impl IntoIterator<Item = EndpointId>) -> EndpointConnector {
    EndpointConnector::new(endpoints).unwrap().proxystore_dir(home)
}

fn alone(name: &str) -> SiteBuilder {
    Site::build(name, "").unwrap().with(|config| config.relay.address = None)
}

async fn put(connector: &EndpointConnector, object: impl Into<Object>) -> Key {
    connector.put(object.into(), &PutOptions::default()).await.unwrap()
}

fn endpoint_of(key: &Key) -> EndpointId {
    let Key::Endpoint { endpoint_id: Some(id), .. } = key else { panic!("{key}") };
    *id
}

#[test]
fn contract_with_one_site() {
    let runtime = runtime();
    let site = runtime.block_on(alone("solo").start()).unwrap();
    let home = home_with(&[&site]);
    contract::check(&runtime, Arc::new(connector(home.path(), [site.id()])));
    assert_eq!(runtime.block_on(site.server().endpoint().storage().list(None, 10)).unwrap(), []);
}

#[test]
fn objects_of_two_sites_are_reached_from_both() {
    let runtime = runtime();
    runtime.block_on(async {
        let relay = relay().await.unwrap();
        let (a, b) =
            (Site::start("a", &url(&relay)).await.unwrap(), Site::start("b", &url(&relay)).await.unwrap());
        let (home_a, home_b) = (home_with(&[&a]), home_with(&[&b]));
        let (at_a, at_b) =
            (connector(home_a.path(), [a.id(), b.id()]), connector(home_b.path(), [a.id(), b.id()]));
        let bytes = noise(3 << 20, 1);
        let key = put(&at_a, bytes.clone()).await;
        assert_eq!(endpoint_of(&key), a.id());
        assert!(at_b.exists(&key).await.unwrap());
        assert_eq!(at_b.get(&key).await.unwrap(), Some(bytes.clone().into()));
        let stream = at_b.get_stream(&key).await.unwrap().unwrap();
        assert_eq!(stream.collect().await.unwrap(), bytes.clone().into());

        // Written from the other site, and keys of both in one batch.
        let to_come = at_a.new_key().await.unwrap();
        at_b.set(&to_come, Object::from(vec![7; 1000])).await.unwrap();
        let own = put(&at_b, vec![9; 10]).await;
        assert_eq!(endpoint_of(&own), b.id());
        let unknown = Key::Endpoint { object_id: "unknown".parse().unwrap(), endpoint_id: Some(a.id()) };
        let keys = [own, key.clone(), unknown, to_come];
        let expected = [Some(vec![9; 10].into()), Some(bytes.into()), None, Some(vec![7; 1000].into())];
        assert_eq!(at_b.get_batch(&keys).await.unwrap(), expected);

        at_b.evict(&key).await.unwrap();
        assert!(!at_a.exists(&key).await.unwrap());
        let nowhere =
            Key::Endpoint { object_id: "x".parse().unwrap(), endpoint_id: Some(EndpointId::random()) };
        let error = at_b.get(&nowhere).await.unwrap_err();
        assert!(
            matches!(&error, ConnectorError::Refused { reason, .. } if reason.contains("500")),
            "{error}"
        );
    });
}

#[tokio::test]
async fn names_of_any_characters_reach_the_endpoint() {
    let site = alone("names").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    for name in ["a&key=b#c?d%2F/+ e", "äöü/..", "..", "=", &"%".repeat(1024)] {
        let key = Key::Endpoint { object_id: name.parse().unwrap(), endpoint_id: None };
        connector.set(&key, Object::from(name.as_bytes().to_vec())).await.unwrap();
        assert_eq!(connector.get(&key).await.unwrap(), Some(name.as_bytes().to_vec().into()));
        assert_eq!(site.server().endpoint().storage().list(None, 2).await.unwrap()[0].0.as_str(), name);
        connector.evict(&key).await.unwrap();
        assert!(!connector.exists(&key).await.unwrap());
    }
}

#[tokio::test]
async fn a_received_object_is_in_one_piece() {
    let site = alone("pieces").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    let key = put(&connector, noise(20 << 20, 1)).await;
    let object = connector.get(&key).await.unwrap().unwrap();
    assert_eq!((object.segments().len(), object.into_bytes()), (1, noise(20 << 20, 1)));
}

#[test]
fn a_proxy_in_the_environment_changes_nothing() {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "endpoint::a_received_object_is_in_one_piece"]);
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        again.env(name, "http://127.0.0.1:9");
    }
    let output = again.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test]
async fn limits_of_the_endpoint_are_told_apart() {
    let builder = alone("limits").with(|config| {
        config.storage.max_object_size = 10 << 20;
        config.storage.memory_limit = Some(15 << 20);
    });
    let site = builder.start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    let options = PutOptions::default();
    // Refused early, while much of it is not sent yet; and late, as nobody knew the length.
    let error = connector.put(noise(64 << 20, 1).into(), &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::TooLarge { len: 67_108_864, .. }), "{error}");
    let stream = ObjectStream { len: None, ..Object::from(noise(64 << 20, 1)).into() };
    let error = connector.put_stream(stream, &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::TooLarge { .. }), "{error}");
    put(&connector, noise(9 << 20, 1)).await;
    let error = connector.put(noise(9 << 20, 2).into(), &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Full { .. }), "{error}");
    let error = connector.put(Object::new(), &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Refused { .. }), "{error}");
    let batch = vec![vec![1; 10].into(), Object::new()];
    let error = connector.put_batch(batch, &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("number 2 of the batch"), "{error}");
    put(&connector, noise(1000, 3)).await;
    let batch = vec![noise(1000, 4).into(), noise(11 << 20, 5).into()];
    let error = connector.put_batch(batch, &options).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::TooLarge { len: 11_534_336, .. }), "{error}");
    assert!(error.to_string().contains("number 2 of the batch"), "{error}");
}

#[tokio::test]
async fn a_stream_must_have_the_length_it_announces() {
    let site = alone("streams").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    for announced in [0, 99, 101] {
        let stream = ObjectStream { len: Some(announced), ..Object::from(vec![1; 100]).into() };
        let error = connector.put_stream(stream, &PutOptions::default()).await.unwrap_err();
        assert!(matches!(&error, ConnectorError::Refused { .. }), "{announced}: {error}");
    }
    assert_eq!(site.server().endpoint().storage().usage().objects, 0);
}

#[tokio::test]
async fn an_endpoint_that_was_started_anew_elsewhere_is_found_again() {
    let mut site = alone("moves").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    put(&connector, vec![1; 100]).await;

    // In the same place: only the kept connections are dead.
    site.vanish().await.unwrap();
    site.restart().await.unwrap();
    put(&connector, vec![2; 100]).await;

    site.vanish().await.unwrap();
    let error = connector.put(Object::from(vec![3; 100]), &PutOptions::default()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("endpoint start"), "{error}");
    site.config.port = free_port().unwrap();
    site.restart().await.unwrap();
    announce(home.path(), &site);
    let key = put(&connector, vec![4; 100]).await;

    site.vanish().await.unwrap();
    site.config.port = free_port().unwrap();
    site.restart().await.unwrap();
    announce(home.path(), &site);
    assert_eq!(connector.get(&key).await.unwrap(), None, "it was in memory");
    let key = connector.put_stream(Object::from(vec![5; 100]).into(), &PutOptions::default()).await.unwrap();
    assert!(connector.exists(&key).await.unwrap());
}

#[tokio::test]
async fn a_stream_finds_the_endpoint_again_too() {
    let mut site = alone("moves").start().await.unwrap();
    let home = home_with(&[&site]);
    let connector = connector(home.path(), [site.id()]);
    put(&connector, vec![1; 100]).await;
    site.vanish().await.unwrap();
    site.config.port = free_port().unwrap();
    site.restart().await.unwrap();
    announce(home.path(), &site);
    let key = connector.put_stream(Object::from(vec![5; 100]).into(), &PutOptions::default()).await.unwrap();
    assert_eq!(connector.get(&key).await.unwrap(), Some(vec![5; 100].into()));
}

#[tokio::test]
async fn without_an_endpoint_the_error_says_what_was_found() {
    let home = tempfile::tempdir().unwrap();
    let (wanted, other) = (EndpointId::random(), alone("other").start().await.unwrap());
    let missing = connector(&home.path().join("missing"), [wanted]).home_id().await.unwrap_err();
    assert!(missing.to_string().contains("no configuration of an endpoint"), "{missing}");

    announce(home.path(), &other);
    write_config(home.path(), "broken", "uuid = 5");
    write_config(
        home.path(),
        "python",
        &format!("name = 'p'\nuuid = '{wanted}'\nport = 5\nunknown = 1\nhost_type = 'x'"),
    );
    let port = free_port().unwrap();
    write_config(home.path(), "stopped", &format!("uuid = '{wanted}'\nport = {port}\nhost = '127.0.0.1'"));
    let address = other.address();
    let replaced = format!("uuid = '{wanted}'\nport = {}\nhost = '127.0.0.1'", address.port());
    write_config(home.path(), "replaced", &replaced);
    fs::create_dir(home.path().join("empty")).unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    let error = connector(home.path(), [wanted]).home_id().await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unreachable { .. }));
    let text = error.to_string();
    for part in [
        &wanted.to_string(),
        &home.path().display().to_string(),
        &format!("other: is another endpoint, {}", other.id()),
        "broken: ",
        "python: was never started",
        &format!("stopped: cannot reach the endpoint at 127.0.0.1:{port}"),
        &format!("replaced: the endpoint at {address} is {}", other.id()),
        "`endpoint start NAME`",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(matches!(EndpointConnector::new([]).unwrap_err(), ConnectorError::Config { .. }));
}

/// Kills its process when dropped.
struct PythonEndpoint(Child);

impl Drop for PythonEndpoint {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The folder of programs of an environment that has Python ProxyStore.
fn python_programs() -> Option<PathBuf> {
    let programs = proxystore_tests::python().parent()?.to_owned();
    programs.join("proxystore-endpoint").exists().then_some(programs)
}

#[test]
fn contract_with_a_python_endpoint() {
    let Some(programs) = python_programs() else {
        proxystore_tests::skipped("no Python ProxyStore (PROXYSTORE_PYTHON, or .venv of this repository)");
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let command = |words: &[&str]| {
        let mut command = Command::new(programs.join("proxystore-endpoint"));
        command.args(words).env("PROXYSTORE_HOME", home.path()).env("NO_PROXY", "*");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let port = free_port().unwrap().to_string();
    let words = ["configure", "python", "--host", "127.0.0.1", "--port", &port, "--no-relay-server"];
    assert!(command(&words).status().unwrap().success());
    let config = fs::read_to_string(home.path().join("python/config.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    let id: EndpointId = config["uuid"].as_str().unwrap().parse().unwrap();

    let _endpoint = PythonEndpoint(command(&["start", "python", "--no-detach"]).spawn().unwrap());
    let runtime = runtime();
    let connector = connector(home.path(), [id]);
    let started = Instant::now();
    while let Err(error) = runtime.block_on(connector.home_id()) {
        assert!(started.elapsed() < PATIENCE, "{error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    contract::check(&runtime, Arc::new(connector));
}
