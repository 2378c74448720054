//! Which values become proxies.

use std::any::type_name;

use serde::{Deserialize, Serialize};

/// Picks the values that become proxies, by size and type. It travels in messages, to be applied to results too.
///
/// ```
/// use proxystore::executor::ProxyRule;
///
/// let rule = ProxyRule::for_type::<String>().or(ProxyRule::over(1000));
/// assert!(rule.picks::<String>(5));
/// assert!(rule.picks::<Vec<u8>>(1001));
/// assert!(!rule.picks::<Vec<u8>>(1000));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRule(Rule);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    Never,
    Always,
    Over(u64),
    Type(String),
    Or(Box<(Rule, Rule)>),
    And(Box<(Rule, Rule)>),
}

impl ProxyRule {
    /// No value.
    pub fn never() -> Self {
        Self(Rule::Never)
    }

    /// Every value.
    pub fn always() -> Self {
        Self(Rule::Always)
    }

    /// Values of more than so many bytes, serialized.
    pub fn over(bytes: u64) -> Self {
        Self(Rule::Over(bytes))
    }

    /// Values of this type. Types are compared by their full names, `crate::module::Type`, which both programs must
    /// have in common.
    pub fn for_type<T: ?Sized>() -> Self {
        Self(Rule::Type(type_name::<T>().to_owned()))
    }

    /// Values that this rule or the other one picks.
    pub fn or(self, other: Self) -> Self {
        Self(Rule::Or(Box::new((self.0, other.0))))
    }

    /// Values that both this rule and the other one pick.
    pub fn and(self, other: Self) -> Self {
        Self(Rule::And(Box::new((self.0, other.0))))
    }

    /// Whether it picks a `T` of so many bytes, serialized.
    pub fn picks<T: ?Sized>(&self, bytes: u64) -> bool {
        self.0.picks(type_name::<T>(), bytes)
    }

    pub(super) fn picks_named(&self, type_name: &str, bytes: u64) -> bool {
        self.0.picks(type_name, bytes)
    }

    /// Whether there is any value that it picks, as far as can be told at a glance.
    pub(super) fn picks_any(&self) -> bool {
        self.0 != Rule::Never
    }
}

impl Rule {
    /// A rule from a message is no deeper than the format's reader allows, so recursion ends in time.
    fn picks(&self, type_name: &str, bytes: u64) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Over(limit) => bytes > *limit,
            Self::Type(name) => name == type_name,
            Self::Or(rules) => rules.0.picks(type_name, bytes) || rules.1.picks(type_name, bytes),
            Self::And(rules) => rules.0.picks(type_name, bytes) && rules.1.picks(type_name, bytes),
        }
    }
}
