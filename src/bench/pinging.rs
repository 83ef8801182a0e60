//! Pings of one connection at a fixed pace, and the times derived from their answers.
//!
//! The pace follows the clock, not the answers: a slow answer does not delay the next ping, so that no slow period
//! is missed (coordinated omission). A ping that this process sent late, by more than the resolution of its timers,
//! counts from the moment it was due.
//!
//! An answer may carry the peer's clock. The fastest answer gives the clock offset as in NTP (RFC 5905 §8): its ping
//! and its pong are assumed to have taken equally long.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    proto::control::{ControlMessage, Id},
    session::epoch_seconds,
    stats::Histogram,
};

/// A send later than this counts as delayed by this process: it exceeds the resolution of its timers (1 ms).
const LATE: Duration = Duration::from_millis(2);

/// How long to wait for the answers to the last pings after the channel has abandoned both directions.
const STRAGGLERS: Duration = Duration::from_millis(800);

/// Like [`STRAGGLERS`], for a channel that never abandons a message: several of its retransmission timers (RFC 9260
/// §6.3.1, doubled each time from 1 s).
const LATE_STRAGGLERS: Duration = Duration::from_secs(20);

/// This many unanswered pings at the end, over at least this time, mean that the peer is gone.
const SILENT_PINGS: u64 = 10;
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Maximum number of samples kept per connection; beyond it, every second one is dropped repeatedly.
const MAX_SAMPLES: usize = 20_000;

/// Pings of one connection.
#[derive(Debug)]
pub(super) struct Pinging {
    interval: Duration,
    bytes: usize,
    /// How long to wait for the answers to the last pings.
    patience: Duration,
    /// The newest ping that was answered, and when it was sent.
    newest: Option<(i64, Instant)>,
    left: u64,
    next: i64,
    /// When the next ping is due; `None` before the start and after the last one.
    due: Option<Instant>,
    last_sent: Option<Instant>,
    unanswered: HashMap<i64, UnansweredPing>,
    samples: Vec<Sample>,
    /// One sample in `stride` is kept.
    stride: u64,
    answered: u64,
    histogram: Histogram,
}

#[derive(Debug, Clone, Copy)]
struct UnansweredPing {
    sent: Instant,
    wall: SystemTime,
    late: Duration,
}

/// An answered ping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// When it was sent.
    pub(super) sent: Instant,
    /// Round-trip time including the delay of a late send, ms.
    pub(super) rtt_ms: f64,
    /// Round-trip time without that delay.
    pub(super) took: Duration,
    /// The peer's clock minus ours, assuming equal times in both directions, s; and half the round-trip time, s.
    clock: Option<(f64, f64)>,
}

impl Pinging {
    /// `count` pings of `bytes` bytes, one per `interval`; the channel abandons each after `life_time`.
    pub(super) fn new(
        count: u64,
        interval: Duration,
        bytes: usize,
        life_time: Option<Duration>,
    ) -> Self {
        Self {
            interval,
            bytes,
            patience: life_time.map_or(LATE_STRAGGLERS, |life_time| STRAGGLERS + 2 * life_time),
            newest: None,
            left: count,
            next: 0,
            due: None,
            last_sent: None,
            unanswered: HashMap::new(),
            samples: Vec::new(),
            stride: 1,
            answered: 0,
            histogram: Histogram::new(),
        }
    }

