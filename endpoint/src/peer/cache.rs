//! The cache of peers' objects: [`Kept`] for everybody, and what it was good for.
//!
//! It answers no question by itself: every get asks the owner which version there is, and only that version's groups
//! are taken from here. An evicted or replaced object is therefore seen by the next get.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::ByteRange;
use proxystore_shared::{EndpointId, ObjectId};

use super::kept::{Kept, Version};
use super::status::CacheStatus;
use crate::local::resolve_range;
use crate::lock::lock;
use crate::storage::Group;

/// Groups of peers' objects.
pub struct RemoteCache {
    kept: Mutex<Kept>,
    limit: u64,
    hits: AtomicU64,
    shared: AtomicU64,
    misses: AtomicU64,
}

/// A part of an object that lies in one group, which is kept: to be used if its owner says that it is current.
pub struct KeptPart {
    /// The version that it is part of.
    pub version: Version,
    /// The group.
    pub group: Arc<Group>,
    /// Its first byte in the object.
    pub first: u64,
    /// First byte of the part in the object.
    pub start: u64,
    /// One past its last.
    pub end: u64,
}

impl RemoteCache {
    /// Keeps at most `limit` bytes; 0 keeps nothing.
    pub fn new(limit: u64) -> Self {
        let kept = Mutex::new(Kept::new(limit));
        let count = AtomicU64::default;
        Self { kept, limit, hits: count(), shared: count(), misses: count() }
    }

    /// What it holds and what it was good for.
    pub fn status(&self) -> CacheStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStatus {
            bytes: self.kept().bytes(),
            limit: self.limit,
            hits: count(&self.hits),
            shared: count(&self.shared),
            misses: count(&self.misses),
        }
    }

    /// What is asked for, if it lies in one group that is kept. Its owner would send that with its answer, so it has
    /// to be told beforehand that it need not.
    pub fn part(&self, owner: EndpointId, id: &ObjectId, range: Option<ByteRange>) -> Option<KeptPart> {
        if self.limit == 0 {
            return None;
        }
        let mut kept = self.kept();
        let version = kept.version(owner, id)?;
        let (start, end) = resolve_range(range, version.size).ok()?;
        let index = start / GROUP_LEN;
        if end > (index + 1) * GROUP_LEN {
            return None;
        }
        let group = kept.group(owner, version, index)?;
        Some(KeptPart { version, group, first: index * GROUP_LEN, start, end })
    }

    /// Whether some of the object may be kept.
    pub fn knows(&self, owner: EndpointId, id: &ObjectId) -> bool {
        self.limit > 0 && self.kept().version(owner, id).is_some()
    }

    /// A group of a version that its owner says is current.
    pub fn group(&self, owner: EndpointId, version: Version, index: u64) -> Option<Arc<Group>> {
        let group = self.kept().group(owner, version, index);
        self.hits.fetch_add(u64::from(group.is_some()), Ordering::Relaxed);
        group
    }

    /// Adds a group that arrived.
    pub fn keep(&self, owner: EndpointId, version: Version, index: u64, group: &Arc<Group>) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        self.kept().keep(owner, version, index, group.clone());
    }

    /// Adds an object that arrived in one piece.
    pub fn keep_whole(&self, owner: EndpointId, id: &ObjectId, version: Version, group: Group) {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.kept();
        kept.remember(owner, id, version);
        kept.keep(owner, version, 0, Arc::new(group));
    }

    /// The owner says that this is the object's version.
    pub fn remember(&self, owner: EndpointId, id: &ObjectId, version: Version) {
        self.kept().remember(owner, id, version);
    }

    /// The owner says that there is no such object.
    pub fn forget(&self, owner: EndpointId, id: &ObjectId) {
        self.kept().forget(owner, id);
    }

    /// The groups of this version turned out not to belong together.
    pub fn distrust(&self, owner: EndpointId, version: Version) {
        self.kept().drop_groups(owner, version);
    }

    /// A [`KeptPart`] was of use.
    pub fn count_hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// A reader was given what another had asked for.
    pub fn count_shared(&self) {
        self.shared.fetch_add(1, Ordering::Relaxed);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}
