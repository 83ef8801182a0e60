//! Nonces without a table (RFC 8489 §9.2): each carries its own expiry and a MAC over that and the
//! client's address, so any number of askers costs no memory.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Makes and checks nonces; the key lives as long as the server.
pub struct Nonces {
    key: [u8; 32],
    started: Instant,
    lifetime: Duration,
}

impl Nonces {
    /// Nonces that hold for `lifetime`.
    #[must_use]
    pub fn new(now: Instant, lifetime: Duration) -> Self {
        Self { key: rand::random(), started: now, lifetime }
    }

    /// A nonce for that client.
    #[must_use]
    pub fn issue(&self, client: SocketAddr, now: Instant) -> String {
        let expiry = (now + self.lifetime).saturating_duration_since(self.started).as_secs();
        let tag = self.mac(expiry, client).finalize().into_bytes();
        format!("{expiry:016x}{}", hex(&tag[..16]))
    }

    /// Whether the nonce is ours, for that client, and not past its time.
    #[must_use]
    pub fn holds(&self, nonce: &[u8], client: SocketAddr, now: Instant) -> bool {
        let Some(expiry) = nonce
            .get(..16)
            .and_then(|text| std::str::from_utf8(text).ok())
            .and_then(|text| u64::from_str_radix(text, 16).ok())
        else {
            return false;
        };
        let Some(tag) = unhex(&nonce[16..]) else { return false };
        tag.len() == 16
            && now.saturating_duration_since(self.started).as_secs() < expiry
            && self.mac(expiry, client).verify_truncated_left(&tag).is_ok()
    }

    fn mac(&self, expiry: u64, client: SocketAddr) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(&expiry.to_be_bytes());
        mac.update(client.to_string().as_bytes());
        mac
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    text.chunks(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_holds_for_its_client_and_its_time() {
        let now = Instant::now();
        let nonces = Nonces::new(now, Duration::from_mins(1));
        let client = "192.0.2.1:1".parse().unwrap();
        let nonce = nonces.issue(client, now);
        assert!(nonces.holds(nonce.as_bytes(), client, now + Duration::from_secs(59)));
        assert!(!nonces.holds(nonce.as_bytes(), client, now + Duration::from_mins(1)));
        assert!(!nonces.holds(nonce.as_bytes(), "192.0.2.1:2".parse().unwrap(), now));
        let other = Nonces::new(now, Duration::from_mins(1));
        assert!(!other.holds(nonce.as_bytes(), client, now));
        for broken in [&b""[..], b"x", b"000000000000ffff", &nonce.as_bytes()[..30]] {
            assert!(!nonces.holds(broken, client, now));
        }
        let later = nonce.replacen('0', "7", 1);
        assert!(!nonces.holds(later.as_bytes(), client, now));
    }
}
