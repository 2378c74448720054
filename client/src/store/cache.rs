//! Values that were fetched lately, limited by number and by bytes.

use std::any::Any;
use std::sync::Arc;

use lru::LruCache;

use crate::Key;

struct Entry {
    value: Arc<dyn Any + Send + Sync>,
    len: usize,
}

/// The least recently used value goes first. A value counts as many bytes as it had serialized.
pub(super) struct Cache {
    entries: LruCache<Key, Entry>,
    bytes: usize,
    most_entries: usize,
    most_bytes: usize,
}

impl Cache {
    pub fn new(most_entries: usize, most_bytes: usize) -> Self {
        // The limits are kept below, since one of them is not the number of entries.
        Self { entries: LruCache::unbounded(), bytes: 0, most_entries, most_bytes }
    }

    pub fn limits(&self) -> (usize, usize) {
        (self.most_entries, self.most_bytes)
    }

    pub fn set_limits(&mut self, most_entries: usize, most_bytes: usize) {
        (self.most_entries, self.most_bytes) = (most_entries, most_bytes);
        self.shrink();
    }

    pub fn contains(&self, key: &Key) -> bool {
        self.entries.contains(key)
    }

    /// The value, if it is there and of this type.
    pub fn get<T: Send + Sync + 'static>(&mut self, key: &Key) -> Option<Arc<T>> {
        let value = self.entries.get(key)?.value.clone();
        value.downcast().ok()
    }

    pub fn insert(&mut self, key: &Key, value: Arc<dyn Any + Send + Sync>, len: usize) {
        if len > self.most_bytes || self.most_entries == 0 {
            return;
        }
        self.bytes += len;
        if let Some(replaced) = self.entries.put(key.clone(), Entry { value, len }) {
            self.bytes -= replaced.len;
        }
        self.shrink();
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(removed) = self.entries.pop(key) {
            self.bytes -= removed.len;
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn shrink(&mut self) {
        while self.entries.len() > self.most_entries || self.bytes > self.most_bytes {
            let Some((_, removed)) = self.entries.pop_lru() else { return };
            self.bytes -= removed.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> Key {
        Key::Local { id: id.to_owned() }
    }

    fn cache_of(most_entries: usize, most_bytes: usize, entries: &[(&str, usize)]) -> Cache {
        let mut cache = Cache::new(most_entries, most_bytes);
        entries.iter().for_each(|(id, len)| cache.insert(&key(id), Arc::new(*len), *len));
        cache
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = cache_of(2, 100, &[("a", 1), ("b", 1)]);
        assert_eq!(cache.get::<usize>(&key("a")).as_deref(), Some(&1));
        cache.insert(&key("c"), Arc::new(1_usize), 1);
        assert_eq!(["a", "b", "c"].map(|id| cache.contains(&key(id))), [true, false, true]);
    }

    #[test]
    fn bytes_are_limited_too() {
        let mut cache = cache_of(10, 100, &[("a", 60), ("b", 30), ("huge", 101), ("c", 50)]);
        assert_eq!(["a", "b", "huge", "c"].map(|id| cache.contains(&key(id))), [false, true, false, true]);
        cache.insert(&key("b"), Arc::new(0_usize), 40);
        assert_eq!(cache.bytes, 90);
        cache.remove(&key("b"));
        assert_eq!(cache.bytes, 50);
        cache.set_limits(10, 49);
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
        assert!(!cache_of(0, 100, &[("a", 1)]).contains(&key("a")));
    }

    #[test]
    fn a_value_of_another_type_is_not_found() {
        assert!(cache_of(1, 100, &[("a", 1)]).get::<String>(&key("a")).is_none());
    }
}
