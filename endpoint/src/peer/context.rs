//! What every peer's task shares.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use proxystore_shared::config::endpoint::PeeringConfig;
use proxystore_shared::description::{Candidate, CandidateKind};
use proxystore_shared::{EndpointId, PublicKey};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acquaintances::Acquaintances;
use super::actor::Command;
use super::any_session::AnySession;
use super::cache::RemoteCache;
use super::lead::Leads;
use super::negotiation::Counterpart;
use super::pins::Pins;
use super::python::budget::Budget;
use super::remote_object::OpenObjects;
use crate::signaling::Signaling;
use crate::storage::Storage;
use crate::transport::addresses::LocalAddresses;
use crate::transport::quic::Quic;
use crate::transport::tls::Expected;
use crate::transport::webrtc::Desk;

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
    /// Connections with Python endpoints.
    pub webrtc: Arc<Desk>,
    /// Data channels that are opened towards a Python endpoint.
    pub peer_channels: usize,
    /// Memory for messages of Python endpoints.
    pub python_budget: Budget,
    /// Where peers may find us.
    pub addresses: watch::Receiver<LocalAddresses>,
    /// The way to the relay.
    pub signaling: Signaling,
    /// Keys of peers.
    pub pins: Pins,
    /// What peers ask for.
    pub storage: Arc<dyn Storage>,
    /// Groups of peers' objects.
    pub cache: RemoteCache,
    /// Objects of peers that are being read.
    pub reading: OpenObjects,
    /// First groups that owners send unasked.
    pub leads: Leads,
    /// The task of each peer.
    pub actors: DashMap<EndpointId, mpsc::Sender<Command>>,
    /// The session that requests take to each peer, as its task has it.
    pub sessions: DashMap<EndpointId, AnySession>,
    /// Peers that have described themselves.
    pub acquaintances: Acquaintances,
    /// A peer has described itself.
    pub described: Notify,
    /// Ends everything.
    pub stop: CancellationToken,
    /// Everything that runs.
    pub tasks: TaskTracker,
}

impl Context {
    /// Addresses for a description, as far as they are known now.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = self.addresses.borrow().candidates.clone();
        let relayed = self.webrtc.relayed_address();
        candidates.extend(relayed.map(|address| Candidate { address, kind: CandidateKind::Relayed }));
        candidates
    }

    /// What `peer` has to prove before it has described itself; none if nothing is known of its key.
    pub fn known(&self, peer: EndpointId) -> Option<Expected> {
        if peer.is_certified() {
            return Some(Expected::Certified(peer));
        }
        self.pins.pinned(peer).map(Expected::Key)
    }

    /// A connection that proves the key of `counterpart` is `peer`'s; one that proves an earlier key of it no longer is.
    pub fn introduce(&self, peer: EndpointId, counterpart: Counterpart) {
        self.acquaintances.introduce(peer, counterpart);
        self.described.notify_waiters();
    }

    /// Whose key this is, as far as is known.
    pub fn owner_of(&self, key: &PublicKey) -> Option<EndpointId> {
        let described = self.acquaintances.owner_of(key, Instant::now());
        // The dial may overtake the answer; a certified id needs no introduction.
        described.or_else(|| Some(EndpointId::certified_by(key)).filter(|id| self.actors.contains_key(id)))
    }
}
