//! How a download goes on: decided from what is on disk and the head of the endpoint's answer.
//!
//! A partial file belongs to one version of the object, named by its digest. The request for the rest carries
//! `If-Range` (RFC 9110, section 13.1.5), so the endpoint sends the rest only of that version.

use proxystore_shared::Digest;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap};

/// What an earlier attempt left: the first bytes of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Bytes; more than zero.
    pub len: u64,
    /// The version.
    pub digest: Digest,
}

impl Partial {
    /// The part that is missing, as `Range` wants it.
    pub fn range(&self) -> String {
        format!("bytes={}-", self.len)
    }

    /// The version, as `If-Range` wants it.
    pub fn if_range(&self) -> String {
        format!("\"{}\"", self.digest)
    }
}

/// What to do with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Write the body from this byte on; from 0, in place of whatever there is.
    Write {
        /// First byte.
        from: u64,
        /// Bytes of the whole object, if told.
        size: Option<u64>,
        /// Digest of the whole object.
        digest: Digest,
    },
    /// Nothing is missing.
    Complete {
        /// Digest of the whole object.
        digest: Digest,
    },
    /// The partial file is no beginning of the object: forget it and ask for the whole.
    StartOver,
    /// There is no such object.
    Missing,
    /// The endpoint will not; its answer says why.
    Refused,
    /// No endpoint answers so.
    Nonsense(&'static str),
}

/// Decides what to do with the answer to a request for the rest of `partial`, or for the whole object.
pub fn plan(
    partial: Option<Partial>,
    status: StatusCode,
    headers: &HeaderMap,
    body_len: Option<u64>,
) -> Plan {
    match (status, partial) {
        (StatusCode::OK, _) => match digest_of(headers) {
            Some(digest) => Plan::Write { from: 0, size: body_len, digest },
            None => Plan::Nonsense("it has no ETag with a BLAKE3 digest"),
        },
        (StatusCode::PARTIAL_CONTENT, Some(partial)) => continued(partial, headers),
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(partial)) => {
            // Asking for the bytes after the last one is what tells that there are none.
            match content_range(headers) {
                Some(ContentRange { start: None, size: Some(size) }) if size == partial.len => {
                    Plan::Complete { digest: partial.digest }
                }
                _ => Plan::StartOver,
            }
        }
        (StatusCode::NOT_FOUND, _) => Plan::Missing,
        (status, _) if status.is_success() => {
            Plan::Nonsense("it is neither the object nor the part that was asked for")
        }
        _ => Plan::Refused,
    }
}

fn continued(partial: Partial, headers: &HeaderMap) -> Plan {
    let starts_there = |range: &ContentRange| range.start == Some(partial.len);
    match content_range(headers).filter(starts_there) {
        Some(range) if digest_of(headers) == Some(partial.digest) => {
            Plan::Write { from: partial.len, size: range.size, digest: partial.digest }
        }
        _ => Plan::StartOver,
    }
}

/// The version an answer is about: a strong entity tag with a digest in it.
pub fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ContentRange {
    start: Option<u64>,
    size: Option<u64>,
}

/// `bytes 5-9/10`, `bytes 5-9/*` or `bytes */10` (RFC 9110, section 14.4).
fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let value = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (part, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let start = match part {
        "*" => None,
        part => Some(part.split_once('-')?.0.parse().ok()?),
    };
    let size = match size {
        "*" => None,
        size => Some(size.parse().ok()?),
    };
    Some(ContentRange { start, size })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(tag: Option<&Digest>, range: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(tag) = tag {
            headers.insert(ETAG, format!("\"{tag}\"").parse().unwrap());
        }
        if let Some(range) = range {
            headers.insert(CONTENT_RANGE, range.parse().unwrap());
        }
        headers
    }

    fn decide(partial: Option<Partial>, status: u16, tag: Option<&Digest>, range: Option<&str>) -> Plan {
        plan(partial, StatusCode::from_u16(status).unwrap(), &headers(tag, range), Some(10))
    }

    #[test]
    fn a_new_download_takes_the_whole() {
        let digest = Digest::of(b"a");
        assert_eq!(decide(None, 200, Some(&digest), None), Plan::Write { from: 0, size: Some(10), digest });
        assert!(matches!(decide(None, 200, None, None), Plan::Nonsense(_)));
        assert!(matches!(decide(None, 206, Some(&digest), Some("bytes 0-9/10")), Plan::Nonsense(_)));
        assert_eq!(decide(None, 404, None, None), Plan::Missing);
        assert_eq!(decide(None, 502, None, None), Plan::Refused);
        assert_eq!(decide(None, 416, None, Some("bytes */10")), Plan::Refused);
    }

    #[test]
    fn a_partial_file_is_continued_only_with_its_own_version() {
        let (mine, other) = (Digest::of(b"a"), Digest::of(b"b"));
        let partial = Some(Partial { len: 5, digest: mine });
        let on = Plan::Write { from: 5, size: Some(10), digest: mine };
        assert_eq!(decide(partial, 206, Some(&mine), Some("bytes 5-9/10")), on);
        for (tag, range) in [
            (Some(&other), Some("bytes 5-9/10")),
            (None, Some("bytes 5-9/10")),
            (Some(&mine), Some("bytes 4-9/10")),
            (Some(&mine), Some("bytes x-9/10")),
            (Some(&mine), None),
        ] {
            assert_eq!(decide(partial, 206, tag, range), Plan::StartOver, "{range:?}");
        }
        let anew = Plan::Write { from: 0, size: Some(10), digest: other };
        assert_eq!(decide(partial, 200, Some(&other), None), anew);
    }

    #[test]
    fn nothing_after_the_last_byte_means_complete() {
        let digest = Digest::of(b"a");
        let partial = Some(Partial { len: 10, digest });
        assert_eq!(decide(partial, 416, None, Some("bytes */10")), Plan::Complete { digest });
        assert_eq!(decide(partial, 416, None, Some("bytes */9")), Plan::StartOver);
        assert_eq!(decide(partial, 416, None, None), Plan::StartOver);
    }

    proptest! {
        #[test]
        fn starting_over_ends(status in 100u16..600, tag in proptest::option::of(any::<[u8; 32]>()), range in "(bytes )?[0-9*]{0,3}-?[0-9]{0,3}/?[0-9*]{0,3}") {
            // Without a partial file no answer leads to another request.
            let tag = tag.map(Digest);
            let decided = decide(None, status, tag.as_ref(), Some(&range));
            prop_assert!(!matches!(decided, Plan::StartOver | Plan::Complete { .. }), "{:?}", decided);
        }
    }
}
