//! Objects on their way to Redis and back, in requests of limited size.
//!
//! Each request moves at most [`CHUNK_LEN`] bytes, whatever the size of the objects, so that memory is bounded, one
//! deadline fits all requests, and small requests do not wait long behind large objects.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use redis::{Cmd, FromRedisValue, RedisWrite, ToRedisArgs, cmd};

use super::link::{Link, Request};
use super::part;
use super::settings::Settings;
use crate::Object;
use crate::connector::{ConnectorError, ObjectStream};
use crate::runtime::PerRuntime;

/// Moved by one request, in bytes. The client library and the server copy each request some times; copies of this
/// size are taken from the same memory again and again, which halves the time of an object of 100 MB.
pub(super) const CHUNK_LEN: usize = 4 << 20;

/// Of an object of Redis, in bytes.
const MAX_VALUE_LEN: u64 = 512 << 20;

/// Requests of one transfer that are under way at once: one is answered while the next one is on its way.
pub(super) const WINDOW: usize = 2;

/// The connections to one Redis, and what is asked over them.
#[derive(Debug)]
pub(super) struct Redis {
    pub settings: Arc<Settings>,
    pub links: PerRuntime<Link>,
}

/// An argument of a command, written segment by segment.
pub(super) struct Payload<'a>(pub &'a Object);

impl ToRedisArgs for Payload<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut argument = out.bufmut_for_next_arg(self.0.len());
        self.0.segments().iter().for_each(|segment| argument.put_slice(segment));
    }
}

impl Redis {
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), links: PerRuntime::new() }
    }

    pub fn link(&self) -> Arc<Link> {
        self.links.current(|| Link::new(self.settings.clone()))
    }

    /// Asks something that may well be carried out twice.
    pub async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, ConnectorError> {
        self.link().ask(Request::One(command)).await
    }

    /// Asks in turn, as others do that move many bytes.
    pub async fn ask_in_turn<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, ConnectorError> {
        let link = self.link();
        let _turn = link.turn().await;
        link.ask(Request::One(command)).await
    }

    pub async fn remove(&self, names: &[String]) -> Result<(), ConnectorError> {
        self.ask(cmd("UNLINK").arg(names)).await
    }

    /// Stores an object of any size.
    pub async fn set(self: &Arc<Self>, name: &str, object: Object) -> Result<(), ConnectorError> {
        self.check_len(object.len() as u64)?;
        if object.len() <= CHUNK_LEN {
            return self.set_small(name, &object).await;
        }
        part::store(self, name, chunks_of(object.into())).await
    }

    /// Stores an object as it comes.
    pub async fn set_stream(
        self: &Arc<Self>,
        name: &str,
        stream: ObjectStream,
    ) -> Result<(), ConnectorError> {
        self.check_len(stream.len.unwrap_or_default())?;
        let mut chunks = Box::pin(chunks_of(stream));
        let first = chunks.try_next().await?.unwrap_or_default();
        if first.len() < CHUNK_LEN {
            return self.set_small(name, &first).await;
        }
        part::store(self, name, stream::iter([Ok(first)]).chain(chunks)).await
    }

    async fn set_small(&self, name: &str, object: &Object) -> Result<(), ConnectorError> {
        self.ask_in_turn(cmd("SET").arg(name).arg(Payload(object))).await
    }

    /// Removes what is left of something that failed.
    pub async fn undo(&self, names: &[String], error: &ConnectorError) {
        if !matches!(error, ConnectorError::Unreachable { .. } | ConnectorError::Timeout { .. }) {
            // The caller learns of the first error; this one would say no more.
            let _ = self.remove(names).await;
        }
    }

    /// The object, in several segments if it is large.
    pub async fn get(self: &Arc<Self>, name: &str) -> Result<Option<Object>, ConnectorError> {
        let Some((first, len)) = self.head(name).await? else { return Ok(None) };
        let chunks = stream::iter([Ok(Some(first))]).chain(self.rest(name, len));
        let segments: Vec<Option<Bytes>> = chunks.try_collect().await?;
        // None if one is missing: it was evicted meanwhile.
        Ok(segments.into_iter().collect::<Option<Vec<_>>>().map(Object::from_iter))
    }

    /// The object as it comes.
    pub async fn get_stream(self: &Arc<Self>, name: &str) -> Result<Option<ObjectStream>, ConnectorError> {
        let Some((first, len)) = self.head(name).await? else { return Ok(None) };
        let target = self.settings.target();
        let rest = self.rest(name, len).map(move |chunk| {
            chunk?.ok_or_else(|| ConnectorError::Broken {
                target: target.clone(),
                reason: "the object was evicted while it was read".to_owned(),
            })
        });
        Ok(Some(ObjectStream { len: Some(len), chunks: stream::iter([Ok(first)]).chain(rest).boxed() }))
    }

    /// The first chunk of an object, and the object's length.
    async fn head(&self, name: &str) -> Result<Option<(Bytes, u64)>, ConnectorError> {
        let first: Bytes = self.ask(&range(name, 0..CHUNK_LEN as u64)).await?;
        let len = first.len() as u64;
        if first.is_empty() {
            // Redis takes an object that is not there for an empty one.
            let whole: Option<Bytes> = self.ask(cmd("GET").arg(name)).await?;
            return Ok(whole.map(|whole| (whole.clone(), whole.len() as u64)));
        }
        if first.len() < CHUNK_LEN {
            return Ok(Some((first, len)));
        }
        let total: u64 = self.ask(cmd("STRLEN").arg(name)).await?;
        // Less if it was evicted meanwhile.
        Ok((total >= len).then_some((first, total)))
    }

    /// What follows the first chunk; none in place of a chunk if the object is there no more.
    fn rest(
        self: &Arc<Self>,
        name: &str,
        len: u64,
    ) -> impl Stream<Item = Result<Option<Bytes>, ConnectorError>> + 'static {
        let (redis, name) = (self.clone(), name.to_owned());
        let request = move |start: u64| {
            let (redis, name) = (redis.clone(), name.clone());
            async move {
                let bytes = start..len.min(start.saturating_add(CHUNK_LEN as u64));
                let chunk: Bytes = redis.ask_in_turn(&range(&name, bytes.clone())).await?;
                Ok((chunk.len() as u64 == bytes.end - bytes.start).then_some(chunk))
            }
        };
        stream::iter((CHUNK_LEN as u64..len).step_by(CHUNK_LEN)).map(request).buffered(WINDOW)
    }

    /// Whether Redis takes an object of this size.
    pub fn check_len(&self, len: u64) -> Result<(), ConnectorError> {
        if len <= MAX_VALUE_LEN {
            return Ok(());
        }
        let reason = format!("a value of Redis has at most {MAX_VALUE_LEN}");
        Err(ConnectorError::TooLarge { target: self.settings.target(), len, reason })
    }
}

