//! The connection to the relay: registers, carries offers and answers, comes back when it is lost.
//!
//! One task owns the websocket. Losing it disturbs no session: sessions run between endpoints.

pub mod backoff;
mod unverified;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::EndpointId;
use proxystore_shared::relay_message::{PeerConnection, Registration, RelayMessage, Response, is_final};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{self, MissedTickBehavior};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::peer::RelayStatus;
use crate::signaling::backoff::Backoff;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// For the TCP connection, TLS, the upgrade and the registration together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Between pings: below the minute after which common NATs forget an idle connection.
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Without any frame from the relay before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(50);

/// To hand one message to the relay.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait for the relay; one more is refused.
const OUTBOX: usize = 256;

/// Largest message accepted from a relay, as Python's websocket library has it.
const MAX_MESSAGE: usize = 1 << 20;

/// Where the relay is and how to introduce ourselves.
#[derive(Clone)]
pub struct RelayLogin {
    /// `ws://` or `wss://` address.
    pub address: String,
    /// Bearer token, for relays that ask for one.
    pub token: Option<String>,
    /// Whether the relay's certificate is checked.
    pub verify_certificate: bool,
    /// Our name.
    pub name: String,
    /// Our id.
    pub id: EndpointId,
}

/// Why the relay is not connected.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    /// The address or the token cannot be sent in a request.
    #[error("the relay address or token is malformed: {0}")]
    Malformed(String),
    #[error("the relay's certificate or TLS set-up was refused: {0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Socket(#[from] Box<tungstenite::Error>),
    #[error("no registration within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("the relay refused the registration: {0}")]
    Refused(String),
    /// The relay closed the connection; some codes ask us not to come back.
    #[error("the relay closed the connection with code {code}: {reason}")]
    Closed { code: u16, reason: String },
    #[error("the relay went away")]
    Gone,
    #[error("the relay was silent for {} s", SILENCE.as_secs())]
    Silent,
}

impl LoginError {
    fn is_final(&self) -> bool {
        matches!(self, Self::Malformed(_)) || matches!(self, Self::Closed { code, .. } if is_final(*code))
    }
}

impl From<tungstenite::Error> for LoginError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}

/// A message for a peer that is worth sending until some moment.
struct Letter {
    message: PeerConnection,
    expires: Instant,
}

/// Sends through the relay, and knows whether there is one.
#[derive(Clone)]
pub struct Signaling {
    outbox: mpsc::Sender<Letter>,
    status: Arc<Mutex<RelayStatus>>,
}

/// The relay's outbox is full: too many offers wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages wait for the relay")]
pub struct OutboxFull;

impl Signaling {
    /// Prepares a connection; [`run`] makes it.
    pub fn new(address: &str) -> (Self, Outbox) {
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let status = RelayStatus { address: address.to_owned(), connected: false, last_error: None };
        let status = Arc::new(Mutex::new(status));
        (Self { outbox, status: status.clone() }, Outbox { letters, status })
    }

    /// Sends `message` as soon as the relay is connected, unless that is after `expires`.
    pub fn send(&self, message: PeerConnection, expires: Instant) -> Result<(), OutboxFull> {
        self.outbox.try_send(Letter { message, expires }).map_err(|_| OutboxFull)
    }

    /// Whether the relay is connected.
    pub fn status(&self) -> RelayStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The other end of [`Signaling`], for [`run`].
pub struct Outbox {
    letters: mpsc::Receiver<Letter>,
    status: Arc<Mutex<RelayStatus>>,
}

impl Outbox {
    fn set_status(&self, connected: bool, error: Option<String>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.connected = connected;
        status.last_error = error;
    }
}

/// Keeps the relay connected and passes what it sends to `inbox`, until `stop`, or until the relay says for good
/// that it will not have us.
pub async fn run(
    login: RelayLogin,
    mut outbox: Outbox,
    inbox: mpsc::Sender<PeerConnection>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = time::timeout(CONNECT_TIMEOUT, register(&login)) => outcome,
        };
        let error = match outcome {
            Ok(Ok(socket)) => {
                info!(relay = %login.address, "registered with the relay");
                outbox.set_status(true, None);
                backoff.reset();
                match converse(socket, &mut outbox, &inbox, &stop).await {
                    Some(error) => error,
                    None => return,
                }
            }
            Ok(Err(error)) => error,
            Err(_) => LoginError::Timeout,
        };
        outbox.set_status(false, Some(error.to_string()));
        if error.is_final() {
            warn!(relay = %login.address, %error, "not connecting to the relay again");
            return;
        }
        let pause = backoff.next_pause();
        warn!(relay = %login.address, %error, retry_in = ?pause, "no connection to the relay");
        tokio::select! {
            () = stop.cancelled() => return,
            () = time::sleep(pause) => {}
        }
    }
}

