//! Stores an object at a peer while it arrives from a client, without ever holding all of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt as _, TryStreamExt as _};
use proxystore_shared::digest::{GROUP_LEN, GroupTree, group_digest};
use proxystore_shared::frame::{Answer, MAX_GROUPS_IN_FLIGHT, ObjectMeta, Request, Ticket};
use proxystore_shared::{Digest, EndpointId, ObjectId};

use super::PeerError;
use super::exchange::{Reply, unless_refused};
use super::manager::PeerManager;
use super::requests::unexpected;
use super::session::Session;
use super::wire::{self, receive_header, send_header};
use crate::endpoint::{Incoming, PutOptions, RequestError};
use crate::local::check_arrived;
use crate::memory::GROUPS;
use crate::piece::Piece;

/// For a peer to make an object durable: gigabytes may take minutes to reach a slow disk. A peer that has died is
/// noticed by its silence long before.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(600);

/// A client's body, cut into groups.
struct Groups {
    body: Incoming,
    /// What the last frame held beyond the last group.
    rest: Bytes,
    /// A group that was looked at and put back.
    put_back: Option<Bytes>,
    /// The group that is being filled.
    filling: Option<Piece>,
    announced: Option<u64>,
    arrived: u64,
}

impl Groups {
    fn new(body: Incoming, announced: Option<u64>) -> Self {
        Self { body, rest: Bytes::new(), put_back: None, filling: None, announced, arrived: 0 }
    }

    /// The next group; shorter than [`GROUP_LEN`] only at the end, none after it. Nothing is lost when this is
    /// dropped half way.
    async fn next(&mut self) -> Result<Option<Bytes>, RequestError> {
        if let Some(group) = self.put_back.take() {
            return Ok(Some(group));
        }
        loop {
            if let Some(group) = self.fill() {
                return Ok(Some(group));
            }
            let Some(frame) = self.body.try_next().await.map_err(RequestError::Upload)? else {
                check_arrived(self.announced, self.arrived)?;
                return Ok(self.filling.take().map(Piece::into_bytes));
            };
            self.arrived += frame.len() as u64;
            self.rest = frame;
        }
    }

    /// Moves bytes from the last frame to the group, which is given if that makes it whole.
    fn fill(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        let mut group = self.filling.take().unwrap_or_else(|| self.begin());
        group.take_from(&mut self.rest);
        if group.room() == 0 {
            return Some(group.into_bytes());
        }
        self.filling = Some(group);
        None
    }

    fn begin(&self) -> Piece {
        let before = self.arrived - self.rest.len() as u64;
        let left = self.announced.map(|size| size.saturating_sub(before));
        // The first group of an upload that may be no longer than one byte costs no more than has arrived.
        if before > 0 && left.is_none_or(|left| left >= GROUP_LEN) {
            return Piece::block(&GROUPS);
        }
        Piece::small(GROUP_LEN as usize, left)
    }

    /// Whether the body has ended.
    async fn is_at_end(&mut self) -> Result<bool, RequestError> {
        self.put_back = self.next().await?;
        Ok(self.put_back.is_none())
    }
}

impl PeerManager {
    /// Stores an object at `peer`.
    pub async fn put(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        options: PutOptions,
        body: Incoming,
    ) -> Result<ObjectMeta, RequestError> {
        let failed = |error| RequestError::Peer { peer, error };
        if let Some(python) = self.python(peer).await.map_err(failed)? {
            return python.put(id, options, body).await;
        }
        let mut groups = Groups::new(body, options.size);
        let first = groups.next().await?.unwrap_or_default();
        if groups.is_at_end().await? {
            return self.put_inline(peer, id, options, first).await.map_err(failed);
        }
        let request = Request::Put {
            object_id: id.clone(),
            size: options.size,
            create_only: options.create_only,
            inline: None,
        };
        // Nothing is stored before the commit, so the opening may be repeated.
        let reply = self.ask(peer, &request, &[], true).await.map_err(failed)?;
        let Answer::Continue { ticket } = reply.answer else {
            return Err(failed(unexpected("put", &reply.answer)));
        };
        self.put_parts(peer, ticket, reply, first, groups).await
    }

    async fn put_inline(
        &self,
        peer: EndpointId,
        id: &ObjectId,
        options: PutOptions,
        bytes: Bytes,
    ) -> Result<ObjectMeta, PeerError> {
        let size = bytes.len() as u64;
        let create_only = options.create_only;
        let request =
            Request::Put { object_id: id.clone(), size: Some(size), create_only, inline: Some(size) };
        // A second create-only put would meet the first.
        let reply = self.ask(peer, &request, &[bytes], !create_only).await?;
        match reply.answer {
            Answer::Stored { meta } if meta.size == size => Ok(meta),
            other => Err(unexpected("put", &other)),
        }
    }

    async fn put_parts(
        &self,
        peer: EndpointId,
        ticket: Ticket,
        mut reply: Reply,
        first: Bytes,
        mut groups: Groups,
    ) -> Result<ObjectMeta, RequestError> {
        let failed = |error| RequestError::Peer { peer, error };
        let limit = self.context.config.read_timeout();
        let session = reply.busy.session().clone();
        let mut tree = GroupTree::default();
        let mut under_way = FuturesUnordered::new();
        let (mut index, mut size) = (0, 0);
        let mut next = Some(first);
        while let Some(bytes) = next {
            let digest = group_digest(index, false, [&bytes[..]]);
            tree.push(digest);
            size += bytes.len() as u64;
            under_way.push(self.put_part(session.clone(), ticket, index, digest, bytes));
            index += 1;
            next = loop {
                tokio::select! {
                    biased;
                    Some(accepted) = under_way.next() => accepted.map_err(failed)?,
                    group = groups.next(), if under_way.len() < MAX_GROUPS_IN_FLIGHT => break group?,
                }
            };
        }
        under_way.try_collect::<()>().await.map_err(failed)?;
        let digest = tree.finish();
        let committed = async {
            send_header(&mut reply.send, &Request::Commit { size, digest }, limit).await?;
            match unless_refused(receive_header(&mut reply.receive, COMMIT_TIMEOUT).await?)? {
                Answer::Stored { meta } if meta.digest == digest => Ok(meta),
                other => Err(unexpected("commit", &other)),
            }
        };
        committed.await.map_err(failed)
    }

    async fn put_part(
        &self,
        session: Arc<Session>,
        ticket: Ticket,
        index: u64,
        digest: Digest,
        bytes: Bytes,
    ) -> Result<(), PeerError> {
        let limit = self.context.config.read_timeout();
        let part = Request::Part { ticket, index, len: bytes.len() as u64, digest };
        let (answer, ..) = wire::ask(session.connection(), &part, &[bytes], limit).await?;
        match unless_refused(answer)? {
            Answer::Accepted => Ok(()),
            other => Err(unexpected("part", &other)),
        }
    }
}
