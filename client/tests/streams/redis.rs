use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use proxystore::stream::redis::RedisBroker;
use proxystore::stream::{Publisher, StreamConsumer, StreamError, StreamProducer, Subscriber};

use crate::server::{Server, free_port, start};
use crate::suite::{self, Broker};

struct PubSub(RedisBroker);
struct Queue(RedisBroker);

#[async_trait]
impl Broker for PubSub {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.0.publisher())
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        Box::new(self.0.subscriber(topic).await.unwrap())
    }
}

#[async_trait]
impl Broker for Queue {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.0.queue_publisher())
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        Box::new(self.0.queue_subscriber(topic).await.unwrap())
    }
}

fn server(options: &[&str]) -> Option<(Server, RedisBroker)> {
    let port = free_port();
    let server = server_on(port, options)?;
    Some((server, RedisBroker::new(&format!("redis://127.0.0.1:{port}")).unwrap()))
}

fn server_on(port: u16, options: &[&str]) -> Option<Server> {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    start(command.args(options), port)
}

#[tokio::test]
async fn suite_of_publish_subscribe() {
    let Some((_server, broker)) = server(&[]) else { return };
    suite::check(PubSub(broker)).await;
}

#[tokio::test]
async fn suite_of_queues() {
    let Some((_server, broker)) = server(&[]) else { return };
    suite::check(Queue(broker)).await;
}

#[tokio::test]
async fn death() {
    let Some((first, broker)) = server(&[]) else { return };
    suite::check_death(PubSub(broker), || drop(first)).await;
    let Some((second, broker)) = server(&[]) else { return };
    suite::check_death(Queue(broker), || drop(second)).await;
}

#[tokio::test]
async fn a_queue_keeps_events_and_shares_them_out() {
    let Some((_server, broker)) = server(&[]) else { return };
    let mut producer = StreamProducer::new(broker.queue_publisher()).default_store(suite::store());
    for n in 0..10_u64 {
        producer.send("work", n).await.unwrap();
    }
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(StreamConsumer::<u64>::new(broker.queue_subscriber("work").await.unwrap()));
    }
    let mut taken = Vec::new();
    for turn in 0..10 {
        let item = workers[turn % 2].next().await.unwrap().unwrap();
        taken.push(*item.into_object().await.unwrap());
    }
    assert_eq!(taken, (0..10).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_could_not_be_sent_is_sent_later() {
    let port = free_port();
    let Some(first) = server_on(port, &[]) else { return };
    let broker = RedisBroker::new(&format!("redis://127.0.0.1:{port}")).unwrap();
    let mut producer = StreamProducer::new(broker.queue_publisher());
    producer.send("t", 1_u64).await.unwrap();
    drop(first);
    assert!(producer.send("t", 2).await.unwrap_err().is_transient());
    let _second = server_on(port, &[]);
    producer.send("t", 3).await.unwrap();
    producer.close_topics(["t"]).await.unwrap();
    let consumer = StreamConsumer::<u64>::new(broker.queue_subscriber("t").await.unwrap());
    assert_eq!(suite::numbers(consumer).await, [2, 3], "the server lost 1");
}

#[tokio::test]
async fn passwords_come_from_the_environment() {
    // Any variable that is set will do, and changing the environment of a test is not safe.
    let secret = std::env::var("CARGO_PKG_NAME").unwrap();
    let Some((_server, broker)) = server(&["--requirepass", &secret]) else { return };
    let refused = broker.subscriber("t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Refused { .. }), "{refused}");
    let unset = broker.clone().password_env("SURELY_NOT_SET").subscriber("t").await.unwrap_err();
    assert!(unset.to_string().contains("SURELY_NOT_SET"), "{unset}");
    let broker = broker.password_env("CARGO_PKG_NAME");
    broker.subscriber("t").await.unwrap();
    assert!(RedisBroker::new("redis://:secret@127.0.0.1").unwrap_err().to_string().contains("password_env"));
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let broker = RedisBroker::new(&format!("redis://127.0.0.1:{}", free_port())).unwrap();
    let refused = broker.subscriber("t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Unreachable { .. }), "{refused}");
    let refused = broker.queue_subscriber("t").await.unwrap_err();
    assert!(matches!(refused, StreamError::Unreachable { .. }), "{refused}");
}
