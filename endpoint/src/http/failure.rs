//! How a failed request is answered: one table for both APIs.

use axum::http::StatusCode;
use proxystore_shared::ObjectId;
use proxystore_shared::frame::Refusal;
use proxystore_shared::id::IdError;

use crate::endpoint::RequestError;
use crate::peer::PeerError;
use crate::storage::StorageError;

/// Status, stable code, and what the client may do.
type Answer = (StatusCode, &'static str, Option<&'static str>);

/// A request that was not served.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Failure {
    /// Of the answer.
    pub status: StatusCode,
    /// For programs; does not change.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// What the client may do.
    pub hint: Option<&'static str>,
    /// Bytes of the object, when a range lies outside it.
    pub size: Option<u64>,
    /// Whether a peer, or the way to it, failed.
    pub by_peer: bool,
}

impl Failure {
    /// A failure of this server or its client.
    pub fn new((status, code, hint): Answer, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), hint, size: None, by_peer: false }
    }

    /// A request that makes no sense.
    pub fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new((StatusCode::BAD_REQUEST, code, None), detail)
    }

    /// There is no such object.
    pub fn missing(id: &ObjectId) -> Self {
        let answer = (StatusCode::NOT_FOUND, "object_missing", None);
        Self::new(answer, format!("there is no object {id:?}", id = id.as_str()))
    }

    /// `If-Match` did not hold.
    pub fn precondition() -> Self {
        let hint = Some("the object was replaced: look at its present version");
        let answer = (StatusCode::PRECONDITION_FAILED, "precondition_failed", hint);
        Self::new(answer, "no entity tag in If-Match is the object's")
    }

    /// The object was replaced between every two looks at it.
    pub fn unsettled() -> Self {
        let answer = (StatusCode::SERVICE_UNAVAILABLE, "object_unsettled", Some("try again"));
        Self::new(answer, "the object is being replaced again and again")
    }
}

impl From<IdError> for Failure {
    fn from(error: IdError) -> Self {
        let code = match error {
            IdError::NotAUuid(_) => "invalid_endpoint_id",
            _ => "invalid_object_id",
        };
        Self::bad_request(code, error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        let answer = match &error {
            RequestError::Storage(error) => of_storage(error),
            RequestError::Range { .. } => of_range(),
            RequestError::Upload(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                (StatusCode::REQUEST_TIMEOUT, "upload_stalled", Some("send the object again"))
            }
            RequestError::Upload(_) => {
                (StatusCode::BAD_REQUEST, "upload_broken", Some("send the object again"))
            }
            RequestError::Peer { error, .. } => of_peer(error),
        };
        let size = if let RequestError::Range { size } = error { Some(size) } else { None };
        let by_peer = matches!(error, RequestError::Peer { .. });
        Self { size, by_peer, ..Self::new(answer, error.to_string()) }
    }
}

fn of_storage(error: &StorageError) -> Answer {
    match error {
        StorageError::TooLarge { .. } => of_too_large(),
        StorageError::Full { .. } => of_full(),
        StorageError::Exists => of_exists(),
        StorageError::Mismatch(_) => (StatusCode::BAD_REQUEST, "upload_mismatch", Some("send it again")),
        StorageError::Corrupt(_) => (StatusCode::INTERNAL_SERVER_ERROR, "object_damaged", None),
        StorageError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => of_full(),
        StorageError::NoSuchGroup(_) | StorageError::Io(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed", Some("see the endpoint's log"))
        }
    }
}

fn of_peer(error: &PeerError) -> Answer {
    let status = if error.is_timeout() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY };
    match error {
        PeerError::NoRelay(_) => (status, "relay_unavailable", Some("try again later")),
        PeerError::Unknown(_) => (status, "peer_unknown", Some("is the peer started, and its id right?")),
        PeerError::ConnectTimeout { .. } => {
            (status, "peer_unreachable", Some("is UDP between the sites open?"))
        }
        PeerError::Identity(_) => (status, "peer_identity", None),
        PeerError::Unsupported(_) => (status, "peer_unsupported", None),
        PeerError::Stalled(_) => (status, "peer_stalled", Some("try again")),
        PeerError::Lost(_) => (status, "peer_lost", Some("try again")),
        PeerError::Protocol(_) => (status, "peer_protocol", Some("do both run the same version?")),
        PeerError::Refused { reason, .. } => of_refusal(*reason),
        PeerError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "endpoint_stopping", None),
    }
}

fn of_refusal(reason: Refusal) -> Answer {
    match reason {
        Refusal::TooLarge => of_too_large(),
        Refusal::Full => of_full(),
        Refusal::Exists => of_exists(),
        Refusal::Range => of_range(),
        Refusal::Invalid => (StatusCode::BAD_GATEWAY, "peer_refused", None),
        Refusal::Corrupt => (StatusCode::BAD_GATEWAY, "object_damaged", None),
        Refusal::Internal => (StatusCode::BAD_GATEWAY, "peer_failed", Some("see the peer's log")),
    }
}

fn of_too_large() -> Answer {
    (StatusCode::PAYLOAD_TOO_LARGE, "object_too_large", Some("split it, or raise storage.max_object_size"))
}

fn of_full() -> Answer {
    (StatusCode::INSUFFICIENT_STORAGE, "storage_full", Some("evict objects, or try later"))
}

fn of_exists() -> Answer {
    (StatusCode::PRECONDITION_FAILED, "object_exists", Some("leave out If-None-Match to replace it"))
}

fn of_range() -> Answer {
    (StatusCode::RANGE_NOT_SATISFIABLE, "range_outside_object", None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxystore_shared::EndpointId;
    use std::time::Duration;

    fn by_peer(error: PeerError) -> Failure {
        Failure::from(RequestError::Peer { peer: EndpointId::random(), error })
    }

    #[test]
    fn a_peer_that_keeps_us_waiting_is_a_gateway_timeout() {
        let timeout = PeerError::ConnectTimeout { after: Duration::from_secs(1), why: "no answer".into() };
        assert_eq!(by_peer(timeout).status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(by_peer(PeerError::Stalled(Duration::from_secs(1))).status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(by_peer(PeerError::Lost("gone".into())).status, StatusCode::BAD_GATEWAY);
        assert_eq!(by_peer(PeerError::Unknown("who?".into())).status, StatusCode::BAD_GATEWAY);
    }

    #[test]
    fn a_refusal_means_the_same_here_and_at_a_peer() {
        let local = StorageError::TooLarge { limit: 1 };
        for (reason, local) in [
            (Refusal::TooLarge, RequestError::Storage(local)),
            (Refusal::Full, RequestError::Storage(StorageError::Full { used: 1, limit: 1 })),
            (Refusal::Exists, RequestError::Storage(StorageError::Exists)),
            (Refusal::Range, RequestError::Range { size: 1 }),
        ] {
            let peer = by_peer(PeerError::Refused { reason, message: "no".into() });
            let local = Failure::from(local);
            assert_eq!((peer.status, peer.code), (local.status, local.code));
            assert!(peer.by_peer && !local.by_peer);
        }
    }

    #[test]
    fn a_peer_failure_names_the_peer() {
        let peer = EndpointId::random();
        let failure = Failure::from(RequestError::Peer { peer, error: PeerError::Stopping });
        assert!(failure.detail.contains(&peer.to_string()), "{failure}");
    }
}
