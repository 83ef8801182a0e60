//! TURN REST credentials as the server checks them: see [`crate::auth::turn_rest`].

use std::time::{SystemTime, UNIX_EPOCH};

use super::credentials::Credentials;
use crate::auth::turn_rest::TurnSecrets;

impl Credentials for TurnSecrets {
    fn passwords(&self, username: &str, now: SystemTime) -> Vec<String> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self::passwords(self, username, now).unwrap_or_default()
    }

    /// Allocations are counted by the id: a device that fetched fresh credentials is the same one.
    fn quota_key<'a>(&self, username: &'a str) -> &'a str {
        username.split_once(':').map_or(username, |(_, id)| id)
    }
}
