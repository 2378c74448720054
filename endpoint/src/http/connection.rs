//! One client's connection.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::app::SharedApp;
use super::delivery;
use super::patience::PatientWriter;
use super::routes::{Route, Routes};
use super::timer::ConnectionTimer;

/// Starts connections.
pub struct Connections {
    app: SharedApp,
    routes: Routes,
    shutdown: CancellationToken,
}

/// One more connection, for as long as this is held.
struct Counted {
    gauge: Gauge,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Connections {
    /// After `shutdown` a connection ends with the request it is busy with.
    pub fn new(app: SharedApp, shutdown: CancellationToken) -> Self {
        Self { routes: Routes::new(app.clone()), app, shutdown }
    }

    /// Serves a connection in a task of its own, which holds `slot`.
    pub fn start(&self, stream: TcpStream, slot: Option<OwnedSemaphorePermit>) {
        // Small answers must not wait for the acknowledgement of earlier ones. Failing that, they are just slower.
        let _ = stream.set_nodelay(true);
        let (app, routes, shutdown) = (self.app.clone(), self.routes.clone(), self.shutdown.clone());
        self.spawn(slot, async move {
            if let Err(error) = run(stream, app, routes, shutdown).await {
                debug!(%error, "a connection was broken off");
            }
        });
    }

    /// The same for one that hands over a file.
    pub fn start_with_file(&self, stream: UnixStream, slot: Option<OwnedSemaphorePermit>) {
        let (app, shutdown) = (self.app.clone(), self.shutdown.clone());
        self.spawn(slot, async move {
            match delivery::router(&app, &stream).await {
                Ok(router) => {
                    if let Err(error) = run(stream, app, router.into(), shutdown).await {
                        debug!(%error, "a connection with a file was broken off");
                    }
                }
                Err(error) => debug!(%error, "no file was handed over"),
            }
        });
    }

    fn spawn(&self, slot: Option<OwnedSemaphorePermit>, serving: impl Future<Output = ()> + Send + 'static) {
        let gauge = self.app.metrics.connections.clone();
        gauge.inc();
        let counted = Counted { gauge, _slot: slot };
        // A token of its own: each turn of the connection asks it, and must not wait for the other connections to ask theirs.
        let abort = self.app.abort.child_token();
        self.app.tasks.spawn(async move {
            let _ = abort.run_until_cancelled(serving).await;
            drop(counted);
        });
    }
}

async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    app: SharedApp,
    routes: Routes,
    shutdown: CancellationToken,
) -> hyper::Result<()> {
    let idle_timeout = app.idle_timeout;
    // As with the token that aborts the connection.
    let shutdown = shutdown.child_token();
    // Both are shared by the threads, and counting who shares them takes time when both threads do it at every request.
    let shared = Arc::new((app, routes));
    let service = service_fn(move |request: Request<Incoming>| {
        let (started, route) = (Instant::now(), Route::of(request.uri().path()));
        let shared = shared.clone();
        async move {
            let (app, routes) = &*shared;
            let answer = routes.answer(request).await;
            app.metrics.answered(route, answer.status(), started.elapsed());
            Ok::<_, std::convert::Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(ConnectionTimer::default())
        .header_read_timeout(idle_timeout)
        .serve_connection(TokioIo::new(PatientWriter::new(stream, idle_timeout)), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}
