//! One version of an object at a peer, read in groups over whatever session there is, by everybody here who wants it.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use proxystore_shared::digest::{GROUP_LEN, GroupTree, group_count};
use proxystore_shared::frame::{Answer, ByteRange, MAX_GROUPS_IN_FLIGHT, Request};
use proxystore_shared::{Digest, EndpointId, ObjectId};
use tokio::time::sleep;

use super::PeerError;
use super::exchange::{Reply, until_silent};
use super::flights::{Boarding, Flights};
use super::kept::Version;
use super::lead::Wanted;
use super::lease::Lease;
use super::manager::PeerManager;
use crate::endpoint::{Outgoing, RequestError};
use crate::lock::lock;
use crate::reader;
use crate::storage::Group;

/// Times a group is asked for again after its session was lost.
const RETRIES: usize = 3;

/// Between looks for a peer that has gone away in the middle of a read.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// An endpoint and an object there.
pub type Place = (EndpointId, ObjectId);

/// Objects that are being read here, by whoever reads them: an entry goes with its last reader. One that refers to
/// nothing says that somebody is opening the object.
pub type OpenObjects = DashMap<Place, Weak<RemoteObject>>;

/// An object at a peer.
pub struct RemoteObject {
    peers: PeerManager,
    place: Place,
    version: Version,
    lease: Mutex<Arc<Lease>>,
    /// Held by the one who renews the lease.
    renewal: tokio::sync::Mutex<()>,
    flights: Flights,
    wanted: Option<Wanted>,
}

impl RemoteObject {
    /// The object whose read `reply` opened; none if it opened none. When the same version is being read already,
    /// it is that, and the new read at the peer ends unless the old one is of no use.
    pub fn open(
        peers: &PeerManager,
        (peer, id): (EndpointId, &ObjectId),
        reply: Reply,
        wanted: Option<Wanted>,
    ) -> Option<Arc<Self>> {
        // Here, because what is not wanted any more looks for the entry that is locked below.
        let wanted = wanted.filter(|_| matches!(reply.answer, Answer::Object { lead: 1.., .. }));
        let (meta, lease) = Lease::from_reply(reply)?;
        let version = Version { digest: meta.digest, size: meta.size };
        let mut entry = peers.context.reading.entry((peer, id.clone())).or_default();
        let current = entry.upgrade();
        let object = match &current {
            Some(object) if object.version == version => {
                object.adopt(lease);
                object.clone()
            }
            _ => {
                let object = Arc::new(Self {
                    peers: peers.clone(),
                    place: (peer, id.clone()),
                    version,
                    lease: Mutex::new(Arc::new(lease)),
                    renewal: tokio::sync::Mutex::default(),
                    flights: Flights::default(),
                    wanted,
                });
                *entry = Arc::downgrade(&object);
                object
            }
        };
        // Before `current`, which wants the same entry if its last reader has just left.
        drop(entry);
        peers.context.leads.handle_opened();
        Some(object)
    }

    /// The bytes `start..end`, every group checked before it is passed on, and a whole object against its digest
    /// before its last group is.
    pub fn read(self: Arc<Self>, start: u64, end: u64) -> Outgoing {
        let whole = start == 0 && end == self.version.size;
        let mut check = WholeCheck::new(self.version);
        let checked = self.clone();
        let fetch = move |index| {
            let object = self.clone();
            async move { object.group(index).await.map_err(|error| object.failed(error)) }
        };
        reader::stream(start, end, MAX_GROUPS_IN_FLIGHT, fetch, move |group| match whole {
            true => check.add(group.digest).map_err(|error| {
                checked.distrust();
                checked.failed(error)
            }),
            false => Ok(()),
        })
    }

    fn failed(&self, error: PeerError) -> RequestError {
        RequestError::Peer { peer: self.place.0, error }
    }

    fn distrust(&self) {
        self.flights.clear();
        self.peers.context.cache.distrust(self.place.0, self.version);
    }

    /// The group at `index`, from wherever it is nearest.
    async fn group(self: &Arc<Self>, index: u64) -> Result<Arc<Group>, PeerError> {
        let cache = &self.peers.context.cache;
        let kept = || cache.group(self.place.0, self.version, index);
        let start = || self.peers.context.tasks.spawn(self.clone().bring(index));
        match self.flights.board(index, kept, start) {
            Boarding::Kept(group) => Ok(group),
            Boarding::Started(flight) => flight.await,
            Boarding::Held(group) => {
                cache.count_shared();
                Ok(group)
            }
            Boarding::Joined(flight) => {
                cache.count_shared();
                flight.await
            }
        }
    }

