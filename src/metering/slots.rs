//! Places under a key, so many at a time: connections of an address, sockets of a user.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many places are taken under each key. Clones share them.
#[derive(Debug, Clone)]
pub struct Slots<K: Hash + Eq + Clone> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    most: u32,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// `most` places under every key.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// Takes a place; `None` when there is none left under `key`.
    #[must_use]
    pub fn take(&self, key: K) -> Option<Slot<K>> {
        let mut taken = locked(&self.taken);
        let count = taken.get(&key).copied().unwrap_or(0);
        if count >= self.most {
            return None;
        }
        taken.insert(key.clone(), count + 1);
        drop(taken);
        Some(Slot { taken: Arc::clone(&self.taken), key })
    }
}

/// A place, until it is dropped.
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is a single step, so what is in it is whole after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_key_and_given_back() {
        let slots = Slots::new(2);
        let first = slots.take("a").unwrap();
        let _second = slots.take("a").unwrap();
        assert!(slots.take("a").is_none());
        let other = slots.take("b").unwrap();
        drop(first);
        let third = slots.take("a");
        assert!(third.is_some() && slots.take("a").is_none());
        drop(other);
        assert_eq!(locked(&slots.taken).len(), 1, "a key without places is forgotten");
    }
}
