//! Several connectors as one: a policy for each says which objects it takes and on which hosts it works.
//!
//! So a program uses the fastest way between two places without knowing which that is. The configuration carries
//! all connectors to every host; those that do not work there stay dormant: they are passed on, but not made.

mod policy;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::host;
use crate::connector::{Connector, ConnectorConfig, ConnectorError, ObjectStream, PutOptions};
use crate::{Key, Object};

pub use policy::Policy;

/// In configurations.
pub const KIND: &str = "multi";

/// Puts an object where the policy of highest priority takes it; of equals, the one that was added first.
///
/// It has no keys for objects to come: which connector takes an object depends on the object.
///
/// ```
/// use proxystore::connectors::multi::Policy;
/// use proxystore::connectors::{LocalConnector, MultiConnector};
///
/// let connector = MultiConnector::new()
///     .with("small", LocalConnector::new(), Policy { max_size_bytes: 1000, ..Policy::default() })?
///     .with("any", LocalConnector::new(), Policy { priority: -1, ..Policy::default() })?;
/// # Ok::<(), proxystore::ConnectorError>(())
/// ```
#[derive(Default)]
pub struct MultiConnector {
    /// In the order in which they are asked.
    members: Vec<Member>,
}

struct Member {
    name: String,
    policy: Policy,
    for_this_host: bool,
    connector: State,
}

enum State {
    Made(Arc<dyn Connector>),
    /// What is needed to make it elsewhere.
    Dormant(ConnectorConfig),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    connectors: Vec<MemberSettings>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberSettings {
    name: String,
    connector: ConnectorConfig,
    #[serde(default)]
    policy: Policy,
}

impl MultiConnector {
    /// Of no connectors yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector under a name of its own, which is part of the keys of its objects.
    ///
    /// If the policy is not for this host, the connector gets no new objects here. Its own are found nevertheless,
    /// since it is there.
    pub fn with(
        mut self,
        name: impl Into<String>,
        connector: impl Connector,
        policy: Policy,
    ) -> Result<Self, ConnectorError> {
        let for_this_host = policy.is_for_host(&host::name())?;
        let connector = State::Made(Arc::new(connector));
        self.add(Member { name: name.into(), policy, for_this_host, connector })?;
        Ok(self)
    }

    /// The one that is described, of which it makes the connectors that are for this host.
    pub fn from_config(config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        Self::on_host(&host::name(), config)
    }

    fn on_host(hostname: &str, config: &ConnectorConfig) -> Result<Self, ConnectorError> {
        let mut multi = Self::new();
        for MemberSettings { name, connector, policy } in config.settings::<Settings>()?.connectors {
            let for_this_host = policy.is_for_host(hostname)?;
            let connector = if for_this_host {
                State::Made(super::from_config(&connector)?)
            } else {
                State::Dormant(connector)
            };
            multi.add(Member { name, policy, for_this_host, connector })?;
        }
        Ok(multi)
    }

    fn add(&mut self, member: Member) -> Result<(), ConnectorError> {
        if self.members.iter().any(|other| other.name == member.name) {
            let reason = format!("two connectors are called {:?}", member.name);
            return Err(ConnectorError::Config { kind: KIND.to_owned(), reason });
        }
        let after = |other: &Member| other.policy.priority >= member.policy.priority;
        let place = self.members.partition_point(after);
        self.members.insert(place, member);
        Ok(())
    }

    /// Those whose policies have these tags, in the order in which they are asked, with their connectors.
    fn candidates<'a>(&'a self, options: &'a PutOptions) -> impl Iterator<Item = Choice<'a>> {
        self.members.iter().filter_map(|member| match &member.connector {
            State::Made(connector) if member.for_this_host && member.policy.accepts_tags(options) => {
                Some(Choice { name: &member.name, policy: &member.policy, connector })
            }
            _ => None,
        })
    }

    fn choose<'a>(&'a self, len: u64, options: &'a PutOptions) -> Result<Choice<'a>, ConnectorError> {
        let mut candidates = self.candidates(options);
        let chosen = candidates.find(|choice| choice.policy.accepts(len, options));
        chosen.ok_or_else(|| ConnectorError::NoPolicy { len, options: options.clone() })
    }

