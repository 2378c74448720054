use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore::stream::nats::NatsBroker;
use proxystore::stream::{Publisher, StreamError, Subscriber};

use crate::server::{Server, free_port, start};
use crate::suite::{self, Broker};

#[async_trait]
impl Broker for NatsBroker {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.publisher())
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        Box::new(self.subscriber(topic).await.unwrap())
    }
}

fn server(options: &[&str]) -> Option<(Server, NatsBroker)> {
    let port = free_port();
    let mut command = Command::new("nats-server");
    let server = start(command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).args(options), port)?;
    Some((server, NatsBroker::new(format!("nats://127.0.0.1:{port}")).unwrap()))
}

#[tokio::test]
async fn suite() {
    let Some((_server, broker)) = server(&[]) else { return };
    suite::check(broker).await;
}

#[tokio::test]
async fn death() {
    let Some((server, broker)) = server(&[]) else { return };
    suite::check_death(broker, || drop(server)).await;
}

#[tokio::test]
async fn the_limit_of_the_server_is_told() {
    let Some((_server, broker)) = server(&[]) else { return };
    let publisher = broker.publisher();
    let refused = publisher.publish("t", Bytes::from(vec![0; 2 << 20])).await.unwrap_err();
    assert_eq!(refused, StreamError::TooLarge { topic: "t".to_owned(), len: 2 << 20, limit: 1 << 20 });
    publisher.publish("t", Bytes::from_static(b"small")).await.unwrap();
}

#[tokio::test]
async fn a_topic_is_no_pattern() {
    let Some((_server, broker)) = server(&[]) else { return };
    for topic in ["", "a b", "a.*", ">", "a..b", "a\nb"] {
        let refused = broker.subscriber(topic).await.unwrap_err();
        assert!(matches!(refused, StreamError::Topic { .. }), "{refused}");
        assert!(broker.publisher().publish(topic, Bytes::new()).await.is_err());
    }
}

#[tokio::test]
async fn secrets_come_from_the_environment() {
    // Any variable that is set will do, and changing the environment of a test is not safe.
    let secret = std::env::var("CARGO_PKG_NAME").unwrap();
    let Some((_server, broker)) = server(&["--auth", &secret]) else { return };
    let refused = broker.subscriber("t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Refused { .. }), "{refused}");
    broker.clone().token_env("CARGO_PKG_NAME").subscriber("t").await.unwrap();
    let Some((_server, broker)) = server(&["--user", "me", "--pass", &secret]) else { return };
    broker.password_env("me", "CARGO_PKG_NAME").subscriber("t").await.unwrap();
    assert!(NatsBroker::new("nats://me:secret@127.0.0.1").unwrap_err().to_string().contains("password_env"));
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let broker = NatsBroker::new(format!("nats://127.0.0.1:{}", free_port())).unwrap();
    let refused = broker.subscriber("t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Unreachable { .. }), "{refused}");
}
