//! Which groups of peers' objects are kept, and which go when others come. Pure: no clock, no lock, no bytes moved.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use proxystore_shared::digest::group_count;
use proxystore_shared::{Digest, EndpointId, ObjectId};

use crate::storage::Group;

/// An object shorter than this is not kept: it fits into the first packets of an answer, so that asking its owner costs
/// as much as fetching it. It also bounds the number of entries, to some 16,000 in the default cache.
pub const LEAST_KEPT: u64 = 16 * 1024;

/// Versions remembered. One takes about 1.2 KB with the longest object id, so all of them at most 5 MB.
const MOST_VERSIONS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// No machine keeps more in memory; it bounds the work of dropping a version's groups to a million steps.
const MOST_BYTES: u64 = 1 << 40;

/// One version of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    /// What it contains.
    pub digest: Digest,
    /// Bytes of it.
    pub size: u64,
}

/// A group of a version. The owner is part of the name, so that one who lies fools only those who ask it.
type GroupName = (EndpointId, Version, u64);

/// Groups, the least recently used of which go first, and the versions they were last seen to belong to.
pub struct Kept {
    groups: LruCache<GroupName, Arc<Group>>,
    versions: LruCache<(EndpointId, ObjectId), Version>,
    bytes: u64,
    limit: u64,
}

impl Kept {
    /// Keeps at most `limit` bytes of groups; 0 keeps nothing.
    pub fn new(limit: u64) -> Self {
        let versions = LruCache::new(MOST_VERSIONS);
        Self { groups: LruCache::unbounded(), versions, bytes: 0, limit: limit.min(MOST_BYTES) }
    }

    /// Whether groups of an object of `size` bytes are kept at all. One that is larger than the cache would push out
    /// everything else, itself included.
    pub fn takes(&self, size: u64) -> bool {
        (LEAST_KEPT..=self.limit).contains(&size)
    }

    /// Bytes of groups.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The group at `index`, which is now the most recently used.
    pub fn group(&mut self, owner: EndpointId, version: Version, index: u64) -> Option<Arc<Group>> {
        self.groups.get(&(owner, version, index)).cloned()
    }

    /// Adds a group, if its object is one to keep.
    pub fn keep(&mut self, owner: EndpointId, version: Version, index: u64, group: Arc<Group>) {
        if !self.takes(version.size) {
            return;
        }
        self.bytes += group.len();
        let replaced = self.groups.put((owner, version, index), group);
        self.subtract(replaced);
        while self.bytes > self.limit {
            let oldest = self.groups.pop_lru().map(|(_, group)| group);
            self.subtract(oldest);
        }
    }

    /// The version of the object that was seen last.
    pub fn version(&mut self, owner: EndpointId, id: &ObjectId) -> Option<Version> {
        match self.versions.is_empty() {
            true => None,
            false => self.versions.get(&(owner, id.clone())).copied(),
        }
    }

    /// This is now the object's version; groups of an earlier one go.
    pub fn remember(&mut self, owner: EndpointId, id: &ObjectId, version: Version) {
        if !self.takes(version.size) {
            return self.forget(owner, id);
        }
        let earlier = self.versions.put((owner, id.clone()), version);
        if let Some(earlier) = earlier.filter(|earlier| *earlier != version) {
            self.drop_groups(owner, earlier);
        }
    }

    /// The object is gone, and its groups with it.
    pub fn forget(&mut self, owner: EndpointId, id: &ObjectId) {
        if self.versions.is_empty() {
            return;
        }
        if let Some(version) = self.versions.pop(&(owner, id.clone())) {
            self.drop_groups(owner, version);
        }
    }

    /// Drops every group of a version.
    pub fn drop_groups(&mut self, owner: EndpointId, version: Version) {
        if !self.takes(version.size) {
            return;
        }
        for index in 0..group_count(version.size) {
            let dropped = self.groups.pop(&(owner, version, index));
            self.subtract(dropped);
        }
    }

