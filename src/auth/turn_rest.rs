//! TURN REST credentials: a username that states its expiry, and a password computed from it with a secret
//! shared between the token API and the TURN server.
//!
//! `username = <unix expiry>:<id>`, `password = base64(HMAC-SHA1(secret, username))`
//! (draft-uberti-behave-turn-rest-00 §2.2). A previous secret is accepted for rotation.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use super::secret::Secret;

/// A username and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `<unix expiry>:<id>`.
    pub username: String,
    /// The TURN password (W3C `RTCIceServer.credential`).
    pub password: String,
    /// Time of expiry, seconds since 1970.
    pub expires_at: u64,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why credentials are rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The username is not `<unix expiry>:<id>`.
    #[error("the TURN username does not start with an expiry time")]
    Malformed,
    /// Past the expiry in the username, by this many seconds.
    #[error("the TURN username expired {0} s ago")]
    Expired(u64),
    /// The password does not match the username.
    #[error("the TURN password is wrong")]
    WrongPassword,
}

/// The secrets in use: the current one creates credentials, both verify them.
#[derive(Debug, Clone)]
pub struct TurnSecrets {
    /// Creates credentials.
    pub current: Secret,
    /// Still accepted while clients have credentials created with it.
    pub previous: Option<Secret>,
}

impl TurnSecrets {
    /// Credentials for `id` until `expires_at`, seconds since 1970.
    #[must_use]
    pub fn mint(&self, id: &str, expires_at: u64) -> Credentials {
        let username = format!("{expires_at}:{id}");
        let password = password(&self.current, &username);
        Credentials { username, password, expires_at }
    }

    /// The valid passwords for `username` at the time `now`, the current secret's first: a TURN server
    /// checks a message against each (RFC 8489 §9.2.4).
    ///
    /// # Errors
    /// When the username is malformed or expired.
    pub fn passwords(&self, username: &str, now: u64) -> Result<Vec<String>, CredentialError> {
        let expires_at = expires_at(username).ok_or(CredentialError::Malformed)?;
        if now >= expires_at {
            return Err(CredentialError::Expired(now - expires_at));
        }
        Ok([Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .map(|secret| password(secret, username))
            .collect())
    }

    /// Verifies a username and password at the time `now`.
    ///
    /// # Errors
    /// When the username is malformed or expired, or the password does not match.
    pub fn verify(&self, username: &str, password: &str, now: u64) -> Result<(), CredentialError> {
        let given = Secret::from(password);
        let right = self.passwords(username, now)?;
        // No early exit: constant time, whichever secret matches.
        if right.iter().fold(false, |found, one| found | given.is(one.as_bytes())) {
            Ok(())
        } else {
            Err(CredentialError::WrongPassword)
        }
    }
}

/// Expiry in a username, seconds since 1970; `None` when it does not start with digits.
#[must_use]
pub fn expires_at(username: &str) -> Option<u64> {
    let expiry = username.split(':').next()?;
    expiry.bytes().all(|byte| byte.is_ascii_digit()).then(|| expiry.parse().ok())?
}

/// Separates device and pair in an id.
const PAIR: &str = ";pair=";

/// Maximum length of a username, bytes (RFC 8489 §14.3).
const MAX_USERNAME: usize = 508;

/// Maximum length of a username before its id, bytes: 20 digits and a colon.
const EXPIRY_BYTES: usize = 21;

/// The id for a device of a pair, `<device>;pair=<pair>`: it lets the TURN server end the pair's allocations
/// with the pair. The pair is left out if it does not fit.
#[must_use]
pub fn id_of(device: &str, pair: &str) -> String {
    let id = format!("{device}{PAIR}{pair}");
    let fits = EXPIRY_BYTES + id.len() <= MAX_USERNAME && !pair.contains(PAIR);
    if fits { id } else { device.to_owned() }
}

/// The device in an id, and the pair if present.
#[must_use]
pub fn device_and_pair(id: &str) -> (&str, Option<&str>) {
    id.rsplit_once(PAIR).map_or((id, None), |(device, pair)| (device, Some(pair)))
}

fn password(secret: &Secret, username: &str) -> String {
    let mut mac =
        Hmac::<Sha1>::new_from_slice(secret.expose()).expect("HMAC takes a key of any length");
    mac.update(username.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> TurnSecrets {
        TurnSecrets { current: Secret::from("north"), previous: Some(Secret::from("south")) }
    }

    #[test]
    fn password_is_the_one_other_implementations_compute() {
        // printf 1700000000:phone | openssl dgst -sha1 -hmac north -binary | base64
        let made = secrets().mint("phone", 1_700_000_000);
        assert_eq!(made.username, "1700000000:phone");
        assert_eq!(made.password, "p0oJAXT3nvNDAv7reSsRwil7irU=");
    }

    #[test]
    fn both_secrets_are_accepted_until_expiry() {
        let all = secrets();
        let old = TurnSecrets { current: Secret::from("south"), previous: None };
        for made in [all.mint("a", 100), old.mint("a:b", 100)] {
            assert_eq!(all.verify(&made.username, &made.password, 99), Ok(()));
            assert_eq!(
                all.verify(&made.username, &made.password, 100),
                Err(CredentialError::Expired(0))
            );
        }
        assert_eq!(
            old.verify("100:a", &all.mint("a", 100).password, 99),
            Err(CredentialError::WrongPassword)
        );
    }

    #[test]
    fn a_modified_username_is_rejected() {
        let made = secrets().mint("a", 100);
        for (username, error) in [
            ("101:a", CredentialError::WrongPassword),
            ("a", CredentialError::Malformed),
            ("", CredentialError::Malformed),
            (":a", CredentialError::Malformed),
        ] {
            assert_eq!(secrets().verify(username, &made.password, 1), Err(error), "{username}");
        }
    }

    #[test]
    fn an_expiry_consists_of_digits_and_fits() {
        for (username, expected) in [
            ("1700000000:phone", Some(1_700_000_000)),
            ("1700000000:user:x", Some(1_700_000_000)),
            ("18446744073709551615:far", Some(u64::MAX)),
            ("18446744073709551616:over", None),
            ("-1:phone", None),
            ("+1:phone", None),
            (" 1:phone", None),
            (":phone", None),
            ("", None),
        ] {
            assert_eq!(expires_at(username), expected, "{username}");
        }
    }

    #[test]
    fn an_id_contains_its_device_and_pair() {
        for (device, pair) in [("phone", "demo"), ("a:b;pair=c", "d:e"), ("", "")] {
            assert_eq!(device_and_pair(&id_of(device, pair)), (device, Some(pair)));
        }
        assert_eq!(device_and_pair("phone"), ("phone", None));
        assert_eq!(id_of("phone", "a;pair=b"), "phone", "it would be ambiguous");
        let (device, pair) = ("d".repeat(256), "p".repeat(256));
        assert_eq!(id_of(&device, &pair), device);
        assert!(id_of(&device, &pair[..200]).len() + EXPIRY_BYTES <= MAX_USERNAME);
    }
}
