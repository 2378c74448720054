mod server;

use std::env;
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use proxystore::connectors::{self, RedisConnector};
use proxystore::{Connector, ConnectorConfig, ConnectorError, Key, Object, ObjectStream, PutOptions};
use proxystore_tests::{free_port, noise, until};
use redis::cmd;
use server::{Certificates, Server};
use tokio::sync::mpsc;

/// Larger than any request.
const LARGE: usize = 20 << 20;

/// A variable that is always set: a test cannot set one while others run.
const PASSWORD_ENV: &str = "PATH";

async fn put(connector: &RedisConnector, object: impl Into<Object>) -> Result<Key, ConnectorError> {
    connector.put(object.into(), &PutOptions::default()).await
}

fn name(key: &Key) -> &str {
    let Key::Redis { redis_key } = key else { panic!("{key}") };
    redis_key
}

/// An object that comes when it is sent, and ends with the sender.
fn slow_object() -> (mpsc::Sender<Bytes>, ObjectStream) {
    let (sender, receiver) = mpsc::channel(1);
    let chunks = stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (Ok(chunk), receiver))
    });
    (sender, ObjectStream { len: None, chunks: chunks.boxed() })
}

#[test]
fn contract() {
    let Some(server) = Server::start(&[]) else { return };
    crate::check_contract(server.connector());
    assert_eq!(server.count(), 0, "something was left behind");
}

#[test]
fn contract_with_a_password_and_a_database() {
    let password = env::var(PASSWORD_ENV).unwrap();
    let Some(server) = Server::start(&["--requirepass", &password]) else { return };
    let connector = server.connector().username("default").password_env(PASSWORD_ENV).database(3);
    let text = format!("{connector:?} {:?}", connector.config());
    crate::check_contract(connector);
    assert!(!text.contains(&password), "{text}");
}

#[tokio::test]
async fn contract_over_tls() {
    let files = Certificates::new();
    let port = free_port().unwrap();
    let arguments = [
        ("--tls-port", port.to_string()),
        ("--tls-ca-cert-file", files.authority.display().to_string()),
        ("--tls-cert-file", files.certificate.display().to_string()),
        ("--tls-key-file", files.key.display().to_string()),
        ("--tls-auth-clients", "no".to_owned()),
    ];
    let arguments: Vec<_> = arguments.iter().flat_map(|(name, value)| [*name, value]).collect();
    let Some(server) = Server::start(&arguments) else { return };
    let connector = RedisConnector::new("127.0.0.1", port).tls(true);
    let stranger = put(&connector, vec![1]).await.unwrap_err();
    assert!(matches!(&stranger, ConnectorError::Refused { .. }), "{stranger:?}");
    let connector = connector.ca_file(&files.authority);
    tokio::task::spawn_blocking(|| crate::check_contract(connector)).await.unwrap();
    assert_eq!(server.count(), 0);
}

#[test]
fn contract_in_a_cluster() {
    let Some(nodes) = Server::start_cluster() else { return };
    let others = nodes[1..].iter().map(|node| format!("127.0.0.1:{}", node.port));
    let connector = nodes[0].connector().cluster(others);
    crate::runtime().block_on(async {
        let keys = connector.put_batch(vec![vec![7].into(); 100], &PutOptions::default()).await.unwrap();
        assert!(nodes.iter().all(|node| node.count() > 0), "not all nodes are used");
        for key in keys {
            connector.evict(&key).await.unwrap();
        }
    });
    crate::check_contract(connector);
    assert!(nodes.iter().all(|node| node.count() == 0), "something was left behind");
}

#[tokio::test]
async fn an_object_is_a_string_as_python_has_it_and_never_expires() {
    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector();
    for object in [Bytes::from_static(b"BS\nhello"), noise(LARGE + 1, 1), Bytes::new()] {
        let key = put(&connector, object.clone()).await.unwrap();
        assert!(server.ask::<Vec<u8>>(cmd("GET").arg(name(&key))) == object);
        assert_eq!(server.ask::<i64>(cmd("TTL").arg(name(&key))), -1, "-1 stands for never");
        assert_eq!(connector.get(&key).await.unwrap(), Some(object.into()));
    }
    server.ask::<()>(cmd("SET").arg("by-python").arg("US\nhello"));
    let key = Key::Redis { redis_key: "by-python".to_owned() };
    assert_eq!(connector.get(&key).await.unwrap(), Some(b"US\nhello".to_vec().into()));
}

