//! The HTTP server of an endpoint.
//!
//! Two APIs over the same four operations: the Python client's routes, and resources under `/v1`
//! (`proxystore_shared::http` names both). Objects stream through in both directions, so a request costs some
//! buffers, never an object; whatever makes an answer incomplete breaks its connection, so that a client never
//! takes a torn object for a whole one.
//!
//! [`serve`] owns every connection: a client that neither sends nor takes bytes is dropped after a while, and
//! when the server ends so do all of its tasks.

mod app;
mod batch;
mod conditions;
mod connection;
mod delivery;
mod failure;
mod info;
mod listing;
mod metrics;
mod objects;
mod openapi;
mod patience;
mod problem;
mod python;
mod routes;
mod target;
mod timer;
mod upload;

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::config::endpoint::HttpConfig;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Endpoint;
use app::App;
use connection::Connections;
pub use delivery::FileSocket;

/// How long requests under way may take to finish once the server is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Pause after the system refused a connection: it is out of file descriptors or memory, which takes a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `endpoint` on `listener`, and on `files` where it is given, until `shutdown`, then lets requests under way finish
/// for a few seconds.
///
/// Dropping the future drops every connection.
pub async fn serve(
    endpoint: Endpoint,
    listener: TcpListener,
    files: Option<FileSocket>,
    config: HttpConfig,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let app = App::new(endpoint, config.idle_timeout());
    let connections = Connections::new(app.clone(), shutdown.clone());
    let _abort_when_dropped = app.abort.clone().drop_guard();
    while let Some((client, slot)) = shutdown.run_until_cancelled(accept(&listener, &files, &slots)).await {
        match client {
            Client::Network(stream) => connections.start(stream, slot),
            Client::WithFile(stream) => connections.start_with_file(stream, slot),
        }
    }
    drop(files);
    drop(listener);
    app.tasks.close();
    if timeout(SHUTDOWN_GRACE, app.tasks.wait()).await.is_err() {
        warn!(connections = app.tasks.len(), "requests were broken off, the server is stopping");
        app.abort.cancel();
        app.tasks.wait().await;
    }
}

/// Who has connected.
enum Client {
    Network(TcpStream),
    WithFile(UnixStream),
}

/// Waits until there may be another connection, and for that connection.
async fn accept(
    listener: &TcpListener,
    files: &Option<FileSocket>,
    slots: &Arc<Semaphore>,
) -> (Client, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; were it, connections would go uncounted rather than unserved.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted.map(|(stream, _)| Client::Network(stream)),
            accepted = accept_file(files) => accepted.map(Client::WithFile),
        };
        match accepted {
            Ok(client) => return (client, slot),
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_file(files: &Option<FileSocket>) -> io::Result<UnixStream> {
    match files {
        Some(files) => files.accept().await,
        None => pending().await,
    }
}
