//! Verifies TURN REST credentials; see [`crate::auth::turn_rest`].

use std::time::{SystemTime, UNIX_EPOCH};

use super::credentials::Credentials;
use crate::auth::turn_rest::{self, TurnSecrets};

impl Credentials for TurnSecrets {
    fn passwords(&self, username: &str, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::passwords(self, username, now).unwrap_or_default()
    }

    /// The ID: a device with fresh credentials is still the same user.
    fn quota_key<'a>(&self, username: &'a str) -> &'a str {
        let id = username.split_once(':').map_or(username, |(_, id)| id);
        turn_rest::device_and_pair(id).0
    }

    /// A username that cannot be parsed counts as expired.
    fn expires_at(&self, username: &str) -> Option<u64> {
        Some(turn_rest::expires_at(username).unwrap_or_default())
    }

    fn pair<'a>(&self, username: &'a str) -> Option<&'a str> {
        let (_, id) = username.split_once(':')?;
        turn_rest::device_and_pair(id).1
    }
}
