//! What a store did, and how long it took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Put,
    PutBatch,
    Get,
    GetBatch,
    Exists,
    Evict,
}

const NAMES: [&str; 6] = ["put", "put_batch", "get", "get_batch", "exists", "evict"];

#[derive(Debug, Default)]
struct Meter {
    count: AtomicU64,
    errors: AtomicU64,
    nanoseconds: AtomicU64,
    longest_nanoseconds: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Meters {
    by_operation: [Meter; NAMES.len()],
    cache_hits: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl Meters {
    pub fn count(&self, operation: Operation, took: Duration, sent: usize, failed: bool) {
        let meter = &self.by_operation[operation as usize];
        let nanoseconds = took.as_nanos().try_into().unwrap_or(u64::MAX);
        meter.count.fetch_add(1, Relaxed);
        meter.errors.fetch_add(failed.into(), Relaxed);
        meter.nanoseconds.fetch_add(nanoseconds, Relaxed);
        meter.longest_nanoseconds.fetch_max(nanoseconds, Relaxed);
        if !failed {
            self.bytes_sent.fetch_add(sent as u64, Relaxed);
        }
    }

    pub fn received(&self, len: usize) {
        self.bytes_received.fetch_add(len as u64, Relaxed);
    }

    pub fn hit(&self) {
        self.cache_hits.fetch_add(1, Relaxed);
    }

    pub fn snapshot(&self) -> StoreMetrics {
        let operations = NAMES.iter().zip(&self.by_operation).map(|(name, meter)| {
            let metrics = OperationMetrics {
                count: meter.count.load(Relaxed),
                errors: meter.errors.load(Relaxed),
                total: Duration::from_nanos(meter.nanoseconds.load(Relaxed)),
                longest: Duration::from_nanos(meter.longest_nanoseconds.load(Relaxed)),
            };
            (*name, metrics)
        });
        StoreMetrics {
            operations: operations.collect(),
            cache_hits: self.cache_hits.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }
}

/// What a store did since it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreMetrics {
    /// Requests to the connector, by operation: `put`, `put_batch`, `get`, `get_batch`, `exists`, `evict`.
    pub operations: BTreeMap<&'static str, OperationMetrics>,
    /// Values that came from the cache.
    pub cache_hits: u64,
    /// Serialized bytes that were put.
    pub bytes_sent: u64,
    /// Serialized bytes that were fetched.
    pub bytes_received: u64,
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OperationMetrics {
    /// Requests, also those that failed.
    pub count: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Time spent on all of them, without serialization.
    pub total: Duration,
    /// Time spent on the slowest.
    pub longest: Duration,
}
