//! Against a server that speaks S3 (moto, a Python package). Credentials come from the environment, so the tests
//! that need them run in a child of this process that has some.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use proxystore::connectors::ObjectStorageConnector;
use proxystore::{Connector, ConnectorConfig, ConnectorError, Key, Object, PutOptions};
use serde_json::json;

/// Tells the child where the server is.
const SERVER: &str = "PROXYSTORE_TEST_S3_PORT";

/// A server, killed when dropped.
struct S3 {
    process: Child,
    port: u16,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl S3 {
    /// With a bucket called `bucket`. None if the package is not there.
    fn start(python: &Path) -> Option<Self> {
        let mut process = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut server = Self { process, port: 0 };
        let mut line = String::new();
        while server.port == 0 {
            line.clear();
            if log.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            let port = line.trim().rsplit_once("http://127.0.0.1:").map(|(_, port)| port);
            server.port = port.and_then(|port| port.parse().ok()).unwrap_or(0);
        }
        // It logs every request; nobody may read that, but the pipe must not fill up.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        http(server.port, "PUT", "/bucket", "");
        Some(server)
    }
}

/// One request; the whole answer.
fn http(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let len = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

fn connector(url: &str, port: u16) -> ObjectStorageConnector {
    let connector = ObjectStorageConnector::new(url).unwrap();
    connector.with_endpoint(&format!("http://127.0.0.1:{port}")).unwrap().allow_http(true)
}

async fn put(connector: &ObjectStorageConnector, bytes: &[u8]) -> Result<Key, ConnectorError> {
    connector.put(Object::from(bytes.to_vec()), &PutOptions::default()).await
}

/// Runs the tests of a module, which are ignored otherwise, in a process with this environment.
fn run_module(name: &str, environment: &[(&str, &str)]) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([&format!("object_storage::{name}::"), "--ignored", "--nocapture"]);
    let credentials = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    credentials.iter().for_each(|name| _ = child.env_remove(name));
    let outcome = child.envs(environment.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&outcome.stdout) + String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success(), "{text}");
    assert!(!text.contains("running 0 tests"), "{text}");
}

#[test]
fn s3_in_a_process_with_credentials() {
    let Some(server) = S3::start(&proxystore_tests::python()) else {
        proxystore_tests::skipped("no moto[server] (PROXYSTORE_PYTHON, or .venv of this repository)");
        return;
    };
    let credentials = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "swordfish")];
    run_module("s3", &[credentials[0], credentials[1], (SERVER, &server.port.to_string())]);
}

/// Nobody listens where a machine would have credentials.
#[test]
fn s3_in_a_process_without_credentials() {
    run_module("no_credentials", &[("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")]);
}

mod no_credentials {
    use super::*;

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_without_credentials"]
    async fn an_error_says_how_to_give_some() {
        let error = put(&connector("s3://bucket", 1), b"lost").await.unwrap_err();
        assert!(matches!(error, ConnectorError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("no credentials: set AWS_ACCESS_KEY_ID and"), "{error}");
    }
}

/// No server here speaks as Google or Azure does; that they are asked at all can be seen.
#[test]
fn google_and_azure_in_a_process_with_credentials() {
    let nobody = "http://127.0.0.1:1";
    run_module(
        "others",
        &[
            ("GOOGLE_BASE_URL", nobody),
            ("GOOGLE_BEARER_TOKEN", "c3dvcmRmaXNo"),
            ("AZURE_STORAGE_ENDPOINT", nobody),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "c3dvcmRmaXNo"),
        ],
    );
}

mod others {
    use super::*;

    #[tokio::test]
    #[ignore = "run by google_and_azure_in_a_process_with_credentials"]
    async fn the_environment_says_where_they_are() {
        for url in ["gs://bucket/prefix", "az://container/prefix"] {
            let connector = ObjectStorageConnector::new(url).unwrap().allow_http(true);
            let error = put(&connector, b"lost").await.unwrap_err();
            assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error:?}");
            assert!(!format!("{error:?}").contains("c3dvcmRmaXNo"), "{error:?}");
        }
    }
}

mod s3 {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::{StreamExt, stream};
    use proxystore::{ObjectStream, Store};
    use tokio::time::Instant;

    use super::*;

    /// Longer than a part, of which there are several.
    const LARGE: usize = 40 << 20;

    fn port() -> u16 {
        std::env::var(SERVER).unwrap().parse().unwrap()
    }

