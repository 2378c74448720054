//! The HTTP part of a connection: the websocket upgrade at `/` (RFC 6455, section 4.2), `/healthz` and `/metrics`.
//!
//! An upgrade hands the socket back to the connection's own task, so that one task owns a client from its first
//! byte to its last and no server framework has to keep track of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use proxystore_shared::relayed::{self, MAX_FRAME_LEN};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::clients::Clients;
use crate::metrics::{Metrics, TEXT_FORMAT};
use crate::read_ahead::ReadAhead;
use crate::write_through::WriteThrough;

/// Largest request head; room for a token of several kilobytes.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// What a client keeps allocated until its first message. Reads are in larger pieces ([`crate::read_ahead`]); from 1 KiB
/// on, the buffer would have this size again after each message.
const READ_BUFFER_LEN: usize = 1000;

/// What is answered before a connection becomes a client's.
#[derive(Debug)]
pub struct Front {
    /// For the whole head of a request to arrive.
    pub head_timeout: Duration,
    /// A permit for each client that may connect; without one left, the answer is 503.
    pub places: Arc<Semaphore>,
    /// Messages of more bytes are refused by the websocket before they are buffered.
    pub message_limit: usize,
    /// What is told to clients that ask for [`relayed::SUBPROTOCOL`].
    pub offer: HeaderValue,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/metrics`.
    pub clients: Arc<Clients>,
}

/// A client's websocket.
pub type Socket = WebSocketStream<WriteThrough<ReadAhead<TokioIo<Upgraded>>>>;

/// A client that completed the upgrade.
#[derive(Debug)]
pub struct Client {
    /// Its websocket.
    pub socket: Socket,
    /// The `Authorization` header of the upgrade request.
    pub credentials: Option<HeaderValue>,
    /// Whether it asked for, and got, [`relayed::SUBPROTOCOL`].
    pub extended: bool,
    /// Its place among the clients; given back when dropped.
    pub place: OwnedSemaphorePermit,
}

/// An upgrade that was granted but whose response may not have been written yet.
struct Upgrading {
    socket: OnUpgrade,
    credentials: Option<HeaderValue>,
    extended: bool,
    place: OwnedSemaphorePermit,
}

/// Serves HTTP on `stream` until it becomes a websocket or ends, which the caller has to bound in time.
pub async fn upgrade<S>(stream: S, front: &Front) -> Option<Client>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let granted = Mutex::new(None);
    let service = service_fn(async |request| Ok::<_, Infallible>(respond(request, front, &granted)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.head_timeout)
        .max_buf_size(MAX_HEAD_LEN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    served.ok()?;
    let Upgrading { socket, credentials, extended, place } =
        granted.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    let stream = WriteThrough::new(ReadAhead::new(TokioIo::new(socket.await.ok()?)));
    let limit = if extended { front.message_limit.max(MAX_FRAME_LEN) } else { front.message_limit };
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_LEN)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Some(Client { socket, credentials, extended, place })
}

fn respond(
    request: Request<Incoming>,
    front: &Front,
    granted: &Mutex<Option<Upgrading>>,
) -> Response<String> {
    match (request.uri().path(), request.method()) {
        ("/", _) => respond_to_upgrade(request, front, granted),
        ("/healthz", &Method::GET | &Method::HEAD) => text(StatusCode::OK, "ok"),
        ("/metrics", &Method::GET | &Method::HEAD) => metrics(front),
        ("/healthz" | "/metrics", _) => text(StatusCode::METHOD_NOT_ALLOWED, "Use GET.\n"),
        _ => {
            let hint = "A ProxyStore relay serves its websocket at / besides /healthz and /metrics.\n";
            text(StatusCode::NOT_FOUND, hint)
        }
    }
}

fn metrics(front: &Front) -> Response<String> {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let mut response = Response::new(front.metrics.text(&front.clients, tasks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT));
    response
}

fn respond_to_upgrade(
    mut request: Request<Incoming>,
    front: &Front,
    granted: &Mutex<Option<Upgrading>>,
) -> Response<String> {
    let Ok(mut response) = create_response_with_body(&request, String::new) else {
        return upgrade_required();
    };
    let Ok(place) = front.places.clone().try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "This relay has as many clients as it may have.\n");
    };
    let extended = asks_for_more(request.headers());
    if extended {
        let headers = response.headers_mut();
        let selected = HeaderValue::from_static(relayed::SUBPROTOCOL);
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, selected);
        headers.insert(relayed::HEADER, front.offer.clone());
    }
    let credentials = request.headers_mut().remove(header::AUTHORIZATION);
    let socket = hyper::upgrade::on(request);
    let upgrading = Upgrading { socket, credentials, extended, place };
    *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(upgrading);
    response
}

/// Whether the sub-protocols that a client lists include ours (RFC 6455, section 11.3.4).
fn asks_for_more(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let mut names = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(','));
    names.any(|name| name.trim() == relayed::SUBPROTOCOL)
}

fn upgrade_required() -> Response<String> {
    let hint = "This is a ProxyStore relay: connect with a websocket client (version 13), for example through \
                the relay address in an endpoint's configuration.\n";
    let mut response = text(StatusCode::UPGRADE_REQUIRED, hint);
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<String> {
    let mut response = Response::new(body.to_owned());
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
