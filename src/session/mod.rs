//! A signaling client and a peer in one call, and the sessions of `send` and `recv`.
//!
//! - [`call`]: joins the room and keeps one peer connection to the other device
//! - `liveness`: decides whether a connection is alive, and if not, why
//! - `call_follower`: code shared by sender and receiver
//! - `command`: commands that can be typed at a receiver, in addition to text
//! - [`negotiation`]: log of the offer/answer exchange
//! - [`pings`]: sends a ping every second; measures round-trip times and the clock offset
//! - [`capture`]: source and encoder on a dedicated thread
//! - [`sender`]: the phone: sends keyframes at their interval and on request
//! - [`receiver`]: the Mac: receives keyframes, verifies them and writes them to disk
//! - [`store`]: decoder and disk on a dedicated thread
//! - `outage`: reports a failure that is retried, once at its start and once at its end

pub mod call;
mod call_follower;
pub mod capture;
mod command;
mod liveness;
pub mod negotiation;
mod outage;
pub mod pings;
pub mod receiver;
pub mod sender;
pub mod store;

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

pub use crate::types::epoch_seconds;
pub(crate) use crate::types::millis;
pub use call::{Call, CallConfig, CallEvent};

use crate::{
    peer::{event::Timings, stats::Snapshot},
    stats::bottleneck::Overall,
    types::Stage,
};

/// A failure that ended a session: its stage, its cause and a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SessionError {
    /// The stage of the run.
    pub stage: Stage,
    /// Error code in kebab case, stable across versions.
    pub code: String,
    /// Human-readable failure and cause.
    pub message: String,
    /// What the user can do about it.
    pub remedy: String,
}

impl SessionError {
    pub(crate) fn new(
        stage: Stage,
        code: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { stage, code: code.into(), message: message.into(), remedy: remedy.into() }
    }
}

/// State of a session, reported once a second and at its end.
#[derive(Debug, Clone, Default)]
pub struct SessionReport {
    /// State in a word or two: `waiting for mac`, `connected`.
    pub state: String,
    /// Whether there is a peer connection now, silent or not.
    pub connected: bool,
    /// `getStats` of the current or last peer connection.
    pub stats: Snapshot,
    /// When each step of the last setup was reached, counted from the creation of the peer connection.
    pub setup: Timings,
    /// Round-trip times of the control channel since the last report, in ms.
    pub rtt_ms: Vec<f64>,
    /// Number of connections lost so far, and the cause of the last loss.
    pub lost: (u64, Option<SessionError>),
    /// Pings that timed out since the start.
    pub pings_lost: u64,
    /// Keyframes sent or received so far.
    pub keyframes: u64,
    /// Received keyframes whose hash matches the sender's.
    pub verified: u64,
    /// Received keyframes that could not be used.
    pub broken: u64,
    /// Keyframes discarded because they could not be written to disk.
    pub unwritten: u64,
    /// Pictures for which there is no keyframe because the source or the encoder failed.
    pub failed: u64,
    /// Size of the last keyframe, in bytes.
    pub last_bytes: Option<u64>,
    /// When this peer joined, when the remote peer was present, and when the first picture was ready.
    pub first: Firsts,
    /// How the last keyframes were delivered; `None` for a sender, which does not know.
    pub delivery: Option<Delivered>,
    /// Whether this report is one of those due every [`CallConfig::stats_every`].
    pub due: bool,
}

/// How the last keyframes of a connection were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// What limited the delivery.
    pub overall: Overall,
    /// Maximum keyframe size, in bytes.
    pub budget: u64,
    /// Time from establishing the connection to its first complete keyframe.
    pub first_after: Option<Duration>,
}

/// When each step before the first picture was first reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Firsts {
    /// This peer joined the room.
    pub joined: Option<Instant>,
    /// The remote peer was present, or last joined before the first picture.
    pub met: Option<Instant>,
    /// The first keyframe was sent, or received completely and decoded.
    pub picture: Option<Instant>,
}

/// Ticks whenever statistics are due: once per interval, counted from the start, so that a late tick does not
/// shift the following ones.
struct StatsClock(Option<tokio::time::Interval>);

/// Minimum interval between two statistics reports.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

impl StatsClock {
    fn new(every: Option<Duration>) -> Self {
        Self(every.map(|every| {
            let mut interval = tokio::time::interval(every.max(MIN_INTERVAL));
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            interval
        }))
    }

    /// Waits until statistics are due, or forever when they are disabled. Cancel safe.
    async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// The next due time of a periodic event that was due at `due`: lateness does not shift the following times, and
/// missed ones are skipped.
pub(crate) fn next_due(due: Instant, every: Duration, now: Instant) -> Instant {
    let every = every.max(MIN_INTERVAL);
    let missed = now.saturating_duration_since(due).as_nanos() / every.as_nanos();
    let intervals = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
    due + every.saturating_mul(intervals)
}

/// SHA-256 of an access unit as in the `keyframe` message: lowercase hex.
pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Waits until the deadline, or forever when there is none.
pub(crate) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Byte counts over all peer connections of a session, and `getStats` of the last connection.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    before: [u64; 4],
    current: Snapshot,
}

impl Totals {
    pub(crate) fn update(&mut self, snapshot: Snapshot) {
        // The pair is briefly unknown after a change: keep reporting the last one.
        let pair = snapshot.pair.clone().or_else(|| self.current.pair.clone());
        self.current = Snapshot { pair, ..snapshot };
    }

    pub(crate) fn connection_ended(&mut self, counted: Option<Snapshot>) {
        if let Some(counted) = counted {
            self.update(counted);
        }
        let sum = self.sum();
        self.before = bytes(&sum);
        self.current = Snapshot { pair: sum.pair, report: sum.report, ..Snapshot::default() };
    }

    pub(crate) fn pair(&self) -> Option<&crate::peer::stats::SelectedPair> {
        self.current.pair.as_ref()
    }

    pub(crate) fn sum(&self) -> Snapshot {
        let [video_sent, video_received, data_sent, data_received] = self.before;
        let now = self.current.clone();
        Snapshot {
            video_bytes_sent: now.video_bytes_sent + video_sent,
            video_bytes_received: now.video_bytes_received + video_received,
            data_bytes_sent: now.data_bytes_sent + data_sent,
            data_bytes_received: now.data_bytes_received + data_received,
            ..now
        }
    }
}

fn bytes(snapshot: &Snapshot) -> [u64; 4] {
    [
        snapshot.video_bytes_sent,
        snapshot.video_bytes_received,
        snapshot.data_bytes_sent,
        snapshot.data_bytes_received,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each tick is 3 ms late, and the last one follows a stall.
    #[test]
    fn a_late_tick_does_not_shift_the_following_ones() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let every = Duration::from_secs(1);
        let mut due = start;
        for second in 0..340 {
            assert_eq!(due, at(second * 1000));
            due = next_due(due, every, due + Duration::from_millis(3));
        }
        assert_eq!(next_due(at(1000), every, at(3500)), at(4000));
        assert_eq!(next_due(at(0), Duration::ZERO, at(25)), at(30));
    }
}
