//! One client from the upgrade to the end: a task that owns the socket, moves frames and keeps the clocks.
//!
//! The session decides nothing itself: [`crate::routing`] and [`crate::datagrams`] say what to do with a frame,
//! [`crate::liveness`] what a deadline means, [`crate::clients`] whether a message could be delivered. Whatever
//! ends it (the client, a kick, the relay's stop) interrupts any wait at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use hyper::header::HeaderValue;
use proxystore_shared::config::relay::RelayLimits;
use proxystore_shared::relay_message::{Registration, RelayMessage, Response, Route};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::auth::{AuthError, Authenticator, User};
use crate::clients::{Client, Clients, ConnectionId, Registered};
use crate::close::Close;
use crate::datagrams::{self, Dropped, Meter, Quotas};
use crate::duplex::Duplex;
use crate::http::{self, Socket};
use crate::liveness::{Due, Liveness};
use crate::metrics::Metrics;
use crate::outbox::{Full, Outbox};
use crate::routing::{self, Decision, Incoming};

/// For the close frame to be written and the client to hang up. A client that reads needs one round trip.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// What a closed client may still have on its way to us; closing the socket before that is read would reset
/// the connection, and the client might lose the close frame.
const MAX_DISCARDED: u64 = 64 << 20;

/// What all sessions of a relay share.
#[derive(Debug)]
pub struct Shared {
    /// The registry.
    pub clients: Arc<Clients>,
    /// Finds out who a client is.
    pub authenticator: Authenticator,
    /// What clients may send each other as datagrams.
    pub quotas: Quotas,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Deadlines and bounds.
    pub limits: RelayLimits,
    /// Largest message in bytes.
    pub message_limit: usize,
}

/// How a session ends.
#[derive(Debug)]
enum End {
    /// The client has to be told.
    Close(Close),
    /// The client closed or its connection broke.
    Gone,
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

/// A connected client.
pub struct Session {
    shared: Arc<Shared>,
    address: SocketAddr,
    duplex: Duplex,
    /// Whether it asked for datagrams.
    extended: bool,
    /// Dropped once the user is known.
    credentials: Option<HeaderValue>,
    user: Option<User>,
    registered: Option<Registered>,
    /// Of the datagrams it sends, once it has sent one.
    meter: Option<Box<Meter>>,
    connection: ConnectionId,
    liveness: Liveness,
    outbox: Arc<Outbox>,
    _place: OwnedSemaphorePermit,
}

impl Session {
    /// A session for a client that completed the upgrade.
    pub fn new(shared: Arc<Shared>, address: SocketAddr, client: http::Client) -> Self {
        Self {
            address,
            duplex: Duplex::new(client.socket),
            extended: client.extended,
            credentials: client.credentials,
            user: None,
            registered: None,
            meter: None,
            connection: shared.clients.next_connection(),
            liveness: Liveness::new(&shared.limits, Instant::now()),
            outbox: Arc::new(Outbox::new(shared.clients.room().clone())),
            _place: client.place,
            shared,
        }
    }

    /// Serves the client until it leaves, has to leave, or the relay stops.
    pub async fn run(&mut self, stop: &CancellationToken) {
        let outbox = self.outbox.clone();
        let end = tokio::select! {
            end = self.serve() => end,
            close = outbox.kick.kicked() => End::Close(close),
            () = stop.cancelled() => End::Close(Close::stopping()),
        };
        self.log_end(&end);
        // From here on the client is unknown, and its id free, however long closing takes.
        self.registered = None;
        let frame = match end {
            End::Close(close) => Some(close.into()),
            End::Gone => None,
        };
        // What cannot be said to the client in time it will have to do without.
        let _ = timeout(CLOSE_TIMEOUT, Box::pin(hang_up(&mut self.duplex.socket, frame))).await;
    }

    fn log_end(&self, end: &End) {
        let endpoint = self.registered.as_ref().map(|registered| tracing::field::display(registered.id()));
        match end {
            End::Close(Close { code, reason }) => {
                info!(endpoint, address = %self.address, code, %reason, "closing a client");
            }
            End::Gone => info!(endpoint, address = %self.address, "a client left"),
        }
    }

