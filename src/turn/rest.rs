//! TURN REST credentials: user name `<unix expiry>:<id>`, password base64(HMAC-SHA1(secret, user
//! name)), as in draft-uberti-behave-turn-rest and coturn's `use-auth-secret`.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::credentials::Credentials;

/// Credentials derived from shared secrets. `Debug` shows none of them.
#[derive(Clone)]
pub struct RestCredentials {
    secrets: Vec<String>,
}

impl fmt::Debug for RestCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestCredentials").field("secrets", &self.secrets.len()).finish()
    }
}

impl RestCredentials {
    /// `secrets`: the current one first, then the one being rotated out.
    #[must_use]
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        Self { secrets: secrets.into_iter().collect() }
    }

    /// User name and password for `id`, made with `secret`, good for `lifetime` from `now`.
    #[must_use]
    pub fn mint(secret: &str, id: &str, now: SystemTime, lifetime: Duration) -> (String, String) {
        let expiry = unix_seconds(now + lifetime);
        let username = format!("{expiry}:{id}");
        let password = password(secret, &username);
        (username, password)
    }
}

impl Credentials for RestCredentials {
    fn passwords(&self, username: &str, now: SystemTime) -> Vec<String> {
        let expiry = username.split_once(':').and_then(|(expiry, _)| expiry.parse::<u64>().ok());
        match expiry {
            Some(expiry) if unix_seconds(now) < expiry => {
                self.secrets.iter().map(|secret| password(secret, username)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Allocations are counted by the id: a device that fetched fresh credentials is the same one.
    fn quota_key<'a>(&self, username: &'a str) -> &'a str {
        username.split_once(':').map_or(username, |(_, id)| id)
    }
}

fn password(secret: &str, username: &str) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_secrets_are_accepted_and_expiry_is_not() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let hour = Duration::from_hours(1);
        let rest = RestCredentials::new(["new".to_owned(), "old".to_owned()]);
        let (username, current) = RestCredentials::mint("new", "phone", now, hour);
        assert_eq!(username, "1700003600:phone");
        let (_, previous) = RestCredentials::mint("old", "phone", now, hour);
        assert_eq!(rest.passwords(&username, now), [current, previous]);
        assert!(rest.passwords(&username, now + hour).is_empty());
        for malformed in ["", "phone", "x:phone", ":"] {
            assert!(rest.passwords(malformed, now).is_empty(), "{malformed}");
        }
        assert_eq!(rest.quota_key(&username), "phone");
    }

    #[test]
    fn password_is_what_openssl_computes() {
        // printf 1700003600:phone | openssl dgst -sha1 -hmac secret -binary | base64
        assert_eq!(password("secret", "1700003600:phone"), "1XyTVwvDuf1jt6Nqf4l6JCbgjWU=");
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", RestCredentials::new(["hush".to_owned()])).contains("hush"));
    }
}
