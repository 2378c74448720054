//! Which objects a connector is for, and on which hosts.

use serde::{Deserialize, Deserializer, Serialize};

use crate::connector::{ConnectorError, PutOptions};
use crate::connectors::host;

/// No object is larger: where Python's integers end (`sys.maxsize`), in bytes, and so the default there too.
pub(super) const UNLIMITED: u64 = i64::MAX as u64;

/// Which objects a connector takes. The fields are those of Python's `Policy`; the default takes everything.
///
/// ```
/// use proxystore::connectors::multi::Policy;
///
/// let bulk = Policy { min_size_bytes: 1_000_000, priority: 1, ..Policy::default() };
/// assert!(bulk.accepts(2_000_000, &Default::default()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Of several policies that take an object, the one with the highest priority gets it.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// Regular expressions, without look-around and back-references. One of them must match the whole name of the
    /// host; none means any host.
    #[serde(deserialize_with = "one_or_several", skip_serializing_if = "Option::is_none")]
    pub host_pattern: Option<Vec<String>>,
    /// Size of the smallest serialized object that is taken.
    #[serde(skip_serializing_if = "is_zero")]
    pub min_size_bytes: u64,
    /// Size of the largest serialized object that is taken.
    #[serde(skip_serializing_if = "is_unlimited")]
    pub max_size_bytes: u64,
    /// An object's [`PutOptions::subset_tags`] must all be among these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subset_tags: Vec<String>,
    /// All of these must be among an object's [`PutOptions::superset_tags`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub superset_tags: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            priority: 0,
            host_pattern: None,
            min_size_bytes: 0,
            max_size_bytes: UNLIMITED,
            subset_tags: Vec::new(),
            superset_tags: Vec::new(),
        }
    }
}

impl Policy {
    /// Whether an object of `len` bytes, put with these options, is taken on a host that the policy is for.
    pub fn accepts(&self, len: u64, options: &PutOptions) -> bool {
        (self.min_size_bytes..=self.max_size_bytes).contains(&len) && self.accepts_tags(options)
    }

    pub(super) fn accepts_tags(&self, options: &PutOptions) -> bool {
        let all_among = |tags: &[String], others: &[String]| tags.iter().all(|tag| others.contains(tag));
        all_among(&options.subset_tags, &self.subset_tags)
            && all_among(&self.superset_tags, &options.superset_tags)
    }

    pub(super) fn is_for_host(&self, hostname: &str) -> Result<bool, ConnectorError> {
        let Some(patterns) = &self.host_pattern else { return Ok(true) };
        // All are looked at, so that a wrong one is found on every host.
        patterns
            .iter()
            .try_fold(false, |matched, pattern| Ok(host::matches(super::KIND, pattern, hostname)? || matched))
    }
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

fn is_unlimited(size: &u64) -> bool {
    *size == UNLIMITED
}

/// Python writes a single pattern without a list around it.
fn one_or_several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Patterns {
        One(String),
        Several(Vec<String>),
    }
    let patterns = Option::<Patterns>::deserialize(deserializer)?;
    Ok(patterns.map(|patterns| match patterns {
        Patterns::One(pattern) => vec![pattern],
        Patterns::Several(patterns) => patterns,
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    fn strings(strings: &[&str]) -> Vec<String> {
        strings.iter().map(|&string| string.to_owned()).collect()
    }

    #[test]
    fn sizes_are_inclusive() {
        let policy = Policy { min_size_bytes: 2, max_size_bytes: 4, ..Policy::default() };
        let taken: Vec<_> = (0..7).filter(|len| policy.accepts(*len, &PutOptions::default())).collect();
        assert_eq!(taken, [2, 3, 4]);
    }

    #[test]
    fn tags_are_compared_as_python_does() {
        let policy = |subset: &[&str], superset: &[&str]| Policy {
            subset_tags: strings(subset),
            superset_tags: strings(superset),
            ..Policy::default()
        };
        let options = |subset: &[&str], superset: &[&str]| PutOptions {
            subset_tags: strings(subset),
            superset_tags: strings(superset),
        };
        for (policy, options, expected) in [
            (policy(&["a", "b"], &[]), options(&["a"], &[]), true),
            (policy(&["a"], &[]), options(&["a", "b"], &[]), false),
            (policy(&["a"], &[]), options(&[], &[]), true),
            (policy(&[], &["a"]), options(&[], &["a", "b"]), true),
            (policy(&[], &["a", "b"]), options(&[], &["a"]), false),
            (policy(&[], &["a"]), options(&[], &[]), false),
            (policy(&[], &[]), options(&[], &["a"]), true),
        ] {
            assert_eq!(policy.accepts(1, &options), expected, "{policy:?} {options:?}");
        }
    }

    #[test]
    fn hosts_match_by_any_pattern() {
        let of =
            |patterns: Option<&[&str]>| Policy { host_pattern: patterns.map(strings), ..Policy::default() };
        assert_eq!(of(None).is_for_host("a"), Ok(true));
        assert_eq!(of(Some(&[])).is_for_host("a"), Ok(false));
        assert_eq!(of(Some(&["b", "a"])).is_for_host("a"), Ok(true));
        assert_eq!(of(Some(&["b"])).is_for_host("a"), Ok(false));
        assert!(of(Some(&["a", "("])).is_for_host("a").is_err());
    }

    #[test]
    fn what_python_writes_can_be_read() {
        let written = json!({
            "priority": 3, "host_pattern": "a.*", "min_size_bytes": 1,
            "max_size_bytes": 9_223_372_036_854_775_807_u64, "subset_tags": ["x"], "superset_tags": [],
        });
        let policy: Policy = from_value(written).unwrap();
        assert_eq!(policy.host_pattern, Some(strings(&["a.*"])));
        assert_eq!(policy.max_size_bytes, Policy::default().max_size_bytes);
        assert_eq!(from_value::<Policy>(to_value(&policy).unwrap()).unwrap(), policy);
        assert_eq!(from_value::<Policy>(json!({ "host_pattern": null })).unwrap(), Policy::default());
        assert_eq!(to_value(Policy::default()).unwrap(), json!({}));
    }
}
