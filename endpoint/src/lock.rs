//! Locking a mutex whatever became of those who held it before.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. A panic while the lock was held ends one task, not everybody who needs the lock after it: nothing that this
/// program locks is left half changed by a statement that can panic.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
