//! The lead of a read: the first groups of an object, which its owner sends together with the answer that opens the
//! read, without being asked for each.
//!
//! Without it every object over one group costs a second round trip, during which a long line stands empty
//! (`docs/decisions/0012-a-lead-saves-a-round-trip.md`). Each group comes on a stream of its own, under a ticket that
//! the reader issued with its request. Only the first reader of an object wants a lead: the others find its groups on
//! their way ([`super::flights`]).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Poll;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use proxystore_shared::EndpointId;
use proxystore_shared::frame::{LEAD_GROUPS, Ticket};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::context::Context;
use super::remote_object::Place;
use crate::lock::lock;
use crate::storage::Group;

/// Longest wait for the first reader of an object, whose answer is due at about the same time as one's own.
const FIRST_READER: Duration = Duration::from_millis(100);

/// The leads that are wanted now.
#[derive(Default)]
pub struct Leads {
    next: AtomicU64,
    wanted: DashMap<Ticket, Arc<Lead>>,
    /// A first reader has opened its object, or has not found it.
    opened: Notify,
}

impl Leads {
    /// Somebody has opened an object.
    pub fn handle_opened(&self) {
        self.opened.notify_waiters();
    }

    /// The lead that `owner` was given this ticket for, if it is still wanted.
    pub fn from(&self, owner: EndpointId, ticket: Ticket) -> Option<Arc<Lead>> {
        let lead = self.wanted.get(&ticket)?.clone();
        (lead.owner == owner).then_some(lead)
    }

    fn want(&self, owner: EndpointId, first: u64) -> (Ticket, Arc<Lead>) {
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        let lead = Arc::new(Lead::new(owner, first));
        self.wanted.insert(ticket, lead.clone());
        (ticket, lead)
    }

    fn end(&self, ticket: Ticket) {
        if let Some((_, lead)) = self.wanted.remove(&ticket) {
            lead.end();
        }
    }
}

/// A lead that is wanted until this is dropped: what has not arrived by then will not.
pub struct Wanted {
    context: Arc<Context>,
    place: Place,
    /// For the request.
    pub ticket: Ticket,
    /// What arrives.
    pub lead: Arc<Lead>,
}

impl Wanted {
    /// A lead that begins with the group at `first`; none if somebody else opens or reads the object already.
    pub fn by_first_reader(context: &Arc<Context>, place: &Place, first: u64) -> Option<Self> {
        match context.reading.entry(place.clone()) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(vacant) => drop(vacant.insert(Weak::new())),
        }
        let (ticket, lead) = context.leads.want(place.0, first);
        Some(Self { context: context.clone(), place: place.clone(), ticket, lead })
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.context.leads.end(self.ticket);
        // The object may turn out to be small, or not to be there: then nobody reads it.
        self.context.reading.remove_if(&self.place, |_, object| object.strong_count() == 0);
        self.context.leads.handle_opened();
    }
}

/// Waits until the first reader has opened the object at `place`, so that its lead serves those who were a moment behind
/// but have their answer sooner.
pub async fn until_first_reader_is_in(context: &Context, place: &Place) {
    let is_opening = || context.reading.get(place).is_some_and(|object| object.strong_count() == 0);
    let waiting = async {
        loop {
            let opened = context.leads.opened.notified();
            if !is_opening() {
                return;
            }
            opened.await;
        }
    };
    // The first may be in trouble; then there is no lead.
    let _ = timeout(FIRST_READER, waiting).await;
}

/// The groups of one lead, each of which arrives once and is taken once.
pub struct Lead {
    owner: EndpointId,
    indices: Range<u64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    slots: [Slot; LEAD_GROUPS as usize],
    ended: bool,
}

#[derive(Default)]
enum Slot {
    #[default]
    Awaited,
    Arriving,
    Arrived(Group),
    /// Taken, or damaged.
    Gone,
}

impl Lead {
    fn new(owner: EndpointId, first: u64) -> Self {
        let indices = first..first.saturating_add(LEAD_GROUPS);
        Self { owner, indices, state: Mutex::default(), changed: Notify::new() }
    }

