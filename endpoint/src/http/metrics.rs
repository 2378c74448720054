//! What the server counts, for Prometheus.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::routes::Route;
use crate::peer::CacheStatus;
use crate::storage::Usage;

/// Media type of [`Metrics::text`].
pub const TEXT_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper end of the first duration bucket in seconds: a small local object takes less.
const SHORTEST: f64 = 0.000_1;

/// Buckets, each four times as wide as the one before: up to 100 s, beyond every deadline towards a peer.
const BUCKETS: u16 = 11;

/// Counters of one server. Updating one neither allocates nor waits.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    /// Those of `requests` that were answered with 200, by [`Route::index`]: found without a look at their labels.
    successes: [OnceLock<Counter>; Route::COUNT],
    /// By [`Route::index`].
    durations: [Histogram; Route::COUNT],
    peer_failures: Family<PeerFailureLabels, Counter>,
    objects: Gauge,
    stored: Gauge,
    cached: Gauge,
    tasks: Gauge,
    cache_hits: Counter,
    cache_shared: Counter,
    cache_misses: Counter,
    /// Bytes of objects received from clients.
    pub received: Counter,
    /// Bytes of objects sent to clients.
    pub sent: Counter,
    /// Open connections.
    pub connections: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerFailureLabels {
    code: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("proxystore_endpoint");
        let durations: Family<RouteLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(SHORTEST, 4.0, BUCKETS)));
        let by_route = |index| durations.get_or_create_owned(&RouteLabels { route: Route::name(index) });
        let metrics = Self {
            durations: std::array::from_fn(by_route),
            requests: Family::default(),
            successes: [const { OnceLock::new() }; Route::COUNT],
            peer_failures: Family::default(),
            objects: Gauge::default(),
            stored: Gauge::default(),
            cached: Gauge::default(),
            tasks: Gauge::default(),
            cache_hits: Counter::default(),
            cache_shared: Counter::default(),
            cache_misses: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's header to the answer's",
            durations,
        );
        registry.register("http_received_bytes", "Bytes of objects received", metrics.received.clone());
        registry.register("http_sent_bytes", "Bytes of objects sent", metrics.sent.clone());
        registry.register("http_connections", "Open connections", metrics.connections.clone());
        registry.register("peer_failures", "Requests that a peer failed", metrics.peer_failures.clone());
        registry.register("tasks", "Tasks that have not ended", metrics.tasks.clone());
        registry.register("objects", "Objects stored", metrics.objects.clone());
        registry.register("stored_bytes", "Bytes stored, uploads included", metrics.stored.clone());
        registry.register("cached_bytes", "Bytes kept of peers' objects", metrics.cached.clone());
        registry.register("cache_hits", "Groups of peers' objects found kept", metrics.cache_hits.clone());
        registry.register(
            "cache_shared",
            "Groups of peers' objects that travelled because of another reader",
            metrics.cache_shared.clone(),
        );
        registry.register(
            "cache_misses",
            "Groups of peers' objects that travelled",
            metrics.cache_misses.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A request was answered, `after` its header had arrived.
    pub fn answered(&self, route: Route, status: StatusCode, after: Duration) {
        let labels = RequestLabels { route: Route::name(route.index()), status: status.as_u16() };
        if status == StatusCode::OK {
            self.successes[route.index()].get_or_init(|| self.requests.get_or_create_owned(&labels)).inc();
        } else {
            self.requests.get_or_create(&labels).inc();
        }
        self.durations[route.index()].observe(after.as_secs_f64());
    }

    /// A request failed at a peer.
    pub fn peer_failed(&self, code: &'static str) {
        self.peer_failures.get_or_create(&PeerFailureLabels { code }).inc();
    }

    /// Everything, in the OpenMetrics text format. `tasks` are those of the whole process.
    pub fn text(&self, usage: Usage, cache: CacheStatus, tasks: usize) -> Result<String, std::fmt::Error> {
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        self.objects.set(i64::try_from(usage.objects).unwrap_or(i64::MAX));
        self.stored.set(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
        self.cached.set(i64::try_from(cache.bytes).unwrap_or(i64::MAX));
        for (counter, count) in [
            (&self.cache_hits, cache.hits),
            (&self.cache_shared, cache.shared),
            (&self.cache_misses, cache.misses),
        ] {
            // They only grow, and are counted elsewhere.
            counter.inner().store(count, Ordering::Relaxed);
        }
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