    /// Starts: the first ping is due now.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = (self.left > 0).then_some(now);
    }

    /// Stops: no more pings are due.
    pub(super) fn stop(&mut self) {
        self.left = 0;
        self.due = None;
    }

    /// When the next action is due.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.due.or_else(|| {
            let waits = !self.unanswered.is_empty();
            self.last_sent.filter(|_| waits).map(|sent| sent + self.patience)
        })
    }

    /// Whether every ping was sent, and answered or abandoned.
    pub(super) fn is_done(&self, now: Instant) -> bool {
        self.due.is_none() && self.left == 0 && self.wake().is_none_or(|at| now >= at)
    }

    /// The ping that is due, to be sent immediately.
    pub(super) fn ping(&mut self, now: Instant, wall: SystemTime) -> Option<ControlMessage> {
        let due = self.due.filter(|due| now >= *due)?;
        let late = now.duration_since(due);
        self.next += 1;
        self.left = self.left.saturating_sub(1);
        self.due = (self.left > 0).then(|| due + self.interval);
        self.last_sent = Some(now);
        let late = if late > LATE { late } else { Duration::ZERO };
        self.unanswered.insert(self.next, UnansweredPing { sent: now, wall, late });
        let ts = serde_json::Number::from_f64(epoch_seconds(wall)).unwrap_or_else(|| 0.into());
        let id = Id::Number(self.next);
        let plain = ControlMessage::Ping { id: id.clone(), ts: ts.clone(), pad: None };
        let missing = self.bytes.saturating_sub(plain.to_json().len() + PAD_OVERHEAD);
        if missing == 0 {
            return Some(plain);
        }
        Some(ControlMessage::Ping { id, ts, pad: Some(".".repeat(missing)) })
    }

    /// Records that the last ping was sent at `now`, after it was created.
    pub(super) fn was_sent(&mut self, now: Instant) {
        if let Some(ping) = self.unanswered.get_mut(&self.next) {
            let delay = now.saturating_duration_since(ping.sent);
            ping.wall += delay;
            ping.sent = now;
            if delay > LATE {
                ping.late += delay;
            }
        }
    }

    /// Handles an answer that was read at `now`; `at` is the peer's clock when it answered.
    pub(super) fn pong(&mut self, id: &Id, at: Option<f64>, now: Instant) {
        let Id::Number(number) = id else { return };
        let Some(unanswered) = self.unanswered.remove(number) else { return };
        if self.newest.is_none_or(|(newest, _)| *number > newest) {
            self.newest = Some((*number, unanswered.sent));
        }
        let rtt = now.saturating_duration_since(unanswered.sent);
        let half = rtt.as_secs_f64() / 2.0;
        let sample = Sample {
            sent: unanswered.sent,
            rtt_ms: (rtt + unanswered.late).as_secs_f64() * 1e3,
            took: rtt,
            clock: at.map(|at| (at - epoch_seconds(unanswered.wall) - half, half)),
        };
        self.histogram.record(sample.rtt_ms);
        if self.answered.is_multiple_of(self.stride) {
            self.samples.push(sample);
        }
        self.answered += 1;
        if self.samples.len() >= MAX_SAMPLES {
            let mut nth = 0;
            self.samples.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// Number of unanswered pings at the end, if there are too many, over too long a time, to have been lost by
    /// chance: the peer is gone.
    pub(super) fn silent_end(&self) -> Option<u64> {
        let ((newest, answered), last) = (self.newest?, self.last_sent?);
        let unanswered = (self.next - newest) as u64;
        let long = last.saturating_duration_since(answered) >= SILENT_FOR;
        (unanswered >= SILENT_PINGS && long).then_some(unanswered)
    }

    /// Pings sent.
    pub(super) fn sent(&self) -> u64 {
        self.next as u64
    }

    /// Pings answered.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Answered pings; if there are many, only every n-th.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Round-trip times of all answered pings, ms.
    pub(super) fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// The peer's clock minus ours, s; `None` if its answers do not carry it.
    pub(super) fn clock_offset(&self) -> Option<f64> {
        let clocks = self.samples.iter().filter_map(|sample| sample.clock);
        clocks.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(offset, _)| offset)
    }

    /// One-way times of the kept samples, ms: out and back.
    pub(super) fn one_way(&self) -> Vec<[f64; 2]> {
        let Some(offset) = self.clock_offset() else { return Vec::new() };
        let clocks = self.samples.iter().filter_map(|sample| sample.clock);
        clocks
            .map(|(apparent, half)| {
                // The error of the offset is half the asymmetry of the fastest answer.
                let out = (half + apparent - offset).clamp(0.0, 2.0 * half);
                [out * 1e3, (2.0 * half - out) * 1e3]
            })
            .collect()
    }
}

