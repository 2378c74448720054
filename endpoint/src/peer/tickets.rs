//! What a peer has open on one connection: reads and uploads that span several streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use dashmap::mapref::one::Ref;
use proxystore_shared::digest::GROUP_LEN;
use proxystore_shared::frame::{MAX_GROUPS_IN_FLIGHT, ObjectMeta, Ticket};
use tokio::sync::{Mutex, Notify};

use crate::storage::{Expected, StorageError, StoredObject, Upload};

/// Open transfers on one connection: 16 uploads at full stretch hold 256 MiB of parts.
const MAX_OPEN: usize = 256;

/// Something that is open.
pub enum Open {
    /// A version of an object.
    Read(Arc<dyn StoredObject>),
    /// An upload.
    Upload(Arc<Uploading>),
}

/// The open transfers of one connection.
#[derive(Default)]
pub struct Tickets {
    next: AtomicU64,
    open: DashMap<Ticket, Entry>,
}

struct Entry {
    what: Open,
    /// Since the last look.
    used: AtomicBool,
}

impl Tickets {
    /// Issues a ticket; none when too many are open.
    pub fn open(&self, what: Open) -> Option<Ticket> {
        if self.open.len() >= MAX_OPEN {
            return None;
        }
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.insert(ticket, Entry { what, used: AtomicBool::new(false) });
        Some(ticket)
    }

    /// Takes a ticket back.
    pub fn close(&self, ticket: Ticket) {
        self.open.remove(&ticket);
    }

    /// Returns once nothing was asked under the ticket for as long as `limit`, or at most twice that.
    pub async fn until_idle(&self, ticket: Ticket, limit: Duration) {
        loop {
            tokio::time::sleep(limit).await;
            if !self.was_used(ticket) {
                return;
            }
        }
    }

    /// Whether anything was asked under the ticket since the last look.
    fn was_used(&self, ticket: Ticket) -> bool {
        self.open.get(&ticket).is_some_and(|entry| entry.used.swap(false, Ordering::Relaxed))
    }

    fn used(&self, ticket: Ticket) -> Option<Ref<'_, Ticket, Entry>> {
        let entry = self.open.get(&ticket)?;
        entry.used.store(true, Ordering::Relaxed);
        Some(entry)
    }

    /// The read behind a ticket.
    pub fn reading(&self, ticket: Ticket) -> Option<Arc<dyn StoredObject>> {
        match &self.used(ticket)?.what {
            Open::Read(object) => Some(object.clone()),
            Open::Upload(_) => None,
        }
    }

    /// The upload behind a ticket.
    pub fn uploading(&self, ticket: Ticket) -> Option<Arc<Uploading>> {
        match &self.used(ticket)?.what {
            Open::Upload(uploading) => Some(uploading.clone()),
            Open::Read(_) => None,
        }
    }
}

/// Joins parts, which arrive in any order, to an upload, which takes bytes in one.
pub struct Uploading {
    state: Mutex<Joining>,
    /// A part was joined, so that the window has moved.
    joined: Notify,
}

struct Joining {
    /// Gone once committed, or once storage refused.
    upload: Option<Box<dyn Upload>>,
    next: u64,
    waiting: BTreeMap<u64, Bytes>,
    /// Only the last part may be short.
    short: bool,
}

impl Uploading {
    /// Nothing has arrived yet.
    pub fn new(upload: Box<dyn Upload>) -> Self {
        let state = Joining { upload: Some(upload), next: 0, waiting: BTreeMap::new(), short: false };
        Self { state: Mutex::new(state), joined: Notify::new() }
    }

    /// Waits until the part at `index` may be received: it must be near the parts that are awaited, which bounds
    /// what has to be held. The caller bounds the time.
    ///
    /// Parts that were accepted ahead of their turn let the sender run ahead of the window by as many again, and no
    /// further.
    pub async fn admit(&self, index: u64) -> Result<(), StorageError> {
        const WINDOW: u64 = MAX_GROUPS_IN_FLIGHT as u64;
        loop {
            let joined = self.joined.notified();
            let state = self.state.lock().await;
            let next = state.next;
            if !(next..next + 2 * WINDOW).contains(&index) || state.waiting.contains_key(&index) {
                return Err(StorageError::Mismatch(format!("part {index} does not follow part {next}")));
            }
            if index < next + WINDOW {
                return Ok(());
            }
            drop(state);
            joined.await;
        }
    }

