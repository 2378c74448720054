//! The proxy in a configuration. It may hold a password, so it is not shown.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `http://user:password@host:3128`, or `none` or nothing to go without any.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProxySetting(String);

impl ProxySetting {
    /// As it was configured, with the password.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no proxy is to be used, whatever the environment says.
    pub fn is_off(&self) -> bool {
        self.0.is_empty() || self.0 == "none"
    }
}

impl From<&str> for ProxySetting {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for ProxySetting {
    /// Leaves user and password out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, shown) = self.0.rsplit_once('@').unwrap_or(("", &self.0));
        f.debug_tuple("ProxySetting").field(&shown).finish()
    }
}
