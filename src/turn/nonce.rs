//! Stateless nonces (RFC 8489 §9.2): each contains its own expiry and a MAC over the expiry and the
//! client's address, so no memory is needed per client. Nonces are short because unauthenticated responses
//! contain them and must not be useful for amplification.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes of the MAC: with the two bytes of the expiry, they encode to 12 characters without padding. One
/// guess in 2^56 is right, and a nonce alone grants nothing.
const TAG_BYTES: usize = 7;

/// Issues and checks nonces; the key lives as long as the server.
pub struct Nonces {
    key: [u8; 32],
    started: Instant,
    /// Lifetime in seconds: a nonce contains the last 16 bits of its expiry.
    lifetime: u16,
}

impl Nonces {
    /// Nonces valid for `lifetime`, in whole seconds and at most 18 hours.
    #[must_use]
    pub fn new(now: Instant, lifetime: Duration) -> Self {
        let lifetime = u16::try_from(lifetime.as_secs()).unwrap_or(u16::MAX);
        Self { key: rand::random(), started: now, lifetime }
    }

    /// Issues a nonce to a client.
    #[must_use]
    pub fn issue(&self, client: SocketAddr, now: Instant) -> String {
        let expiry = self.seconds(now) + u64::from(self.lifetime);
        let tag = self.mac(expiry, client).finalize().into_bytes();
        let [.., high, low] = expiry.to_be_bytes();
        BASE64.encode([&[high, low], &tag[..TAG_BYTES]].concat())
    }

    /// Whether the nonce was issued by this server to that client and has not expired.
    #[must_use]
    pub fn is_valid(&self, nonce: &[u8], client: SocketAddr, now: Instant) -> bool {
        let Ok(bytes) = BASE64.decode(nonce) else { return false };
        let [high, low, ref tag @ ..] = bytes[..] else { return false };
        let now = self.seconds(now);
        // Reconstructs the only expiry with these bits that can still be in the future.
        let [.., now_high, now_low] = now.to_be_bytes();
        let now_bits = u16::from_be_bytes([now_high, now_low]);
        let left = u16::from_be_bytes([high, low]).wrapping_sub(now_bits);
        tag.len() == TAG_BYTES
            && (1..=self.lifetime).contains(&left)
            && self.mac(now + u64::from(left), client).verify_truncated_left(tag).is_ok()
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }

    fn mac(&self, expiry: u64, client: SocketAddr) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&expiry.to_be_bytes());
        mac.update(client.to_string().as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_valid_for_its_client_and_lifetime() {
        let now = Instant::now();
        let nonces = Nonces::new(now, Duration::from_mins(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let nonce = nonces.issue(client, now);
        assert_eq!(nonce.len(), 12);
        assert!(nonces.is_valid(nonce.as_bytes(), client, now + Duration::from_secs(59)));
        assert!(!nonces.is_valid(nonce.as_bytes(), client, now + Duration::from_mins(1)));
        assert!(!nonces.is_valid(nonce.as_bytes(), "192.0.2.1:2".parse().unwrap(), now));
        let other = Nonces::new(now, Duration::from_mins(1));
        assert!(!other.is_valid(nonce.as_bytes(), client, now));
        for broken in [&b""[..], b"x", b"AAAA", b"AAAAAAAAAAAA", &nonce.as_bytes()[..8], b"\xff\0"]
        {
            assert!(!nonces.is_valid(broken, client, now));
        }
        let longer = format!("{nonce}AAAA");
        assert!(!nonces.is_valid(longer.as_bytes(), client, now));
    }

    #[test]
    fn an_old_nonce_remains_stale_when_its_bits_recur() {
        let now = Instant::now();
        let nonces = Nonces::new(now, Duration::from_hours(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let nonce = nonces.issue(client, now);
        for round in 1..4 {
            let again = now + Duration::from_secs(round << 16);
            assert!(!nonces.is_valid(nonce.as_bytes(), client, again));
            let fresh = nonces.issue(client, again);
            assert!(nonces.is_valid(fresh.as_bytes(), client, again + Duration::from_secs(3599)));
        }
    }
}
