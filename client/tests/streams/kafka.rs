use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore::stream::kafka::{KafkaBroker, Start};
use proxystore::stream::{Publisher, StreamConsumer, StreamError, StreamProducer, Subscriber};

use crate::server::{Server, free_port, python};
use crate::suite::{self, Broker};

/// The mock cluster that librdkafka, another implementation of the protocol, brings along.
const CLUSTER: &str = r#"
import sys, time
from confluent_kafka import Producer
producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "unused"})
broker = next(iter(producer.list_topics(timeout=20).brokers.values()))
print(f"{broker.host}:{broker.port}", flush=True)
time.sleep(600)
"#;

#[async_trait]
impl Broker for KafkaBroker {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.publisher())
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        Box::new(self.subscriber(topic, Start::Now).await.unwrap())
    }
}

fn cluster() -> Option<(Server, KafkaBroker)> {
    let server = python("confluent_kafka", CLUSTER, &[])?;
    let broker = KafkaBroker::new([&server.line]);
    Some((server, broker))
}

#[tokio::test]
async fn suite() {
    let Some((_server, broker)) = cluster() else { return };
    suite::check(broker).await;
}

#[tokio::test]
async fn death() {
    let Some((server, broker)) = cluster() else { return };
    suite::check_death(broker, || drop(server)).await;
}

#[tokio::test]
async fn a_late_subscriber_begins_where_it_likes() {
    let Some((_server, broker)) = cluster() else { return };
    let mut producer = StreamProducer::new(broker.publisher());
    producer.send("t", 1_u64).await.unwrap();
    producer.send("t", 2).await.unwrap();
    let oldest = StreamConsumer::<u64>::new(broker.subscriber("t", Start::Oldest).await.unwrap());
    let now = StreamConsumer::<u64>::new(broker.subscriber("t", Start::Now).await.unwrap());
    producer.send("t", 3).await.unwrap();
    producer.close_topics(["t"]).await.unwrap();
    assert_eq!(suite::numbers(oldest).await, [1, 2, 3]);
    assert_eq!(suite::numbers(now).await, [3]);
}

#[tokio::test]
async fn names_are_checked() {
    let broker = KafkaBroker::new(["127.0.0.1:1"]);
    for topic in ["", ".", "..", "a b", "ä", &"a".repeat(250)] {
        let refused = broker.publisher().publish(topic, Bytes::new()).await.unwrap_err();
        assert!(matches!(refused, StreamError::Topic { .. }), "{refused}");
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time() {
    let broker = KafkaBroker::new([format!("127.0.0.1:{}", free_port())]);
    let refused = broker.subscriber("t", Start::Now).await.unwrap_err();
    assert!(matches!(refused, StreamError::Unreachable { .. }), "{refused}");
}
