//! A stream of large arrays: the broker carries small events, the store carries the arrays.
//!
//! ```text
//! cargo run -p proxystore --example streams
//! ```
//!
//! Here the broker is a queue in this process. Any other one of `proxystore::stream` takes its place with one line,
//! and the consumer may then run anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use ndarray::Array1;
use proxystore::Store;
use proxystore::connectors::FileConnector;
use proxystore::stream::queue::QueuePublisher;
use proxystore::stream::{Publisher, SendOptions, StreamConsumer, StreamError, StreamProducer};

/// How many arrays are streamed.
const COUNT: usize = 20;

/// Numbers in each: 5 MB.
const LEN: usize = 1_250_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Store::new("measurements", FileConnector::new(directory.path())?);

    let queue = QueuePublisher::new(8);
    let consumer = StreamConsumer::<Array1<f32>>::new(queue.subscribe("measurements")?);
    let publisher = Metered { queue, bytes: Arc::default() };

    let producing = tokio::spawn(produce(publisher.clone(), store.clone()));
    consume(consumer).await?;
    producing.await??;

    println!("through the broker: {:>11} bytes", publisher.bytes.load(Ordering::Relaxed));
    println!("through the store:  {:>11} bytes", store.metrics().bytes_sent);
    println!("left in the store:  {:>11} files", std::fs::read_dir(directory.path())?.count());
    Ok(())
}

async fn produce(publisher: impl Publisher, store: Store) -> Result<(), StreamError> {
    let mut producer = StreamProducer::new(publisher).default_store(store);
    for number in 0..COUNT {
        let samples = Array1::from_elem(LEN, number as f32);
        let options = SendOptions::default().with("number", number).with("calibration", number % 5 == 0);
        producer.send_with("measurements", samples, options).await?;
    }
    producer.close_topics(["measurements"]).await
}

async fn consume(consumer: StreamConsumer<Array1<f32>>) -> anyhow::Result<()> {
    // What is left out is never fetched.
    let mut consumer = consumer.filter(|metadata| metadata.get("calibration") == Some(&true.into()));
    while let Some(item) = consumer.next().await? {
        let samples = item.object().await?;
        println!("measurement {}: mean {}", item.metadata()["number"], samples.mean().unwrap_or_default());
    }
    Ok(())
}

/// The queue, with a meter on it.
#[derive(Debug, Clone)]
struct Metered {
    queue: QueuePublisher,
    bytes: Arc<AtomicUsize>,
}

#[async_trait]
impl Publisher for Metered {
    async fn publish(&self, topic: &str, message: Bytes) -> Result<(), StreamError> {
        self.bytes.fetch_add(message.len(), Ordering::Relaxed);
        self.queue.publish(topic, message).await
    }
}
