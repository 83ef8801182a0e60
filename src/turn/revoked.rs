//! Revoked pairs for which previously issued credentials are still valid.

use std::collections::HashMap;

/// Maximum number of pairs remembered; if exceeded, the pair whose credentials expire first is
/// forgotten.
const MAX_PAIRS: usize = 16_384;

/// For each pair, credentials that expire by this time, in Unix seconds, were issued before the
/// revocation.
#[derive(Debug, Default)]
pub struct RevokedPairs(HashMap<String, u64>);

impl RevokedPairs {
    /// Adds a pair.
    pub fn insert(&mut self, pair: &str, until: u64) {
        self.0.insert(pair.to_owned(), until);
        if self.0.len() > MAX_PAIRS
            && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until)
        {
            let first = first.0.clone();
            self.0.remove(&first);
        }
    }

    /// Whether credentials for `pair` with this expiry were issued before the revocation.
    pub fn covers(&self, pair: &str, expires_at: u64) -> bool {
        self.0.get(pair).is_some_and(|until| expires_at <= *until)
    }

    /// Removes pairs whose credentials have all expired.
    pub fn forget_until(&mut self, now: u64) {
        self.0.retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_credentials_issued_before_the_revocation_are_covered() {
        let mut revoked = RevokedPairs::default();
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
        let mut revoked = RevokedPairs::default();
        for pair in 0..=MAX_PAIRS as u64 {
            revoked.insert(&pair.to_string(), 100 + pair);
        }
        assert_eq!(revoked.0.len(), MAX_PAIRS);
        assert!(!revoked.covers("0", 100) && revoked.covers("1", 101));
    }
}
