//! What shows that a peer connection is alive, noted where it is seen.
//!
//! ICE alone does not show it: behind a live path DTLS, SCTP, SRTP or the crate's driver may be dead.
//! `Monitor` is written by the sockets, the tap, the control channels and the driver's thread; [`Vitals`] is
//! what a look at it gives. `session::liveness` judges.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::watch;

/// Checks of ICE are 2 s apart; when none has come for so long, there was no path.
const OUTAGE: Duration = Duration::from_secs(4);

/// Signs of life of a peer connection. Times count from the building of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// Now.
    pub now: Duration,
    /// ICE has a path.
    pub ice: Option<Duration>,
    /// DTLS is established.
    pub dtls: Option<Duration>,
    /// Our control channel has opened.
    pub channel: Option<Duration>,
    /// Both descriptions have a data channel.
    pub has_data: bool,
    /// When the DTLS handshake last advanced on this side.
    pub handshake: Option<Duration>,
    /// Last authenticated connectivity check or answer.
    pub check: Option<Duration>,
    /// Last authenticated RTP or RTCP packet.
    pub media: Option<Duration>,
    /// Last message on any data channel.
    pub data: Option<Duration>,
    /// Our control channel has closed.
    pub channel_closed: Option<Duration>,
    /// Pings without an answer since the last answer; none before the first answer.
    pub pings: Option<Unanswered>,
    /// Keyframes sent since the peer last acknowledged packets; none before it first did.
    pub keyframes_sent: Option<Unanswered>,
    /// Keyframes announced by the peer since its last RTP packet.
    pub keyframes_announced: Option<Unanswered>,
    /// A plaintext DTLS alert that was ignored: level and description (RFC 5246 §7.2).
    pub alert: Option<(u8, u8)>,
    /// Datagrams dropped because they came on no authenticated path, or were malformed.
    pub dropped: u64,
}

impl Vitals {
    /// The last sign of life of the peer.
    #[must_use]
    pub fn heard(&self) -> Option<Duration> {
        [self.check, self.media, self.data].into_iter().flatten().max()
    }
}

/// Something that was sent and has not been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// How many.
    pub count: u32,
    /// When the first of them was sent.
    pub since: Duration,
}

/// A time that only moves forward: milliseconds since the connection was built, plus one; 0 is never.
#[derive(Debug, Default)]
struct Stamp(AtomicU64);

impl Stamp {
    fn set(&self, at: Duration) {
        self.0.fetch_max(at.as_millis() as u64 + 1, Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        self.0.load(Relaxed).checked_sub(1).map(Duration::from_millis)
    }
}

/// Counts what is sent until it is answered.
#[derive(Debug, Default)]
struct Waiting {
    /// It is answered at all.
    answers: bool,
    count: u32,
    since: Duration,
}

impl Waiting {
    fn sent(&mut self, now: Duration) {
        if self.count == 0 {
            self.since = now;
        }
        self.count = self.count.saturating_add(1);
    }

    fn answered(&mut self) {
        self.answers = true;
        self.count = 0;
    }

    fn unanswered(&self) -> Option<Unanswered> {
        (self.answers && self.count > 0)
            .then_some(Unanswered { count: self.count, since: self.since })
    }
}

/// The writing end: one a peer connection.
#[derive(Debug)]
pub(crate) struct Monitor {
    created: Instant,
    ice: Stamp,
    dtls: Stamp,
    channel: Stamp,
    handshake: Stamp,
    check: Stamp,
    media: Stamp,
    data: Stamp,
    channel_closed: Stamp,
    has_data: AtomicBool,
    waiting: Mutex<[Waiting; 3]>,
    /// Highest sequence number the peer reported, plus one.
    reported: AtomicU64,
    alert: AtomicU32,
    dropped: AtomicU64,
    /// Sockets that hold something back until ICE has a path, or DTLS is done.
    holding: Mutex<Vec<Waker>>,
    /// Turns of the driver's loop.
    turns: AtomicU64,
    driver: watch::Sender<Option<String>>,
}

const PINGS: usize = 0;
const SENT: usize = 1;
const ANNOUNCED: usize = 2;

impl Monitor {
    pub(super) fn new() -> Self {
        Self {
            created: Instant::now(),
            ice: Stamp::default(),
            dtls: Stamp::default(),
            channel: Stamp::default(),
            handshake: Stamp::default(),
            check: Stamp::default(),
            media: Stamp::default(),
            data: Stamp::default(),
            channel_closed: Stamp::default(),
            has_data: AtomicBool::new(false),
            waiting: Mutex::default(),
            reported: AtomicU64::new(0),
            alert: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
            holding: Mutex::default(),
            turns: AtomicU64::new(0),
            driver: watch::Sender::new(None),
        }
    }

    pub(super) fn created(&self) -> Instant {
        self.created
    }

    fn now(&self) -> Duration {
        self.created.elapsed()
    }

    fn waiting(&self) -> MutexGuard<'_, [Waiting; 3]> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ice_connected(&self) {
        self.ice.set(self.now());
        self.wake();
    }

