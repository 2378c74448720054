//! The sending end of a stream.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde_json::Value;

use super::event::{Batch, Event};
use super::filter::Filter;
use super::{Metadata, Publisher, StreamError};
use crate::serialize::Serializer;
use crate::{Standard, Store};

/// What goes with an object.
#[derive(Debug, Clone, PartialEq)]
pub struct SendOptions {
    /// Whether the object leaves the store once a consumer has it, as it does unless told. If several consumers
    /// take it, keep it, and evict it when they are done. Means nothing for objects inside events.
    pub evict: bool,
    /// For filters and for the consumer.
    pub metadata: Metadata,
}

impl Default for SendOptions {
    fn default() -> Self {
        Self { evict: true, metadata: Metadata::new() }
    }
}

impl SendOptions {
    /// The object stays in the store.
    pub fn keep(mut self) -> Self {
        self.evict = false;
        self
    }

    /// With one more entry of metadata.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }
}

type Aggregator<T> = Box<dyn Fn(&[T]) -> T + Send + Sync>;

/// Sends objects of type `T`: each goes into the store of its topic, and an event about it to the broker.
///
/// Without a store the object goes inside the event, which is meant for small ones: a message has at most
/// [`MAX_MESSAGE_LEN`](super::MAX_MESSAGE_LEN) bytes.
///
/// # Errors
///
/// After an error that is [transient](StreamError::is_transient), what was to be sent stays buffered, and goes
/// before what is sent next: with the next full batch, or by [`flush`](Self::flush). After any other error the batch
/// is dropped. The same holds if one of these futures is dropped: nothing is lost, and the next call goes on.
/// Dropping the producer loses what is buffered; see [`close`](Self::close).
pub struct StreamProducer<T, S = Standard> {
    publisher: Box<dyn Publisher>,
    default_store: Option<Store<S>>,
    stores: BTreeMap<String, Option<Store<S>>>,
    batch_size: usize,
    aggregator: Option<Aggregator<T>>,
    filter: Option<Filter>,
    topics: BTreeMap<String, Topic<T>>,
}

/// What is buffered for a topic.
struct Topic<T> {
    values: Vec<T>,
    /// One for each value.
    options: Vec<SendOptions>,
    /// A message that the broker may not have yet; goes before the values.
    unsent: Option<Bytes>,
    end: End,
}

enum End {
    Open,
    /// The end is still to be sent.
    Closing,
    Closed,
}

impl<T> Default for Topic<T> {
    fn default() -> Self {
        Self { values: Vec::new(), options: Vec::new(), unsent: None, end: End::Open }
    }
}

impl<T> Topic<T> {
    fn clear(&mut self) {
        self.values.clear();
        self.options.clear();
    }
}

impl<T> StreamProducer<T> {
    /// Sends each object at once, inside its event.
    pub fn new(publisher: impl Publisher) -> Self {
        Self {
            publisher: Box::new(publisher),
            default_store: None,
            stores: BTreeMap::new(),
            batch_size: 1,
            aggregator: None,
            filter: None,
            topics: BTreeMap::new(),
        }
    }
}

impl<T, S> StreamProducer<T, S> {
    /// Puts the objects of every topic that has no store of its own in this store. Also sets the format in which
    /// objects inside events are written: set it before stores of single topics, which must agree.
    pub fn default_store<R>(self, store: Store<R>) -> StreamProducer<T, R> {
        StreamProducer {
            publisher: self.publisher,
            default_store: Some(store),
            stores: BTreeMap::new(),
            batch_size: self.batch_size,
            aggregator: self.aggregator,
            filter: self.filter,
            topics: BTreeMap::new(),
        }
    }

    /// Puts the objects of one topic in this store, or, with `None`, inside their events.
    pub fn topic_store(mut self, topic: impl Into<String>, store: impl Into<Option<Store<S>>>) -> Self {
        self.stores.insert(topic.into(), store.into());
        self
    }

    /// Sends objects in batches of `count`: one operation on the store and one message for all.
    pub fn batch_size(mut self, count: usize) -> Self {
        self.batch_size = count.max(1);
        self
    }

    /// Makes one object of each batch, and sends that one. It is evicted if any of the batch was to be; of
    /// metadata with the same name the last counts.
    pub fn aggregator(mut self, aggregator: impl Fn(&[T]) -> T + Send + Sync + 'static) -> Self {
        self.aggregator = Some(Box::new(aggregator));
        self
    }

    /// Leaves out objects for whose metadata `filter` returns true, before they are batched.
    pub fn filter(mut self, filter: impl Fn(&Metadata) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }
}

impl<T, S: Serializer<T>> StreamProducer<T, S> {
    /// Sends an object, which leaves the store once a consumer has it.
    pub async fn send(&mut self, topic: &str, value: T) -> Result<(), StreamError> {
        self.send_with(topic, value, SendOptions::default()).await
    }

