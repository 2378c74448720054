//! What the service or the network said, in a connector's terms.

use std::error::Error as _;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::bucket::{Bucket, SILENCE_LIMIT};
use crate::connector::ConnectorError;

/// Characters of an answer that an error quotes: services say why in a sentence; what is longer is a web page.
const WORDS_QUOTED: usize = 300;

/// Codes that S3, Google and Azure give for a bucket that is not there; nothing like it for a missing object.
const NO_BUCKET: [&str; 2] = ["NoSuchBucket", "ContainerNotFound"];

/// Paths at which machines in a cloud are asked for credentials if the environment has none.
const MACHINE_CREDENTIALS: [&str; 4] = [
    "/latest/api/token",
    "/latest/meta-data/iam/",
    "/computeMetadata/v1/instance/service-accounts/",
    "/metadata/identity/oauth2/token",
];

/// Whether there is no such object, in a bucket that is there as far as the service tells.
pub(super) fn is_missing_object(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
        && !NO_BUCKET.iter().any(|code| root_of(error).contains(&format!("<Code>{code}<")))
}

pub(super) fn connector_error(bucket: &Bucket, error: Error) -> ConnectorError {
    let target = bucket.to_string();
    let root = root_of(&error);
    let reason = words_of(&root);
    let credentials = bucket.service.credentials();
    let whole = error.to_string();
    if MACHINE_CREDENTIALS.iter().any(|path| whole.contains(path)) {
        let remedy = format!("set {credentials} in the environment; this machine has none either");
        return ConnectorError::Refused { target, reason: format!("no credentials: {remedy} ({reason})") };
    }
    match (kind_of(&error), error) {
        (Some(HttpErrorKind::Connect), _) => ConnectorError::Unreachable { target, reason },
        (Some(HttpErrorKind::Timeout), _) => ConnectorError::Timeout { target, after: SILENCE_LIMIT },
        (Some(_), _) => ConnectorError::Broken { target, reason },
        (None, Error::Unauthenticated { .. } | Error::PermissionDenied { .. }) => {
            let remedy =
                format!("check {credentials} in the environment, and what they may do in this bucket");
            ConnectorError::Refused { target, reason: format!("{reason}; {remedy}") }
        }
        // The service was asked again and again, and was always busy or broken.
        (None, _) if root.contains("status code: 5") || root.contains("status code: 429") => {
            ConnectorError::Unreachable { target, reason }
        }
        (None, _) => ConnectorError::Refused { target, reason },
    }
}

fn kind_of(error: &Error) -> Option<HttpErrorKind> {
    let kind = causes(error).find_map(|cause| cause.downcast_ref::<HttpError>()).map(HttpError::kind);
    // A connection that is not made in time is called a timeout too; this is how the HTTP client tells them apart.
    let connecting = || causes(error).any(|cause| cause.to_string() == "client error (Connect)");
    kind.map(|kind| if connecting() { HttpErrorKind::Connect } else { kind })
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&cause| cause.source())
}

/// The innermost cause: what was answered, or what the system said. The layers around it tell URLs and retries.
fn root_of(error: &Error) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Of an answer in XML, as all three services give, its code and message; of anything else the beginning.
fn words_of(root: &str) -> String {
    let words = match (element(root, "Code"), element(root, "Message")) {
        (Some(code), Some(message)) => format!("{message} ({code})"),
        _ => root.to_owned(),
    };
    words.chars().take(WORDS_QUOTED).filter(|letter| !letter.is_control()).collect()
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once("</").map(|(text, _)| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_quoted_briefly() {
        let answer =
            "status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>No.</Message></Error>";
        assert_eq!(words_of(answer), "No. (AccessDenied)");
        assert_eq!(words_of("Connection refused"), "Connection refused");
        assert_eq!(words_of("<Code>unfinished"), "<Code>unfinished");
        assert_eq!(words_of(&"ü\n".repeat(1000)).chars().count(), WORDS_QUOTED / 2);
    }
}
