//! The trait through which the server verifies users.

use std::time::SystemTime;

pub use crate::stun::message::long_term_key;

/// Looks up the passwords of usernames.
pub trait Credentials: Send + Sync {
    /// The passwords accepted for `username` at `now`, the current one first; empty if the name is unknown,
    /// expired or malformed. There are several while a secret is being rotated: the MESSAGE-INTEGRITY of a
    /// request shows which one was used.
    fn passwords(&self, username: &str, now: SystemTime) -> Vec<String>;

    /// The part of the name that does not change when credentials are renewed. It identifies the user that
    /// owns an allocation, also for the quota.
    fn quota_key<'a>(&self, username: &'a str) -> &'a str {
        username
    }

    /// Expiry of the name in Unix seconds; `None` if it does not expire.
    fn expires_at(&self, _username: &str) -> Option<u64> {
        None
    }

    /// The pair of devices for which the name was issued, if known.
    fn pair<'a>(&self, _username: &'a str) -> Option<&'a str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_matches_the_rfc_example() {
        // RFC 8489 §9.2.2: user "user", realm "realm", password "pass".
        let key = long_term_key("user", "realm", "pass");
        assert_eq!(u128::from_be_bytes(key), 0x8493_fbc5_3ba5_82fb_4c04_4c45_6bdc_40eb);
    }
}