    /// Whether what the crate sends has a path.
    pub(super) fn has_path(&self) -> bool {
        self.ice.get().is_some()
    }

    pub(super) fn dtls_established(&self) {
        self.dtls.set(self.now());
        self.wake();
    }

    fn wake(&self) {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        holding.drain(..).for_each(Waker::wake);
    }

    /// Whether the crate has keys for media.
    pub(super) fn is_established(&self) -> bool {
        self.dtls.get().is_some()
    }

    /// Wakes this task when ICE has a path, and when the crate has keys for media, unless that was so before.
    pub(super) fn wake_later(&self, waker: &Waker) {
        let mut holding = self.holding.lock().unwrap_or_else(PoisonError::into_inner);
        if !holding.iter().any(|other| other.will_wake(waker)) {
            holding.push(waker.clone());
        }
    }

    /// Whether the peer's description has a data channel, as ours always has.
    pub(super) fn described(&self, has_data: bool) {
        self.has_data.store(has_data, Relaxed);
    }

    pub(super) fn channel_opened(&self) {
        self.channel.set(self.now());
    }

    pub(super) fn channel_closed(&self) {
        self.channel_closed.set(self.now());
    }

    pub(super) fn handshake_advanced(&self) {
        self.handshake.set(self.now());
    }

    pub(super) fn check_received(&self) {
        let now = self.now();
        // While there was no path nothing could be answered: that begins to count now.
        if self.check.get().is_some_and(|last| now.saturating_sub(last) >= OUTAGE) {
            self.waiting().iter_mut().for_each(|waiting| waiting.count = 0);
        }
        self.check.set(now);
    }

    /// A message on a data channel.
    pub(super) fn data_received(&self) {
        self.data.set(self.now());
    }

    /// RTCP that the peer authenticated.
    pub(super) fn rtcp_received(&self) {
        self.media.set(self.now());
    }

    /// RTP that the peer authenticated.
    pub(super) fn rtp_received(&self) {
        self.media.set(self.now());
        let mut waiting = self.waiting();
        if waiting[ANNOUNCED].count > 0 || !waiting[ANNOUNCED].answers {
            waiting[ANNOUNCED].answered();
        }
    }

    pub(super) fn ping_sent(&self) {
        self.waiting()[PINGS].sent(self.now());
    }

    pub(super) fn pong_received(&self) {
        self.waiting()[PINGS].answered();
    }

    pub(super) fn keyframe_sent(&self) {
        self.waiting()[SENT].sent(self.now());
    }

    pub(super) fn keyframe_announced(&self) {
        let mut waiting = self.waiting();
        // Its packets may be ahead of it or lost, but three in a row are not.
        waiting[ANNOUNCED].answers = true;
        waiting[ANNOUNCED].sent(self.now());
    }

    /// The peer reports the highest sequence number it has (RFC 3550 §6.4.1): news of a later one
    /// acknowledges what was sent.
    pub(super) fn packets_reported(&self, highest: u32) {
        let news = u64::from(highest) + 1;
        if self.reported.swap(news, Relaxed) != news {
            self.packets_acknowledged();
        }
    }

    /// The peer reports packets that arrived.
    pub(super) fn packets_acknowledged(&self) {
        self.waiting()[SENT].answered();
    }

    pub(super) fn alert_ignored(&self, level: u8, description: u8) {
        self.alert.store(1 << 16 | u32::from(level) << 8 | u32::from(description), Relaxed);
    }

    pub(super) fn datagram_dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// Data or media have come, so the peer has keys, and DTLS is over on both ends.
    pub(super) fn peer_has_keys(&self) -> bool {
        self.data.get().is_some() || self.media.get().is_some() || self.channel.get().is_some()
    }

    pub(super) fn driver_turned(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    pub(super) fn driver_turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// The driver has ended, or is abandoned; why. The first reason stays.
    pub(super) fn driver_ended(&self, why: String) -> bool {
        self.driver.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        })
    }

    /// Why there is no driver any more.
    pub(super) fn driver_end(&self) -> Option<String> {
        self.driver.borrow().clone()
    }

    /// Completes when there is no driver any more.
    pub(super) async fn driver_is_gone(&self) {
        // The sender lives as long as this borrow.
        let _ = self.driver.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn vitals(&self) -> Vitals {
        let waiting = self.waiting();
        let alert = self.alert.load(Relaxed);
        Vitals {
            now: self.now(),
            ice: self.ice.get(),
            dtls: self.dtls.get(),
            channel: self.channel.get(),
            has_data: self.has_data.load(Relaxed),
            handshake: self.handshake.get(),
            check: self.check.get(),
            media: self.media.get(),
            data: self.data.get(),
            channel_closed: self.channel_closed.get(),
            pings: waiting[PINGS].unanswered(),
            keyframes_sent: waiting[SENT].unanswered(),
            keyframes_announced: waiting[ANNOUNCED].unanswered(),
            alert: (alert != 0).then_some(((alert >> 8) as u8, alert as u8)),
            dropped: self.dropped.load(Relaxed),
        }
    }
}
