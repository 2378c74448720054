//! Routes of the endpoint's HTTP API, named once for the server and its clients.

/// The Python client's routes; all take `?key=` and optionally `?endpoint=`.
pub mod python {
    /// Empty 200.
    pub const ROOT: &str = "/";
    /// `{"uuid": ...}`.
    pub const ENDPOINT: &str = "/endpoint";
    /// `{"exists": ...}`.
    pub const EXISTS: &str = "/exists";
    /// The object's bytes.
    pub const GET: &str = "/get";
    /// Stores the body.
    pub const SET: &str = "/set";
    /// Forgets the object.
    pub const EVICT: &str = "/evict";
}

/// The resource API.
pub mod v1 {
    /// One object; `?endpoint=` names the endpoint that holds it.
    pub const OBJECT: &str = "/v1/objects/{object_id}";
    /// Paged list of local objects.
    pub const OBJECTS: &str = "/v1/objects";
    /// Stores the objects of a batch, in order ([`crate::batch`]).
    pub const BATCH_PUT: &str = "/v1/objects:batchPut";
    /// Objects, as a batch ([`crate::batch`]).
    pub const BATCH_GET: &str = "/v1/objects:batchGet";
    /// Peers and their sessions.
    pub const PEERS: &str = "/v1/peers";
    /// The endpoint itself.
    pub const STATUS: &str = "/v1/status";
    /// This API, described.
    pub const OPENAPI: &str = "/v1/openapi.json";
}

/// Liveness, for containers and load balancers.
pub const HEALTHZ: &str = "/healthz";
/// Prometheus metrics.
pub const METRICS: &str = "/metrics";