    /// Sends an object with metadata. Done means sent, or, in a batch that is not full, buffered.
    pub async fn send_with(
        &mut self,
        topic: &str,
        value: T,
        options: SendOptions,
    ) -> Result<(), StreamError> {
        let state = self.topics.entry(topic.to_owned()).or_default();
        if !matches!(state.end, End::Open) {
            return Err(StreamError::TopicClosed { topic: topic.to_owned() });
        }
        if self.filter.as_ref().is_some_and(|leaves_out| leaves_out(&options.metadata)) {
            return Ok(());
        }
        state.values.push(value);
        state.options.push(options);
        if state.values.len() < self.batch_size {
            return Ok(());
        }
        self.flush_topic(topic).await
    }

    /// Sends what is buffered, on all topics.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        let topics: Vec<_> = self.topics.keys().cloned().collect();
        for topic in topics {
            self.flush_topic(&topic).await?;
        }
        Ok(())
    }

    /// Sends what is buffered on this topic.
    pub async fn flush_topic(&mut self, topic: &str) -> Result<(), StreamError> {
        let Some(mut state) = self.topics.get_mut(topic) else { return Ok(()) };
        loop {
            if let Some(message) = &state.unsent {
                let sent = self.publisher.publish(topic, message.clone()).await;
                if sent.as_ref().is_err_and(StreamError::is_transient) {
                    return sent;
                }
                state.unsent = None;
                sent?;
            }
            let batch = self.make_batch(topic).await;
            state = self.topics.get_mut(topic).expect("topics are never removed");
            match batch {
                Ok(None) => return Ok(()),
                Ok(message) => {
                    // Together, so that whoever drops this future finds either the values or the message.
                    state.clear();
                    state.unsent = message;
                    if matches!(state.end, End::Closing) {
                        state.end = End::Closed;
                    }
                }
                Err(error) => {
                    if !error.is_transient() {
                        state.clear();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Sends what is buffered on these topics and then the end of the stream. Nothing more can be sent on them.
    pub async fn close_topics<N: AsRef<str>>(
        &mut self,
        topics: impl IntoIterator<Item = N>,
    ) -> Result<(), StreamError> {
        for topic in topics {
            let topic = topic.as_ref();
            let state = self.topics.entry(topic.to_owned()).or_default();
            if matches!(state.end, End::Open) {
                state.end = End::Closing;
            }
            self.flush_topic(topic).await?;
        }
        Ok(())
    }

    /// Sends what is buffered and closes the publisher. Sends no end of a stream; the stores stay open.
    pub async fn close(mut self) -> Result<(), StreamError> {
        self.flush().await?;
        self.publisher.close().await
    }

    /// The message about what is buffered, once the objects are stored; none if there is nothing to tell.
    async fn make_batch(&self, topic: &str) -> Result<Option<Bytes>, StreamError> {
        let state = &self.topics[topic];
        let closing = matches!(state.end, End::Closing);
        if state.values.is_empty() && !closing {
            return Ok(None);
        }
        let mut batch = match &self.aggregator {
            Some(aggregate) if !state.values.is_empty() => {
                let options = [aggregated(&state.options)];
                self.store_values(topic, &[aggregate(&state.values)], &options).await?
            }
            _ => self.store_values(topic, &state.values, &state.options).await?,
        };
        batch.events.extend(closing.then_some(Event::End));
        batch.encode(topic).map(Some)
    }

    async fn store_values(
        &self,
        topic: &str,
        values: &[T],
        options: &[SendOptions],
    ) -> Result<Batch, StreamError> {
        let store = self.stores.get(topic).map_or(self.default_store.as_ref(), Option::as_ref);
        let Some(store) = store.filter(|_| !values.is_empty()) else {
            return inline::<T, S>(topic, values, options);
        };
        let keys = store.put_batch::<T>(values).await?;
        let events = keys.into_iter().zip(options).map(|(key, options)| {
            let SendOptions { evict, metadata } = options.clone();
            Event::Stored { key, evict, metadata }
        });
        Ok(Batch { store: Some(store.config()), events: events.collect() })
    }
}

fn inline<T, S: Serializer<T>>(
    topic: &str,
    values: &[T],
    options: &[SendOptions],
) -> Result<Batch, StreamError> {
    let events = values.iter().zip(options).map(|(value, options)| match S::serialize(value) {
        Ok(object) => Ok(Event::Inline { object: object.into_bytes(), metadata: options.metadata.clone() }),
        Err(error) => Err(StreamError::Serialize { topic: topic.to_owned(), error }),
    });
    Ok(Batch { store: None, events: events.collect::<Result<_, _>>()? })
}

fn aggregated(options: &[SendOptions]) -> SendOptions {
    let metadata = options.iter().flat_map(|options| options.metadata.clone()).collect();
    SendOptions { evict: options.iter().any(|options| options.evict), metadata }
}

impl<T, S> fmt::Debug for StreamProducer<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamProducer")
            .field("publisher", &self.publisher)
            .field("default_store", &self.default_store)
            .finish_non_exhaustive()
    }
}
