//! What talking to any broker takes: deadlines, and secrets that no setting carries.

use std::future::Future;
use std::time::Duration;

use super::StreamError;

/// How long a broker may take to answer, or to accept a connection. One that lives answers within milliseconds;
/// this allows for a busy one on the other side of the world.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The outcome of a request, or an error if it takes longer than `after`.
pub(super) async fn within<R>(
    after: Duration,
    broker: &str,
    request: impl Future<Output = Result<R, StreamError>>,
) -> Result<R, StreamError> {
    match tokio::time::timeout(after, request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StreamError::Timeout { broker: broker.to_owned(), after }),
    }
}

/// The secret in the environment variable called `variable`.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(super) fn secret(broker: &str, variable: &str) -> Result<String, StreamError> {
    std::env::var(variable).map_err(|error| StreamError::Config {
        broker: broker.to_owned(),
        reason: format!("the secret in the environment variable {variable}: {error}"),
    })
}
