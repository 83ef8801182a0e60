//! Whose allocations are served: the trait the server asks.

use std::time::SystemTime;

pub use crate::stun::message::long_term_key;

/// Says which passwords a user name has.
pub trait Credentials: Send + Sync {
    /// The passwords accepted for `username` at `now`, the current one first; none when the name is
    /// unknown, expired or malformed. Several while a secret is being rotated: a request says which
    /// by its MESSAGE-INTEGRITY.
    fn passwords(&self, username: &str, now: SystemTime) -> Vec<String>;

    /// The part of the name that stays when credentials are renewed: allocations are counted by it, for
    /// the quota per user, and belong to it.
    fn quota_key<'a>(&self, username: &'a str) -> &'a str {
        username
    }

    /// Until when the name is good, seconds since 1970; none when it does not expire.
    fn expires_at(&self, _username: &str) -> Option<u64> {
        None
    }

    /// The pair of devices that the name was made for, when it says so.
    fn pair<'a>(&self, _username: &'a str) -> Option<&'a str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_the_standard() {
        // RFC 8489 §9.2.2: user "user", realm "realm", password "pass".
        let key = long_term_key("user", "realm", "pass");
        assert_eq!(u128::from_be_bytes(key), 0x8493_fbc5_3ba5_82fb_4c04_4c45_6bdc_40eb);
    }
}
