//! What a request asks for on condition: ranges and entity tags (RFC 9110, sections 13 and 14).
//!
//! An entity tag is the object's digest in quotes. Pure: headers in, a verdict on a version out.

use axum::http::{HeaderMap, header};
use proxystore_shared::Digest;
use proxystore_shared::frame::{ByteRange, ObjectMeta};

use crate::endpoint::GetOptions;

/// Conditions of a `GET` or `HEAD`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
    if_range: Option<Tags>,
    range: Option<RangeSpec>,
}

/// A list of entity tags. Tags that are not digests stand for nothing we have, so they are left out.
#[derive(Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`.
    Any,
    /// Digests, and whether each was marked as weak.
    These(Vec<(Digest, bool)>),
}

/// A single range. Lists of ranges and malformed ones are ignored, as section 14.2 allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeSpec {
    /// `a-b` or `a-`.
    From(ByteRange),
    /// `-n`: the last `n` bytes.
    Last(u64),
}

/// What to do with a version of an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it, or part of it.
    Serve(Option<ByteRange>),
    /// The client has it.
    NotModified,
    /// The client wants another.
    Failed,
}

impl Conditions {
    /// Reads the conditions of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let tags = |name| Tags::of(headers, name);
        Self {
            if_match: tags(header::IF_MATCH),
            if_none_match: tags(header::IF_NONE_MATCH),
            // A date never matches: times of a second's resolution cannot tell versions apart (section 13.1.5).
            if_range: tags(header::IF_RANGE),
            range: headers.get(header::RANGE).and_then(|value| RangeSpec::parse(value.to_str().ok()?)),
        }
    }

    /// The same as options of a `get`, when one can be made without a look at the object.
    pub fn as_options(&self) -> Option<GetOptions> {
        let range = match self.range {
            Some(RangeSpec::From(range)) => Some(range),
            Some(RangeSpec::Last(_)) => return None,
            None => None,
        };
        let if_none_match = match &self.if_none_match {
            Some(Tags::These(tags)) if tags.len() == 1 => Some(tags[0].0),
            Some(_) => return None,
            None => None,
        };
        let plain = self.if_match.is_none() && self.if_range.is_none();
        plain.then_some(GetOptions { range, if_none_match })
    }

    /// Applies the conditions to a version, in the order of section 13.2.2.
    pub fn judge(&self, meta: &ObjectMeta) -> Verdict {
        if self.if_match.as_ref().is_some_and(|tags| !tags.match_strongly(&meta.digest)) {
            return Verdict::Failed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| tags.match_weakly(&meta.digest)) {
            return Verdict::NotModified;
        }
        if self.if_range.as_ref().is_some_and(|tags| !tags.match_strongly(&meta.digest)) {
            return Verdict::Serve(None);
        }
        Verdict::Serve(self.range.map(|range| range.within(meta.size)))
    }
}

impl Tags {
    /// The tags in all lines of one header, or none if there is no such header.
    pub fn of(headers: &HeaderMap, name: header::HeaderName) -> Option<Self> {
        let mut lines = headers.get_all(name).iter().peekable();
        lines.peek()?;
        let mut tags = Vec::new();
        for tag in lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
            match tag.trim() {
                "*" => return Some(Self::Any),
                tag => tags.extend(parse_tag(tag)),
            }
        }
        Some(Self::These(tags))
    }

    fn match_strongly(&self, digest: &Digest) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|(tag, weak)| tag == digest && !weak),
        }
    }

    fn match_weakly(&self, digest: &Digest) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|(tag, _)| tag == digest),
        }
    }
}

fn parse_tag(tag: &str) -> Option<(Digest, bool)> {
    let (tag, weak) = tag.strip_prefix("W/").map_or((tag, false), |tag| (tag, true));
    let digest = tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()?;
    Some((digest, weak))
}

impl RangeSpec {
    fn parse(value: &str) -> Option<Self> {
        let (unit, range) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        if first.is_empty() {
            return number(last).map(Self::Last);
        }
        let start = number(first)?;
        let end = if last.is_empty() { None } else { Some(number(last)?.checked_add(1)?) };
        let backwards = end.is_some_and(|end| end <= start);
        (!backwards).then_some(Self::From(ByteRange { start, end }))
    }