#[tokio::test]
async fn a_batch_may_have_objects_of_all_sizes() {
    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let mut objects: Vec<Object> = (0..2500).map(|n| noise(n % 100, n as u64).into()).collect();
    objects.insert(1000, noise(LARGE, 1).into());
    objects.insert(1001, noise(3 << 20, 2).into());
    objects.insert(1002, noise(3 << 20, 3).into());
    let keys = connector.put_batch(objects.clone(), &PutOptions::default()).await.unwrap();
    connector.evict(&keys[2000]).await.unwrap();
    let received = connector.get_batch(&keys).await.unwrap();
    for (n, (received, object)) in received.into_iter().zip(objects).enumerate() {
        assert!(received == (n != 2000).then_some(object), "number {n}");
    }
}

#[test]
fn one_connector_serves_several_runtimes() {
    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let key = crate::runtime().block_on(put(&connector, vec![1])).unwrap();
    let received = crate::runtime().block_on(connector.get(&key)).unwrap();
    assert_eq!(received, Some(vec![1].into()));
}

#[tokio::test]
async fn clearing_is_on_demand() {
    let Some(server) = Server::start(&[]) else { return };
    for clear in [false, true] {
        let connector = server.connector().clear_on_close(clear);
        put(&connector, vec![1]).await.unwrap();
        connector.close().await.unwrap();
        assert_eq!(server.count() == 0, clear);
    }
}

#[tokio::test]
async fn a_server_that_restarted_is_connected_to_again() {
    let Some(mut server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let key = put(&connector, vec![1]).await.unwrap();
    server.restart();
    assert_eq!(connector.get(&key).await.unwrap(), None, "it forgot the object");
    server.kill();
    for _ in 0..2 {
        let error = connector.get(&key).await.unwrap_err();
        assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error:?}");
    }
    server.restart();
    let key = put(&connector, noise(LARGE, 1)).await.unwrap();
    assert_eq!(connector.get(&key).await.unwrap(), Some(noise(LARGE, 1).into()));
}