    /// The choice for an object of at least `len` bytes, if the bytes still to come cannot change it.
    fn choose_early<'a>(
        &'a self,
        len: u64,
        options: &'a PutOptions,
    ) -> Result<Option<Choice<'a>>, ConnectorError> {
        let mut candidates = self.candidates(options);
        let first = candidates.find(|choice| choice.policy.max_size_bytes >= len);
        let first = first.ok_or_else(|| ConnectorError::NoPolicy { len, options: options.clone() })?;
        let certain = first.policy.min_size_bytes <= len && first.policy.max_size_bytes >= policy::UNLIMITED;
        Ok(certain.then_some(first))
    }

    /// The name of the connector that has an object, the connector, and its key.
    fn connector_of<'a>(
        &'a self,
        key: &'a Key,
    ) -> Result<(&'a str, &'a Arc<dyn Connector>, &'a Key), ConnectorError> {
        let Key::Multi { connector_name: name, connector_key } = key else {
            return Err(ConnectorError::ForeignKey { key: key.clone(), kind: KIND.to_owned() });
        };
        match self.members.iter().find(|member| member.name == *name).map(|member| &member.connector) {
            Some(State::Made(connector)) => Ok((name, connector, connector_key)),
            Some(State::Dormant(_)) => Err(ConnectorError::Dormant { name: name.clone(), key: key.clone() }),
            None => {
                let known = self.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>();
                Err(ConnectorError::UnknownKind { kind: name.clone(), known: known.join(", ") })
            }
        }
    }
}

/// Where an object goes.
struct Choice<'a> {
    name: &'a str,
    policy: &'a Policy,
    connector: &'a Arc<dyn Connector>,
}

impl Choice<'_> {
    fn key(&self, key: Key) -> Key {
        Key::Multi { connector_name: self.name.to_owned(), connector_key: Box::new(key) }
    }
}