    /// Adds a part that was admitted.
    pub async fn add(&self, index: u64, bytes: Bytes) -> Result<(), StorageError> {
        let mut state = self.state.lock().await;
        state.waiting.insert(index, bytes);
        while let Some(bytes) = {
            let next = state.next;
            state.waiting.remove(&next)
        } {
            state.append(bytes).await?;
            self.joined.notify_waiters();
        }
        Ok(())
    }

    /// Stores the object if it is what the peer says it sent.
    pub async fn commit(&self, expected: Expected) -> Result<ObjectMeta, StorageError> {
        let mut state = self.state.lock().await;
        if !state.waiting.is_empty() {
            return Err(StorageError::Mismatch(format!("part {} is missing", state.next)));
        }
        let upload = state.upload.take().ok_or_else(ended)?;
        upload.commit(Some(expected)).await
    }
}

impl Joining {
    async fn append(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if self.short {
            return Err(StorageError::Mismatch(format!("part {} follows a short part", self.next)));
        }
        self.short = (bytes.len() as u64) < GROUP_LEN;
        let upload = self.upload.as_mut().ok_or_else(ended)?;
        if let Err(error) = upload.write(bytes).await {
            self.upload = None;
            return Err(error);
        }
        self.next += 1;
        Ok(())
    }
}

fn ended() -> StorageError {
    StorageError::Mismatch("the upload has ended".into())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proxystore_shared::Digest;
    use tokio::time::timeout;

    use super::*;
    use crate::storage::Storage as _;
    use crate::storage::memory::{MemoryLimits, MemoryStorage};

    async fn uploading(storage: &MemoryStorage) -> Uploading {
        Uploading::new(storage.begin(&"k".parse().unwrap(), None, false).await.unwrap())
    }

    fn part(index: u64) -> Bytes {
        Bytes::from(vec![index as u8; GROUP_LEN as usize])
    }

    #[tokio::test]
    async fn a_sender_that_runs_ahead_waits_for_the_part_that_is_late() {
        let storage = MemoryStorage::new(MemoryLimits { max_object_size: u64::MAX, memory_limit: None });
        let uploading = uploading(&storage).await;
        let ahead = MAX_GROUPS_IN_FLIGHT as u64;
        for index in 1..ahead {
            uploading.admit(index).await.unwrap();
            uploading.add(index, part(index)).await.unwrap();
        }
        let mut admission = std::pin::pin!(uploading.admit(ahead));
        assert!(
            timeout(Duration::from_millis(50), &mut admission).await.is_err(),
            "the window has not moved"
        );
        uploading.add(0, part(0)).await.unwrap();
        admission.await.unwrap();
        uploading.add(ahead, part(ahead)).await.unwrap();
        let whole: Vec<u8> = (0..=ahead).flat_map(part).collect();
        let expected = Expected { size: whole.len() as u64, digest: Digest::of(&whole) };
        assert_eq!(uploading.commit(expected).await.unwrap().digest, expected.digest);
    }

    #[tokio::test]
    async fn a_ticket_that_is_used_is_not_idle() {
        let storage = MemoryStorage::new(MemoryLimits { max_object_size: u64::MAX, memory_limit: None });
        let tickets = Tickets::default();
        let ticket = tickets.open(Open::Upload(Arc::new(uploading(&storage).await))).expect("there is room");
        assert!(!tickets.was_used(ticket));
        tickets.uploading(ticket).expect("it is open");
        assert!(tickets.was_used(ticket));
        assert!(!tickets.was_used(ticket), "not since the last look");
    }

    #[tokio::test]
    async fn parts_that_no_honest_sender_sends_are_refused() {
        let storage = MemoryStorage::new(MemoryLimits { max_object_size: u64::MAX, memory_limit: None });
        let uploading = uploading(&storage).await;
        assert!(uploading.admit(2 * MAX_GROUPS_IN_FLIGHT as u64).await.is_err(), "far ahead");
        uploading.add(0, part(0)).await.unwrap();
        assert!(uploading.admit(0).await.is_err(), "joined already");
        uploading.add(2, part(2)).await.unwrap();
        assert!(uploading.admit(2).await.is_err(), "waiting already");
        let gap = Expected { size: 3 * GROUP_LEN, digest: Digest([0; 32]) };
        assert!(uploading.commit(gap).await.is_err(), "a part is missing");
    }
}