    /// Whether the group at `index` may arrive now, for the first and only time.
    pub fn claim(&self, index: u64) -> bool {
        let mut state = self.state();
        let slot = self.position(index).map(|position| &mut state.slots[position]);
        match slot {
            Some(slot @ Slot::Awaited) => {
                *slot = Slot::Arriving;
                true
            }
            _ => false,
        }
    }

    /// The group that was claimed has arrived; none if it was damaged on the way.
    pub fn arrive(&self, index: u64, group: Option<Group>) {
        if let Some(position) = self.position(index) {
            self.state().slots[position] = group.map_or(Slot::Gone, Slot::Arrived);
        }
        self.changed.notify_waiters();
    }

    /// Waits for the group at `index`; none if it has to be asked for. So has one that is still awaited when no group
    /// of the lead arrived for as long as `limit`.
    pub async fn take(&self, index: u64, limit: Duration) -> Option<Group> {
        loop {
            let changed = self.changed.notified();
            match self.poll_take(index) {
                Poll::Ready(group) => return group,
                Poll::Pending => timeout(limit, changed).await.ok()?,
            }
        }
    }

    fn poll_take(&self, index: u64) -> Poll<Option<Group>> {
        let Some(position) = self.position(index) else { return Poll::Ready(None) };
        let mut state = self.state();
        if !state.ended && matches!(state.slots[position], Slot::Awaited | Slot::Arriving) {
            return Poll::Pending;
        }
        match std::mem::replace(&mut state.slots[position], Slot::Gone) {
            Slot::Arrived(group) => Poll::Ready(Some(group)),
            _ => Poll::Ready(None),
        }
    }

    fn end(&self) {
        self.state().ended = true;
        self.changed.notify_waiters();
    }

    /// None if the lead does not reach that far.
    fn position(&self, index: u64) -> Option<usize> {
        self.indices.contains(&index).then(|| (index - self.indices.start) as usize)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use proxystore_shared::Digest;

    use super::*;

    /// Longer than any test takes.
    const LIMIT: Duration = Duration::from_secs(600);

    fn group() -> Group {
        Group { segments: vec![Bytes::from_static(b"abc")], digest: Digest([0; 32]) }
    }

    #[tokio::test]
    async fn a_group_arrives_once_and_is_taken_once() {
        let leads = Leads::default();
        let owner = EndpointId::random();
        let (ticket, lead) = leads.want(owner, 2);
        let arriving = leads.from(owner, ticket).expect("it is wanted");
        assert!(!arriving.claim(1) && !arriving.claim(2 + LEAD_GROUPS), "outside the lead");
        assert!(arriving.claim(2) && !arriving.claim(2), "once");
        let mut taken = std::pin::pin!(lead.take(2, LIMIT));
        assert!(taken.as_mut().now_or_never().is_none(), "on its way");
        arriving.arrive(2, Some(group()));
        assert_eq!(taken.await.expect("it has arrived").len(), 3);
        assert!(lead.take(2, LIMIT).await.is_none(), "taken already");
        assert!(!arriving.claim(2), "arrived already");
    }

    #[tokio::test]
    async fn what_is_damaged_or_does_not_come_is_asked_for() {
        let leads = Leads::default();
        let owner = EndpointId::random();
        let (ticket, lead) = leads.want(owner, 0);
        assert!(lead.claim(0));
        lead.arrive(0, None);
        assert!(lead.take(0, LIMIT).await.is_none(), "damaged");
        assert!(lead.take(LEAD_GROUPS, LIMIT).await.is_none(), "not in the lead");
        let mut waiting = std::pin::pin!(lead.take(1, LIMIT));
        assert!(waiting.as_mut().now_or_never().is_none());
        leads.end(ticket);
        assert!(waiting.await.is_none(), "it will not come");
        assert!(leads.from(owner, ticket).is_none());
    }

    #[tokio::test]
    async fn a_lead_that_stalls_is_not_waited_for() {
        let leads = Leads::default();
        let (_ticket, lead) = leads.want(EndpointId::random(), 0);
        assert!(lead.take(0, Duration::from_millis(10)).await.is_none());
        assert!(lead.claim(0), "it may still come");
    }

    #[test]
    fn another_peer_cannot_use_the_ticket() {
        let leads = Leads::default();
        let (ticket, _lead) = leads.want(EndpointId::random(), 0);
        assert!(leads.from(EndpointId::random(), ticket).is_none());
    }
}
