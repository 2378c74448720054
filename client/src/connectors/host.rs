//! Which host this is, and whether a configured pattern means it.
//!
//! A configuration that travels describes several hosts; patterns on the host name say what is for which.

use nix::unistd::gethostname;
use regex::bytes::{Regex, RegexBuilder};

use crate::connector::ConnectorError;

/// Bytes that a compiled pattern takes at most. Patterns of host names take a few thousand; one that came with a
/// configuration from elsewhere must not take all memory.
const PATTERN_SIZE: usize = 1 << 18;

/// The name of this host, as the system has it.
pub(super) fn name() -> String {
    // Without a name only patterns that match everything do, which is right.
    gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether all of `hostname` matches a regular expression from the configuration of a `kind` store.
pub(super) fn matches(kind: &str, pattern: &str, hostname: &str) -> Result<bool, ConnectorError> {
    let invalid = |error: regex::Error| ConnectorError::Config {
        kind: kind.to_owned(),
        reason: format!("the host pattern {pattern:?} is no regular expression: {error}"),
    };
    // By itself first: `a)|(b` must not become valid inside the parentheses below.
    compile(pattern).map_err(invalid)?;
    let whole = compile(&format!(r"\A(?:{pattern})\z")).map_err(invalid)?;
    Ok(whole.is_match(hostname.as_bytes()))
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    // Host names are ASCII.
    RegexBuilder::new(pattern).unicode(false).size_limit(PATTERN_SIZE).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, hostname: &str) -> Result<bool, ConnectorError> {
        matches("multi", pattern, hostname)
    }

    #[test]
    fn the_whole_name_must_match() {
        for (pattern, yes, no) in [
            (r"login\d+", "login12", "login12.site"),
            ("a|ab", "ab", "abc"),
            (r".*\.site", "a.site", "a.site.org"),
            (r"(?i)NODE-\w+", "node-x", "node-"),
        ] {
            assert_eq!(check(pattern, yes), Ok(true), "{pattern}");
            assert_eq!(check(pattern, no), Ok(false), "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused() {
        for pattern in ["(", "a)|(b", r"(?:[a-z]{500}){500}", &"(".repeat(1000)] {
            let refused = check(pattern, "a").unwrap_err();
            assert!(matches!(refused, ConnectorError::Config { .. }), "{pattern}: {refused}");
        }
    }

    #[test]
    fn this_host_has_a_name() {
        assert_eq!(check(&regex::escape(&name()), &name()), Ok(true));
    }
}