    async fn serve(&mut self) -> End {
        loop {
            let deadline = self.liveness.deadline(self.duplex.blocked_since());
            let step = tokio::select! {
                frame = self.duplex.receive(&self.outbox) => self.handle_frame(frame).await,
                () = sleep_until(deadline) => self.handle_deadline().await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn handle_frame(&mut self, frame: Option<Result<Message, SocketError>>) -> Result<(), End> {
        let incoming = routing::sort_incoming(frame, self.shared.message_limit);
        self.liveness.handle_frame(Instant::now());
        match incoming {
            Incoming::Text(text) => self.handle_text(text).await,
            Incoming::Binary(frame) => self.handle_datagrams(frame),
            Incoming::SignOfLife => Ok(()),
            Incoming::Gone => Err(End::Gone),
            Incoming::Unacceptable(close) => Err(close.into()),
        }
    }

    async fn handle_text(&mut self, text: Utf8Bytes) -> Result<(), End> {
        match routing::decide(&text, self.registered.as_ref().map(Registered::id)) {
            // Boxed because what happens once should not take room in every idle session.
            Decision::Register(registration) => Box::pin(self.register(registration)).await,
            Decision::Forward(route) => self.forward(route, text).await,
            Decision::Close(close) => Err(close.into()),
        }
    }

    async fn handle_deadline(&mut self) -> Result<(), End> {
        match self.liveness.handle_deadline(Instant::now(), self.duplex.blocked_since()) {
            Due::Nothing => Ok(()),
            Due::Ping => self.write(Message::Ping(Bytes::new())).await,
            Due::Close(close) => Err(close.into()),
        }
    }

    async fn register(&mut self, registration: Registration) -> Result<(), End> {
        let user = self.authenticate().await?;
        let id = registration.uuid;
        // Repeating the registration of this very session changes nothing in the registry.
        if self.registered.as_ref().is_none_or(|registered| registered.id() != id) {
            let client = Client {
                connection: self.connection,
                user: user.clone(),
                name: registration.name,
                address: self.address,
                extended: self.extended,
                outbox: self.outbox.clone(),
            };
            let registered = self.shared.clients.register(id, client);
            self.registered = Some(registered.map_err(|refused| Close::forbidden(refused.to_string()))?);
            info!(endpoint = %id, address = %self.address, %user, "registered");
        }
        self.liveness.handle_registered();
        self.answer(Response::registered()).await
    }

    async fn authenticate(&mut self) -> Result<User, End> {
        if let Some(user) = &self.user {
            return Ok(user.clone());
        }
        match self.shared.authenticator.authenticate(self.credentials.as_ref()).await {
            Ok(user) => {
                self.credentials = None;
                self.user = Some(user.clone());
                Ok(user)
            }
            Err(error) => {
                if let AuthError::Unavailable(message) = &error {
                    let message = Some(message.clone());
                    self.answer(Response { success: false, message, error: true }).await?;
                }
                Err(Close::from(error).into())
            }
        }
    }

    async fn forward(&mut self, route: Route, text: Utf8Bytes) -> Result<(), End> {
        // Only registered clients get here, and registering establishes the user.
        let Some(user) = &self.user else { return Err(Close::undecodable().into()) };
        let Route { source, peer, kind } = route;
        // A copy of the reference: the text itself is shared.
        match self.shared.clients.forward(user, peer, text.clone()) {
            Ok(()) => {
                debug!(%source, %peer, %kind, "forwarded");
                self.shared.metrics.forwarded.inc();
                Ok(())
            }
            Err(reason) => {
                debug!(%source, %peer, %kind, ?reason, "returned");
                self.shared.metrics.returned(reason);
                self.write(Message::text(routing::returned(&text, reason)?.encode())).await
            }
        }
    }

    async fn answer(&mut self, response: Response) -> Result<(), End> {
        self.write(Message::text(RelayMessage::RelayResponse(response).encode())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), End> {
        written(timeout(self.shared.limits.idle_timeout(), self.duplex.socket.send(message)).await)
    }

    fn handle_datagrams(&mut self, frame: Bytes) -> Result<(), End> {
        let registered = self.registered.as_ref().map(Registered::id);
        let envelope = datagrams::decide(&frame, self.extended, registered)?;
        // Only registered clients get here, and registering establishes the user.
        let (Some(sender), Some(user)) = (registered, &self.user) else { return Ok(()) };
        let (len, now) = (frame.len(), Instant::now());
        let Shared { clients, quotas, metrics, .. } = &*self.shared;
        let meter = self.meter.get_or_insert_with(|| Box::new(quotas.meter(user, now)));
        let outcome = quotas
            .admit(meter, len, now)
            .and_then(|()| clients.outbox_of(user, envelope.peer))
            .and_then(|outbox| {
                let frame = datagrams::readdress(frame, envelope, sender);
                outbox.push_datagrams(frame).map_err(|Full| Dropped::Full)
            });
        metrics.datagrams(len, outcome);
        if let Err(reason) = outcome
            && let Some(frames) = meter.handle_dropped(now)
        {
            debug!(endpoint = %sender, peer = %envelope.peer, ?reason, frames, "dropped datagrams");
        }
        Ok(())
    }
}

/// A write ends the session if it fails, or if the client took nothing for as long as it may be silent.
fn written(outcome: Result<Result<(), SocketError>, tokio::time::error::Elapsed>) -> Result<(), End> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(End::Gone),
        Err(_) => Err(Close::not_reading().into()),
    }
}

/// Sends the close frame, ends our direction, and discards what comes until the client has ended its own.
async fn hang_up(socket: &mut Socket, frame: Option<CloseFrame>) {
    // Failures mean that the client is gone already, which is where this leads.
    let _ = socket.close(frame).await;
    let stream = socket.get_mut();
    let _ = stream.shutdown().await;
    let _ = tokio::io::copy(&mut stream.take(MAX_DISCARDED), &mut tokio::io::sink()).await;
}