    /// The range within an object of `size` bytes. Asking for the last none of them lies outside.
    fn within(self, size: u64) -> ByteRange {
        match self {
            Self::From(range) => range,
            Self::Last(count) => ByteRange { start: size.saturating_sub(count), end: None },
        }
    }
}

/// Digits only: `str::parse` would take a sign.
fn number(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;
    use proptest::prelude::*;

    fn meta() -> ObjectMeta {
        ObjectMeta { size: 10, digest: Digest::of(b"0123456789"), created_ms: 0 }
    }

    fn judge(headers: &[(HeaderName, &str)]) -> Verdict {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), value.parse().expect("a header"))).collect();
        Conditions::of(&headers).judge(&meta())
    }

    fn bytes(start: u64, end: Option<u64>) -> Verdict {
        Verdict::Serve(Some(ByteRange { start, end }))
    }

    #[test]
    fn single_ranges_are_read() {
        for (range, verdict) in [
            ("bytes=0-3", bytes(0, Some(4))),
            ("Bytes= 2-2 ", bytes(2, Some(3))),
            ("bytes=4-", bytes(4, None)),
            ("bytes=-3", bytes(7, None)),
            ("bytes=-99", bytes(0, None)),
            ("bytes=-0", bytes(10, None)),
        ] {
            assert_eq!(judge(&[(header::RANGE, range)]), verdict, "{range}");
        }
    }

    #[test]
    fn other_ranges_are_ignored() {
        for range in
            ["bytes=0-1,3-4", "bytes=3-1", "bytes=+1-2", "bytes=-", "bytes", "lines=0-1", "bytes=a-b"]
        {
            assert_eq!(judge(&[(header::RANGE, range)]), Verdict::Serve(None), "{range}");
        }
    }

    #[test]
    fn tags_are_compared_as_their_header_demands() {
        let ours = format!("\"{}\"", meta().digest);
        let (weak, other) = (format!("W/{ours}"), format!("\"{}\"", Digest::of(b"")));
        let list = format!("{other}, \"foreign\", {ours}");
        let serve = || Verdict::Serve(None);
        for (name, tag, verdict) in [
            (header::IF_NONE_MATCH, &ours, Verdict::NotModified),
            (header::IF_NONE_MATCH, &weak, Verdict::NotModified),
            (header::IF_NONE_MATCH, &list, Verdict::NotModified),
            (header::IF_NONE_MATCH, &"*".into(), Verdict::NotModified),
            (header::IF_NONE_MATCH, &other, serve()),
            (header::IF_MATCH, &ours, serve()),
            (header::IF_MATCH, &list, serve()),
            (header::IF_MATCH, &"*".into(), serve()),
            (header::IF_MATCH, &weak, Verdict::Failed),
            (header::IF_MATCH, &other, Verdict::Failed),
            (header::IF_MATCH, &"nonsense".into(), Verdict::Failed),
        ] {
            assert_eq!(judge(&[(name.clone(), tag)]), verdict, "{name}: {tag}");
        }
    }

    #[test]
    fn if_range_decides_between_part_and_whole() {
        let ours = format!("\"{}\"", meta().digest);
        let part = |tag: &str| judge(&[(header::RANGE, "bytes=0-3"), (header::IF_RANGE, tag)]);
        assert_eq!(part(&ours), bytes(0, Some(4)));
        assert_eq!(part("\"another\""), Verdict::Serve(None));
        assert_eq!(part("Wed, 21 Oct 2015 07:28:00 GMT"), Verdict::Serve(None));
    }

    proptest! {
        #[test]
        fn any_header_is_read(range: String, tag: String) {
            let _ = RangeSpec::parse(&range);
            let _ = parse_tag(&tag);
        }

        /// A request that is passed on unseen must get what it would have got after a look.
        #[test]
        fn both_ways_agree(range in "(bytes=[0-9]{0,2}-[0-9]{0,2})?", same: bool) {
            let digest = if same { meta().digest } else { Digest::of(b"") };
            let tags = Tags::These(vec![(digest, false)]);
            let range = RangeSpec::parse(&range);
            let conditions = Conditions { if_none_match: Some(tags), range, ..Conditions::default() };
            if let Some(options) = conditions.as_options() {
                prop_assert_eq!(options.if_none_match, Some(digest));
                let verdict = if same { Verdict::NotModified } else { Verdict::Serve(options.range) };
                prop_assert_eq!(conditions.judge(&meta()), verdict);
            }
        }
    }
}