    /// Fetches the group at `index` for all who wait for it, and those who come later.
    async fn bring(self: Arc<Self>, index: u64) -> Result<Arc<Group>, PeerError> {
        let fetched = match self.led(index).await {
            Some(group) => Ok(group),
            None => self.fetch(index).await,
        };
        let fetched = fetched.map(Arc::new);
        if let Ok(group) = &fetched {
            self.peers.context.cache.keep(self.place.0, self.version, index, group);
        }
        self.flights.land(index, &fetched);
        fetched
    }

    /// The group at `index`, if it comes without being asked for.
    async fn led(&self, index: u64) -> Option<Group> {
        let lead = &self.wanted.as_ref()?.lead;
        let session = self.lease().session().clone();
        let limit = self.peers.context.config.read_timeout();
        let led = tokio::select! {
            biased;
            led = lead.take(index, limit) => led,
            () = until_silent(&session) => None,
        };
        led.filter(|group| group.len() == self.len_of(index))
    }

    fn len_of(&self, index: u64) -> u64 {
        GROUP_LEN.min(self.version.size - index * GROUP_LEN)
    }

    /// Fetches the group at `index`, from another session if need be.
    async fn fetch(&self, index: u64) -> Result<Group, PeerError> {
        let limit = self.peers.context.config.read_timeout();
        let len = self.len_of(index);
        let mut lease = self.lease().clone();
        for _ in 0..RETRIES {
            match lease.fetch(index, len, limit).await {
                Err(PeerError::Lost(_)) => lease = self.renew(&lease).await?,
                outcome => return outcome,
            }
        }
        Err(PeerError::Lost(format!("{RETRIES} sessions in a row")))
    }

    fn lease(&self) -> MutexGuard<'_, Arc<Lease>> {
        lock(&self.lease)
    }

    /// Reads under `lease` from now on, unless the current one does as well.
    fn adopt(&self, lease: Lease) {
        let mut current = self.lease();
        if !current.serves_as_well_as(&lease) {
            *current = Arc::new(lease);
        }
    }

    /// Opens the read again, unless somebody has done so since `lost` was taken. If one who waits for the same fails,
    /// all do: not each after a wait of its own.
    async fn renew(&self, lost: &Arc<Lease>) -> Result<Arc<Lease>, PeerError> {
        let _turn = self.renewal.lock().await;
        let current = self.lease().clone();
        if !Arc::ptr_eq(&current, lost) {
            return Ok(current);
        }
        if let Some(failure) = lost.failure() {
            return Err(failure);
        }
        match self.reopen().await {
            Ok(lease) => {
                let lease = Arc::new(lease);
                *self.lease() = lease.clone();
                Ok(lease)
            }
            Err(error) => {
                lost.fail(error.clone());
                Err(error)
            }
        }
    }

    async fn reopen(&self) -> Result<Lease, PeerError> {
        let whole = ByteRange { start: 0, end: None };
        let object_id = self.place.1.clone();
        let request = Request::Get { object_id, range: Some(whole), if_none_match: None, lead: None };
        let reply = self.ask_patiently(&request).await?;
        let gone = || PeerError::Lost("the object was evicted or replaced while it was read".into());
        let (meta, lease) = Lease::from_reply(reply).ok_or_else(gone)?;
        if (meta.digest, meta.size) != (self.version.digest, self.version.size) {
            return Err(gone());
        }
        Ok(lease)
    }

    /// Asks until the peer, which may be restarting, is there again, or has had as long as two sessions may take: the
    /// first may have been sought while the relay was out of reach.
    async fn ask_patiently(&self, request: &Request) -> Result<Reply, PeerError> {
        let deadline = Instant::now() + 2 * self.peers.context.config.connect_timeout();
        loop {
            match self.peers.ask(self.place.0, request, &[], true).await {
                Err(error) if error.is_absence() && Instant::now() < deadline => sleep(RETRY_PAUSE).await,
                outcome => return outcome,
            }
        }
    }
}

impl Drop for RemoteObject {
    fn drop(&mut self) {
        // Another version may have taken the entry.
        self.peers.context.reading.remove_if(&self.place, |_, object| object.strong_count() == 0);
    }
}

/// Joins the digests of all groups and compares them with the object's before the last one passes.
struct WholeCheck {
    left: u64,
    tree: GroupTree,
    expected: Digest,
}

impl WholeCheck {
    fn new(version: Version) -> Self {
        Self { left: group_count(version.size), tree: GroupTree::default(), expected: version.digest }
    }

    fn add(&mut self, group: Digest) -> Result<(), PeerError> {
        self.tree.push(group);
        self.left -= 1;
        if self.left == 0 && std::mem::take(&mut self.tree).finish() != self.expected {
            return Err(PeerError::Protocol("the groups are not those of the object".into()));
        }
        Ok(())
    }
}
