//! What every peer's task shares.

use std::net::SocketAddr;
use std::sync::Arc;

use dashmap::DashMap;
use proxystore_shared::config::endpoint::PeeringConfig;
use proxystore_shared::{EndpointId, PublicKey};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::actor::Command;
use super::pins::Pins;
use crate::signaling::Signaling;
use crate::storage::Storage;
use crate::transport::quic::Quic;
use crate::transport::socket::host_candidates;

/// The endpoint's means to have peers.
pub struct Context {
    /// This endpoint.
    pub id: EndpointId,
    /// Its name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// Deadlines.
    pub config: PeeringConfig,
    /// Connections.
    pub quic: Quic,
    /// The way to the relay.
    pub signaling: Signaling,
    /// Keys of peers.
    pub pins: Pins,
    /// What peers ask for.
    pub storage: Arc<dyn Storage>,
    /// The task of each peer.
    pub actors: DashMap<EndpointId, mpsc::Sender<Command>>,
    /// Whose key this is, for peers that have described themselves.
    pub expected: DashMap<PublicKey, EndpointId>,
    /// A peer has described itself.
    pub described: Notify,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Everything that runs.
    pub tasks: TaskTracker,
}

impl Context {
    /// Addresses for a description. The host's may have changed since the last one.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        self.quic.local_addr().map(host_candidates).unwrap_or_default()
    }

    /// A connection that proves `key` is `peer`'s; one that proves an earlier key of `peer` no longer is.
    pub fn expect(&self, key: PublicKey, peer: EndpointId) {
        self.expected.retain(|_, described| *described != peer);
        self.expected.insert(key, peer);
        self.described.notify_waiters();
    }

    /// Whose key this is, as far as is known.
    pub fn owner_of(&self, key: &PublicKey) -> Option<EndpointId> {
        let described = self.expected.get(key).map(|peer| *peer);
        // The dial may overtake the answer; a certified id needs no introduction.
        described.or_else(|| Some(EndpointId::certified_by(key)).filter(|id| self.actors.contains_key(id)))
    }
}
