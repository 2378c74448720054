//! Serves a peer's requests on one connection.

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use noq::{RecvStream, SendStream};
use proxystore_shared::digest::{GROUP_LEN, group_count};
use proxystore_shared::frame::{Answer, ByteRange, INLINE_LEN, LEAD_GROUPS, Refusal, Request, Ticket};
use proxystore_shared::{Digest, EndpointId, ObjectId};
use tracing::{debug, warn};

use super::context::Context;
use super::session::Session;
use super::tickets::{Open, Tickets, Uploading};
use super::wire::{
    self, WireError, note_end, receive_bytes, receive_group, receive_header, send_header, send_with,
};
use crate::endpoint::{PutOptions, RequestError};
use crate::peer::actor::Command;
use crate::storage::{Expected, Group, StorageError, StoredObject};
use crate::{local, reader};

/// A ticket ends with its stream or its connection, or when nothing was asked under it for this long, or twice that.
const TICKET_IDLE: Duration = Duration::from_secs(600);

/// Serves until the connection ends, then tells the peer's task.
pub async fn run(context: Arc<Context>, peer: EndpointId, session: Arc<Session>) {
    let tickets = Arc::new(Tickets::default());
    while let Ok((send, receive)) = session.connection().accept_bi().await {
        let server = Server {
            context: context.clone(),
            peer,
            session: session.clone(),
            tickets: tickets.clone(),
            send,
            receive,
        };
        // Whatever befalls one request, the others are served.
        let mut request = Box::pin(AssertUnwindSafe(server.serve()).catch_unwind());
        // Most requests arrive whole and are answered from memory at once: to wake a thread for such a one costs more
        // than to serve it.
        if request.as_mut().now_or_never().is_none() {
            context.tasks.spawn(request);
        }
    }
    let actor = context.actors.get(&peer).map(|sender| sender.clone());
    if let Some(actor) = actor {
        // A task that has ended has no use for the news.
        let _ = actor.send(Command::Down(session.id())).await;
    }
}

/// Tells the peer that this connection was chosen.
pub async fn nominate(session: Arc<Session>, limit: Duration) {
    let nominated = async {
        let (mut send, _receive) = session.connection().open_bi().await?;
        send_header(&mut send, &Request::Nominate, limit).await?;
        // Dropping the receiving half before this arrived would be an error to the peer.
        send.finish().map_err(|error| WireError::Gone(error.to_string()))?;
        send.stopped().await.map_err(|error| WireError::Gone(error.to_string()))?;
        Ok::<_, WireError>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(limit, nominated).await {
        debug!(%error, "the connection ended before it could be nominated");
    }
}

/// Why a request was not served.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    /// The stream or connection failed: nobody to answer.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The peer is to be told.
    #[error("{1}")]
    Refused(Refusal, String),
}

impl From<StorageError> for ServeError {
    fn from(error: StorageError) -> Self {
        RequestError::from(error).into()
    }
}

impl From<RequestError> for ServeError {
    fn from(error: RequestError) -> Self {
        let (reason, message) = refusal(error);
        Self::Refused(reason, message)
    }
}

/// What a peer is told of a request that failed here.
pub(super) fn refusal(error: RequestError) -> (Refusal, String) {
    let reason = match &error {
        RequestError::Storage(error) => match error {
            StorageError::TooLarge { .. } => Refusal::TooLarge,
            StorageError::Full { .. } => Refusal::Full,
            StorageError::Exists => Refusal::Exists,
            StorageError::Mismatch(_) | StorageError::NoSuchGroup(_) => Refusal::Invalid,
            StorageError::Corrupt(_) => Refusal::Corrupt,
            // The system's words name paths of this host, which are nobody else's business.
            StorageError::Io(_) => {
                warn!(%error, "storage failed a peer's request");
                return (Refusal::Internal, "the peer's storage failed; its log says why".into());
            }
        },
        RequestError::Range { .. } => Refusal::Range,
        RequestError::Upload(_) | RequestError::Peer { .. } => Refusal::Internal,
    };
    (reason, error.to_string())
}

fn invalid(message: impl Into<String>) -> ServeError {
    ServeError::Refused(Refusal::Invalid, message.into())
}

/// One stream: one request.
struct Server {
    context: Arc<Context>,
    peer: EndpointId,
    session: Arc<Session>,
    tickets: Arc<Tickets>,
    send: SendStream,
    receive: RecvStream,
}

impl Server {
    async fn serve(mut self) {
        let busy = self.session.busy();
        match self.dispatch().await {
            Ok(()) => {}
            Err(ServeError::Wire(error)) => debug!(peer = %self.peer, %error, "a request broke off"),
            Err(ServeError::Refused(reason, message)) => {
                debug!(peer = %self.peer, ?reason, message, "a request was refused");
                // The peer may be gone; it will notice by itself.
                let _ = self.answer(&Answer::Failed { reason, message }).await;
            }
        }
        // Fails only when the stream is finished or reset already.
        let _ = self.send.finish();
        note_end(&mut self.receive);
        drop(busy);
    }