    fn subtract(&mut self, gone: Option<Arc<Group>>) {
        self.bytes -= gone.map_or(0, |group| group.len());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use proxystore_shared::digest::GROUP_LEN;

    use super::*;

    /// Room for four groups.
    const LIMIT: u64 = 4 * GROUP_LEN;

    fn owner() -> EndpointId {
        "12345678-1234-4234-9234-123456789abc".parse().expect("an id")
    }

    fn id(name: &str) -> ObjectId {
        name.parse().expect("an id")
    }

    fn version(number: u8, groups: u64) -> Version {
        Version { digest: Digest([number; 32]), size: groups * GROUP_LEN }
    }

    fn group(len: u64) -> Arc<Group> {
        let segments = vec![Bytes::from(vec![0; len as usize])];
        Arc::new(Group { segments, digest: Digest([0; 32]) })
    }

    fn keep(kept: &mut Kept, version: Version, index: u64) {
        kept.keep(owner(), version, index, group(GROUP_LEN));
    }

    #[test]
    fn the_least_recently_used_group_goes_first() {
        let mut kept = Kept::new(LIMIT);
        for index in 0..4 {
            keep(&mut kept, version(1, 4), index);
        }
        assert!(kept.group(owner(), version(1, 4), 0).is_some());
        keep(&mut kept, version(2, 1), 0);
        assert_eq!(kept.bytes(), LIMIT);
        assert!(kept.group(owner(), version(1, 4), 1).is_none(), "used least recently");
        assert!(kept.group(owner(), version(1, 4), 0).is_some(), "used since");
    }

    #[test]
    fn what_is_too_large_or_too_small_is_not_kept() {
        let mut kept = Kept::new(LIMIT);
        keep(&mut kept, version(1, 5), 0);
        let small = Version { digest: Digest([1; 32]), size: LEAST_KEPT - 1 };
        kept.keep(owner(), small, 0, group(LEAST_KEPT - 1));
        kept.remember(owner(), &id("small"), small);
        assert_eq!((kept.bytes(), kept.version(owner(), &id("small"))), (0, None));
        let mut off = Kept::new(0);
        keep(&mut off, version(1, 1), 0);
        assert_eq!(off.bytes(), 0);
    }

    #[test]
    fn groups_go_with_their_version() {
        let mut kept = Kept::new(LIMIT);
        kept.remember(owner(), &id("k"), version(1, 2));
        keep(&mut kept, version(1, 2), 0);
        keep(&mut kept, version(1, 2), 1);
        kept.remember(owner(), &id("k"), version(1, 2));
        assert_eq!(kept.bytes(), 2 * GROUP_LEN, "the same version");
        kept.remember(owner(), &id("k"), version(2, 1));
        assert_eq!(kept.bytes(), 0, "replaced");
        keep(&mut kept, version(2, 1), 0);
        kept.forget(owner(), &id("k"));
        assert_eq!((kept.bytes(), kept.version(owner(), &id("k"))), (0, None), "evicted");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Keep(u8, u64, u64),
        Use(u8, u64),
        Remember(u8),
        Forget,
        Drop(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..4, 0u64..3, 1..=GROUP_LEN).prop_map(|(number, index, len)| Step::Keep(number, index, len)),
            (0u8..4, 0u64..3).prop_map(|(number, index)| Step::Use(number, index)),
            (0u8..4).prop_map(Step::Remember),
            Just(Step::Forget),
            (0u8..4).prop_map(Step::Drop),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn bytes_are_those_of_the_groups_and_never_above_the_limit(steps in steps()) {
            let mut kept = Kept::new(LIMIT);
            for step in steps {
                match step {
                    Step::Keep(number, index, len) => kept.keep(owner(), version(number, 3), index, group(len)),
                    Step::Use(number, index) => drop(kept.group(owner(), version(number, 3), index)),
                    Step::Remember(number) => kept.remember(owner(), &id("k"), version(number, 3)),
                    Step::Forget => kept.forget(owner(), &id("k")),
                    Step::Drop(number) => kept.drop_groups(owner(), version(number, 3)),
                }
                let held: u64 = kept.groups.iter().map(|(_, group)| group.len()).sum();
                prop_assert_eq!(kept.bytes(), held);
                prop_assert!(held <= LIMIT);
            }
        }
    }
}
