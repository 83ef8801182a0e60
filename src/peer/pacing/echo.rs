//! Connectivity checks as acknowledgments: they show within a round trip how far media has come, with any ICE
//! peer.
//!
//! A peer decides when to send transport-wide feedback: libwebrtc and Pion collect it for 50 to 250 ms, which
//! is longer than a keyframe takes, and some peers do not negotiate it. But every ICE agent answers a Binding
//! request immediately (RFC 8445 §7.3). So a copy of the last check on this path, with its own transaction
//! id, is sent right behind a media packet, through the same queues, and its answer shows that the packet has
//! passed them. An echo costs about 140 bytes; its answer is withheld from the `rtc` crate, which did not
//! send the request.
//!
//! This module uses no sockets and no clock: `now` is an argument.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    lock::locked,
    peer::dtls_filter::payload,
    stun::message::{Class, HEADER_BYTES, Message, TransactionId, attr, method},
};

/// Maximum number of paths remembered.
const MAX_PATHS: usize = 8;

/// Maximum number of media packets that await their echo and have not left yet.
const MAX_WANTED: usize = 64;

/// Maximum number of checks awaiting an answer.
const MAX_SENT: usize = 256;

/// How long a round trip counts toward the minimum: long enough for several of the crate's checks, which are
/// 2 s apart.
const RECENT: Duration = Duration::from_secs(10);

/// Bytes of an RTP header through its SSRC, the last field (RFC 3550 §5.1).
const RTP_HEADER: usize = 12;

/// An answered echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Number of the packet it was sent behind.
    pub number: u64,
    /// Time from the check to its answer.
    pub round_trip: Duration,
    /// Minimum round trip of the last 10 s.
    pub least: Duration,
}

/// A path that the crate has checked.
struct CheckedPath {
    route: Route,
    /// Its last check as it was sent, the template for echoes.
    check: Vec<u8>,
    /// Key of its MESSAGE-INTEGRITY.
    password: String,
    /// When checks were answered, and their round trips.
    round_trips: VecDeque<(Instant, Duration)>,
}

impl CheckedPath {
    /// The minimum round trip of the last 10 s, including this one.
    fn least(&mut self, round_trip: Duration, now: Instant) -> Duration {
        self.round_trips.retain(|(at, _)| now.saturating_duration_since(*at) < RECENT);
        push(&mut self.round_trips, (now, round_trip), MAX_SENT);
        self.round_trips.iter().map(|(_, round_trip)| *round_trip).min().unwrap_or(round_trip)
    }
}

/// The destination of a datagram: the peer itself, or a relay to it.
#[derive(Clone, PartialEq, Eq)]
struct Route {
    to: SocketAddr,
    /// The channel, or the value of XOR-PEER-ADDRESS (RFC 8656 §11 and §12); empty without a relay.
    relayed: Vec<u8>,
}

