//! Producer and consumer, whatever the broker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use proxystore::serialize::{Deserializer, SerializeError, Serializer};
use proxystore::stream::queue::QueuePublisher;
use proxystore::stream::{
    MAX_MESSAGE_LEN, Publisher, SendOptions, StreamConsumer, StreamError, StreamProducer, filter,
};
use proxystore::{Object, Proxy, Store, get_store};

use crate::suite::{Counting, numbers, store};

/// Fails for the first so many messages.
#[derive(Debug, Clone)]
struct Flaky {
    inner: QueuePublisher,
    failures: Arc<AtomicUsize>,
}

#[async_trait]
impl Publisher for Flaky {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        let fails =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match fails {
            Ok(_) => Err(StreamError::Broken { broker: "it".to_owned(), reason: "test".to_owned() }),
            Err(_) => self.inner.publish(topic, message).await,
        }
    }
}

#[tokio::test]
async fn an_aggregator_makes_one_object_of_a_batch() {
    let queue = QueuePublisher::new(10);
    let mut consumer = StreamConsumer::<u64>::new(queue.subscribe("t").unwrap());
    let mut producer = StreamProducer::new(queue)
        .default_store(store())
        .batch_size(4)
        .aggregator(|batch: &[u64]| batch.iter().sum());
    for n in 1..=6 {
        producer
            .send_with("t", n, SendOptions::default().with("last", n).with(n.to_string(), true))
            .await
            .unwrap();
    }
    producer.flush().await.unwrap();
    producer.flush().await.unwrap();
    producer.close_topics(["t"]).await.unwrap();
    for (sum, names) in [(10, vec!["1", "2", "3", "4", "last"]), (11, vec!["5", "6", "last"])] {
        let item = consumer.next().await.unwrap().unwrap();
        assert_eq!(item.metadata().keys().collect::<Vec<_>>(), names);
        assert_eq!(*item.object().await.unwrap(), sum);
    }
    assert!(consumer.next().await.unwrap().is_none());
}

#[tokio::test]
async fn nothing_is_lost_or_stored_twice_when_the_broker_fails_for_a_while() {
    let queue = QueuePublisher::new(100);
    let consumer = StreamConsumer::new(queue.subscribe("t").unwrap());
    let publisher = Flaky { inner: queue, failures: Arc::new(AtomicUsize::new(3)) };
    let store = store();
    let mut producer = StreamProducer::new(publisher).default_store(store.clone()).batch_size(2);
    for n in 0..5 {
        let sent = producer.send("t", n).await;
        // 0 and 2 are buffered.
        assert_eq!(sent.is_err(), [1, 3, 4].contains(&n), "{n}");
    }
    producer.close_topics(["t"]).await.unwrap();
    assert_eq!(numbers(consumer).await, [0, 1, 2, 3, 4]);
    assert_eq!(store.metrics().operations["put_batch"].count, 2);
}

#[tokio::test]
async fn a_dropped_send_goes_on_with_the_next_call() {
    let queue = QueuePublisher::new(1);
    let mut consumer = StreamConsumer::<u64>::new(queue.subscribe("t").unwrap());
    let mut producer = StreamProducer::new(queue);
    producer.send("t", 1).await.unwrap();
    let full = tokio::time::timeout(std::time::Duration::from_millis(10), producer.send("t", 2)).await;
    assert!(full.is_err());
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), 1);
    let closing = tokio::spawn(async move { producer.close_topics(["t"]).await });
    assert_eq!(numbers(consumer).await, [2]);
    closing.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_object_that_is_too_large_for_an_event_is_refused_and_dropped() {
    let queue = QueuePublisher::new(10);
    let mut consumer = StreamConsumer::<Vec<u8>>::new(queue.subscribe("t").unwrap());
    let publisher = Counting::new(Arc::new(queue));
    let mut producer = StreamProducer::new(publisher.clone());
    let refused = producer.send("t", vec![0; MAX_MESSAGE_LEN]).await.unwrap_err();
    assert!(matches!(&refused, StreamError::TooLarge { topic, .. } if topic == "t"), "{refused}");
    assert_eq!(publisher.messages(), 0);
    producer.send("t", vec![1]).await.unwrap();
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), [1]);
}

#[tokio::test]
async fn a_sample_is_left_out() {
    let queue = QueuePublisher::new(10);
    let consumer = StreamConsumer::<u64>::new(queue.subscribe("t").unwrap());
    let mut producer = StreamProducer::new(queue).filter(filter::sampling(1.0));
    producer.send("t", 1).await.unwrap();
    producer.close_topics(["t"]).await.unwrap();
    assert!(numbers(consumer).await.is_empty());
}

#[tokio::test]
async fn closing_flushes_and_does_not_end_the_stream() {
    let queue = QueuePublisher::new(10);
    let mut consumer = StreamConsumer::<u64>::new(queue.subscribe("t").unwrap());
    let mut producer = StreamProducer::new(queue).batch_size(10);
    producer.send("t", 1).await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), 1);
    assert!(matches!(consumer.next().await, Err(StreamError::Broken { .. })), "no end was sent");
    consumer.close().await.unwrap();
}

#[tokio::test]
async fn items_can_be_passed_on_unresolved_and_the_store_is_known_here() {
    let queue = QueuePublisher::new(10);
    let mut consumer = StreamConsumer::<String>::new(queue.subscribe("t").unwrap());
    let store = store();
    let mut producer = StreamProducer::new(queue).default_store(store.clone());
    producer.send("t", "hello".to_owned()).await.unwrap();
    let item = consumer.next().await.unwrap().unwrap();
    let text = serde_json::to_string(item.proxy().unwrap()).unwrap();
    let elsewhere: Proxy<String> = serde_json::from_str(&text).unwrap();
    assert_eq!(elsewhere.resolve_async().await.unwrap(), "hello");
    assert!(!store.exists(elsewhere.key()).await.unwrap(), "it was evicted");
    assert!(item.object().await.is_err(), "whoever comes second finds nothing");
    assert!(get_store(store.name()).is_some());
}

/// Numbers as text.
struct Text;

impl Serializer<u64> for Text {
    fn serialize(value: &u64) -> Result<Object, SerializeError> {
        Ok(value.to_string().into_bytes().into())
    }
}

impl Deserializer<u64> for Text {
    fn deserialize(object: Object) -> Result<u64, SerializeError> {
        String::from_utf8_lossy(&object.into_bytes()).parse().map_err(|_| SerializeError::Read {
            format: "text",
            type_name: "u64",
            reason: "no number".to_owned(),
        })
    }
}

#[tokio::test]
async fn a_stream_may_have_a_format_of_its_own() {
    let queue = QueuePublisher::new(10);
    let mut consumer = StreamConsumer::<u64>::new(queue.subscribe("t").unwrap()).with_format::<Text>();
    let store: Store<Text> = store().with_format();
    let mut producer = StreamProducer::new(queue).default_store(store);
    producer.send("t", 12345).await.unwrap();
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), 12345);
}
