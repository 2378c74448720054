//! The operations on a peer's objects, apart from uploads.

use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::{Answer, ByteRange, INLINE_LEN, ObjectMeta, Request};
use proxystore_shared::{EndpointId, ObjectId};

use super::PeerError;
use super::cache::KeptPart;
use super::exchange::Reply;
use super::kept::Version;
use super::lead::{Wanted, until_first_reader_is_in};
use super::manager::PeerManager;
use super::remote_object::RemoteObject;
use super::wire::{note_end, receive_bytes, receive_object};
use crate::endpoint::{GetOptions, GetOutcome, ObjectStream, Outgoing, RequestError};
use crate::local::resolve_range;
use crate::reader;
use crate::storage::Group;

impl PeerManager {
    /// Opens an object of `peer`.
    pub async fn get(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        options: GetOptions,
    ) -> Result<GetOutcome, RequestError> {
        let opened = self.open(peer, id, options).await;
        opened.map_err(|error| RequestError::Peer { peer, error })
    }

    async fn open(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        options: GetOptions,
    ) -> Result<GetOutcome, PeerError> {
        if let Some(python) = self.python(peer).await? {
            return python.get(id, options).await;
        }
        let GetOptions { range, if_none_match } = options;
        let cache = &self.context.cache;
        let kept = if if_none_match.is_none() { cache.part(peer, id, range) } else { None };
        let known = if_none_match.or(kept.as_ref().map(|part| part.version.digest));
        let wanted = if known.is_none() { self.lead(peer, id, range) } else { None };
        let lead = wanted.as_ref().map(|wanted| wanted.ticket);
        let request = Request::Get { object_id: id.clone(), range, if_none_match: known, lead };
        let reply = self.ask(peer, &request, &[], true).await?;
        match &reply.answer {
            Answer::Missing => {
                cache.forget(peer, id);
                Ok(GetOutcome::Missing)
            }
            Answer::NotModified { meta } if known == Some(meta.digest) => match kept {
                None => Ok(GetOutcome::NotModified(meta.clone())),
                Some(part) if part.version.size == meta.size => {
                    cache.count_hit();
                    Ok(GetOutcome::Found(stream_part(meta.clone(), &part)))
                }
                Some(_) => Err(PeerError::Protocol("an object of another size has the same digest".into())),
            },
            Answer::Object { meta, start, end, ticket, .. } => {
                let (meta, start, end, inline) = (meta.clone(), *start, *end, ticket.is_none());
                let asked = resolve_range(range, meta.size).ok();
                if asked != Some((start, end)) {
                    return Err(PeerError::Protocol(format!("the part {start}..{end} was not asked for")));
                }
                let body = match inline {
                    true => self.receive_inline(peer, id, meta, (start, end), reply).await,
                    false => self.read_groups(peer, id, meta, (start, end), reply, wanted).await,
                };
                body.map(GetOutcome::Found)
            }
            other => Err(unexpected("get", other)),
        }
    }

    /// The first groups unasked, for the first reader of an object of which nothing is kept.
    fn lead(&self, peer: EndpointId, id: &ObjectId, range: Option<ByteRange>) -> Option<Wanted> {
        if self.context.cache.knows(peer, id) {
            return None;
        }
        let first = range.map_or(0, |range| range.start / GROUP_LEN);
        Wanted::by_first_reader(&self.context, &(peer, id.clone()), first)
    }

    async fn read_groups(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        meta: ObjectMeta,
        (start, end): (u64, u64),
        reply: Reply,
        wanted: Option<Wanted>,
    ) -> Result<ObjectStream, PeerError> {
        if wanted.is_none() {
            until_first_reader_is_in(&self.context, &(peer, id.clone())).await;
        }
        let object = RemoteObject::open(self, (peer, id), reply, wanted);
        let object =
            object.ok_or_else(|| PeerError::Protocol("a large object came without a ticket".into()))?;
        self.context.cache.remember(peer, id, Version { digest: meta.digest, size: meta.size });
        Ok(ObjectStream { meta, start, end, body: object.read(start, end) })
    }

    async fn receive_inline(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        meta: ObjectMeta,
        (start, end): (u64, u64),
        mut reply: Reply,
    ) -> Result<ObjectStream, PeerError> {
        if end - start > INLINE_LEN {
            return Err(PeerError::Protocol("a large object came in one piece".into()));
        }
        let limit = self.context.config.read_timeout();
        let len = (end - start) as usize;
        let is_whole = (start, end) == (0, meta.size);
        let received = match is_whole {
            true => receive_object(&mut reply.receive, len, meta.digest, limit).await?,
            false => Some(receive_bytes(&mut reply.receive, len, limit).await?),
        };
        let Some(bytes) = received else {
            return Err(PeerError::Protocol("the bytes are not those of the object".into()));
        };
        note_end(&mut reply.receive);
        if is_whole {
            let group = Group { segments: vec![bytes.clone()], digest: meta.digest };
            self.context.cache.keep_whole(peer, id, Version { digest: meta.digest, size: meta.size }, group);
        }
        Ok(ObjectStream { meta, start, end, body: Outgoing::Rest(bytes) })
    }

    /// What is known of an object of `peer`.
    pub async fn stat(&self, peer: EndpointId, id: &ObjectId) -> Result<Option<ObjectMeta>, RequestError> {
        let asking = async {
            if let Some(python) = self.python(peer).await? {
                return python.stat(id).await;
            }
            let request = Request::Stat { object_id: id.clone() };
            match self.ask(peer, &request, &[], true).await?.answer {
                Answer::Known { meta } => Ok(Some(meta)),
                Answer::Missing => Ok(None),
                other => Err(unexpected("stat", &other)),
            }
        };
        asking.await.map_err(|error| RequestError::Peer { peer, error })
    }

    /// Whether `peer` has an object.
    pub async fn exists(&self, peer: EndpointId, id: &ObjectId) -> Result<bool, RequestError> {
        let failed = |error| RequestError::Peer { peer, error };
        match self.python(peer).await.map_err(failed)? {
            Some(python) => python.exists(id).await.map_err(failed),
            None => Ok(self.stat(peer, id).await?.is_some()),
        }
    }

    /// Has `peer` forget an object; tells whether it was there.
    pub async fn evict(&self, peer: EndpointId, id: &ObjectId) -> Result<bool, RequestError> {
        let asking = async {
            if let Some(python) = self.python(peer).await? {
                return python.evict(id).await;
            }
            let request = Request::Evict { object_id: id.clone() };
            match self.ask(peer, &request, &[], true).await?.answer {
                Answer::Evicted { existed } => Ok(existed),
                other => Err(unexpected("evict", &other)),
            }
        };
        asking.await.map_err(|error| RequestError::Peer { peer, error })
    }
}

/// A part that was kept, and that its owner says is current.
fn stream_part(meta: ObjectMeta, part: &KeptPart) -> ObjectStream {
    let (start, end) = (part.start, part.end);
    let segments = reader::clip(&part.group.segments, start - part.first, end - part.first);
    ObjectStream { meta, start, end, body: segments.into() }
}

/// The answer belongs to another question.
pub(super) fn unexpected(asked: &str, answer: &Answer) -> PeerError {
    PeerError::Protocol(format!("asked to {asked}, answered {answer:?}"))
}
