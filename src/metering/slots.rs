//! A limited number of slots per key: connections per address, sockets per user.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::lock::locked;

/// Counts the slots taken per key. Clones share them.
#[derive(Debug, Clone)]
pub struct Slots<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    maximum: u32,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// `maximum` slots for every key.
    #[must_use]
    pub fn new(maximum: u32) -> Self {
        Self { taken: Arc::default(), maximum }
    }

    /// Takes a slot; `None` when `key` has none left.
    #[must_use]
    pub fn take(&self, key: K) -> Option<Slot<K>> {
        let mut taken = locked(&self.taken);
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= self.maximum {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        drop(taken);
        Some(Slot { taken: Arc::clone(&self.taken), key })
    }
}

/// A taken slot, which is released on drop.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Hash + Eq> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_counted_per_key_and_released() {
        let slots = Slots::new(2);
        let first = slots.take("a").unwrap();
        let _second = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        let other = slots.take("b").unwrap();
        drop(first);
        let third = slots.take("a");
        assert!(third.is_some() && slots.take("a").is_none());
        drop(other);
        assert_eq!(locked(&slots.taken).len(), 1, "a key without slots is forgotten");
    }
}
