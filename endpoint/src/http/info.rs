//! What people and programs may know of the endpoint: status, peers, health, metrics.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use proxystore_shared::EndpointId;
use proxystore_shared::http::{HEALTHZ, METRICS, v1};
use serde::Serialize;
use tokio::runtime::Handle;
use utoipa::ToSchema;

use super::app::SharedApp;
use super::metrics::TEXT_FORMAT;
use super::openapi;
use crate::peer::{CacheStatus, NetworkStatus, PeerStatus, RelayStatus};

/// The endpoint itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusReport {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: EndpointId,
    /// Its name.
    name: String,
    /// Version of the program.
    version: &'static str,
    /// Time since it was started, in seconds.
    uptime_seconds: f64,
    /// Whether it has peers.
    mode: Mode,
    /// How much is stored.
    storage: StorageReport,
    /// The connection to the relay; null in solo mode.
    relay: Option<RelayStatus>,
    /// The network that peers reach it through; null in solo mode.
    network: Option<NetworkStatus>,
    /// What is kept of peers' objects; null in solo mode.
    cache: Option<CacheStatus>,
}

/// Whether an endpoint has peers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// No relay is configured; every request is served here.
    Solo,
    /// Requests for other endpoints are passed on.
    Peering,
}

/// How much is stored.
#[derive(Debug, Serialize, ToSchema)]
pub struct StorageReport {
    /// Objects.
    objects: u64,
    /// Bytes of objects, uploads in progress included.
    bytes: u64,
    /// The most bytes there may be; null if unbounded.
    limit: Option<u64>,
}

/// Peers of this endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct PeersReport {
    /// Those with which there is, or recently was, a session.
    peers: Vec<PeerStatus>,
}

/// The endpoint itself.
#[utoipa::path(
    get, path = v1::STATUS, operation_id = "status", tag = "endpoint",
    responses((status = 200, description = "How it is", body = StatusReport))
)]
pub async fn status(State(app): State<SharedApp>) -> Json<StatusReport> {
    let endpoint = &app.endpoint;
    let usage = endpoint.storage().usage();
    Json(StatusReport {
        id: endpoint.id(),
        name: endpoint.name().to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: endpoint.uptime().as_secs_f64(),
        mode: if endpoint.peers().is_some() { Mode::Peering } else { Mode::Solo },
        storage: StorageReport { objects: usage.objects, bytes: usage.bytes, limit: usage.limit },
        relay: endpoint.peers().map(|peers| peers.relay()),
        network: endpoint.peers().map(|peers| peers.network()),
        cache: endpoint.peers().map(|peers| peers.cache()),
    })
}

/// Peers and their sessions.
#[utoipa::path(
    get, path = v1::PEERS, operation_id = "peers", tag = "endpoint",
    responses((status = 200, description = "Them", body = PeersReport))
)]
pub async fn peers(State(app): State<SharedApp>) -> Json<PeersReport> {
    let peers = match app.endpoint.peers() {
        Some(peers) => peers.peers().await,
        None => Vec::new(),
    };
    Json(PeersReport { peers })
}

/// This API, described (OpenAPI 3.1).
#[utoipa::path(
    get, path = v1::OPENAPI, operation_id = "openapi", tag = "endpoint",
    responses((status = 200, description = "This document", content_type = "application/json"))
)]
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], openapi::document()).into_response()
}

/// The endpoint serves requests.
#[utoipa::path(
    get, path = HEALTHZ, operation_id = "healthz", tag = "endpoint",
    responses((status = 200, description = "It does", body = String))
)]
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = METRICS, operation_id = "metrics", tag = "endpoint",
    responses(
        (status = 200, description = "As text", body = String, content_type = "application/openmetrics-text"),
    )
)]
pub async fn metrics(State(app): State<SharedApp>) -> Response {
    let cache = app.endpoint.peers().map(|peers| peers.cache()).unwrap_or_default();
    let tasks = Handle::current().metrics().num_alive_tasks();
    match app.metrics.text(app.endpoint.storage().usage(), cache, tasks) {
        Ok(text) => ([(CONTENT_TYPE, HeaderValue::from_static(TEXT_FORMAT))], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
