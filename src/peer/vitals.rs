//! Evidence that a peer connection is alive, recorded where it is observed.
//!
//! ICE alone does not prove it: DTLS, SCTP, SRTP or the crate's driver may have failed although the path works. The
//! sockets, the RTP observer, the control channels and the driver's thread write to `LivenessMonitor`; [`Vitals`] is
//! a snapshot of it. `session::liveness` draws the conclusions.

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::lock::locked;

/// ICE checks are 2 s apart; if none has arrived for this long, there was no path.
const OUTAGE: Duration = Duration::from_secs(4);

/// Signs of life of a peer connection. Times are relative to the construction of the connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vitals {
    /// When this snapshot was taken.
    pub now: Duration,
    /// When ICE found a path.
    pub ice: Option<Duration>,
    /// When DTLS was established.
    pub dtls: Option<Duration>,
    /// When our control channel opened.
    pub channel: Option<Duration>,
    /// Whether both descriptions have a data channel.
    pub has_data: bool,
    /// When the DTLS handshake last advanced at this end.
    pub handshake: Option<Duration>,
    /// When the last authenticated connectivity check or answer arrived.
    pub check: Option<Duration>,
    /// When the last authenticated RTP or RTCP packet arrived.
    pub media: Option<Duration>,
    /// When the last message on any data channel arrived.
    pub data: Option<Duration>,
    /// When our control channel closed.
    pub channel_closed: Option<Duration>,
    /// Pings unanswered since the last answer; `None` before the first answer.
    pub pings: Option<Unanswered>,
    /// Keyframes sent since the peer last acknowledged packets; `None` before its first acknowledgment.
    pub keyframes_sent: Option<Unanswered>,
    /// Keyframes announced by the peer since its last RTP packet.
    pub keyframes_announced: Option<Unanswered>,
    /// A plaintext DTLS alert that was ignored: level and description (RFC 5246 §7.2).
    pub alert: Option<(u8, u8)>,
    /// Datagrams dropped because they arrived on no authenticated path, or were malformed.
    pub dropped: u64,
}

impl Vitals {
    /// The peer's most recent sign of life.
    #[must_use]
    pub fn last_sign_of_life(&self) -> Option<Duration> {
        [self.check, self.media, self.data].into_iter().flatten().max()
    }
}

/// Messages that were sent and have not been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// Number of messages.
    pub count: u32,
    /// When the first of them was sent.
    pub since: Duration,
}

/// A time that never decreases: milliseconds since the connection was built, plus one; 0 is never.
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

/// Counts sent messages until they are answered.
#[derive(Debug, Default)]
struct AnswerTracker {
    /// Whether the peer has ever answered.
    answers: bool,
    count: u32,
    since: Duration,
}

impl AnswerTracker {
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

/// The writing end of [`Vitals`], one for each peer connection.
#[derive(Debug)]
pub(crate) struct LivenessMonitor {
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
    trackers: Mutex<[AnswerTracker; 3]>,
    /// Highest sequence number that the peer reported, plus one.
    reported: AtomicU64,
    alert: AtomicU32,
    dropped: AtomicU64,
    /// Wakers of the sockets that hold datagrams back until ICE has a path, or DTLS is established.
    holding: Mutex<Vec<Waker>>,
    /// Iterations of the driver's loop.
    turns: AtomicU64,
    driver: watch::Sender<Option<String>>,
}

const PINGS: usize = 0;
const SENT: usize = 1;
const ANNOUNCED: usize = 2;

impl LivenessMonitor {
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
            trackers: Mutex::default(),
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

    fn trackers(&self) -> MutexGuard<'_, [AnswerTracker; 3]> {
        locked(&self.trackers)
    }

    pub(super) fn ice_connected(&self) {
        self.ice.set(self.now());
        self.wake();
    }

    /// Whether the crate has a path to send on.
    pub(super) fn has_path(&self) -> bool {
        self.ice.get().is_some()
    }

    pub(super) fn dtls_established(&self) {
        self.dtls.set(self.now());
        self.wake();
    }

    fn wake(&self) {
        let mut holding = locked(&self.holding);
        holding.drain(..).for_each(Waker::wake);
    }

