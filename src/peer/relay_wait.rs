//! Makes relayed pairs wait for direct ones, for as long as the round trips of this network require.
//!
//! RFC 8445 §8.1.1 leaves it to the controlling agent when to nominate. `rtc-ice` 0.21.1 nominates the first pair
//! that works and keeps it, and its own wait for relayed pairs is a fixed time, chosen before the first round trip
//! (`agent/agent_selector.rs:57`): on a satellite path it has elapsed before the first direct check is answered. So
//! answers to checks on relayed paths are dropped until direct checks have had twice the time that a relayed one
//! took. Checks are retransmitted, and a later answer passes. There are no sockets and no clock here: `now` is an
//! argument.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{dtls_filter::payload, remote_candidates::Target};
use crate::{
    lock::locked,
    stun::message::{Class, Message, method},
    types::CandidateType,
};

/// The maximum wait, from the start of the checks. A pair fails after 4 s without an answer.
const MAX_WAIT: Duration = Duration::from_secs(3);

/// Maximum number of the peer's relayed candidates remembered; a device has about a dozen.
const MAX_RELAYS: usize = 256;

/// The wait of one peer connection; it happens once for each ICE generation.
#[derive(Debug)]
pub(super) struct RelayWait {
    /// Minimum wait, from the start of the checks; zero disables the wait.
    min_wait: Duration,
    active: AtomicBool,
    state: Mutex<WaitState>,
}

#[derive(Debug, Default)]
struct WaitState {
    /// The ICE generation: the peer's ufrag.
    ufrag: Option<String>,
    start: Option<Instant>,
    first_relayed: Option<Instant>,
    /// How long the first answer on a relayed path took.
    relayed_takes: Option<Duration>,
    /// The peer's relayed candidates.
    relays: HashSet<SocketAddr>,
}

impl RelayWait {
    /// Waits at least `min_wait` from the start of the checks.
    pub(super) fn new(min_wait: Duration) -> Self {
        Self { min_wait, active: AtomicBool::new(false), state: Mutex::default() }
    }

    /// Starts the wait if the remote description begins a new generation: the checks start with it.
    pub(super) fn remote_description(&self, ufrag: Option<&str>, now: Instant) {
        let mut state = self.state();
        if self.min_wait.is_zero() || (state.start.is_some() && state.ufrag.as_deref() == ufrag) {
            return;
        }
        let ufrag = ufrag.map(str::to_owned);
        *state = WaitState { ufrag, start: Some(now), ..WaitState::default() };
        self.active.store(true, Ordering::Relaxed);
    }

    /// Records a candidate that the peer has signaled.
    pub(super) fn signaled(&self, target: Target) {
        let Target::Address(address, CandidateType::Relay) = target else { return };
        let mut state = self.state();
        if state.relays.len() < MAX_RELAYS {
            state.relays.insert(address);
        }
    }

    /// Whether relayed pairs may still have to wait.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Inspects an outgoing datagram.
    pub(super) fn sent(&self, to: SocketAddr, datagram: &[u8], now: Instant) {
        let mut state = self.state();
        if state.start.is_some_and(|start| now.saturating_duration_since(start) > self.max_wait()) {
            self.active.store(false, Ordering::Relaxed);
        } else if state.first_relayed.is_none() && state.is_relayed(to, datagram, Class::Request) {
            state.first_relayed = Some(now);
        }
    }

    /// Whether an authenticated check or answer may reach the crate now.
    pub(super) fn passes(&self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        if !self.is_active() {
            return true;
        }
        let mut state = self.state();
        if !state.is_relayed(from, datagram, Class::Success) {
            return true;
        }
        let Some(start) = state.start else { return true };
        let since = |then| now.saturating_duration_since(then);
        let first = state.first_relayed.unwrap_or(start);
        let takes = *state.relayed_takes.get_or_insert_with(|| since(first));
        if since(start) < (2 * takes).clamp(self.min_wait, self.max_wait()) {
            return false;
        }
        self.active.store(false, Ordering::Relaxed);
        true
    }

    fn max_wait(&self) -> Duration {
        MAX_WAIT.max(self.min_wait)
    }

    fn state(&self) -> MutexGuard<'_, WaitState> {
        locked(&self.state)
    }
}

