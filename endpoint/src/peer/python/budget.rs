//! Memory for the messages of all Python peers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ten objects of the largest size that Python endpoints take by default (100 MB), with their messages. No larger object
/// passes between the two kinds of endpoints.
pub const LIMIT: usize = 1 << 30;

/// Bytes in use, of so many at most.
#[derive(Debug, Clone, Default)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// A share of nothing yet.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// Bytes that are in use for one purpose; they are given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("messages of Python endpoints take {LIMIT} bytes already; try later")]
pub struct OverBudget;

impl Share {
    /// Changes how many bytes are in use.
    pub fn set(&mut self, bytes: usize) -> Result<(), OverBudget> {
        let others = |used: usize| used - self.bytes;
        let resized =
            |used: usize| Some(others(used) + bytes).filter(|used| bytes <= self.bytes || *used <= LIMIT);
        let counter = &self.budget.0;
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, resized).map_err(|_| OverBudget)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_one_budget_and_are_given_back() {
        let budget = Budget::default();
        let (mut one, mut other) = (budget.share(), budget.share());
        one.set(LIMIT - 10).unwrap();
        assert_eq!(other.set(11), Err(OverBudget));
        other.set(10).unwrap();
        assert_eq!(other.set(11), Err(OverBudget));
        one.set(5).unwrap();
        other.set(LIMIT - 5).unwrap();
        drop((one, other));
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
