use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use proxystore::stream::queue::QueuePublisher;
use proxystore::stream::{Publisher, StreamError, Subscriber};

use crate::suite::{self, Broker};

#[async_trait]
impl Broker for QueuePublisher {
    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(self.clone())
    }

    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber> {
        Box::new(self.subscribe(topic).unwrap())
    }
}

#[tokio::test]
async fn suite() {
    suite::check(QueuePublisher::new(100)).await;
}

#[tokio::test]
async fn a_full_queue_holds_the_publisher_up() {
    let publisher = QueuePublisher::new(2).patience(Duration::from_millis(10));
    let mut subscriber = publisher.subscribe("t").unwrap();
    let publish = |text: &'static str| publisher.publish("t", Bytes::from_static(text.as_bytes()));
    publish("a").await.unwrap();
    publish("b").await.unwrap();
    assert!(matches!(publish("c").await, Err(StreamError::Timeout { .. })));
    assert_eq!(subscriber.next().await.unwrap(), "a");
    publish("c").await.unwrap();
    assert_eq!(subscriber.next().await.unwrap(), "b");
    assert_eq!(subscriber.next().await.unwrap(), "c");
}

#[tokio::test]
async fn each_end_notices_that_the_other_is_gone() {
    let publisher = QueuePublisher::new(2);
    let unknown = publisher.publish("t", Bytes::new()).await.unwrap_err();
    assert!(matches!(&unknown, StreamError::Topic { topic, .. } if topic == "t"), "{unknown}");
    let subscriber = publisher.subscribe("t").unwrap();
    assert!(publisher.subscribe("t").is_err(), "there is one already");
    drop(subscriber);
    assert!(matches!(publisher.publish("t", Bytes::new()).await, Err(StreamError::Broken { .. })));
    let mut subscriber = publisher.subscribe("t").unwrap();
    publisher.publish("t", Bytes::from_static(b"last")).await.unwrap();
    drop(publisher);
    assert_eq!(subscriber.next().await.unwrap(), "last");
    assert!(matches!(subscriber.next().await, Err(StreamError::Broken { .. })));
}
