//! Measures how long a NAT keeps a binding without traffic (RFC 5780 §4.6). One socket asks the
//! server to send its answer to the external port of another socket that has been idle
//! (RESPONSE-PORT): if the binding still exists, the answer arrives.
//!
//! RFC 5780 tries idle times one after another. Here each idle time has its own socket and all wait
//! concurrently, so that the test takes only as long as the maximum idle time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::Transmit;
use crate::stun::message::{Builder, Class, Message, TransactionId, attr, method};

/// Idle times to try, seconds, up to the requested maximum: closer together near common timeouts (30
/// s of conntrack, the minimum of 2 min and the recommended 5 min of RFC 4787 §4.3).
const IDLE_S: [u64; 15] = [0, 5, 10, 15, 20, 29, 35, 45, 59, 75, 90, 119, 150, 179, 240];

/// When a request is sent and retransmitted, relative to its first transmission; it fails after
/// [`PATIENCE`].
const SENT_AT: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(700),
    Duration::from_millis(1300),
];
const PATIENCE: Duration = Duration::from_millis(2200);

/// The lifetime of the binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lives {
    /// Unknown: the server cannot answer to another port, or nothing answers.
    Unknown,
    /// At least this long; no longer time was tried.
    AtLeast(Duration),
    /// The binding existed after the first idle time and was gone after the second.
    Between(Duration, Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Requesting the external address.
    Opening,
    /// Idle since this time, with this external port.
    Idle(Instant, u16),
    /// Requesting an answer to the idle socket since this time.
    Asking(Instant, u16),
    Alive,
    Gone,
    /// No answer to the first request, or the server does not support RESPONSE-PORT.
    Failed,
}

#[derive(Debug)]
struct Probe {
    idle: Duration,
    state: State,
    started: Instant,
    sent: usize,
}

/// Measures the lifetime of a binding. Sockets `0..sockets() - 1` are idle, and the last one sends
/// requests.
#[derive(Debug)]
pub struct Lifetime {
    server: SocketAddr,
    probes: Vec<Probe>,
    id_base: u32,
}

impl Lifetime {
    /// A measurement of idle times up to `max`.
    #[must_use]
    pub fn new(server: SocketAddr, max: Duration, id: u32, now: Instant) -> Self {
        let mut idle: Vec<Duration> = if max < Duration::from_secs(20) {
            (0..8).map(|n| max * n / 8).collect()
        } else {
            IDLE_S.map(Duration::from_secs).into_iter().filter(|idle| *idle < max).collect()
        };
        idle.push(max);
        let probe = |idle| Probe { idle, state: State::Opening, started: now, sent: 0 };
        Self { server, probes: idle.into_iter().map(probe).collect(), id_base: id }
    }

    /// The number of sockets required.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.probes.len() + 1
    }

    fn id(&self, index: usize, asking: bool) -> TransactionId {
        let mut id = TransactionId::default();
        id[..4].copy_from_slice(&self.id_base.to_be_bytes());
        id[4..8].copy_from_slice(&(index as u32).to_be_bytes());
        id[11] = asking.into();
        id
    }

    /// The next datagram that is due, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let asker = self.probes.len();
        for index in 0..asker {
            let probe = &self.probes[index];
            let (since, port) = match probe.state {
                State::Opening => (probe.started, None),
                State::Asking(since, port) => (since, Some(port)),
                _ => continue,
            };
            if SENT_AT.get(probe.sent).is_none_or(|at| since + *at > now) {
                continue;
            }
            self.probes[index].sent += 1;
            let id = self.id(index, port.is_some());
            let mut request = Builder::new(Class::Request, method::BINDING, id);
            if let Some(port) = port {
                let [high, low] = port.to_be_bytes();
                request = request.attribute(attr::RESPONSE_PORT, &[high, low, 0, 0]);
            }
            let socket = if port.is_some() { asker } else { index };
            let datagram = request.fingerprint().finish();
            return Some(Transmit { socket, to: self.server, datagram });
        }
        None
    }

    /// The time of the next timeout; `None` if the measurement is done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = |probe: &Probe| {
            let next = |since| since + SENT_AT.get(probe.sent).copied().unwrap_or(PATIENCE);
            match probe.state {
                State::Opening => Some(next(probe.started)),
                State::Idle(since, _) => Some(since + probe.idle),
                State::Asking(since, _) => Some(next(since)),
                _ => None,
            }
        };
        self.probes.iter().filter_map(due).min()
    }

    /// Handles the timeouts that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let broken = self.is_broken();
        for probe in &mut self.probes {
            match probe.state {
                // A path that fails without idle time will not work later either: stop waiting.
                State::Opening | State::Idle(..) if broken => probe.state = State::Failed,
                State::Opening if now >= probe.started + PATIENCE => probe.state = State::Failed,
                State::Idle(since, port) if now >= since + probe.idle => {
                    probe.state = State::Asking(now, port);
                    probe.sent = 0;
                }
                State::Asking(since, _) if now >= since + PATIENCE => probe.state = State::Gone,
                _ => {}
            }
        }
    }

    /// Whether the path does not work at all, not even without idle time.
    fn is_broken(&self) -> bool {
        matches!(self.probes.first().map(|probe| probe.state), Some(State::Gone | State::Failed))
    }

    /// Handles a datagram that arrived at one of the sockets.
    pub fn handle_datagram(&mut self, now: Instant, socket: usize, datagram: &[u8]) {
        let Some(message) = Message::parse(datagram) else { return };
        let asker = self.probes.len();
        for index in 0..asker {
            let opened = message.transaction == self.id(index, false) && socket == index;
            let asked = message.transaction == self.id(index, true);
            let probe = &mut self.probes[index];
            match probe.state {
                State::Opening if opened => {
                    probe.state = match message.mapped_address() {
                        Some(mapped) => State::Idle(now, mapped.port()),
                        None => State::Failed,
                    };
                }
                State::Asking(..) if asked && socket == index => probe.state = State::Alive,
                // Answered at the requesting socket: the server does not support RESPONSE-PORT.
                State::Asking(..) if asked && socket == asker => probe.state = State::Failed,
                _ => {}
            }
        }
    }

    /// The result of the measurement.
    #[must_use]
    pub fn result(&self) -> Lives {
        let with = |state| self.probes.iter().filter(move |p| p.state == state).map(|p| p.idle);
        let gone = with(State::Gone).min();
        let alive = with(State::Alive).filter(|idle| gone.is_none_or(|gone| *idle < gone)).max();
        match (alive, gone) {
            (None, _) => Lives::Unknown,
            (Some(alive), None) => Lives::AtLeast(alive),
            (Some(alive), Some(gone)) => Lives::Between(alive, gone),
        }
    }
}