impl Route {
    fn of(to: SocketAddr, datagram: &[u8]) -> Option<Self> {
        let relayed = match datagram {
            [0x40..=0x4F, ..] => datagram[..2].to_vec(),
            [0..=3, ..] => {
                let message = Message::parse(datagram)?;
                match message.class {
                    Class::Indication => message.get(attr::XOR_PEER_ADDRESS)?.to_vec(),
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        Some(Self { to, relayed })
    }
}

struct WantedEcho {
    ssrc: u32,
    sequence: u16,
    number: u64,
}

struct SentCheck {
    transaction: TransactionId,
    route: Route,
    at: Instant,
    /// None for a check sent by the crate.
    number: Option<u64>,
}

#[derive(Default)]
struct EchoState {
    paths: VecDeque<CheckedPath>,
    wanted: VecDeque<WantedEcho>,
    sent: VecDeque<SentCheck>,
}

impl EchoState {
    fn path(&mut self, route: &Route) -> Option<&mut CheckedPath> {
        self.paths.iter_mut().find(|checked| checked.route == *route)
    }
}

/// The echoes of one peer connection, shared by its sockets and its pacing.
#[derive(Default)]
pub(in crate::peer) struct Echoes {
    state: Mutex<EchoState>,
    /// Set while an echo is wanted: only then is outgoing media inspected.
    waiting: AtomicBool,
}

impl Echoes {
    fn state(&self) -> MutexGuard<'_, EchoState> {
        locked(&self.state)
    }

    /// An echo is wanted behind this media packet, which has not left yet.
    pub(super) fn want(&self, ssrc: u32, sequence: u16, number: u64) {
        let mut state = self.state();
        push(&mut state.wanted, WantedEcho { ssrc, sequence, number }, MAX_WANTED);
        self.waiting.store(true, Relaxed);
    }

    /// A datagram has left. Returns the echo to send after it on the same path, if any. `password` looks up
    /// the peer's password by USERNAME.
    pub(in crate::peer) fn sent(
        &self,
        to: SocketAddr,
        datagram: &[u8],
        now: Instant,
        password: impl FnOnce(&str) -> Option<String>,
    ) -> Option<Vec<u8>> {
        let content = content(datagram);
        match content {
            [0..=3, ..] => self.check_sent(to, datagram, content, now, password),
            [128..=191, ..] if self.waiting.load(Relaxed) => {
                return self.media_sent(to, datagram, content, now);
            }
            _ => {}
        }
        None
    }

    fn check_sent(
        &self,
        to: SocketAddr,
        datagram: &[u8],
        content: &[u8],
        now: Instant,
        password: impl FnOnce(&str) -> Option<String>,
    ) {
        let Some(message) = Message::parse(content) else { return };
        if message.class != Class::Request || message.method != method::BINDING {
            return;
        }
        let Some(password) = message.text(attr::USERNAME).and_then(password) else { return };
        let Some(route) = Route::of(to, datagram) else { return };
        let mut state = self.state();
        let transaction = message.transaction;
        push(
            &mut state.sent,
            SentCheck { transaction, route: route.clone(), at: now, number: None },
            MAX_SENT,
        );
        let check = datagram.to_vec();
        if let Some(checked) = state.path(&route) {
            (checked.check, checked.password) = (check, password);
            return;
        }
        let round_trips = VecDeque::new();
        push(&mut state.paths, CheckedPath { route, check, password, round_trips }, MAX_PATHS);
    }

    fn media_sent(
        &self,
        to: SocketAddr,
        datagram: &[u8],
        content: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let header = content.first_chunk::<RTP_HEADER>()?;
        let sequence = u16::from_be_bytes([header[2], header[3]]);
        let ssrc = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let mut state = self.state();
        let matches = |wanted: &WantedEcho| (wanted.ssrc, wanted.sequence) == (ssrc, sequence);
        let index = state.wanted.iter().position(matches)?;
        // The packets before it were sent on another path or not at all.
        let wanted = state.wanted.drain(..=index).next_back()?;
        self.waiting.store(!state.wanted.is_empty(), Relaxed);
        let route = Route::of(to, datagram)?;
        let checked = state.path(&route)?;
        let transaction = rand::random();
        let echo = copy(&checked.check, transaction, &checked.password)?;
        let sent = SentCheck { transaction, route, at: now, number: Some(wanted.number) };
        push(&mut state.sent, sent, MAX_SENT);
        Some(echo)
    }

    /// An authenticated check or answer arrived. Returns the echo that it answers, if any; such an answer
    /// must not reach the crate.
    pub(in crate::peer) fn answered(&self, datagram: &[u8], now: Instant) -> Option<Echo> {
        let message = Message::parse(content(datagram))?;
        if !matches!(message.class, Class::Success | Class::Error) {
            return None;
        }
        let mut state = self.state();
        let index = state.sent.iter().position(|sent| sent.transaction == message.transaction)?;
        let sent = state.sent.remove(index)?;
        let round_trip = now.saturating_duration_since(sent.at);
        let checked = state.path(&sent.route)?;
        let least = checked.least(round_trip, now);
        sent.number.map(|number| Echo { number, round_trip, least })
    }
}

/// The payload that a relay forwards, or the whole datagram if it is not relayed.
fn content(datagram: &[u8]) -> &[u8] {
    payload(datagram).unwrap_or(datagram)
}

fn push<T>(kept: &mut VecDeque<T>, new: T, max_len: usize) {
    if kept.len() >= max_len {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// Copies the check under another transaction id, in the same channel or indication if it is relayed. None if
/// the indication has a checksum of its own.
fn copy(check: &[u8], transaction: TransactionId, password: &str) -> Option<Vec<u8>> {
    let content = content(check);
    let start = content.as_ptr().addr() - check.as_ptr().addr();
    let message = Message::parse(content)?;
    let renewed = message.renewed(transaction, password.as_bytes())?;
    let mut copy = check.to_vec();
    copy.get_mut(start..start + renewed.len())?.copy_from_slice(&renewed);
    let whole = start == 0 || matches!(copy[0], 0x40..=0x4F) || Message::parse(&copy).is_some();
    (whole && renewed.len() > HEADER_BYTES).then_some(copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::message::Builder;

    const MS: Duration = Duration::from_millis(1);
    const PEER: &str = "192.0.2.1:5000";
    const PASSWORD: &[u8] = b"their password";

    fn check(transaction: TransactionId) -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, transaction)
            .attribute(attr::USERNAME, b"them:us")
            .attribute(attr::PRIORITY, &[1, 2, 3, 4])
            .integrity(PASSWORD)
            .fingerprint()
            .finish()
    }

    fn media(sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 102, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet.resize(1200, 9);
        packet
    }

    fn channel(content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        [&[0x40, 1, length[0], length[1]], content].concat()
    }

    fn indication(content: &[u8]) -> Vec<u8> {
        Builder::new(Class::Indication, method::SEND, [5; 12])
            .address(attr::XOR_PEER_ADDRESS, "198.51.100.9:600".parse().unwrap())
            .attribute(attr::DATA, content)
            .finish()
    }

    fn send(echoes: &Echoes, datagram: &[u8], now: Instant) -> Option<Vec<u8>> {
        let password = |name: &str| {
            (name == "them:us").then(|| String::from_utf8_lossy(PASSWORD).into_owned())
        };
        echoes.sent(PEER.parse().unwrap(), datagram, now, password)
    }

    fn answer(echo: &[u8]) -> Vec<u8> {
        let request = Message::parse(content(echo)).unwrap();
        Builder::answer(Class::Success, &request).integrity(b"ours").finish()
    }

    #[test]
    fn an_echo_is_a_check_of_its_own_behind_the_packet() {
        for wrap in [<[u8]>::to_vec, channel, indication] {
            let (echoes, now) = (Echoes::default(), Instant::now());
            assert_eq!(send(&echoes, &wrap(&check([1; 12])), now), None);
            assert_eq!(
                echoes.answered(&answer(&check([1; 12])), now + 30 * MS),
                None,
                "a check of the crate"
            );
            echoes.want(7, 11, 1000);
            assert_eq!(send(&echoes, &wrap(&media(10)), now), None);
            let echo = send(&echoes, &wrap(&media(11)), now).unwrap();
            assert_eq!(send(&echoes, &wrap(&media(11)), now), None, "one per packet");
            let request = Message::parse(content(&echo)).unwrap();
            assert!(request.verify(PASSWORD) && request.has_fingerprint());
            assert_ne!(request.transaction, [1; 12]);
            assert_eq!(request.text(attr::USERNAME), Some("them:us"));
            let answered = echoes.answered(&answer(&echo), now + 90 * MS);
            let expected = Echo { number: 1000, round_trip: 90 * MS, least: 30 * MS };
            assert_eq!(answered, Some(expected));
            assert_eq!(echoes.answered(&answer(&echo), now + 91 * MS), None);
        }
    }

    #[test]
    fn a_path_without_a_check_has_no_echo() {
        let (echoes, now) = (Echoes::default(), Instant::now());
        echoes.want(7, 1, 1);
        assert_eq!(send(&echoes, &media(1), now), None, "no check yet");
        send(&echoes, &check([1; 12]), now);
        echoes.want(7, 2, 2);
        assert_eq!(send(&echoes, &channel(&media(2)), now), None, "checked without the relay");
        echoes.want(7, 3, 3);
        assert!(send(&echoes, &media(3), now).is_some());
    }

    #[test]
    fn unanswered_checks_do_not_pile_up() {
        let (echoes, now) = (Echoes::default(), Instant::now());
        for number in 0..10_000_u64 {
            let transaction = std::array::from_fn(|at| (number >> (at % 8 * 8)) as u8);
            send(&echoes, &channel(&check(transaction)), now);
            echoes.want(7, number as u16, number);
        }
        let state = echoes.state();
        assert!(state.sent.len() <= MAX_SENT && state.wanted.len() <= MAX_WANTED);
        assert_eq!(state.paths.len(), 1);
    }
}
