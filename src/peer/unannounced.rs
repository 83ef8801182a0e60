//! Connectivity checks that come from an address before the other side has told of it.
//!
//! RFC 8445 §7.3.1.3 makes such an address a peer-reflexive candidate, with a priority above that of a
//! server-reflexive one. When it is the other side's relay, whose candidate is still on its way through
//! signaling, the pair would be relayed although a direct one works: the `rtc` crate neither gives the
//! candidate its true type when that comes (§7.3.1.3 wants it) nor leaves a pair once nominated. So the
//! controlling side does not hear such checks for a moment; the other side repeats them.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::remote_candidates::Target;
use crate::stun::message::{Class, Message, method};

/// How long an address may take to be told of, from its first check. Less than a relayed pair waits for a
/// direct one, which may have to come from such an address.
pub(super) const HOLD: Duration = Duration::from_millis(100);

/// Addresses remembered; the other side has a dozen.
const MAX_ADDRESSES: usize = 256;

/// The addresses the other side has told of, and those it has not.
#[derive(Debug, Default)]
pub(super) struct Unannounced {
    active: AtomicBool,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    told: HashSet<SocketAddr>,
    first_check: HashMap<SocketAddr, Instant>,
}

impl Unannounced {
    /// Checks are held back only when `active`.
    pub(super) fn new(active: bool) -> Self {
        Self { active: AtomicBool::new(active), addresses: Mutex::default() }
    }

    /// Whether there is something to hold back.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// The connection is up.
    pub(super) fn finish(&self) {
        self.active.store(false, Ordering::Relaxed);
    }

    /// The remote peer has signaled a candidate (RFC 8839 §5.1). Of one that hides its address behind a
    /// name nothing can be known: then no check is held back any more.
    pub(super) fn told(&self, target: Target) {
        let Target::Address(address, _) = target else {
            self.finish();
            return;
        };
        let mut addresses = self.addresses();
        if addresses.told.len() < MAX_ADDRESSES {
            addresses.told.insert(address);
        }
    }

    /// Whether a datagram is for the crate now; a check that is held back is not.
    pub(super) fn passes(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        !self.is_check(datagram) || self.hears(from, now)
    }

    fn is_check(&self, datagram: &[u8]) -> bool {
        self.is_active()
            && datagram.starts_with(&[0, 1])
            && Message::parse(datagram)
                .is_some_and(|m| m.class == Class::Request && m.method == method::BINDING)
    }

    fn hears(&self, from: SocketAddr, now: Instant) -> bool {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let mut addresses = self.addresses();
        if addresses.told.contains(&from) {
            return true;
        }
        if addresses.first_check.len() >= MAX_ADDRESSES {
            return true;
        }
        let first = *addresses.first_check.entry(from).or_insert(now);
        now.saturating_duration_since(first) >= HOLD
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{stun::message::Builder, types::CandidateType};

    fn check() -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, [7; 12]).finish()
    }

    fn is_heard(unannounced: &Unannounced, from: &str, datagram: &[u8], now: Instant) -> bool {
        unannounced.passes(from.parse().unwrap(), datagram, now)
    }

    #[test]
    fn a_check_is_heard_once_its_address_was_told_or_after_a_while() {
        let unannounced = Unannounced::new(true);
        let (now, relay) = (Instant::now(), "192.0.2.1:50000");
        assert!(!is_heard(&unannounced, relay, &check(), now));
        assert!(!is_heard(&unannounced, relay, &check(), now + HOLD / 2));
        assert!(
            is_heard(&unannounced, relay, &check(), now + HOLD),
            "symmetric NATs are never told"
        );
        let other = "[::ffff:192.0.2.1]:50001";
        assert!(!is_heard(&unannounced, other, &check(), now));
        unannounced.told(Target::Address("192.0.2.1:50001".parse().unwrap(), CandidateType::Relay));
        assert!(is_heard(&unannounced, other, &check(), now));
    }

    #[test]
    fn nothing_else_is_held_back() {
        let unannounced = Unannounced::new(true);
        let (now, from) = (Instant::now(), "192.0.2.1:50000");
        let answer = Builder::new(Class::Success, method::BINDING, [7; 12]).finish();
        for datagram in [&answer[..], &[0x80; 40], &[22; 40], &[0, 1], &[]] {
            assert!(is_heard(&unannounced, from, datagram, now), "{datagram:?}");
        }
        assert!(is_heard(&Unannounced::new(false), from, &check(), now));
        unannounced.told(Target::Name);
        assert!(is_heard(&unannounced, from, &check(), now), "a hidden address may be any");
    }
}