    fn limit(&self) -> Duration {
        self.context.config.read_timeout()
    }

    async fn answer(&mut self, answer: &Answer) -> Result<(), ServeError> {
        self.answer_with(answer, &[]).await
    }

    async fn answer_with(&mut self, answer: &Answer, segments: &[Bytes]) -> Result<(), ServeError> {
        let limit = self.limit();
        Ok(send_with(&mut self.send, answer, segments, limit).await?)
    }

    async fn dispatch(&mut self) -> Result<(), ServeError> {
        let limit = self.limit();
        let request = receive_header(&mut self.receive, limit).await.map_err(|error| match error {
            WireError::Header(error) => invalid(error.to_string()),
            other => other.into(),
        })?;
        match request {
            Request::Get { object_id, range, if_none_match, lead } => {
                self.get(&object_id, range, if_none_match, lead).await
            }
            Request::Lead { ticket, index, len, digest } => self.led(ticket, index, len, digest).await,
            Request::Stat { object_id } => self.stat(&object_id).await,
            Request::Evict { object_id } => self.evict(&object_id).await,
            Request::Put { object_id, size, create_only, inline: Some(len) } => {
                self.put_inline(&object_id, PutOptions { size, create_only }, len).await
            }
            Request::Put { object_id, size, create_only, inline: None } => {
                self.put_parts(&object_id, PutOptions { size, create_only }).await
            }
            Request::Group { ticket, index } => self.group(ticket, index).await,
            Request::Part { ticket, index, len, digest } => self.part(ticket, index, len, digest).await,
            Request::Commit { .. } => Err(invalid("a commit belongs on the stream of its put")),
            Request::Nominate => {
                let nominated = Command::Nominated(self.session.id());
                let actor = self.context.actors.get(&self.peer).map(|sender| sender.clone());
                if let Some(actor) = actor {
                    // A task that has ended has no use for the news.
                    let _ = actor.send(nominated).await;
                }
                Ok(())
            }
        }
    }

    async fn get(
        &mut self,
        id: &ObjectId,
        range: Option<ByteRange>,
        if_none_match: Option<Digest>,
        lead: Option<Ticket>,
    ) -> Result<(), ServeError> {
        let Some(object) = self.context.storage.open(id).await? else {
            return self.answer(&Answer::Missing).await;
        };
        let meta = object.meta().clone();
        if if_none_match == Some(meta.digest) {
            return self.answer(&Answer::NotModified { meta }).await;
        }
        let (start, end) = local::resolve_range(range, meta.size)?;
        if reader::is_in_one_group(start, end) {
            let segments = reader::read_one_group(&*object, start, end).await?;
            return self
                .answer_with(&Answer::Object { meta, start, end, ticket: None, lead: 0 }, &segments)
                .await;
        }
        let ticket = self.tickets.open(Open::Read(object.clone())).ok_or_else(too_many)?;
        let first = start / GROUP_LEN;
        let lead = lead.map(|ticket| (ticket, first..end.div_ceil(GROUP_LEN).min(first + LEAD_GROUPS)));
        let promised = lead.as_ref().map_or(0, |(_, indices)| indices.end - indices.start);
        let answer = Answer::Object { meta, start, end, ticket: Some(ticket), lead: promised };
        let served = self.hold_open(answer, ticket, object, lead).await;
        self.tickets.close(ticket);
        served
    }