impl WaitState {
    /// Whether this is a Binding message of this class on a relayed path: through our relay, or to or from one of
    /// the peer's.
    fn is_relayed(&self, address: SocketAddr, datagram: &[u8], class: Class) -> bool {
        let matches = |message: &[u8]| {
            Message::parse(message).is_some_and(|m| m.class == class && m.method == method::BINDING)
        };
        if let Some(relayed) = payload(datagram) {
            return matches(relayed);
        }
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.relays.contains(&address) && matches(datagram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::message::{Builder, attr};

    const MIN_WAIT: Duration = Duration::from_millis(400);

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn binding(class: Class) -> Vec<u8> {
        Builder::new(class, method::BINDING, [1; 12]).finish()
    }

    fn in_channel(message: &[u8]) -> Vec<u8> {
        [&[0x40, 1, 0, message.len() as u8], message].concat()
    }

    fn in_indication(message: &[u8]) -> Vec<u8> {
        Builder::new(Class::Indication, method::DATA, [2; 12])
            .attribute(attr::DATA, message)
            .finish()
    }

    /// When an answer on a relayed path first passes, if one arrives every 5 ms; ms from the start of the checks.
    fn passes_after(wait: &RelayWait, start: Instant, sent_at: u64, takes: u64) -> u64 {
        let (turn, relay) = (at("192.0.2.9:3478"), at("192.0.2.9:50000"));
        let time = |ms| start + Duration::from_millis(ms);
        wait.sent(turn, &in_channel(&binding(Class::Request)), time(sent_at));
        let answers = [
            binding(Class::Success),
            in_channel(&binding(Class::Success)),
            in_indication(&binding(Class::Success)),
        ];
        let from = [relay, turn, turn];
        (sent_at + takes..)
            .step_by(5)
            .find(|ms| {
                let passes =
                    answers.iter().zip(from).map(|(a, from)| wait.passes(from, a, time(*ms)));
                let passes: Vec<bool> = passes.collect();
                assert!(passes.iter().all(|one| *one == passes[0]), "{passes:?}");
                passes[0]
            })
            .unwrap()
    }

    fn started(start: Instant) -> RelayWait {
        let wait = RelayWait::new(MIN_WAIT);
        wait.remote_description(Some("abcd"), start);
        wait.signaled(Target::Address(at("192.0.2.9:50000"), CandidateType::Relay));
        wait.signaled(Target::Address(at("192.0.2.1:50000"), CandidateType::Srflx));
        wait
    }

    #[test]
    fn the_wait_follows_the_round_trip() {
        let start = Instant::now();
        for (sent_at, takes, passes_at) in [
            (0, 20, 400),
            (0, 190, 400),
            (5, 620, 1240),
            (0, 1450, 2900),
            (0, 2500, 3000),
            // An allocation over TCP is late: direct checks have already had enough time.
            (900, 60, 960),
            (900, 600, 1500),
        ] {
            let wait = started(start);
            let passed = passes_after(&wait, start, sent_at, takes);
            assert!(passed.abs_diff(passes_at) < 5, "{sent_at} {takes}: {passed}");
        }
    }

    #[test]
    fn direct_paths_and_requests_do_not_wait() {
        let start = Instant::now();
        let wait = started(start);
        let (direct, relay) = (at("192.0.2.1:50000"), at("192.0.2.9:50000"));
        assert!(wait.passes(direct, &binding(Class::Success), start));
        assert!(wait.passes(direct, &binding(Class::Request), start));
        assert!(wait.passes(relay, &binding(Class::Request), start));
        assert!(wait.passes(relay, &in_channel(&binding(Class::Request)), start));
        assert!(wait.passes(relay, &in_channel(&[0; 3])[..5], start));
        assert!(!wait.passes(relay, &binding(Class::Success), start));
    }

    #[test]
    fn each_generation_waits_once() {
        let start = Instant::now();
        let wait = started(start);
        let passed = passes_after(&wait, start, 0, 100);
        let later = start + Duration::from_mins(1);
        let relayed = in_channel(&binding(Class::Success));
        assert_eq!(passed, 400);
        wait.remote_description(Some("abcd"), later);
        assert!(wait.passes(at("192.0.2.9:3478"), &relayed, later), "the same description again");
        wait.remote_description(Some("efgh"), later);
        assert!(!wait.passes(at("192.0.2.9:3478"), &relayed, later));
        assert!(wait.passes(at("192.0.2.9:3478"), &relayed, later + MIN_WAIT));
    }

    #[test]
    fn there_is_no_wait_if_only_relays_may_be_used() {
        let wait = RelayWait::new(Duration::ZERO);
        wait.remote_description(Some("abcd"), Instant::now());
        assert!(wait.passes(
            at("192.0.2.9:3478"),
            &in_channel(&binding(Class::Success)),
            Instant::now()
        ));
    }
}
