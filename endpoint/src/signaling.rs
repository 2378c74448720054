//! The connection to the relay: registers, carries offers, answers and datagrams, comes back when it is lost.
//!
//! One task owns the websocket ([`link`]). Losing it disturbs no session that has another path.

pub mod backoff;
mod link;
pub mod probe;
mod route;
mod unverified;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use proxystore_shared::EndpointId;
use proxystore_shared::config::endpoint::ProxySetting;
use proxystore_shared::relay_message::{PeerConnection, Registration, RelayMessage, Response, is_final};
use proxystore_shared::relayed::{HEADER, RelayOffer, SUBPROTOCOL};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lock::lock;
use crate::peer::RelayStatus;
use crate::signaling::backoff::Backoff;
use crate::transport::relayed::RelayEnd;
use crate::transport::route::RouteError;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// For the TCP connection, TLS, the upgrade and the registration together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait for the relay; one more is refused.
const OUTBOX: usize = 256;

/// Whoever lost the relay along with us is back so soon after us, if it was away for a short while: the pauses between
/// attempts are the same everywhere.
const REUNION: Duration = Duration::from_secs(5);

/// Largest message accepted from a relay, as Python's websocket library has it.
const MAX_MESSAGE: usize = 1 << 20;

/// Where the relay is and how to introduce ourselves.
#[derive(Clone)]
pub struct RelayLogin {
    /// `ws://` or `wss://` address.
    pub address: String,
    /// HTTP proxy on the way there; none for what the environment says.
    pub proxy: Option<ProxySetting>,
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
    /// The configured address names no host.
    #[error("{0:?} is not the address of a relay: it reads like wss://relay.example.org")]
    NoAddress(String),
    /// The address or the token cannot be sent in a request.
    #[error("the relay address or token is malformed: {0}")]
    Malformed(String),
    #[error("the relay's certificate or TLS set-up was refused: {0}")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Route(#[from] RouteError),
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
    #[error("the relay was silent for {} s", .0.as_secs())]
    Silent(Duration),
}

impl LoginError {
    /// A relay without our sub-protocol, such as Python's. The websocket library takes that for a failure.
    fn is_plain_relay(&self) -> bool {
        let Self::Socket(error) = self else { return false };
        let no_protocol = ProtocolError::SecWebSocketSubProtocolError(SubProtocolError::NoSubProtocol);
        matches!(&**error, tungstenite::Error::Protocol(error) if *error == no_protocol)
    }