async fn register(login: &RelayLogin) -> Result<Socket, LoginError> {
    let malformed = |error: String| LoginError::Malformed(error);
    let mut request =
        login.address.as_str().into_client_request().map_err(|error| malformed(error.to_string()))?;
    if let Some(token) = &login.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| malformed("the token has characters a header cannot carry".into()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connector = connector(login)?;
    let (mut socket, _response) =
        connect_async_tls_with_config(request, Some(config), true, connector).await?;
    let registration = Registration { name: login.name.clone(), uuid: login.id };
    socket.send(Message::text(RelayMessage::RelayRegistration(registration).encode())).await?;
    loop {
        match socket.next().await.ok_or(LoginError::Gone)?? {
            Message::Text(text) => return accepted(&text).map(|()| socket),
            Message::Close(frame) => return Err(closed(frame)),
            _ => {}
        }
    }
}

fn accepted(text: &str) -> Result<(), LoginError> {
    match RelayMessage::decode(text) {
        Ok(RelayMessage::RelayResponse(Response { success: true, .. })) => Ok(()),
        Ok(RelayMessage::RelayResponse(Response { message, .. })) => {
            Err(LoginError::Refused(message.unwrap_or_else(|| "it gave no reason".into())))
        }
        Ok(_) => Err(LoginError::Refused("it answered with another message".into())),
        Err(error) => Err(LoginError::Refused(error.to_string())),
    }
}

fn closed(frame: Option<CloseFrame>) -> LoginError {
    frame.map_or(LoginError::Gone, |frame| LoginError::Closed {
        code: frame.code.into(),
        reason: frame.reason.as_str().to_owned(),
    })
}

/// System roots, unless the configuration says not to check.
fn connector(login: &RelayLogin) -> Result<Option<Connector>, LoginError> {
    if login.verify_certificate || !login.address.starts_with("wss://") {
        return Ok(None);
    }
    Ok(Some(Connector::Rustls(Arc::new(unverified::client_config()?))))
}

/// Carries messages both ways until the connection fails; none when asked to stop.
async fn converse(
    mut socket: Socket,
    outbox: &mut Outbox,
    inbox: &mpsc::Sender<PeerConnection>,
    stop: &CancellationToken,
) -> Option<LoginError> {
    let mut ping = time::interval(PING_INTERVAL);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let send = tokio::select! {
            () = stop.cancelled() => {
                // The relay forgets us sooner if told; it is no loss if it is not.
                let _ = time::timeout(SEND_TIMEOUT, socket.close(None)).await;
                return None;
            }
            frame = socket.next() => {
                heard = Instant::now();
                match receive(frame, inbox) {
                    Ok(()) => continue,
                    Err(error) => return Some(error),
                }
            }
            _ = ping.tick() => {
                if heard.elapsed() > SILENCE {
                    return Some(LoginError::Silent);
                }
                Message::Ping(Default::default())
            }
            letter = outbox.letters.recv() => match letter {
                Some(letter) if letter.expires > Instant::now() => {
                    Message::text(RelayMessage::PeerConnection(letter.message).encode())
                }
                Some(_) => continue,
                None => return None,
            },
        };
        match time::timeout(SEND_TIMEOUT, socket.send(send)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(error.into()),
            Err(_) => return Some(LoginError::Silent),
        }
    }
}

fn receive(
    frame: Option<Result<Message, tungstenite::Error>>,
    inbox: &mpsc::Sender<PeerConnection>,
) -> Result<(), LoginError> {
    match frame.ok_or(LoginError::Gone)?? {
        Message::Text(text) => match RelayMessage::decode(&text) {
            Ok(RelayMessage::PeerConnection(message)) => {
                if inbox.try_send(message).is_err() {
                    warn!("more offers arrive than can be answered; one was dropped");
                }
            }
            Ok(other) => debug!(?other, "unexpected message from the relay"),
            Err(error) => warn!(%error, "the relay sent something else than a message; skipped"),
        },
        Message::Close(frame) => return Err(closed(frame)),
        _ => {}
    }
    Ok(())
}
