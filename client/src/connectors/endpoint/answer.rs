//! What the answers of an endpoint mean.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::connector::ConnectorError;
use crate::http::Response;

/// Longest answer that is not an object.
pub const MAX_LEN: u64 = 64 << 10;

/// Characters of an error answer that are shown at most.
const SHOWN_LEN: usize = 500;

/// There is no such object, or no such route.
pub const NOT_FOUND: u16 = 404;

/// An error answer of the resource API (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    hint: Option<String>,
}

/// The answer, if it is a success; `len` is the size of the object that was sent.
pub async fn accept(response: Response, len: u64) -> Result<Response, ConnectorError> {
    if response.is_success() {
        return Ok(response);
    }
    let target = response.name().to_owned();
    let status = response.status;
    // The status says enough, if its explanation does not arrive.
    let body = response.object(MAX_LEN).await.unwrap_or_default().into_bytes();
    let reason = reason(status, &body);
    Err(match status {
        413 => ConnectorError::TooLarge { target, len, reason },
        507 => ConnectorError::Full { target },
        _ => ConnectorError::Refused { target, reason },
    })
}

/// An answer in JSON.
pub async fn json<T: DeserializeOwned>(response: Response) -> Result<T, ConnectorError> {
    let target = response.name().to_owned();
    let body = response.object(MAX_LEN).await?.into_bytes();
    serde_json::from_slice(&body).map_err(|error| ConnectorError::Refused {
        target,
        reason: format!("its answer is not an endpoint's: {error}"),
    })
}

/// The endpoint's words.
fn reason(status: u16, body: &[u8]) -> String {
    let text = match serde_json::from_slice(body) {
        Ok(Problem { title, detail, hint }) => {
            let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            detail.or(title).unwrap_or_default() + &hint
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let shown: String = text.trim().chars().filter(|c| !c.is_control()).take(SHOWN_LEN).collect();
    match shown.is_empty() {
        true => format!("HTTP {status}"),
        false => format!("{shown} (HTTP {status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoints_words_are_passed_on() {
        let problem = br#"{"title":"Bad","status":400,"detail":"over 5 bytes","code":"x","hint":"split it"}"#;
        assert_eq!(reason(400, problem), "over 5 bytes (split it) (HTTP 400)");
        assert_eq!(reason(500, b"peer\x1b[31m failed\n"), "peer[31m failed (HTTP 500)");
        assert_eq!(reason(503, b" "), "HTTP 503");
        assert!(reason(500, "ü".repeat(100_000).as_bytes()).len() < 1100);
    }
}
