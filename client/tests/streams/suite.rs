//! What every broker must do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use proxystore::Store;
use proxystore::connectors::{FileConnector, LocalConnector};
use proxystore::stream::{Publisher, SendOptions, StreamConsumer, StreamError, StreamProducer, Subscriber};
use uuid::Uuid;

/// Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A broker under test.
#[async_trait]
pub trait Broker: Send + Sync {
    /// A new publisher, or the only one.
    fn publisher(&self) -> Arc<dyn Publisher>;

    /// A new subscriber that misses nothing that is sent from now on.
    async fn subscriber(&self, topic: &str) -> Box<dyn Subscriber>;
}

pub async fn check(broker: impl Broker) {
    order_is_kept_and_the_end_comes_last(&broker).await;
    batches_arrive_whole(&broker).await;
    topics_are_separate(&broker).await;
    what_the_filter_leaves_out_is_evicted(&broker).await;
    large_objects_do_not_pass_the_broker(&broker).await;
    objects_travel_inside_events_without_a_store(&broker).await;
    impatience_loses_nothing(&broker).await;
    foreign_messages_are_errors_and_the_stream_goes_on(&broker).await;
}

pub fn topic() -> String {
    format!("t{}", Uuid::new_v4().simple())
}

pub fn store() -> Store {
    Store::new(format!("store-{}", Uuid::new_v4()), LocalConnector::new())
}

async fn consumer<T>(broker: &impl Broker, topic: &str) -> StreamConsumer<T> {
    StreamConsumer::new(broker.subscriber(topic).await).patience(PATIENCE)
}

/// What is left of a stream of numbers.
pub async fn numbers(consumer: StreamConsumer<u64>) -> Vec<u64> {
    let objects =
        consumer.into_stream().then(|item| async { Ok::<_, StreamError>(*item?.object().await.unwrap()) });
    objects.try_collect().await.unwrap()
}

async fn order_is_kept_and_the_end_comes_last(broker: &impl Broker) {
    let topic = topic();
    let consumer = consumer(broker, &topic).await;
    let received = tokio::spawn(numbers(consumer));
    let mut producer = StreamProducer::new(broker.publisher()).default_store(store());
    for n in 0..50 {
        producer.send(&topic, n).await.unwrap();
    }
    producer.close_topics([&topic]).await.unwrap();
    assert_eq!(received.await.unwrap(), (0..50).collect::<Vec<_>>());
    let refused = producer.send(&topic, 50).await.unwrap_err();
    assert_eq!(refused, StreamError::TopicClosed { topic });
}

async fn batches_arrive_whole(broker: &impl Broker) {
    let topic = topic();
    let consumer = consumer(broker, &topic).await;
    let publisher = Counting::new(broker.publisher());
    let mut producer = StreamProducer::new(publisher.clone()).default_store(store()).batch_size(7);
    for n in 0..20 {
        producer.send(&topic, n).await.unwrap();
    }
    assert_eq!(publisher.messages(), 2);
    producer.close_topics([&topic]).await.unwrap();
    assert_eq!(publisher.messages(), 3, "the end goes with the last batch");
    assert_eq!(numbers(consumer).await, (0..20).collect::<Vec<_>>());
}

async fn topics_are_separate(broker: &impl Broker) {
    let first = topic();
    // ZeroMQ subscribes to everything that begins so.
    let second = format!("{first}x");
    let consumers = [consumer(broker, &first).await, consumer(broker, &second).await];
    let mut producer =
        StreamProducer::new(broker.publisher()).default_store(store()).topic_store(second.clone(), None);
    for n in 0..10 {
        producer.send(if n % 2 == 0 { &first } else { &second }, n).await.unwrap();
    }
    producer.close_topics([&second, &first]).await.unwrap();
    let [even, odd] = consumers.map(numbers);
    assert_eq!((even.await, odd.await), (vec![0, 2, 4, 6, 8], vec![1, 3, 5, 7, 9]));
}

async fn what_the_filter_leaves_out_is_evicted(broker: &impl Broker) {
    let topic = topic();
    let consumer = consumer::<u64>(broker, &topic).await;
    let mut consumer = consumer.filter(|metadata| metadata["n"].as_u64() > Some(3));
    let directory = tempfile::tempdir().unwrap();
    // Each has a marker beside it.
    let left = || std::fs::read_dir(directory.path()).unwrap().count() / 2;
    let store = Store::new(topic.clone(), FileConnector::new(directory.path()).unwrap());
    let mut producer = StreamProducer::new(broker.publisher())
        .default_store(store)
        .filter(|metadata| metadata["n"].as_u64() == Some(0));
    for n in 0..8_u64 {
        let options = SendOptions::default().with("n", n).with("about", vec!["a", "b"]);
        let options = if n % 2 == 0 { options.keep() } else { options };
        producer.send_with(&topic, n, options).await.unwrap();
    }
    producer.close_topics([&topic]).await.unwrap();
    assert_eq!(left(), 7, "0 was never sent");
    for (n, left_after) in [(1, 6), (2, 6), (3, 5)] {
        let item = consumer.next().await.unwrap().unwrap();
        assert_eq!(item.metadata()["n"], n);
        assert_eq!(item.metadata()["about"][1], "b");
        assert_eq!(*item.object().await.unwrap(), n);
        assert_eq!(left(), left_after);
    }
    assert!(consumer.next().await.unwrap().is_none());
    assert_eq!(left(), 3, "2, which was kept, and 4 and 6, which were left out and kept");
}

