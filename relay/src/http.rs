//! The HTTP part of a connection: the websocket upgrade at `/` (RFC 6455, section 4.2) and `/healthz`.
//!
//! An upgrade hands the socket back to the connection's own task, so that one task owns a client from its first
//! byte to its last and no server framework has to keep track of it.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Largest request head; room for a token of several kilobytes.
const MAX_HEAD_LEN: usize = 16 * 1024;
/// What a client keeps allocated while it is idle. An offer has two or three kilobytes, so it takes two reads.
const READ_BUFFER_LEN: usize = 2 * 1024;
/// Messages that are written together collect up to this size before a system call.
const WRITE_BUFFER_LEN: usize = 4 * 1024;

/// A client's websocket.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A client that completed the upgrade.
#[derive(Debug)]
pub struct Client {
    /// Its websocket.
    pub socket: Socket,
    /// The `Authorization` header of the upgrade request.
    pub credentials: Option<HeaderValue>,
    /// Its place among the clients; given back when dropped.
    pub place: OwnedSemaphorePermit,
}

/// An upgrade that was granted but whose response may not have been written yet.
struct Upgrading {
    socket: OnUpgrade,
    credentials: Option<HeaderValue>,
    place: OwnedSemaphorePermit,
}

/// Serves HTTP on `stream` until it becomes a websocket or ends, which the caller has to bound in time.
///
/// `places` has a permit for each client that may connect; without one left, the answer is 503. Messages of
/// more than `message_limit` bytes are refused by the returned socket before they are buffered.
pub async fn upgrade<S>(
    stream: S,
    head_timeout: Duration,
    places: &Arc<Semaphore>,
    message_limit: usize,
) -> Option<Client>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let granted = Mutex::new(None);
    let service = service_fn(async |request| Ok::<_, Infallible>(respond(request, places, &granted)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD_LEN)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    served.ok()?;
    let upgrading: Upgrading = granted.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    let stream = TokioIo::new(upgrading.socket.await.ok()?);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_LEN)
        .write_buffer_size(WRITE_BUFFER_LEN)
        .max_message_size(Some(message_limit))
        .max_frame_size(Some(message_limit));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Some(Client { socket, credentials: upgrading.credentials, place: upgrading.place })
}

fn respond(
    request: Request<Incoming>,
    places: &Arc<Semaphore>,
    granted: &Mutex<Option<Upgrading>>,
) -> Response<String> {
    match request.uri().path() {
        "/" => respond_to_upgrade(request, places, granted),
        "/healthz" if matches!(*request.method(), Method::GET | Method::HEAD) => text(StatusCode::OK, "ok"),
        "/healthz" => text(StatusCode::METHOD_NOT_ALLOWED, "Use GET.\n"),
        _ => text(StatusCode::NOT_FOUND, "A ProxyStore relay serves its websocket at / and /healthz.\n"),
    }
}

fn respond_to_upgrade(
    mut request: Request<Incoming>,
    places: &Arc<Semaphore>,
    granted: &Mutex<Option<Upgrading>>,
) -> Response<String> {
    let Ok(response) = create_response_with_body(&request, String::new) else {
        return upgrade_required();
    };
    let Ok(place) = places.clone().try_acquire_owned() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "This relay has as many clients as it may have.\n");
    };
    let credentials = request.headers_mut().remove(header::AUTHORIZATION);
    let socket = hyper::upgrade::on(request);
    *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Upgrading { socket, credentials, place });
    response
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
