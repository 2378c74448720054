//! Single flight: readers of one object that want the same group wait for the same fetch of it.
//!
//! A fetch is a task of its own, so that a reader that is slow or leaves holds nobody up: neither the others that wait
//! for the group nor, with bytes that nobody takes from the connection, everybody else who uses that. When the last
//! reader that waits for it leaves, it ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::PeerError;
use crate::lock::lock;
use crate::storage::Group;

/// Slots between sweeps. A sweep looks at every slot, so that a slot costs little more than one look; and so many slots
/// are nothing beside one group.
const SWEEP_EVERY: usize = 64;

type Fetched = Result<Arc<Group>, PeerError>;

/// A fetch that several may wait for.
pub type Flight = Shared<BoxFuture<'static, Fetched>>;

/// A group that is on its way, or was and is still held by a reader.
enum Slot {
    Flying(WeakShared<BoxFuture<'static, Fetched>>),
    Landed(Weak<Group>),
}

/// Where to have a group from.
pub enum Boarding {
    /// Another reader holds it.
    Held(Arc<Group>),
    /// It is kept.
    Kept(Arc<Group>),
    /// Another reader waits for it.
    Joined(Flight),
    /// It was asked for just now.
    Started(Flight),
}

impl Slot {
    /// None if no reader waits for the group or holds it any more.
    fn board(&self) -> Option<Boarding> {
        match self {
            Self::Flying(flight) => flight.upgrade().map(Boarding::Joined),
            Self::Landed(group) => group.upgrade().map(Boarding::Held),
        }
    }
}

/// The groups of one object that are on their way to readers.
#[derive(Default)]
pub struct Flights {
    slots: Mutex<HashMap<u64, Slot>>,
}

impl Flights {
    /// Where to have the group at `index` from: with another reader, else where `kept` looks, else from the owner.
    pub fn board(
        &self,
        index: u64,
        kept: impl FnOnce() -> Option<Arc<Group>>,
        start: impl FnOnce() -> JoinHandle<Fetched>,
    ) -> Boarding {
        let mut slots = self.slots();
        if let Some(boarding) = slots.get(&index).and_then(Slot::board) {
            return boarding;
        }
        if let Some(group) = kept() {
            return Boarding::Kept(group);
        }
        let flight = flight(start());
        if let Some(weak) = flight.downgrade() {
            make_room(&mut slots);
            slots.insert(index, Slot::Flying(weak));
        }
        Boarding::Started(flight)
    }

    /// The fetch of the group at `index` has ended. A failure is for those who wait already, and nobody else.
    pub fn land(&self, index: u64, fetched: &Fetched) {
        match fetched {
            Ok(group) => self.slots().insert(index, Slot::Landed(Arc::downgrade(group))),
            Err(_) => self.slots().remove(&index),
        };
    }

    /// The groups turned out not to belong together: those who come now get them anew.
    pub fn clear(&self) {
        self.slots().clear();
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<u64, Slot>> {
        lock(&self.slots)
    }
}

/// Removes what nobody holds any more, from time to time.
fn make_room(slots: &mut HashMap<u64, Slot>) {
    if slots.len() % SWEEP_EVERY == SWEEP_EVERY - 1 {
        slots.retain(|_, slot| slot.board().is_some());
    }
}

fn flight(task: JoinHandle<Fetched>) -> Flight {
    let task = AbortOnDropHandle::new(task);
    let fetching = async {
        // A task that did not end by itself was ended with the endpoint.
        task.await.unwrap_or(Err(PeerError::Stopping))
    };
    fetching.boxed().shared()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proxystore_shared::Digest;
    use tokio::sync::oneshot;

    use super::*;

    fn group() -> Arc<Group> {
        Arc::new(Group { segments: vec![Bytes::from_static(b"abc")], digest: Digest([0; 32]) })
    }

    fn none() -> Option<Arc<Group>> {
        None
    }

    fn nothing() -> JoinHandle<Fetched> {
        panic!("a second fetch of the same group")
    }

    /// A fetch that ends when it is told how, and says so to `flights`.
    fn begin(flights: &Arc<Flights>) -> (Flight, oneshot::Sender<Fetched>) {
        let (sender, receiver) = oneshot::channel::<Fetched>();
        let landing = flights.clone();
        let task = async move {
            let fetched = receiver.await.expect("told");
            landing.land(0, &fetched);
            fetched
        };
        match flights.board(0, none, || tokio::spawn(task)) {
            Boarding::Started(flight) => (flight, sender),
            _ => panic!("nothing was under way"),
        }
    }

    #[tokio::test]
    async fn all_wait_for_one_fetch_and_get_the_same_group() {
        let flights = Arc::new(Flights::default());
        let (first, sender) = begin(&flights);
        let Boarding::Joined(second) = flights.board(0, none, nothing) else { panic!("it is under way") };
        // One that leaves takes nothing with it.
        drop(first);
        sender.send(Ok(group())).expect("the task waits");
        let held = second.await.expect("fetched");
        let Boarding::Held(third) = flights.board(0, none, nothing) else { panic!("a reader holds it") };
        assert!(Arc::ptr_eq(&held, &third));
        drop((held, third));
        assert!(matches!(flights.board(0, || Some(group()), nothing), Boarding::Kept(_)));
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_wait() {
        let flights = Arc::new(Flights::default());
        let (first, sender) = begin(&flights);
        let unread = first.clone();
        sender.send(Err(PeerError::Lost("test".into()))).expect("the task waits");
        assert!(first.await.is_err());
        let (_again, _sender) = begin(&flights);
        assert!(unread.await.is_err(), "who waited and was slow to look");
    }

    #[tokio::test]
    async fn a_fetch_that_nobody_waits_for_ends() {
        let flights = Arc::new(Flights::default());
        let (flight, mut sender) = begin(&flights);
        drop(flight);
        sender.closed().await;
        let (_again, _sender) = begin(&flights);
    }

    #[tokio::test]
    async fn what_nobody_holds_takes_no_room() {
        let flights = Flights::default();
        for index in 0..10_000 {
            let boarding = flights.board(index, none, || tokio::spawn(async { Ok(group()) }));
            let Boarding::Started(flight) = boarding else { panic!("nothing was under way") };
            flights.land(index, &flight.await);
        }
        assert!(flights.slots().len() <= SWEEP_EVERY);
    }
}