#[async_trait]
impl Connector for MultiConnector {
    async fn put(&self, object: Object, options: &PutOptions) -> Result<Key, ConnectorError> {
        let choice = self.choose(object.len() as u64, options)?;
        Ok(choice.key(choice.connector.put(object, options).await?))
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>, ConnectorError> {
        let (_, connector, key) = self.connector_of(key)?;
        connector.get(key).await
    }

    async fn exists(&self, key: &Key) -> Result<bool, ConnectorError> {
        let (_, connector, key) = self.connector_of(key)?;
        connector.exists(key).await
    }

    async fn evict(&self, key: &Key) -> Result<(), ConnectorError> {
        let (_, connector, key) = self.connector_of(key)?;
        connector.evict(key).await
    }

    fn config(&self) -> ConnectorConfig {
        let settings = |member: &Member| MemberSettings {
            name: member.name.clone(),
            connector: match &member.connector {
                State::Made(connector) => connector.config(),
                State::Dormant(config) => config.clone(),
            },
            policy: member.policy.clone(),
        };
        ConnectorConfig::new(KIND, &Settings { connectors: self.members.iter().map(settings).collect() })
    }

    /// Each connector gets its share in one go. If no policy takes one of the objects, none is stored.
    async fn put_batch(
        &self,
        objects: Vec<Object>,
        options: &PutOptions,
    ) -> Result<Vec<Key>, ConnectorError> {
        let count = objects.len();
        let mut shares: BTreeMap<&str, (Choice<'_>, Share<Object>)> = BTreeMap::new();
        for (place, object) in objects.into_iter().enumerate() {
            let choice = self.choose(object.len() as u64, options)?;
            shares.entry(choice.name).or_insert((choice, Share::new())).1.push(place, object);
        }
        let requests = shares.into_values().map(|(choice, share)| async move {
            let keys = choice.connector.put_batch(share.items, options).await?;
            let items = keys.into_iter().map(|key| choice.key(key)).collect();
            Ok(Share { places: share.places, items })
        });
        in_order(count, try_join_all(requests).await?)
    }

    /// Each connector is asked for its share in one go, all at the same time.
    async fn get_batch(&self, keys: &[Key]) -> Result<Vec<Option<Object>>, ConnectorError> {
        let mut shares: BTreeMap<&str, (&Arc<dyn Connector>, Share<Key>)> = BTreeMap::new();
        for (place, key) in keys.iter().enumerate() {
            let (name, connector, key) = self.connector_of(key)?;
            shares.entry(name).or_insert((connector, Share::new())).1.push(place, key.clone());
        }
        let requests = shares.into_values().map(|(connector, share)| async move {
            Ok(Share { places: share.places, items: connector.get_batch(&share.items).await? })
        });
        in_order(keys.len(), try_join_all(requests).await?)
    }

    /// Of a stream that does not say its length, only as much is held in memory as it takes to know which policy
    /// it falls under: with "up to 1 MB here, all else there", one megabyte.
    async fn put_stream(
        &self,
        mut stream: ObjectStream,
        options: &PutOptions,
    ) -> Result<Key, ConnectorError> {
        if let Some(len) = stream.len {
            let choice = self.choose(len, options)?;
            return Ok(choice.key(choice.connector.put_stream(stream, options).await?));
        }
        let mut start = Object::new();
        let choice = loop {
            if let Some(choice) = self.choose_early(start.len() as u64, options)? {
                break choice;
            }
            match stream.chunks.next().await {
                Some(chunk) => start.push(chunk?),
                None => return self.put(start, options).await,
            }
        };
        let start = stream::iter(start.into_segments().into_iter().map(Ok));
        let stream = ObjectStream { len: None, chunks: start.chain(stream.chunks).boxed() };
        Ok(choice.key(choice.connector.put_stream(stream, options).await?))
    }

    async fn get_stream(&self, key: &Key) -> Result<Option<ObjectStream>, ConnectorError> {
        let (_, connector, key) = self.connector_of(key)?;
        connector.get_stream(key).await
    }

    async fn wait(&self, key: &Key, deadline: Instant) -> Result<bool, ConnectorError> {
        let (_, connector, key) = self.connector_of(key)?;
        connector.wait(key, deadline).await
    }

    /// Closes all of them, also if closing one fails.
    async fn close(&self) -> Result<(), ConnectorError> {
        let made = self.members.iter().filter_map(|member| match &member.connector {
            State::Made(connector) => Some(connector.close()),
            State::Dormant(_) => None,
        });
        join_all(made).await.into_iter().collect()
    }
}

/// What one connector has to do with a batch, or what came of it.
struct Share<T> {
    /// Where the items are in the batch.
    places: Vec<usize>,
    items: Vec<T>,
}

impl<T> Share<T> {
    fn new() -> Self {
        Self { places: Vec::new(), items: Vec::new() }
    }

    fn push(&mut self, place: usize, item: T) {
        self.places.push(place);
        self.items.push(item);
    }
}

/// Puts the answers of several connectors back in the order of the questions.
fn in_order<T>(count: usize, shares: Vec<Share<T>>) -> Result<Vec<T>, ConnectorError> {
    let mut answers: Vec<Option<T>> = (0..count).map(|_| None).collect();
    for (place, item) in shares.into_iter().flat_map(|share| share.places.into_iter().zip(share.items)) {
        answers[place] = Some(item);
    }
    let whole: Option<Vec<T>> = answers.into_iter().collect();
    whole.ok_or_else(|| ConnectorError::Refused {
        target: KIND.to_owned(),
        reason: "a connector answered only a part of a batch".to_owned(),
    })
}

impl fmt::Debug for MultiConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.iter().map(|member| (&member.name, (&member.policy, &member.connector)));
        f.debug_map().entries(members).finish()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Made(connector) => connector.fmt(f),
            // Not its settings, which only that kind of connector knows how to print.
            Self::Dormant(config) => write!(f, "dormant {}", config.kind),
        }
    }
}

#[cfg(test)]
mod tests;
