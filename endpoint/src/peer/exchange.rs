//! Asks a peer something, on whatever session there is, and on another if that one turns out to be dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use noq::{RecvStream, SendStream};
use proxystore_shared::EndpointId;
use proxystore_shared::frame::{Answer, Request};
use tokio::time::sleep;
use tracing::debug;

use super::PeerError;
use super::manager::PeerManager;
use super::session::{Busy, Session};
use super::wire::{self, WireError};

/// Sessions tried for one request. The first may be a leftover of a peer that has restarted, the second may be
/// lost to a race with its idle timeout.
const ATTEMPTS: usize = 3;

/// Between looks at whether anything arrives.
const LOOK: Duration = Duration::from_millis(100);

/// Silence while an answer is due before the peer is asked for a sign of life.
const QUIET: Duration = Duration::from_millis(250);

/// Silence, beyond three round trips, before another session is sought beside the silent one.
const SUSPICIOUS: Duration = Duration::from_millis(750);

/// An answer, and what follows it.
pub struct Reply {
    /// The header.
    pub answer: Answer,
    /// For more of the request, if there is more.
    pub send: SendStream,
    /// For the bytes behind the header.
    pub receive: RecvStream,
    /// Keeps the session from being closed as idle.
    pub busy: Busy,
}

/// Why one attempt failed.
enum Failed {
    /// The session is of no use: try another.
    Session(String),
    /// Another session would not help.
    Request(PeerError),
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Gone(why) => Self::Session(why),
            other => Self::Request(other.into()),
        }
    }
}

impl From<WireError> for PeerError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Stalled(limit) => Self::Stalled(limit),
            WireError::Gone(why) => Self::Lost(why),
            WireError::Header(error) => Self::Protocol(error.to_string()),
            WireError::Short(read) => Self::Protocol(format!("an answer ended after {read} bytes")),
        }
    }
}

impl PeerManager {
    /// Sends `request` with the bytes that belong to it, and receives the answer's header. A refusal is an error.
    ///
    /// With `repeatable`, the request is sent again on another session if the first dies before it answered.
    pub(super) async fn ask(
        &self,
        peer: EndpointId,
        request: &Request,
        bytes: &[Bytes],
        repeatable: bool,
    ) -> Result<Reply, PeerError> {
        let mut dead = None;
        let mut why = String::new();
        for _ in 0..if repeatable { ATTEMPTS } else { 1 } {
            let session = self.session(peer, dead).await?;
            dead = Some(session.id());
            match self.attempt(peer, session, request, bytes).await {
                Ok(reply) => {
                    let answer = unless_refused(reply.answer)?;
                    return Ok(Reply { answer, ..reply });
                }
                Err(Failed::Request(error)) => return Err(error),
                Err(Failed::Session(error)) => {
                    debug!(%peer, %error, "a session failed a request");
                    why = error;
                }
            }
        }
        Err(PeerError::Lost(why))
    }

    async fn attempt(
        &self,
        peer: EndpointId,
        session: Arc<Session>,
        request: &Request,
        bytes: &[Bytes],
    ) -> Result<Reply, Failed> {
        let limit = self.context.config.read_timeout();
        let suspicion = self.replaced_if_silent(peer, session.clone());
        tokio::select! {
            biased;
            reply = exchange(session, request, bytes, limit) => reply,
            replaced = suspicion => Err(replaced),
        }
    }

    /// Finishes when `session` has been silent and another one is open, or cannot be had.
    async fn replaced_if_silent(&self, peer: EndpointId, session: Arc<Session>) -> Failed {
        until_silent(&session).await;
        match self.session(peer, Some(session.id())).await {
            Ok(_) => Failed::Session("the peer was silent".into()),
            Err(error) => Failed::Request(error),
        }
    }
}

/// A refusal is an error.
pub(super) fn unless_refused(answer: Answer) -> Result<Answer, PeerError> {
    match answer {
        Answer::Failed { reason, message } => Err(PeerError::Refused { reason, message }),
        answer => Ok(answer),
    }
}

async fn exchange(
    session: Arc<Session>,
    request: &Request,
    bytes: &[Bytes],
    limit: Duration,
) -> Result<Reply, Failed> {
    let busy = session.busy();
    let (answer, send, receive) = wire::ask(session.connection(), request, bytes, limit).await?;
    Ok(Reply { answer, send, receive, busy })
}

/// Returns once nothing has arrived on the connection for longer than a living peer takes.
pub(super) async fn until_silent(session: &Session) {
    // Most answers are there before the first look.
    let mut received = None;
    let mut heard = Instant::now();
    loop {
        sleep(LOOK).await;
        let now_received = Some(session.stats().udp_rx.datagrams);
        if now_received != received {
            received = now_received;
            heard = Instant::now();
        } else if heard.elapsed() > SUSPICIOUS + 3 * session.path().round_trip || session.is_closed() {
            return;
        } else if heard.elapsed() > QUIET {
            session.ping();
        }
    }
}
