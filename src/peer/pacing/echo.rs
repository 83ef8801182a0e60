//! Connectivity checks as acknowledgments: how far media has come, within a round trip, of any ICE peer.
//!
//! Transport-wide feedback comes when the peer sees fit: libwebrtc and Pion collect it for 50 to 250 ms, which is
//! longer than a keyframe takes, and some do not negotiate it. But every ICE agent answers a Binding request at once
//! (RFC 8445 §7.3). So a copy of the last check on this path, as a transaction of its own, leaves right behind a media
//! packet, through the same queues, and its answer says that the packet has passed them. It costs about 140 bytes; the
//! answer is not for the crate, which did not ask.
//!
//! Without sockets and clock: `now` is an argument.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    peer::handshake::inner,
    stun::message::{Class, HEADER_BYTES, Message, TransactionId, attr, method},
};

/// Paths remembered.
const MAX_PATHS: usize = 8;

/// Media packets that an echo is wanted of and that have not left yet.
const MAX_WANTED: usize = 64;

/// Checks that may still be answered.
const MAX_SENT: usize = 256;

/// How long a round trip counts for the least one: as long as a few of the crate's checks, which are 2 s apart.
const RECENT: Duration = Duration::from_secs(10);

/// Bytes of an RTP header up to its SSRC, which is its last field (RFC 3550 §5.1).
const RTP_HEADER: usize = 12;

/// An answered echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Number of the packet that it was sent behind.
    pub number: u64,
    /// From the check to its answer.
    pub round_trip: Duration,
    /// The least round trip of the last seconds.
    pub least: Duration,
}

/// A path that the crate has checked.
struct Checked {
    path: Path,
    /// Its last check as it left, which echoes are copied from.
    check: Vec<u8>,
    /// Key of its MESSAGE-INTEGRITY.
    password: String,
    /// When checks were answered, and how long that took.
    round_trips: VecDeque<(Instant, Duration)>,
}

impl Checked {
    /// The least round trip of the last seconds, with this one.
    fn least(&mut self, round_trip: Duration, now: Instant) -> Duration {
        self.round_trips.retain(|(at, _)| now.saturating_duration_since(*at) < RECENT);
        push(&mut self.round_trips, (now, round_trip), MAX_SENT);
        self.round_trips.iter().map(|(_, round_trip)| *round_trip).min().unwrap_or(round_trip)
    }
}

/// Where a datagram goes: to the peer, or through a relay to it.
#[derive(Clone, PartialEq, Eq)]
struct Path {
    to: SocketAddr,
    /// The channel, or the value of XOR-PEER-ADDRESS (RFC 8656 §11 and §12); empty without a relay.
    relayed: Vec<u8>,
}

impl Path {
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

struct Wanted {
    ssrc: u32,
    sequence: u16,
    number: u64,
}

struct Sent {
    transaction: TransactionId,
    path: Path,
    at: Instant,
    /// None for a check of the crate.
    number: Option<u64>,
}

#[derive(Default)]
struct State {
    paths: VecDeque<Checked>,
    wanted: VecDeque<Wanted>,
    sent: VecDeque<Sent>,
}

impl State {
    fn path(&mut self, path: &Path) -> Option<&mut Checked> {
        self.paths.iter_mut().find(|checked| checked.path == *path)
    }
}

/// The echoes of one peer connection, shared by its sockets and its pacing.
#[derive(Default)]
pub(in crate::peer) struct Echoes {
    state: Mutex<State>,
    /// Something is wanted: media is looked at.
    waiting: AtomicBool,
}

impl Echoes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An echo is wanted behind this media packet, which has not left yet.
    pub(super) fn want(&self, ssrc: u32, sequence: u16, number: u64) {
        let mut state = self.state();
        push(&mut state.wanted, Wanted { ssrc, sequence, number }, MAX_WANTED);
        self.waiting.store(true, Relaxed);
    }

    /// A datagram has left. Gives the one that is to follow it on the same path, if any. `password` gives that of the
    /// peer for the value of USERNAME.
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
        let Some(path) = Path::of(to, datagram) else { return };
        let mut state = self.state();
        let transaction = message.transaction;
        push(
            &mut state.sent,
            Sent { transaction, path: path.clone(), at: now, number: None },
            MAX_SENT,
        );
        let check = datagram.to_vec();
        if let Some(checked) = state.path(&path) {
            (checked.check, checked.password) = (check, password);
            return;
        }
        let round_trips = VecDeque::new();
        push(&mut state.paths, Checked { path, check, password, round_trips }, MAX_PATHS);
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
        let is_it = |wanted: &Wanted| (wanted.ssrc, wanted.sequence) == (ssrc, sequence);
        let index = state.wanted.iter().position(is_it)?;
        // Those before it were sent elsewhere, or not at all.
        let wanted = state.wanted.drain(..=index).next_back()?;
        self.waiting.store(!state.wanted.is_empty(), Relaxed);
        let path = Path::of(to, datagram)?;
        let checked = state.path(&path)?;
        let transaction = rand::random();
        let echo = copy(&checked.check, transaction, &checked.password)?;
        let sent = Sent { transaction, path, at: now, number: Some(wanted.number) };
        push(&mut state.sent, sent, MAX_SENT);
        Some(echo)
    }

    /// An authenticated check or answer came: whether it answers an echo, which is not for the crate, and which one.
    pub(in crate::peer) fn answered(&self, datagram: &[u8], now: Instant) -> Option<Echo> {
        let message = Message::parse(content(datagram))?;
        if !matches!(message.class, Class::Success | Class::Error) {
            return None;
        }
        let mut state = self.state();
        let index = state.sent.iter().position(|sent| sent.transaction == message.transaction)?;
        let sent = state.sent.remove(index)?;
        let round_trip = now.saturating_duration_since(sent.at);
        let checked = state.path(&sent.path)?;
        let least = checked.least(round_trip, now);
        sent.number.map(|number| Echo { number, round_trip, least })
    }
}

/// What a relay passes on of a datagram, or all of it.
fn content(datagram: &[u8]) -> &[u8] {
    inner(datagram).unwrap_or(datagram)
}

fn push<T>(kept: &mut VecDeque<T>, new: T, most: usize) {
    if kept.len() >= most {
        kept.pop_front();
    }
    kept.push_back(new);
}

/// A check as another transaction, in the same channel or indication where it is relayed. None where the indication has
/// a checksum of its own.
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
                "the crate's"
            );
            echoes.want(7, 11, 1000);
            assert_eq!(send(&echoes, &wrap(&media(10)), now), None);
            let echo = send(&echoes, &wrap(&media(11)), now).unwrap();
            assert_eq!(send(&echoes, &wrap(&media(11)), now), None, "one a packet");
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
    fn a_path_that_was_not_checked_has_no_echo() {
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
    fn what_is_never_answered_does_not_pile_up() {
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
