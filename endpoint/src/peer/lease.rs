//! A read that is open at a peer: the right to fetch groups of one version of an object over one session.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use noq::RecvStream;
use proxystore_shared::frame::{Answer, ObjectMeta, Refusal, Request, Ticket};

use super::PeerError;
use super::exchange::{Reply, unless_refused, until_silent};
use super::session::{Busy, Session};
use super::wire;
use crate::storage::Group;

/// An open read.
pub struct Lease {
    ticket: Ticket,
    busy: Busy,
    /// The read ends with this stream.
    _held: RecvStream,
    /// Why it could not be renewed.
    failure: OnceLock<PeerError>,
}

impl Lease {
    /// Takes over the read that `reply` opened; none if it opened none.
    pub fn from_reply(reply: Reply) -> Option<(ObjectMeta, Self)> {
        match reply.answer {
            Answer::Object { meta, ticket: Some(ticket), .. } => {
                let failure = OnceLock::new();
                Some((meta, Self { ticket, busy: reply.busy, _held: reply.receive, failure }))
            }
            _ => None,
        }
    }

    /// Whether `self` is of use to those who have `newer`: it saves the peer a second open read.
    pub fn serves_as_well_as(&self, newer: &Self) -> bool {
        self.failure().is_none() && self.session().id() == newer.session().id()
    }

    /// Why it could not be renewed, if that was tried.
    pub fn failure(&self) -> Option<PeerError> {
        self.failure.get().cloned()
    }

    /// It cannot be renewed: whoever tries to, fails as well and at once.
    pub fn fail(&self, error: PeerError) {
        // Only one renews at a time, and stops at the first failure.
        let _ = self.failure.set(error);
    }

    /// What it goes over.
    pub fn session(&self) -> &Arc<Session> {
        self.busy.session()
    }

    /// Fetches the group at `index`, which must have `len` bytes. [`PeerError::Lost`] says that another lease may do.
    pub async fn fetch(&self, index: u64, len: u64, limit: Duration) -> Result<Group, PeerError> {
        let fetched = tokio::select! {
            biased;
            fetched = self.ask(index, len, limit) => fetched,
            () = until_silent(self.session()) => Err(PeerError::Lost("the peer was silent".into())),
        };
        match fetched {
            // The peer ends reads that are open for long.
            Err(PeerError::Refused { reason: Refusal::Invalid, message }) => Err(PeerError::Lost(message)),
            fetched => fetched,
        }
    }

    async fn ask(&self, index: u64, len: u64, limit: Duration) -> Result<Group, PeerError> {
        let request = Request::Group { ticket: self.ticket, index };
        let (answer, _send, mut receive) =
            wire::ask(self.session().connection(), &request, &[], limit).await?;
        let digest = match unless_refused(answer)? {
            Answer::Group { len: announced, digest } if announced == len => digest,
            other => return Err(PeerError::Protocol(format!("asked for group {index}, got {other:?}"))),
        };
        let bytes = wire::receive_group(&mut receive, (index, len), digest, limit).await?;
        let bytes = bytes.ok_or_else(|| PeerError::Protocol(format!("group {index} is damaged")))?;
        wire::note_end(&mut receive);
        Ok(Group { segments: vec![bytes], digest })
    }
}