    fn large() -> Bytes {
        (0..LARGE).map(|index| ((index * index) >> 8) as u8).collect::<Vec<_>>().into()
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    fn contract() {
        crate::check_contract(connector("s3://bucket/with a prefix/below", port()));
        let left = http(port(), "GET", "/bucket?prefix=with", "");
        assert!(!left.contains("<Key>"), "{left}");
    }

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    async fn a_large_object_goes_in_parts_and_comes_without_a_copy() {
        let connector = connector("s3://bucket/large", port());
        let object = Object::from(large());
        let key = connector.put(object.clone(), &PutOptions::default()).await.unwrap();
        assert_eq!(connector.get(&key).await.unwrap(), Some(object));
        connector.evict(&key).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    async fn a_large_stream_that_fails_leaves_no_parts() {
        let connector = connector("s3://bucket/broken", port());
        let chunks = [Ok(large()), Err(ConnectorError::Closed)];
        let stream = ObjectStream { len: None, chunks: stream::iter(chunks).boxed() };
        let error = connector.put_stream(stream, &PutOptions::default()).await.unwrap_err();
        assert_eq!(error, ConnectorError::Closed);
        let uploads = || http(port(), "GET", "/bucket?uploads", "");
        until("the upload is aborted", || !uploads().contains("<Key>broken")).await;
        assert!(!http(port(), "GET", "/bucket?prefix=broken", "").contains("<Key>"));
    }

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    async fn a_bucket_that_is_not_there_is_an_error() {
        let connector = connector("s3://elsewhere", port());
        let key = connector.new_key().await.unwrap();
        for error in [put(&connector, b"lost").await.unwrap_err(), connector.get(&key).await.unwrap_err()] {
            assert!(matches!(error, ConnectorError::Refused { .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.contains("s3://elsewhere at http://") && text.contains("bucket does not exist"),
                "{text}"
            );
        }
    }

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    async fn a_server_that_is_not_there() {
        let error = put(&connector("s3://bucket", 1), b"lost").await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error:?}");
    }

    #[test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    fn a_proxy_resolves_on_another_runtime() {
        let store = Store::new("bucket", connector("s3://bucket/proxies", port()));
        let runtime = crate::runtime();
        let proxy = runtime.block_on(store.proxy(&vec![1, 2, 3])).unwrap().evicting();
        drop(runtime);
        assert_eq!(*proxy, [1, 2, 3]);
        assert!(!crate::runtime().block_on(store.connector().exists(proxy.key())).unwrap());
    }

    #[tokio::test]
    #[ignore = "run by s3_in_a_process_with_credentials"]
    async fn a_server_that_refuses_and_then_dies() {
        let server = S3::start(&proxystore_tests::python()).unwrap();
        let connector = connector("s3://bucket", server.port);
        let checks_credentials_after = |requests| {
            http(server.port, "POST", "/moto-api/reset-auth", requests);
        };
        checks_credentials_after("0");
        let error = put(&connector, b"secret").await.unwrap_err();
        assert!(matches!(error, ConnectorError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains("check AWS_ACCESS_KEY_ID"), "{error}");
        assert!(!format!("{connector:?} {error:?}").contains("swordfish"));

        checks_credentials_after("1000");
        let key = connector.put(Object::from(large()), &PutOptions::default()).await.unwrap();
        let mut download = connector.get_stream(&key).await.unwrap().unwrap();
        download.chunks.next().await.unwrap().unwrap();
        // The upload stops in its middle until the server is dead.
        let (dead, died) = tokio::sync::oneshot::channel::<()>();
        let end = stream::once(async move {
            died.await.unwrap();
            Ok(large())
        });
        let chunks = stream::once(async { Ok(large()) }).chain(end);
        let stream = ObjectStream { len: None, chunks: chunks.boxed() };
        let upload = async { connector.put_stream(stream, &PutOptions::default()).await };
        let kill = async {
            let port = server.port;
            until("the upload began", || http(port, "GET", "/bucket?uploads", "").contains("<Upload>")).await;
            drop(server);
            dead.send(()).unwrap();
        };
        let (uploaded, ()) = tokio::join!(upload, kill);
        let error = uploaded.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let error = download.collect().await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        let error = connector.get(&key).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error:?}");
    }
}

#[test]
fn a_configuration_is_short_and_has_no_secrets() {
    for (connector, settings) in [
        (ObjectStorageConnector::new("gs://bucket/a/b"), json!({ "url": "gs://bucket/a/b" })),
        (ObjectStorageConnector::new("az://container"), json!({ "url": "az://container" })),
        (
            Ok(connector("s3://bucket", 9000).with_region("eu-west-1").unwrap()),
            json!({
                "url": "s3://bucket",
                "endpoint": "http://127.0.0.1:9000",
                "region": "eu-west-1",
                "allow_http": true,
            }),
        ),
    ] {
        let config = connector.unwrap().config();
        assert_eq!(config, ConnectorConfig { kind: "object-storage".to_owned(), settings });
        assert_eq!(ObjectStorageConnector::from_config(&config).unwrap().config(), config);
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_without_quoting_it() {
    for settings in [
        json!({ "url": "bucket" }),
        json!({ "url": "ftp://bucket" }),
        json!({ "url": "s3:///prefix" }),
        json!({ "url": "s3://id:swordfish@bucket" }),
        json!({ "url": "s3://bucket/a//b" }),
        json!({ "url": "s3://bucket/../b" }),
        json!({ "url": "s3://bucket", "endpoint": "example.org" }),
        json!({ "url": "s3://bucket", "endpoint": "https://id:swordfish@example.org" }),
        json!({ "url": "gs://bucket", "endpoint": "https://example.org" }),
        json!({ "url": "az://bucket", "region": "somewhere" }),
        json!({ "url": "s3://bucket", "access_key": "swordfish" }),
    ] {
        let config = ConnectorConfig { kind: "object-storage".to_owned(), settings };
        let error = ObjectStorageConnector::from_config(&config).unwrap_err();
        assert!(matches!(error, ConnectorError::Config { .. }), "{config:?}: {error}");
        assert!(!error.to_string().contains("swordfish"), "{error}");
    }
}

#[tokio::test]
async fn a_key_does_not_lead_out_of_the_prefix() {
    let connector = ObjectStorageConnector::new("s3://bucket/mine").unwrap();
    for path in ["", "mine", "mine/", "theirs", "mine/../theirs", "mine/a/b", "minet", "/mine/a", "mine//a"] {
        let key = Key::ObjectStorage { path: path.to_owned() };
        let refused = connector.evict(&key).await.unwrap_err();
        assert!(matches!(refused, ConnectorError::ForeignKey { .. }), "{path}: {refused}");
    }
}

#[tokio::test]
async fn without_encryption_only_if_told() {
    let error = put(&connector("s3://bucket", 1).allow_http(false), b"plain").await.unwrap_err();
    assert!(matches!(error, ConnectorError::Config { .. }), "{error:?}");
}