async fn large_objects_do_not_pass_the_broker(broker: &impl Broker) {
    let topic = topic();
    let mut consumer = consumer::<Vec<u8>>(broker, &topic).await;
    let publisher = Counting::new(broker.publisher());
    // Its objects last as long as the store.
    let store = store();
    let mut producer = StreamProducer::new(publisher.clone()).default_store(store.clone());
    let object: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sending = tokio::spawn({
        let (object, topic) = (object.clone(), topic.clone());
        async move {
            producer.send(&topic, object).await.unwrap();
            producer.close_topics([topic]).await.unwrap();
        }
    });
    let item = consumer.next().await.unwrap().unwrap();
    assert!(!item.proxy().unwrap().is_resolved());
    assert_eq!(*item.into_object().await.unwrap(), object);
    assert!(consumer.next().await.unwrap().is_none());
    sending.await.unwrap();
    assert!(publisher.bytes() < 1000, "{} bytes went through the broker", publisher.bytes());
}

async fn objects_travel_inside_events_without_a_store(broker: &impl Broker) {
    let topic = topic();
    let mut consumer = consumer::<String>(broker, &topic).await;
    let mut producer = StreamProducer::new(broker.publisher());
    producer.send_with(&topic, "hello".to_owned(), SendOptions::default().with("n", 1)).await.unwrap();
    producer.close_topics([&topic]).await.unwrap();
    let item = consumer.next().await.unwrap().unwrap();
    assert!(item.proxy().is_none());
    assert_eq!(item.metadata()["n"], 1);
    assert_eq!(item.object().await.unwrap(), "hello");
    assert!(consumer.next().await.unwrap().is_none());
}

async fn impatience_loses_nothing(broker: &impl Broker) {
    let topic = topic();
    let consumer = consumer::<u64>(broker, &topic).await;
    let mut consumer = consumer.patience(Duration::from_millis(1));
    let publisher = broker.publisher();
    let sending = tokio::spawn({
        let topic = topic.clone();
        async move {
            let mut producer = StreamProducer::new(publisher);
            for n in 0..20_u64 {
                producer.send(&topic, n).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            producer.close_topics([&topic]).await.unwrap();
        }
    });
    let mut received = Vec::new();
    loop {
        match consumer.next().await {
            Ok(Some(item)) => received.push(*item.into_object().await.unwrap()),
            Ok(None) => break,
            Err(error) => assert!(matches!(error, StreamError::NotInTime { .. }), "{error}"),
        }
    }
    assert_eq!(received, (0..20).collect::<Vec<u64>>());
    sending.await.unwrap();
}

async fn foreign_messages_are_errors_and_the_stream_goes_on(broker: &impl Broker) {
    let topic = topic();
    let mut consumer = consumer::<u64>(broker, &topic).await;
    let publisher = broker.publisher();
    for foreign in [&b""[..], b"hello", b"SE1\n", b"SE1\n\x81\xa6events"] {
        publisher.publish(&topic, Bytes::from_static(foreign)).await.unwrap();
        let error = consumer.next().await.unwrap_err();
        assert!(matches!(&error, StreamError::NotAnEvent { topic: named, .. } if *named == topic), "{error}");
    }
    let large = Bytes::from(vec![0; proxystore::stream::MAX_MESSAGE_LEN + 1]);
    if let Err(error) = publisher.publish(&topic, large).await {
        assert!(matches!(error, StreamError::TooLarge { .. }), "{error}");
    } else {
        let error = consumer.next().await.unwrap_err();
        assert!(matches!(error, StreamError::TooLarge { .. }), "{error}");
    }
    let mut producer = StreamProducer::new(publisher);
    producer.send(&topic, 5).await.unwrap();
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), 5);
}

/// Both ends notice that their broker is gone.
pub async fn check_death(broker: impl Broker, kill: impl FnOnce()) {
    let topic = topic();
    let mut consumer = consumer::<u64>(&broker, &topic).await;
    let mut producer = StreamProducer::new(broker.publisher());
    producer.send(&topic, 1).await.unwrap();
    assert_eq!(*consumer.next().await.unwrap().unwrap().object().await.unwrap(), 1);
    let waiting = tokio::spawn(async move { (consumer.next().await.unwrap_err(), consumer) });
    kill();
    let refused = producer.send(&topic, 2).await.unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    let (broken, mut consumer) = waiting.await.unwrap();
    assert!(is_end_of_broker(&broken), "{broken}");
    assert!(is_end_of_broker(&consumer.next().await.unwrap_err()), "it stays so");
}

pub fn is_end_of_broker(error: &StreamError) -> bool {
    matches!(
        error,
        StreamError::Broken { .. } | StreamError::Unreachable { .. } | StreamError::Timeout { .. }
    )
}

/// Counts what goes through a publisher.
#[derive(Debug, Clone)]
pub struct Counting {
    inner: Arc<dyn Publisher>,
    counts: Arc<[AtomicUsize; 2]>,
}

impl Counting {
    pub fn new(inner: Arc<dyn Publisher>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    pub fn messages(&self) -> usize {
        self.counts[0].load(Ordering::SeqCst)
    }

    pub fn bytes(&self) -> usize {
        self.counts[1].load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Publisher for Counting {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        self.counts[0].fetch_add(1, Ordering::SeqCst);
        self.counts[1].fetch_add(message.len(), Ordering::SeqCst);
        self.inner.publish(topic, message).await
    }
}