    /// Whether the crate has keys for media.
    pub(super) fn is_established(&self) -> bool {
        self.dtls.get().is_some()
    }

    /// Wakes this task when ICE has a path, and when the crate has keys for media, unless that has already
    /// happened.
    pub(super) fn wake_later(&self, waker: &Waker) {
        let mut holding = locked(&self.holding);
        if !holding.iter().any(|other| other.will_wake(waker)) {
            holding.push(waker.clone());
        }
    }

    /// Records whether the peer's description has a data channel; ours always does.
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
        // Without a path nothing could be answered, so counting restarts.
        if self.check.get().is_some_and(|last| now.saturating_sub(last) >= OUTAGE) {
            self.trackers().iter_mut().for_each(|tracker| tracker.count = 0);
        }
        self.check.set(now);
    }

    /// Records a message on a data channel.
    pub(super) fn data_received(&self) {
        self.data.set(self.now());
    }

    /// Records authenticated RTCP from the peer.
    pub(super) fn rtcp_received(&self) {
        self.media.set(self.now());
    }

    /// Records authenticated RTP from the peer.
    pub(super) fn rtp_received(&self) {
        self.media.set(self.now());
        let mut trackers = self.trackers();
        if trackers[ANNOUNCED].count > 0 || !trackers[ANNOUNCED].answers {
            trackers[ANNOUNCED].answered();
        }
    }

    pub(super) fn ping_sent(&self) {
        self.trackers()[PINGS].sent(self.now());
    }

    pub(super) fn pong_received(&self) {
        self.trackers()[PINGS].answered();
    }

    pub(super) fn keyframe_sent(&self) {
        self.trackers()[SENT].sent(self.now());
    }

    pub(super) fn keyframe_announced(&self) {
        let mut trackers = self.trackers();
        // The packets may precede the announcement or be lost, but not three times in a row.
        trackers[ANNOUNCED].answers = true;
        trackers[ANNOUNCED].sent(self.now());
    }

    /// Records the highest sequence number that the peer reports to have received (RFC 3550 §6.4.1): a change
    /// acknowledges sent packets.
    pub(super) fn packets_reported(&self, highest: u32) {
        let reported = u64::from(highest) + 1;
        if self.reported.swap(reported, Relaxed) != reported {
            self.packets_acknowledged();
        }
    }

    /// Records that the peer has reported the arrival of packets.
    pub(super) fn packets_acknowledged(&self) {
        self.trackers()[SENT].answered();
    }

    pub(super) fn alert_ignored(&self, level: u8, description: u8) {
        self.alert.store(1 << 16 | u32::from(level) << 8 | u32::from(description), Relaxed);
    }

    pub(super) fn datagram_dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    /// Whether the peer has keys, so that DTLS is established at both ends: data or media has arrived.
    pub(super) fn peer_has_keys(&self) -> bool {
        self.data.get().is_some() || self.media.get().is_some() || self.channel.get().is_some()
    }

    pub(super) fn driver_turned(&self) {
        self.turns.fetch_add(1, Relaxed);
    }

    pub(super) fn driver_turns(&self) -> u64 {
        self.turns.load(Relaxed)
    }

    /// Records why the driver has ended or was abandoned. Only the first reason is kept; returns whether this is the
    /// first.
    pub(super) fn driver_ended(&self, why: String) -> bool {
        self.driver.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        })
    }

    /// Why the driver is gone.
    pub(super) fn driver_end(&self) -> Option<String> {
        self.driver.borrow().clone()
    }

    /// Completes when the driver is gone.
    pub(super) async fn driver_is_gone(&self) {
        // The sender lives as long as this borrow.
        let _ = self.driver.subscribe().wait_for(Option::is_some).await;
    }

    pub(super) fn vitals(&self) -> Vitals {
        let trackers = self.trackers();
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
            pings: trackers[PINGS].unanswered(),
            keyframes_sent: trackers[SENT].unanswered(),
            keyframes_announced: trackers[ANNOUNCED].unanswered(),
            alert: (alert != 0).then_some(((alert >> 8) as u8, alert as u8)),
            dropped: self.dropped.load(Relaxed),
        }
    }
}