    /// The ticket is good until the peer stops the stream.
    async fn hold_open(
        &mut self,
        answer: Answer,
        ticket: Ticket,
        object: Arc<dyn StoredObject>,
        lead: Option<(Ticket, Range<u64>)>,
    ) -> Result<(), ServeError> {
        self.answer(&answer).await?;
        let limit = self.limit();
        let session = &self.session;
        let leading = async {
            if let Some((ticket, indices)) = lead {
                let groups = indices.map(|index| send_lead(session, &*object, ticket, index, limit));
                join_all(groups).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            // An error is an end as well.
            _ = self.send.stopped() => {}
            () = self.tickets.until_idle(ticket, TICKET_IDLE) => {}
            () = leading => {}
        }
        Ok(())
    }

    async fn led(&mut self, ticket: Ticket, index: u64, len: u64, digest: Digest) -> Result<(), ServeError> {
        let lead = self.context.leads.from(self.peer, ticket).ok_or_else(|| unknown(ticket))?;
        if len > GROUP_LEN || !lead.claim(index) {
            return Err(invalid(format!("no group {index} of {len} bytes was awaited")));
        }
        let limit = self.limit();
        let received = receive_group(&mut self.receive, (index, len), digest, limit).await;
        let whole = received.ok().flatten();
        let accepted = whole.is_some();
        lead.arrive(index, whole.map(|bytes| Group { segments: vec![bytes], digest }));
        match accepted {
            true => self.answer(&Answer::Accepted).await,
            false => Err(invalid(format!("group {index} is damaged"))),
        }
    }

    async fn group(&mut self, ticket: u64, index: u64) -> Result<(), ServeError> {
        let object: Arc<dyn StoredObject> = self.tickets.reading(ticket).ok_or_else(|| unknown(ticket))?;
        if index >= group_count(object.meta().size) {
            return Err(invalid(format!("the object has no group {index}")));
        }
        let group = object.group(index).await?;
        self.answer_with(&Answer::Group { len: group.len(), digest: group.digest }, &group.segments).await
    }

    async fn stat(&mut self, id: &ObjectId) -> Result<(), ServeError> {
        match self.context.storage.stat(id).await? {
            Some(meta) => self.answer(&Answer::Known { meta }).await,
            None => self.answer(&Answer::Missing).await,
        }
    }

    async fn evict(&mut self, id: &ObjectId) -> Result<(), ServeError> {
        let existed = self.context.storage.evict(id).await?;
        self.answer(&Answer::Evicted { existed }).await
    }

    async fn put_inline(&mut self, id: &ObjectId, options: PutOptions, len: u64) -> Result<(), ServeError> {
        if len > INLINE_LEN {
            return Err(invalid(format!("{len} bytes are too many to travel with the request")));
        }
        let limit = self.limit();
        let bytes = receive_bytes(&mut self.receive, len as usize, limit).await?;
        let body = stream::iter([Ok(bytes)]).boxed();
        let options = PutOptions { size: Some(len), ..options };
        let meta = local::put(&self.context.storage, id, options, body).await?;
        self.answer(&Answer::Stored { meta }).await
    }

    async fn put_parts(&mut self, id: &ObjectId, options: PutOptions) -> Result<(), ServeError> {
        let upload = self.context.storage.begin(id, options.size, options.create_only).await?;
        let uploading = Arc::new(Uploading::new(upload));
        let ticket = self.tickets.open(Open::Upload(uploading.clone())).ok_or_else(too_many)?;
        let served = self.collect_parts(ticket, &uploading).await;
        self.tickets.close(ticket);
        served
    }

    async fn collect_parts(&mut self, ticket: u64, uploading: &Uploading) -> Result<(), ServeError> {
        self.answer(&Answer::Continue { ticket }).await?;
        let header = tokio::select! {
            // The parts may take hours.
            header = receive_header(&mut self.receive, Duration::MAX) => header?,
            () = self.tickets.until_idle(ticket, TICKET_IDLE) => return Err(invalid("no parts came")),
        };
        let Request::Commit { size, digest } = header else {
            return Err(invalid("expected a commit"));
        };
        let meta = uploading.commit(Expected { size, digest }).await?;
        self.answer(&Answer::Stored { meta }).await
    }

    async fn part(&mut self, ticket: u64, index: u64, len: u64, digest: Digest) -> Result<(), ServeError> {
        let uploading = self.tickets.uploading(ticket).ok_or_else(|| unknown(ticket))?;
        if len > GROUP_LEN {
            return Err(invalid(format!("a part of {len} bytes is larger than a group")));
        }
        let limit = self.limit();
        let admitted = tokio::time::timeout(limit, uploading.admit(index)).await;
        admitted.map_err(|_| invalid(format!("the parts before part {index} did not arrive")))??;
        let bytes = receive_group(&mut self.receive, (index, len), digest, limit).await?;
        let bytes = bytes.ok_or_else(|| invalid(format!("part {index} is damaged")))?;
        uploading.add(index, bytes).await?;
        self.answer(&Answer::Accepted).await
    }
}

/// Sends a group that the peer has not asked for yet. What fails here the peer asks for, and learns why.
async fn send_lead(
    session: &Session,
    object: &dyn StoredObject,
    ticket: Ticket,
    index: u64,
    limit: Duration,
) {
    let (segments, digest) = match object.group(index).await {
        Ok(group) => (group.segments, group.digest),
        Err(_) => (Vec::new(), Digest([0; 32])),
    };
    let len = segments.iter().map(|segment| segment.len() as u64).sum();
    let lead = Request::Lead { ticket, index, len, digest };
    if let Err(error) = wire::ask(session.connection(), &lead, &segments, limit).await {
        debug!(%error, "a group of a lead was not sent");
    }
}

fn unknown(ticket: u64) -> ServeError {
    invalid(format!("there is no open ticket {ticket}"))
}

fn too_many() -> ServeError {
    invalid("too many transfers are open on this connection; wait for some to end")
}