/// Asks for these bytes of an object.
fn range(name: &str, bytes: Range<u64>) -> Cmd {
    let mut command = cmd("GETRANGE");
    command.arg(name).arg(bytes.start).arg(bytes.end - 1);
    command
}

/// All but the last one of length [`CHUNK_LEN`].
fn chunks_of(stream: ObjectStream) -> impl Stream<Item = Result<Object, ConnectorError>> + Send {
    let start = (stream.chunks.fuse(), Bytes::new());
    stream::try_unfold(start, |(mut arriving, mut rest)| async {
        let mut chunk = Object::new();
        while chunk.len() < CHUNK_LEN {
            if rest.is_empty() {
                let Some(bytes) = arriving.try_next().await? else { break };
                rest = bytes;
            }
            chunk.push(rest.split_to(rest.len().min(CHUNK_LEN - chunk.len())));
        }
        Ok((!chunk.is_empty()).then_some((chunk, (arriving, rest))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn chunks_have_one_length() {
        let bytes: Bytes = (0..2 * CHUNK_LEN + 5).map(|n| (n / 7) as u8).collect::<Vec<_>>().into();
        let pieces = [bytes.slice(..3), bytes.slice(3..CHUNK_LEN + 1), bytes.slice(CHUNK_LEN + 1..)];
        let chunks: Vec<_> = chunks_of(Object::from_iter(pieces).into()).try_collect().await.unwrap();
        assert_eq!(chunks.iter().map(Object::len).collect::<Vec<_>>(), [CHUNK_LEN, CHUNK_LEN, 5]);
        assert_eq!(chunks.into_iter().flat_map(Object::into_segments).collect::<Object>(), bytes.into());
    }
}
