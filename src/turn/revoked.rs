//! Pairs that were revoked while credentials made for them are still good.

use std::collections::HashMap;

/// Most pairs remembered; over it the one whose credentials expire first is forgotten.
const MOST: usize = 16_384;

/// By pair: credentials that expire by then, seconds since 1970, were made before it was revoked.
#[derive(Debug, Default)]
pub struct Revoked(HashMap<String, u64>);

impl Revoked {
    /// Remembers a pair.
    pub fn insert(&mut self, pair: &str, until: u64) {
        self.0.insert(pair.to_owned(), until);
        if self.0.len() > MOST
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until)
        {
            let first = first.0.clone();
            self.0.remove(&first);
        }
    }

    /// Whether credentials for `pair` with that expiry were made before it was revoked.
    pub fn covers(&self, pair: &str, expires_at: u64) -> bool {
        self.0.get(pair).is_some_and(|until| expires_at <= *until)
    }

    /// Forgets pairs whose credentials have all expired.
    pub fn forget_until(&mut self, now: u64) {
        self.0.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_from_before_are_covered_and_later_ones_are_not() {
        let mut revoked = Revoked::default();
        revoked.insert("demo", 100);
        assert!(revoked.covers("demo", 100) && !revoked.covers("demo", 101));
        assert!(!revoked.covers("other", 100));
        revoked.forget_until(99);
        assert!(revoked.covers("demo", 100));
        revoked.forget_until(100);
        assert!(!revoked.covers("demo", 100));
    }

    #[test]
    fn memory_is_bounded() {
        let mut revoked = Revoked::default();
        for pair in 0..=MOST as u64 {
            revoked.insert(&pair.to_string(), 100 + pair);
        }
        assert_eq!(revoked.0.len(), MOST);
        assert!(!revoked.covers("0", 100) && revoked.covers("1", 101));
    }
}
