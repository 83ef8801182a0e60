//! A signaling client and a peer in one call, and what `send` and `recv` do with them.
//!
//! - [`call`]: joins the room, keeps one peer connection to whoever is there
//! - `liveness`: whether a connection is alive, and if not, why
//! - `call_follower`: what both sides do alike
//! - `command`: what can be typed at a receiver besides text
//! - [`pings`]: a ping every second and what their answers tell
//! - [`capture`]: source and encoder on a thread of their own
//! - [`sender`]: the phone: keyframes at their interval and on request
//! - [`receiver`]: the Mac: keyframes to disk, verified
//! - [`store`]: decoder and disk on a thread of their own
//! - `outage`: what fails for a while and is tried again

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

/// A session that could not go on: where, why, and what to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SessionError {
    /// Where in the course of a run.
    pub stage: Stage,
    /// What failed, in kebab case: stable, for programs.
    pub code: String,
    /// What failed and why, for people.
    pub message: String,
    /// What to try.
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

/// What a running session tells about itself, once a second and at its end.
#[derive(Debug, Clone, Default)]
pub struct SessionReport {
    /// State in a word or two: `waiting for mac`, `connected`.
    pub state: String,
    /// Whether there is a peer connection now, silent or not.
    pub connected: bool,
    /// getStats of the current or last peer connection.
    pub stats: Snapshot,
    /// When each step of the last set-up was reached, from the building of the peer connection.
    pub setup: Timings,
    /// Round-trip times of the control channel since the last report, ms.
    pub rtt_ms: Vec<f64>,
    /// Connections lost so far, and why the last one was.
    pub lost: (u64, Option<SessionError>),
    /// Pings given up since the start.
    pub pings_lost: u64,
    /// Keyframes sent or received so far.
    pub keyframes: u64,
    /// Received keyframes whose hash is the sender's.
    pub verified: u64,
    /// Received keyframes that could not be used.
    pub broken: u64,
    /// Keyframes given up because the disk would not take them.
    pub unwritten: u64,
    /// Pictures that gave no keyframe: the source or the encoder failed.
    pub failed: u64,
    /// Size of the last keyframe, bytes.
    pub last_bytes: Option<u64>,
    /// When this side was in the room, the other side was there, and the first picture was.
    pub first: Firsts,
    /// How the last keyframes were delivered; none of a sender, which does not learn it.
    pub delivery: Option<Delivered>,
    /// It is the one of an interval of [`CallConfig::stats_every`].
    pub due: bool,
}

/// How the last keyframes of a connection were delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// What they were limited by.
    pub overall: Overall,
    /// Their budget, bytes.
    pub budget: u64,
    /// From the connection being up to the first keyframe of it being whole.
    pub first_after: Option<Duration>,
}

/// When what comes before the first picture happened, for the first time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Firsts {
    /// This side was in the room.
    pub joined: Option<Instant>,
    /// The other side was there, or came there for the last time before the first picture.
    pub met: Option<Instant>,
    /// The first keyframe was sent, or whole and decoded.
    pub picture: Option<Instant>,
}

/// When statistics are due: once an interval, counted from the start, so that nothing that is late moves
/// those that follow.
struct StatsClock(Option<tokio::time::Interval>);

/// Shortest interval between two statistics reports.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

impl StatsClock {
    fn new(every: Option<Duration>) -> Self {
        Self(every.map(|every| {
            let mut interval = tokio::time::interval(every.max(SHORTEST_INTERVAL));
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            interval
        }))
    }

    /// Waits until they are due; for ever when nobody wants them. Cancel safe.
    async fn tick(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// When something that was due, once each interval, is due next: what is late does not move what follows, and what
/// was missed is not made up for.
pub(crate) fn next_due(due: Instant, every: Duration, now: Instant) -> Instant {
    let every = every.max(SHORTEST_INTERVAL);
    let missed = now.saturating_duration_since(due).as_nanos() / every.as_nanos();
    let intervals = u32::try_from(missed).unwrap_or(u32::MAX).saturating_add(1);
    due + every.saturating_mul(intervals)
}

/// SHA-256 of an access unit as `keyframe` tells it: lower-case hex.
pub(crate) fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Waits until the deadline; for ever when there is none.
pub(crate) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Bytes over all peer connections of a session, and getStats of the last one.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    before: [u64; 4],
    current: Snapshot,
}

impl Totals {
    pub(crate) fn update(&mut self, snapshot: Snapshot) {
        // The pair is not known for a moment after a change: the last one is still worth telling.
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

    /// Each is seen 3 ms late, and the last one after a stall.
    #[test]
    fn what_is_late_does_not_move_what_follows() {
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