    fn is_final(&self) -> bool {
        match self {
            Self::NoAddress(_) | Self::Malformed(_) => true,
            Self::Route(error) => error.is_final(),
            Self::Closed { code, .. } => is_final(*code),
            _ => false,
        }
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

/// Sends through the relay, and knows whether there is one and what it offers.
#[derive(Clone)]
pub struct Signaling {
    outbox: mpsc::Sender<Letter>,
    status: Arc<Mutex<RelayStatus>>,
    offer: watch::Receiver<RelayOffer>,
    datagrams: watch::Receiver<bool>,
    returned: watch::Receiver<Option<Instant>>,
    checks: watch::Sender<()>,
}

/// The relay's outbox is full: too many offers wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many messages wait for the relay")]
pub struct OutboxFull;

impl Signaling {
    /// Prepares a connection; [`run`] makes it.
    pub fn new(login: &RelayLogin, datagrams: RelayEnd) -> (Self, Outbox) {
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let status = RelayStatus {
            address: login.address.clone(),
            connected: false,
            // A route that cannot be is reported when it is tried.
            proxy: route::of(login).ok().and_then(|route| route.proxy()),
            last_error: None,
            datagrams: false,
        };
        let status = Arc::new(Mutex::new(status));
        let (offer, offered) = watch::channel(RelayOffer::default());
        let (carries, carried) = watch::channel(false);
        let (returned, since) = watch::channel(None);
        let (checks, asked) = watch::channel(());
        let signaling = Self {
            outbox,
            status: status.clone(),
            offer: offered,
            datagrams: carried,
            returned: since,
            checks,
        };
        (signaling, Outbox { letters, datagrams, status, offer, carries, returned, checks: asked })
    }

    /// Sends `message` as soon as the relay is connected, unless that is after `expires`.
    pub fn send(&self, message: PeerConnection, expires: Instant) -> Result<(), OutboxFull> {
        self.outbox.try_send(Letter { message, expires }).map_err(|_| OutboxFull)
    }

    /// Whether the relay is connected.
    pub fn status(&self) -> RelayStatus {
        lock(&self.status).clone()
    }

    /// What the relay said that it offers when it was last connected.
    pub fn offer(&self) -> watch::Receiver<RelayOffer> {
        self.offer.clone()
    }

    /// Has the connection tested now, because something makes it look dead; if it is, it is made anew.
    pub fn check(&self) {
        self.checks.send_replace(());
    }

    /// Whether the relay may not know yet who lost it along with us.
    pub fn is_reunion(&self) -> bool {
        self.returned.borrow().is_some_and(|returned| returned.elapsed() < REUNION)
    }

    /// Whether the relay carries datagrams now.
    pub fn datagrams(&self) -> watch::Receiver<bool> {
        self.datagrams.clone()
    }
}

/// The other end of [`Signaling`], for [`run`].
pub struct Outbox {
    letters: mpsc::Receiver<Letter>,
    datagrams: RelayEnd,
    status: Arc<Mutex<RelayStatus>>,
    offer: watch::Sender<RelayOffer>,
    carries: watch::Sender<bool>,
    /// When the relay was back after an outage.
    returned: watch::Sender<Option<Instant>>,
    checks: watch::Receiver<()>,
}

impl Outbox {
    fn connected(&mut self, offer: RelayOffer) {
        if lock(&self.status).last_error.is_some() {
            self.returned.send_replace(Some(Instant::now()));
        }
        self.set_status(true, None, offer.datagrams);
        self.offer.send_replace(offer);
    }

    fn disconnected(&mut self, error: String) {
        self.set_status(false, Some(error), false);
    }

    fn set_status(&mut self, connected: bool, error: Option<String>, datagrams: bool) {
        {
            let mut status = lock(&self.status);
            status.connected = connected;
            status.last_error = error;
            status.datagrams = datagrams;
        }
        self.datagrams.set_open(datagrams);
        self.carries.send_if_modified(|carries| std::mem::replace(carries, datagrams) != datagrams);
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
            Ok(Ok((socket, offer))) => {
                info!(relay = %login.address, datagrams = offer.datagrams, "registered with the relay");
                outbox.connected(offer);
                backoff.reset();
                match link::converse(socket, &mut outbox, &inbox, &stop).await {
                    Some(error) => error,
                    None => return,
                }
            }
            Ok(Err(error)) => error,
            Err(_) => LoginError::Timeout,
        };
        outbox.disconnected(error.to_string());
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

/// The host in a relay's address.
pub fn host_of(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    // An IPv6 address stands in brackets.
    uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
}

async fn register(login: &RelayLogin) -> Result<(Socket, RelayOffer), LoginError> {
    let (mut socket, offer) = upgrade(login).await?;
    let registration = Registration { name: login.name.clone(), uuid: login.id };
    socket.send(Message::text(RelayMessage::RelayRegistration(registration).encode())).await?;
    loop {
        match socket.next().await.ok_or(LoginError::Gone)?? {
            Message::Text(text) => return accepted(&text).map(|()| (socket, offer)),
            Message::Close(frame) => return Err(closed(frame)),
            _ => {}
        }
    }
}

/// Opens the websocket, with what goes beyond Python's protocol where the relay has it.
async fn upgrade(login: &RelayLogin) -> Result<(Socket, RelayOffer), LoginError> {
    match open(login, true).await {
        Err(error) if error.is_plain_relay() => open(login, false).await,
        outcome => outcome,
    }
}

/// Opens the websocket; `extended` asks for what goes beyond Python's protocol.
async fn open(login: &RelayLogin, extended: bool) -> Result<(Socket, RelayOffer), LoginError> {
    let malformed = |error: String| LoginError::Malformed(error);
    let mut request =
        login.address.as_str().into_client_request().map_err(|error| malformed(error.to_string()))?;
    if let Some(token) = &login.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| malformed("the token has characters a header cannot carry".into()))?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    if extended {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let connector = connector(login)?;
    let stream = route::connect(login).await?;
    let (socket, response) = client_async_tls_with_config(request, stream, Some(config), connector).await?;
    let offer = response.headers().get(HEADER).and_then(|value| value.to_str().ok());
    Ok((socket, offer.map(RelayOffer::decode).unwrap_or_default()))
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
