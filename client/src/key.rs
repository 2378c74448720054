//! What names an object: one variant for each connector.

use std::collections::BTreeMap;
use std::fmt;

use proxystore_shared::{EndpointId, ObjectId};
use serde::{Deserialize, Serialize};

/// Names an object in the store it was put in. The fields are those of Python ProxyStore's keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Key {
    /// In the memory of this process.
    Local {
        /// Names the object.
        id: String,
    },
    /// In a directory.
    File {
        /// Relative to the directory.
        filename: String,
    },
    /// In a Redis server.
    Redis {
        /// The name under which Redis has it.
        redis_key: String,
    },
    /// At an endpoint.
    Endpoint {
        /// Names the object there.
        object_id: ObjectId,
        /// Where the object is. Python leaves it out for "the endpoint that is asked".
        endpoint_id: Option<EndpointId>,
    },
    /// In directories that Globus keeps alike.
    Globus {
        /// Relative to each directory.
        filename: String,
        /// The transfers that bring it to the other directories.
        task_ids: Vec<String>,
    },
    /// In one of several stores.
    Multi {
        /// Which of them.
        connector_name: String,
        /// Its key.
        connector_key: Box<Key>,
    },
    /// In a bucket.
    ObjectStorage {
        /// Relative to the bucket, with the configured prefix.
        path: String,
    },
    /// Of a connector that is not in this crate.
    Custom {
        /// The connector's kind.
        kind: String,
        /// Whatever names the object there.
        fields: BTreeMap<String, String>,
    },
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { id } => write!(f, "local:{id}"),
            Self::File { filename } => write!(f, "file:{filename}"),
            Self::Redis { redis_key } => write!(f, "redis:{redis_key}"),
            Self::Endpoint { object_id, endpoint_id: Some(endpoint) } => {
                write!(f, "endpoint:{object_id}@{endpoint}")
            }
            Self::Endpoint { object_id, endpoint_id: None } => write!(f, "endpoint:{object_id}"),
            Self::Globus { filename, .. } => write!(f, "globus:{filename}"),
            Self::Multi { connector_name, connector_key } => write!(f, "{connector_name}/{connector_key}"),
            Self::ObjectStorage { path } => write!(f, "object-storage:{path}"),
            Self::Custom { kind, fields } => {
                let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "{kind}:{}", fields.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_serialization_and_prints_briefly() {
        let id = EndpointId::random();
        let object_id = ObjectId::random();
        let inner = Key::Endpoint { object_id: object_id.clone(), endpoint_id: Some(id) };
        let key = Key::Multi { connector_name: "far".to_owned(), connector_key: Box::new(inner) };
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key);
        assert_eq!(key.to_string(), format!("far/endpoint:{object_id}@{id}"));
    }
}
