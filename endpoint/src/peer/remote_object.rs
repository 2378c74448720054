//! One version of an object at a peer, read in groups over whatever session there is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use noq::SendStream;
use proxystore_shared::digest::{GROUP_LEN, GroupTree, group_count, group_digest};
use proxystore_shared::frame::{Answer, ByteRange, MAX_GROUPS_IN_FLIGHT, ObjectMeta, Request, Ticket};
use proxystore_shared::{Digest, EndpointId, ObjectId};
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::PeerError;
use super::exchange::{Reply, unless_refused, until_silent};
use super::manager::PeerManager;
use super::session::{Busy, Session};
use super::wire::{self, receive_bytes};
use crate::endpoint::{Outgoing, RequestError};
use crate::reader;
use crate::storage::Group;

/// Times a group is asked for again after its session was lost.
const RETRIES: usize = 3;

/// Between looks for a peer that has gone away in the middle of a read.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// A read that is open at the peer.
struct Lease {
    ticket: Ticket,
    busy: Busy,
    /// The read ends with this stream.
    _held: SendStream,
}

impl Lease {
    /// None when the answer came with no ticket.
    fn from_reply(reply: Reply) -> Option<(ObjectMeta, Self)> {
        match reply.answer {
            Answer::Object { meta, ticket: Some(ticket), .. } => {
                Some((meta, Self { ticket, busy: reply.busy, _held: reply.send }))
            }
            _ => None,
        }
    }

    fn session(&self) -> &Arc<Session> {
        self.busy.session()
    }
}

/// An object at a peer.
pub struct RemoteObject {
    peers: PeerManager,
    peer: EndpointId,
    id: ObjectId,
    meta: ObjectMeta,
    lease: Mutex<Arc<Lease>>,
}

impl RemoteObject {
    /// Takes over the read that `reply` opened; none if it opened none.
    pub fn new(peers: PeerManager, peer: EndpointId, id: ObjectId, reply: Reply) -> Option<Arc<Self>> {
        let (meta, lease) = Lease::from_reply(reply)?;
        Some(Arc::new(Self { peers, peer, id, meta, lease: Mutex::new(Arc::new(lease)) }))
    }

    /// The bytes `start..end`, every group checked before it is passed on, and a whole object against its digest
    /// before its last group is.
    pub fn read(self: Arc<Self>, start: u64, end: u64) -> Outgoing {
        let whole = start == 0 && end == self.meta.size;
        let mut check = WholeCheck::new(&self.meta);
        let checked = self.clone();
        let fetch = move |index| {
            let object = self.clone();
            async move { object.group(index).await.map_err(|error| object.failed(error)) }
        };
        reader::stream(start, end, MAX_GROUPS_IN_FLIGHT, fetch, move |group| match whole {
            true => check.add(group.digest).map_err(|error| checked.failed(error)),
            false => Ok(()),
        })
    }

    fn failed(&self, error: PeerError) -> RequestError {
        RequestError::Peer { peer: self.peer, error }
    }

    /// The group at `index`, from another session if need be.
    async fn group(&self, index: u64) -> Result<Group, PeerError> {
        let limit = self.peers.context.config.read_timeout();
        let mut lease = self.lease.lock().await.clone();
        for _ in 0..RETRIES {
            let fetched = tokio::select! {
                biased;
                fetched = fetch(&lease, index, self.group_len(index), limit) => fetched,
                () = until_silent(lease.session()) => Err(PeerError::Lost("the peer was silent".into())),
            };
            match fetched {
                Ok(group) => return Ok(group),
                Err(PeerError::Lost(_)) => lease = self.renew(&lease).await?,
                Err(error) => return Err(error),
            }
        }
        Err(PeerError::Lost(format!("{RETRIES} sessions in a row")))
    }

    fn group_len(&self, index: u64) -> u64 {
        GROUP_LEN.min(self.meta.size - index * GROUP_LEN)
    }

    /// Opens the read again, unless somebody has done so since `lost` was taken.
    async fn renew(&self, lost: &Arc<Lease>) -> Result<Arc<Lease>, PeerError> {
        let mut current = self.lease.lock().await;
        if !Arc::ptr_eq(&current, lost) {
            return Ok(current.clone());
        }
        let whole = ByteRange { start: 0, end: None };
        let request = Request::Get { object_id: self.id.clone(), range: Some(whole), if_none_match: None };
        let reply = self.ask_patiently(&request).await?;
        let gone = || PeerError::Lost("the object was evicted or replaced while it was read".into());
        let (meta, lease) = Lease::from_reply(reply).ok_or_else(gone)?;
        if meta.digest != self.meta.digest {
            return Err(gone());
        }
        *current = Arc::new(lease);
        Ok(current.clone())
    }

    /// Asks until the peer, which may be restarting, is there again, or has had as long as a new session may take.
    async fn ask_patiently(&self, request: &Request) -> Result<Reply, PeerError> {
        let deadline = Instant::now() + self.peers.context.config.connect_timeout();
        loop {
            match self.peers.ask(self.peer, request, &[], true).await {
                Err(error) if error.is_absence() && Instant::now() < deadline => sleep(RETRY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }
}

async fn fetch(lease: &Lease, index: u64, len: u64, limit: Duration) -> Result<Group, PeerError> {
    let connection = lease.session().connection();
    let request = Request::Group { ticket: lease.ticket, index };
    let (answer, _send, mut receive) = wire::ask(connection, &request, &[], limit).await?;
    let digest = match unless_refused(answer)? {
        Answer::Group { len: announced, digest } if announced == len => digest,
        other => return Err(PeerError::Protocol(format!("asked for group {index}, got {other:?}"))),
    };
    let bytes = receive_bytes(&mut receive, len as usize, limit).await?;
    if group_digest(index, false, [&bytes[..]]) != digest {
        return Err(PeerError::Protocol(format!("group {index} is damaged")));
    }
    Ok(Group { segments: vec![bytes], digest })
}

/// Joins the digests of all groups and compares them with the object's before the last one passes.
struct WholeCheck {
    left: u64,
    tree: GroupTree,
    expected: Digest,
}

impl WholeCheck {
    fn new(meta: &ObjectMeta) -> Self {
        Self { left: group_count(meta.size), tree: GroupTree::default(), expected: meta.digest }
    }

    fn add(&mut self, group: Digest) -> Result<(), PeerError> {
        self.tree.push(group);
        self.left -= 1;
        if self.left == 0 && std::mem::take(&mut self.tree).finish() != self.expected {
            return Err(PeerError::Protocol("the groups are not those of the object".into()));
        }
        Ok(())
    }
}