#[tokio::test]
async fn a_server_that_dies_while_an_object_is_read_ends_the_stream() {
    let Some(mut server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let key = put(&connector, noise(2 * LARGE, 1)).await.unwrap();
    let mut stream = connector.get_stream(&key).await.unwrap().unwrap();
    assert_eq!(stream.len, Some(2 * LARGE as u64));
    stream.chunks.next().await.unwrap().unwrap();
    server.kill();
    let error = stream.collect().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_object_that_is_evicted_while_it_is_read_is_an_error() {
    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let key = put(&connector, noise(2 * LARGE, 1)).await.unwrap();
    let mut stream = connector.get_stream(&key).await.unwrap().unwrap();
    stream.chunks.next().await.unwrap().unwrap();
    connector.evict(&key).await.unwrap();
    let error = stream.collect().await.unwrap_err();
    assert!(error.to_string().contains("evicted"), "{error}");
}

/// Sends the beginning of an object, lets `disturb` happen, and sends the rest.
async fn disturbed_put(server: &mut Server, disturb: impl FnOnce(&mut Server)) -> ConnectorError {
    let connector = server.connector();
    let (sender, stream) = slow_object();
    let putting = tokio::spawn(async move { connector.put_stream(stream, &PutOptions::default()).await });
    sender.send(noise(LARGE, 1)).await.unwrap();
    until("a part is there", || server.count() == 1).await.unwrap();
    // The channel holds one chunk: two more went in when the first one was appended.
    sender.send(Bytes::from_static(b"a")).await.unwrap();
    sender.send(Bytes::from_static(b"b")).await.unwrap();
    disturb(server);
    // Fails if the reader has given up already.
    let _ = sender.send(noise(LARGE, 2)).await;
    drop(sender);
    putting.await.unwrap().unwrap_err()
}

#[tokio::test]
async fn an_object_whose_beginning_was_lost_is_not_stored() {
    let Some(mut server) = Server::start(&[]) else { return };
    let error = disturbed_put(&mut server, Server::restart).await;
    assert!(matches!(error, ConnectorError::Broken { .. }), "{error:?}");
    assert_eq!(server.count(), 0);
    let error = disturbed_put(&mut server, |server| server.ask(cmd("FLUSHALL").arg("SYNC"))).await;
    assert!(matches!(error, ConnectorError::Broken { .. }), "{error:?}");
    assert_eq!(server.count(), 0);
    let error = disturbed_put(&mut server, Server::kill).await;
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn an_object_whose_writer_gives_up_is_removed() {
    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector();
    let (sender, stream) = slow_object();
    let putting = tokio::spawn(async move { connector.put_stream(stream, &PutOptions::default()).await });
    sender.send(noise(LARGE, 1)).await.unwrap();
    until("a part is there", || server.count() == 1).await.unwrap();
    let part: String = server.ask(&cmd("RANDOMKEY"));
    assert!(server.ask::<i64>(cmd("TTL").arg(part)) > 0, "it would stay if this process were killed");
    putting.abort();
    until("the part is gone", || server.count() == 0).await.unwrap();
}

#[tokio::test]
async fn a_full_server_is_told_from_a_broken_one() {
    let Some(server) = Server::start(&["--maxmemory", "16mb", "--maxmemory-policy", "noeviction"]) else {
        return;
    };
    let connector = server.connector();
    let full = |error: ConnectorError| assert!(matches!(error, ConnectorError::Full { .. }), "{error:?}");
    full(put(&connector, noise(2 * LARGE, 1)).await.unwrap_err());
    let objects = (0..40).map(|n| noise(1 << 20, n).into()).collect();
    full(connector.put_batch(objects, &PutOptions::default()).await.unwrap_err());
    let mut keys = Vec::new();
    let error = loop {
        match put(&connector, noise(1 << 20, 1)).await {
            Ok(key) => keys.push(key),
            Err(error) => break error,
        }
    };
    full(error);
    assert_eq!(server.count(), keys.len());
    assert!(connector.exists(&keys[0]).await.unwrap(), "reading still works");
    connector.evict(&keys[0]).await.unwrap();
    connector.evict(&keys[1]).await.unwrap();
    put(&connector, vec![1]).await.unwrap();
}

#[tokio::test]
async fn an_object_too_large_for_redis_is_not_even_sent() {
    let nobody = RedisConnector::new("127.0.0.1", free_port().unwrap());
    let piece = Bytes::from(vec![0; 64 << 20]);
    let object = |pieces: usize| Object::from_iter(std::iter::repeat_n(piece.clone(), pieces));
    let error = put(&nobody, object(9)).await.unwrap_err();
    assert!(matches!(error, ConnectorError::TooLarge { len, .. } if len == 9 << 26), "{error:?}");
    let error = nobody.put_stream(object(9).into(), &PutOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectorError::TooLarge { .. }), "{error:?}");
    let error = put(&nobody, object(8)).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let password = env::var(PASSWORD_ENV).unwrap();
    let Some(server) = Server::start(&["--requirepass", "correct"]) else { return };
    for connector in [server.connector(), server.connector().password_env(PASSWORD_ENV)] {
        let error = put(&connector, vec![1]).await.unwrap_err();
        assert!(matches!(&error, ConnectorError::Refused { .. }), "{error:?}");
        assert!(!error.to_string().contains(&password), "{error}");
    }
    let error = put(&server.connector().password_env("NO_SUCH_VARIABLE"), vec![1]).await.unwrap_err();
    assert!(error.to_string().contains("NO_SUCH_VARIABLE"), "{error}");
}

#[tokio::test]
async fn something_else_than_redis_is_an_error() {
    let answers = [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "\0\0\0\0\r\n",
        "*9223372036854775807\r\n",
        "%9223372036854775807\r\n",
        "%-1\r\n",
        "$-9223372036854775808\r\n",
        "$9223372036854775807\r\nabc",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(answer.repeat(10).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_secs(1));
        });
        let connector = RedisConnector::new("127.0.0.1", port).timeout(Duration::from_millis(300));
        let error = put(&connector, vec![1]).await.unwrap_err();
        if answer.starts_with("HTTP") {
            assert!(matches!(error, ConnectorError::Refused { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn nobody_is_waited_for_longer_than_the_deadline() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let deadline = Duration::from_millis(300);
    let timed_out = |error: ConnectorError| {
        assert!(matches!(error, ConnectorError::Timeout { after, .. } if after == deadline), "{error:?}");
    };
    let connector = RedisConnector::new("127.0.0.1", mute.local_addr().unwrap().port()).timeout(deadline);
    timed_out(put(&connector, vec![1]).await.unwrap_err());
    let cluster = RedisConnector::new("127.0.0.1", mute.local_addr().unwrap().port())
        .cluster([mute.local_addr().unwrap().to_string()])
        .timeout(deadline);
    assert!(put(&cluster, vec![1]).await.unwrap_err().is_transient());

    let Some(server) = Server::start(&[]) else { return };
    let connector = server.connector().timeout(deadline);
    let key = put(&connector, vec![1]).await.unwrap();
    server.freeze();
    timed_out(connector.get(&key).await.unwrap_err());
    server.thaw();
    assert_eq!(server.connector().get(&key).await.unwrap(), Some(vec![1].into()));
}

#[test]
fn a_configuration_is_checked() {
    let wrong = [
        serde_json::json!({"hostname": "localhost"}),
        serde_json::json!({"hostname": "localhost", "port": 1, "password": "secret"}),
        serde_json::json!({"hostname": "localhost", "port": 1, "timeout": 0}),
        serde_json::json!({"hostname": "localhost", "port": 1, "cluster": ["node"]}),
    ];
    for settings in wrong {
        let config = ConnectorConfig { kind: "redis".to_owned(), settings };
        let error = connectors::from_config(&config).unwrap_err();
        assert!(matches!(error, ConnectorError::Config { .. }), "{error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
