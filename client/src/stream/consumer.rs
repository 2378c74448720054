//! The receiving end of a stream.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use super::event::{Batch, Event};
use super::filter::Filter;
use super::{Metadata, StreamError, Subscriber};
use crate::serialize::Deserializer;
use crate::{Object, Proxy, ResolveError, Standard, Store, StoreConfig, StoreFactory, get_or_create_store};

/// Receives the objects of one topic, as proxies.
///
/// Waits for the next event as long as it takes, unless told by [`patience`](Self::patience): a stream may rest. A
/// broker that is gone is noticed anyway.
pub struct StreamConsumer<T, S = Standard> {
    subscriber: Box<dyn Subscriber>,
    filter: Option<Filter>,
    patience: Option<Duration>,
    /// Received, and not yet handed out.
    events: VecDeque<Event>,
    /// Of these events.
    store: Option<(StoreConfig, Store<S>)>,
    target: std::marker::PhantomData<fn() -> T>,
}

/// One object of a stream.
pub struct Item<T, S = Standard> {
    metadata: Metadata,
    content: Content<T, S>,
}

enum Content<T, S> {
    Stored(Proxy<T, StoreFactory<T, S>>),
    Inline(Arc<T>),
}

impl<T> StreamConsumer<T> {
    /// Of what `subscriber` receives.
    pub fn new(subscriber: impl Subscriber) -> Self {
        Self {
            subscriber: Box::new(subscriber),
            filter: None,
            patience: None,
            events: VecDeque::new(),
            store: None,
            target: std::marker::PhantomData,
        }
    }
}

impl<T, S> StreamConsumer<T, S> {
    /// Of objects in another format, which must be the producer's.
    pub fn with_format<R>(self) -> StreamConsumer<T, R> {
        StreamConsumer {
            subscriber: self.subscriber,
            filter: self.filter,
            patience: self.patience,
            events: self.events,
            store: None,
            target: self.target,
        }
    }

    /// Leaves out objects for whose metadata `filter` returns true. They are evicted if the producer wished that.
    pub fn filter(mut self, filter: impl Fn(&Metadata) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// Waits for an event no longer than this, and then returns [`StreamError::NotInTime`]; the next call waits
    /// again.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Closes the subscriber. The stores stay open, since proxies may need them.
    pub async fn close(mut self) -> Result<(), StreamError> {
        self.subscriber.close().await
    }
}

impl<T, S> StreamConsumer<T, S>
where
    S: Deserializer<T>,
    T: Send + Sync + 'static,
{
    /// The next object, or none at the end of the stream. Where several producers end streams on one topic, the
    /// next call waits for what the others send.
    ///
    /// The store of the object is made, and registered, if this process does not know it. Dropping the future
    /// loses nothing.
    pub async fn next(&mut self) -> Result<Option<Item<T, S>>, StreamError> {
        loop {
            while self.events.is_empty() {
                self.receive().await?;
            }
            self.evict_if_left_out().await?;
            match self.events.pop_front() {
                None => {}
                Some(Event::End) => return Ok(None),
                Some(Event::Stored { key, evict, metadata }) => {
                    let proxy = self.store().proxy_from_key(key);
                    let proxy = if evict { proxy.evicting() } else { proxy };
                    return Ok(Some(Item { metadata, content: Content::Stored(proxy) }));
                }
                Some(Event::Inline { object, metadata }) => {
                    let value = Arc::new(self.read(object)?);
                    return Ok(Some(Item { metadata, content: Content::Inline(value) }));
                }
            }
        }
    }

    /// The objects as a stream that ends with the stream, or after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Item<T, S>, StreamError>> + Send + Unpin {
        Box::pin(stream::try_unfold(self, |mut consumer| async {
            Ok(consumer.next().await?.map(|item| (item, consumer)))
        }))
    }

    async fn receive(&mut self) -> Result<(), StreamError> {
        let message = match self.patience {
            None => self.subscriber.next().await?,
            Some(after) => match tokio::time::timeout(after, self.subscriber.next()).await {
                Ok(message) => message?,
                Err(_) => {
                    return Err(StreamError::NotInTime { topic: self.subscriber.topic().to_owned(), after });
                }
            },
        };
        let batch = Batch::decode(self.subscriber.topic(), &message)?;
        if let Some(config) = batch.store
            && self.store.as_ref().is_none_or(|(known, _)| *known != config)
        {
            let store = get_or_create_store(&config)?.with_format();
            self.store = Some((config, store));
        }
        self.events = batch.events.into();
        Ok(())
    }

    /// Removes the first event if the filter leaves it out.
    async fn evict_if_left_out(&mut self) -> Result<(), StreamError> {
        let (Some(filter), Some(event)) = (&self.filter, self.events.front()) else { return Ok(()) };
        let evicted = match event {
            Event::End => return Ok(()),
            Event::Stored { metadata, .. } | Event::Inline { metadata, .. } if !filter(metadata) => {
                return Ok(());
            }
            Event::Stored { key, evict: true, .. } => self.store().evict(key).await,
            _ => Ok(()),
        };
        self.events.pop_front();
        evicted.map_err(StreamError::from)
    }

    fn store(&self) -> &Store<S> {
        &self.store.as_ref().expect("a batch with keys names its store").1
    }

    fn read(&self, object: Bytes) -> Result<T, StreamError> {
        let topic = || self.subscriber.topic().to_owned();
        S::deserialize(Object::from(object)).map_err(|error| StreamError::Serialize { topic: topic(), error })
    }
}

impl<T, S> Item<T, S> {
    /// What the producer said about the object.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The proxy, or none if the object came inside its event. Unless the producer keeps the object, it is evicted
    /// when the proxy is resolved: clones of the proxy share what was fetched, but one that was sent elsewhere
    /// finds nothing any more.
    pub fn proxy(&self) -> Option<&Proxy<T, StoreFactory<T, S>>> {
        match &self.content {
            Content::Stored(proxy) => Some(proxy),
            Content::Inline(_) => None,
        }
    }
}

impl<T, S> Item<T, S>
where
    S: Deserializer<T>,
    T: Send + Sync + 'static,
{
    /// The object, fetched now if it was not before.
    pub async fn object(&self) -> Result<&T, ResolveError> {
        match &self.content {
            Content::Stored(proxy) => proxy.resolve_async().await,
            Content::Inline(value) => Ok(value),
        }
    }

    /// The object itself, fetched now if it was not before.
    pub async fn into_object(self) -> Result<Arc<T>, ResolveError> {
        match self.content {
            Content::Stored(proxy) => {
                proxy.resolve_async().await?;
                proxy.extract()
            }
            Content::Inline(value) => Ok(value),
        }
    }
}

impl<T, S> fmt::Debug for StreamConsumer<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamConsumer").field("subscriber", &self.subscriber).finish_non_exhaustive()
    }
}

impl<T, S> fmt::Debug for Item<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut item = f.debug_struct("Item");
        match &self.content {
            Content::Stored(proxy) => item.field("proxy", proxy.get_factory()),
            Content::Inline(_) => item.field("object", &format_args!("inside the event")),
        };
        item.field("metadata", &self.metadata).finish()
    }
}
