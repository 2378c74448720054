//! Counts the bytes in a store, and refuses those that would exceed its limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StorageError;

/// The bytes of one store: its objects and the uploads on their way.
#[derive(Debug)]
pub(super) struct Meter {
    used: AtomicU64,
    limit: Option<u64>,
}

impl Meter {
    /// A meter at zero.
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), limit })
    }

    /// Bytes reserved.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes there may be.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Whether `bytes` more would fit now.
    pub fn check(&self, bytes: u64) -> Result<(), StorageError> {
        self.fits(self.used(), bytes).map(|_| ())
    }

    /// What would be used with `bytes` more.
    fn fits(&self, used: u64, bytes: u64) -> Result<u64, StorageError> {
        let limit = self.limit.unwrap_or(u64::MAX);
        used.checked_add(bytes).filter(|sum| *sum <= limit).ok_or(StorageError::Full { used, limit })
    }
}

/// Bytes that count as used until this is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    meter: Arc<Meter>,
    bytes: u64,
}

impl Reservation {
    /// Of `bytes` that are in the store already, whatever the limit.
    pub fn existing(meter: &Arc<Meter>, bytes: u64) -> Self {
        meter.used.fetch_add(bytes, Ordering::Relaxed);
        Self { meter: meter.clone(), bytes }
    }

    /// Reserves `bytes` more, or fails with [`StorageError::Full`] and changes nothing.
    pub fn grow(&mut self, bytes: u64) -> Result<(), StorageError> {
        let used = &self.meter.used;
        let mut before = used.load(Ordering::Relaxed);
        loop {
            let after = self.meter.fits(before, bytes)?;
            match used.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => before = now,
            }
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.meter.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
