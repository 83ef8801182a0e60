//! Connectivity checks from addresses that the remote peer has not signaled yet.
//!
//! RFC 8445 §7.3.1.3 makes such an address a peer-reflexive candidate, with a priority above that of a
//! server-reflexive one. If it is the remote peer's relay, whose candidate is still in transit through signaling,
//! the pair would be relayed although a direct one works: the `rtc` crate neither gives the candidate its true type
//! when that arrives (as §7.3.1.3 requires) nor leaves a pair once nominated. So the controlling agent ignores such
//! checks for a moment; the remote peer retransmits them.

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

/// How long checks from an address that has not been signaled are held back. Shorter than the wait of a relayed pair
/// for a direct one, since the direct pair may itself come from such an address.
pub(super) const HOLD: Duration = Duration::from_millis(100);

/// Maximum number of addresses remembered; a peer has about a dozen.
const MAX_ADDRESSES: usize = 256;

/// Holds back early checks; tracks which addresses the remote peer has signaled.
#[derive(Debug, Default)]
pub(super) struct EarlyChecks {
    active: AtomicBool,
    addresses: Mutex<Addresses>,
}

#[derive(Debug, Default)]
struct Addresses {
    announced: HashSet<SocketAddr>,
    first_check: HashMap<SocketAddr, Instant>,
}

impl EarlyChecks {
    /// Checks are held back only if `active`.
    pub(super) fn new(active: bool) -> Self {
        Self { active: AtomicBool::new(active), addresses: Mutex::default() }
    }

    /// Whether checks are held back.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Stops holding back checks.
    pub(super) fn finish(&self) {
        self.active.store(false, Ordering::Relaxed);
    }

    /// Records a candidate that the remote peer has signaled (RFC 8839 §5.1). If the peer hides its address behind a
    /// name, any address may be its own: from then on no check is held back.
    pub(super) fn announced(&self, target: Target) {
        let Target::Address(address, _) = target else {
            self.finish();
            return;
        };
        let mut addresses = self.addresses();
        if addresses.announced.len() < MAX_ADDRESSES {
            addresses.announced.insert(address);
        }
    }

    /// Whether a datagram may reach the crate now, which is true unless it is a check to hold back.
    pub(super) fn passes(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        !self.is_check(datagram) || self.accepts_check(from, now)
    }

    fn is_check(&self, datagram: &[u8]) -> bool {
        self.is_active()
            && datagram.starts_with(&[0, 1])
            && Message::parse(datagram)
                .is_some_and(|m| m.class == Class::Request && m.method == method::BINDING)
    }

    fn accepts_check(&self, from: SocketAddr, now: Instant) -> bool {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let mut addresses = self.addresses();
        if addresses.announced.contains(&from) {
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

    fn passes(checks: &EarlyChecks, from: &str, datagram: &[u8], now: Instant) -> bool {
        checks.passes(from.parse().unwrap(), datagram, now)
    }

    #[test]
    fn a_check_passes_once_its_address_is_announced_or_after_a_while() {
        let checks = EarlyChecks::new(true);
        let (now, relay) = (Instant::now(), "192.0.2.1:50000");
        assert!(!passes(&checks, relay, &check(), now));
        assert!(!passes(&checks, relay, &check(), now + HOLD / 2));
        assert!(passes(&checks, relay, &check(), now + HOLD), "symmetric NATs are never announced");
        let other = "[::ffff:192.0.2.1]:50001";
        assert!(!passes(&checks, other, &check(), now));
        checks.announced(Target::Address("192.0.2.1:50001".parse().unwrap(), CandidateType::Relay));
        assert!(passes(&checks, other, &check(), now));
    }

    #[test]
    fn only_checks_are_held_back() {
        let checks = EarlyChecks::new(true);
        let (now, from) = (Instant::now(), "192.0.2.1:50000");
        let answer = Builder::new(Class::Success, method::BINDING, [7; 12]).finish();
        for datagram in [&answer[..], &[0x80; 40], &[22; 40], &[0, 1], &[]] {
            assert!(passes(&checks, from, datagram, now), "{datagram:?}");
        }
        assert!(passes(&EarlyChecks::new(false), from, &check(), now));
        checks.announced(Target::Name);
        assert!(passes(&checks, from, &check(), now), "any address may be behind a name");
    }
}