/// Bytes that `,"pad":""` adds to a message.
const PAD_OVERHEAD: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(message: &ControlMessage) -> Id {
        match message {
            ControlMessage::Ping { id, .. } => id.clone(),
            other => panic!("{other:?}"),
        }
    }

    const MS: Duration = Duration::from_millis(1);
    const LIFE_TIME: Option<Duration> = Some(Duration::from_millis(100));

    #[test]
    fn the_clock_sets_the_pace_and_late_pings_count_from_their_slot() {
        let begin = Instant::now();
        let mut pinging = Pinging::new(3, 10 * MS, 0, LIFE_TIME);
        assert!(!pinging.is_done(begin));
        pinging.start(begin);
        let first = pinging.ping(begin, SystemTime::now()).unwrap();
        assert!(pinging.ping(begin, SystemTime::now()).is_none(), "not due yet");
        // The process slept for 35 ms: two pings are due, each from its own slot.
        let late = begin + 35 * MS;
        let second = pinging.ping(late, SystemTime::now()).unwrap();
        let third = pinging.ping(late, SystemTime::now()).unwrap();
        assert!(pinging.ping(late, SystemTime::now()).is_none(), "that was the last one");
        pinging.pong(&id(&second), None, late + MS);
        pinging.pong(&id(&second), None, late + 2 * MS);
        pinging.pong(&id(&third), None, late + MS);
        let rtts: Vec<f64> = pinging.samples().iter().map(|s| s.rtt_ms.round()).collect();
        assert_eq!(rtts, [26.0, 16.0]);
        assert_eq!((pinging.sent(), pinging.answered()), (3, 2));
        assert!(!pinging.is_done(late));
        assert!(!pinging.is_done(late + STRAGGLERS));
        assert!(pinging.is_done(late + STRAGGLERS + 200 * MS), "the first one is abandoned");
        pinging.pong(&id(&first), None, late + 3 * MS);
        assert!(pinging.is_done(late + 3 * MS));
    }

    #[test]
    fn messages_have_the_requested_size() {
        for bytes in [0, 80, 81, 1200] {
            let mut pinging = Pinging::new(1, MS, bytes, LIFE_TIME);
            let now = Instant::now();
            pinging.start(now);
            let length = pinging.ping(now, SystemTime::now()).unwrap().to_json().len();
            assert!(length == bytes || (bytes == 0 && length < 70), "{length} for {bytes}");
        }
    }

    #[test]
    fn a_ping_that_this_process_delays_is_late() {
        for (kept, rtt) in [(MS, 4.0), (30 * MS, 34.0)] {
            let mut pinging = Pinging::new(1, MS, 0, LIFE_TIME);
            let begin = Instant::now();
            pinging.start(begin);
            let ping = pinging.ping(begin, SystemTime::now()).unwrap();
            pinging.was_sent(begin + kept);
            pinging.pong(&id(&ping), None, begin + kept + 4 * MS);
            assert!((pinging.samples()[0].rtt_ms - rtt).abs() < 1e-6, "{kept:?}");
        }
    }

    #[test]
    fn clocks_are_compared_by_the_fastest_answer() {
        let mut pinging = Pinging::new(2, MS, 0, LIFE_TIME);
        let begin = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        pinging.start(begin);
        // The other clock is 7 s ahead. The first ping takes 5 ms each way, the second 5 ms out and 45 ms back.
        let first = pinging.ping(begin, wall).unwrap();
        pinging.pong(&id(&first), Some(1007.005), begin + 10 * MS);
        let second = pinging.ping(begin + MS, wall + MS).unwrap();
        pinging.pong(&id(&second), Some(1007.006), begin + 51 * MS);
        assert!((pinging.clock_offset().unwrap() - 7.0).abs() < 1e-6);
        let one_way = pinging.one_way();
        assert!((one_way[1][0] - 5.0).abs() < 1e-3 && (one_way[1][1] - 45.0).abs() < 1e-3);
    }

    #[test]
    fn one_way_times_stay_within_the_round_trip() {
        let mut pinging = Pinging::new(2, MS, 0, LIFE_TIME);
        let begin = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        pinging.start(begin);
        // 9 ms out and 1 ms back, which looks like 5 ms each; then 1 ms out and 10 ms back.
        let first = pinging.ping(begin, wall).unwrap();
        pinging.pong(&id(&first), Some(1000.009), begin + 10 * MS);
        let second = pinging.ping(begin + MS, wall + MS).unwrap();
        pinging.pong(&id(&second), Some(1000.002), begin + 12 * MS);
        let [out, back] = pinging.one_way()[1];
        assert!(out.abs() < 1e-3 && (back - 11.0).abs() < 1e-3, "{out} {back}");
    }

    #[test]
    fn a_silent_end_means_the_peer_is_gone() {
        let begin = Instant::now();
        let mut pinging = Pinging::new(u64::MAX, 100 * MS, 0, LIFE_TIME);
        pinging.start(begin);
        for step in 0..20 {
            let now = begin + 100 * MS * step;
            let ping = pinging.ping(now, SystemTime::now()).unwrap();
            if step < 8 {
                pinging.pong(&id(&ping), None, now + MS);
            }
            assert_eq!(pinging.silent_end(), (step >= 17).then(|| u64::from(step) - 7));
        }
    }

    #[test]
    fn a_long_run_keeps_few_samples_and_counts_all() {
        let mut pinging = Pinging::new(u64::MAX, MS, 0, LIFE_TIME);
        let begin = Instant::now();
        pinging.start(begin);
        for step in 0..3 * MAX_SAMPLES as u32 {
            let now = begin + MS * step;
            let ping = pinging.ping(now, SystemTime::now()).unwrap();
            pinging.pong(&id(&ping), None, now + MS);
        }
        assert!(pinging.samples().len() < MAX_SAMPLES);
        assert_eq!(pinging.histogram().count(), 3 * MAX_SAMPLES as u64);
        let gaps: Vec<Duration> =
            pinging.samples().windows(2).map(|two| two[1].sent - two[0].sent).collect();
        assert!(gaps.windows(2).all(|two| two[0] == two[1]), "evenly spaced");
    }
}
