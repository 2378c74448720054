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
mod upload;

use std::sync::Arc;
use std::time::Duration;

use proxystore_shared::config::endpoint::HttpConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Endpoint;
use app::App;
use connection::Connections;

/// How long requests under way may take to finish once the server is told to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Pause after the system refused a connection: it is out of file descriptors or memory, which takes a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `endpoint` on `listener` until `shutdown`, then lets requests under way finish for a few seconds.
///
/// Dropping the future drops every connection.
pub async fn serve(
    endpoint: Endpoint,
    listener: TcpListener,
    config: HttpConfig,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let app = App::new(endpoint, config.idle_timeout());
    let connections = Connections::new(app.clone(), shutdown.clone());
    let _abort_when_dropped = app.abort.clone().drop_guard();
    while let Some((stream, slot)) = shutdown.run_until_cancelled(accept(&listener, &slots)).await {
        connections.start(stream, slot);
    }
    drop(listener);
    app.tasks.close();
    if timeout(SHUTDOWN_GRACE, app.tasks.wait()).await.is_err() {
        warn!(connections = app.tasks.len(), "requests were broken off, the server is stopping");
        app.abort.cancel();
        app.tasks.wait().await;
    }
}

/// Waits until there may be another connection, and for that connection.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // The semaphore is never closed; were it, connections would go uncounted rather than unserved.
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
