//! The current send rate and how feedback changes it.
//!
//! Each access unit is a train of packets:
//!
//! - The very first train begins with a few packets sent back to back. The spacing of their arrivals reveals the
//!   rate of the path within a round trip; until then packets only trickle.
//! - The body of a train leaves slightly more slowly than the path is known to carry, so that no queue builds up.
//!   If one does, the path has become slower: sending pauses until the queue has drained, and resumes at the
//!   arrival rate.
//! - The last part is sent faster than that. Either it arrives just as fast, and the path has room for more; or it
//!   arrives more slowly, and that is the path's capacity. The small queue this builds drains after the train, when
//!   nothing waits for it. BBR probes for bandwidth in the same manner.
//!
//! Packets lost without a queue do not count: radio links lose packets at any rate.

use std::time::{Duration, Instant};

use super::{
    echo::Echo,
    estimate::{self, Queueing, Sample},
    pacer::{self, PACKET_BYTES, Pacer},
    sent::{ArrivalSource, SentLog},
};
use crate::{peer::rate::INITIAL_RATE, units::RateSetting};

/// The maximum rate, bits per second: a timer that is 2 ms late then releases 20 packets, which fit into the 64 KB
/// buffers of browsers' and relays' sockets.
pub const MAX_RATE: u64 = 100_000_000;

/// The minimum rate, bits per second.
pub const MIN_RATE: u64 = 100_000;

/// The maximum rate that a few back-to-back packets can show: on a radio link they may share one transmission.
const MAX_FIRST_RATE: f64 = 50e6;

/// Packets sent back to back at the beginning, the head.
const HEAD_PACKETS: usize = 10;

/// Rate until feedback about the head arrives: it does not fill a slow uplink's queue within a round trip.
const TRICKLE_RATE: f64 = 1.5e6;

/// Packets sent less than this many times as fast as they arrive do not show the path's capacity.
const TRICKLED: f64 = 1.3;

/// Without feedback and echoes for this long, sending continues at the initial rate: nothing on the path answers.
const FEEDBACK_TIMEOUT: Duration = Duration::from_millis(300);

/// Packets from one echo to the next: echoes are 2 % of the traffic.
const ECHO_EVERY: u64 = 6;

/// Feedback that arrives this much later than an echo is too late for the train that it covers.
const PROMPT: Duration = Duration::from_millis(30);

/// Maximum number of packets that one message of a promptly reporting peer covers: for a short train, even a
/// message sent at fixed intervals may arrive in time.
const PROMPT_PACKETS: usize = 16;

/// After this many access units without feedback, the controller stops waiting for it.
const SILENT_UNITS: u32 = 2;

/// Share of the path's capacity that is used.
const SHARE: f64 = 0.95;

/// Share of the capacity that is used after a queue has built up.
const BACK_OFF: f64 = 0.92;

/// How much faster the last part of a train is sent: minimum and maximum.
const PROBE: (f64, f64) = (1.25, 2.0);

/// The last part takes this long, and has at least this many packets.
const PROBE_TIME: Duration = Duration::from_millis(20);
const PROBE_PACKETS: usize = 20;

/// Maximum queue in a body, seconds; a few packets may always collide.
const QUEUE_LIMIT: f64 = 0.010;

/// The queue that counts when packets are lost as well, or in the part that is sent faster, seconds.
const QUEUE_SHORT: f64 = 0.001;

/// Loss that a queue explains, and loss that is excessive by itself.
const QUEUE_LOSS: f64 = 0.1;
const HEAVY_LOSS: f64 = 0.2;

/// A lower rate has helped if less than this share of the loss remains.
const HELPED: f64 = 0.85;

/// Heavy loss alone does not lower the rate below this.
const HEAVY_LOSS_RATE: f64 = 1e6;

/// Packets required for a verdict on a body.
const WINDOW: usize = 8;

/// Packets in flight whose arrival shows whether something stalled: at least the first number once all are
/// accounted for; the second number suffices in any case.
const DOUBT_PACKETS: (usize, usize) = (6, 16);

/// How much faster these packets arrive after a stall.
const DOUBTFUL: f64 = 3.0;

/// After a pause of this length none of our queue remains.
const IDLE: Duration = Duration::from_millis(500);

/// Maximum wait for a queue to drain.
const MAX_DRAIN: Duration = Duration::from_secs(5);

/// The packets of one access unit.
#[derive(Debug)]
struct Train {
    started: Instant,
    /// Number of its first packet.
    first: u64,
    packets: usize,
    /// Packets that have been allowed to leave.
    released: usize,
    last_released: Instant,
    /// Number of the first packet that was sent faster, and its rate.
    probe: Option<(u64, f64)>,
    judged: bool,
}

/// Transport-wide feedback of one train compared with echoes.
#[derive(Debug, Default)]
struct Comparison {
    /// Echoes answered before feedback about their packets arrived: packet number and time of the answer.
    ahead: Vec<(u64, Instant)>,
    echoes: usize,
    messages: usize,
    /// Maximum delay of feedback relative to an echo.
    lag: Duration,
}

/// A queue observed in the middle of a train: either the path has become slower, or something stalled. After a
/// stall, everything in flight at the time arrives in one burst.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// The rate, path estimate and probe factor before the verdict.
    before: (f64, PathEstimate, f64),
    /// Rate of the arrivals that were examined, and when the last of them occurred.
    rate: f64,
    arrived: f64,
    /// Numbers of the packets in flight.
    in_flight: (u64, u64),
}

/// What is known about the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PathEstimate {
    /// Nothing yet.
    Unknown,
    /// A rate is known, but the actual capacity may far exceed it.
    Measured,
    /// The path has been observed to be full, so its capacity is known.
    Full,
}

/// Decides on the rate of one connection.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Independent facts.
pub struct Controller {
    pace: RateSetting,
    /// The peer sends transport-wide feedback.
    feedback: bool,
    /// That feedback arrives in time for the train that it covers.
    prompt: bool,
    comparison: Comparison,
    doubt: Option<Doubt>,
    relayed: bool,
    rate: f64,
    path: PathEstimate,
    probe: f64,
    pacer: Pacer,
    hold: Option<Instant>,
    sent: SentLog,
    train: Train,
    /// Packets before this number have been acted upon.
    settled: u64,
    base: Option<f64>,
    silent_units: u32,
    lossy_units: u32,
    /// The rate before it was lowered because of heavy loss, and the most recent loss.
    lowered: Option<(f64, f64)>,
    /// Loss that a lower rate did not reduce.
    random_loss: f64,
}

impl Controller {
    /// A controller for a new connection.
    #[must_use]
    pub fn new(pace: RateSetting, now: Instant) -> Self {
        let sent = SentLog::new(now);
        let first = sent.next();
        Self {
            pace,
            feedback: false,
            prompt: false,
            comparison: Comparison::default(),
            doubt: None,
            relayed: false,
            rate: INITIAL_RATE as f64,
            path: PathEstimate::Unknown,
            probe: PROBE.1,
            pacer: Pacer::new(now),
            hold: None,
            train: Train {
                started: now,
                first,
                packets: 0,
                released: 0,
                last_released: now,
                probe: None,
                judged: true,
            },
            settled: first,
            sent,
            base: None,
            silent_units: 0,
            lossy_units: 0,
            lowered: None,
            random_loss: 0.0,
        }
    }

    /// The rate of traffic other than access units, bits per second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        match self.pace {
            RateSetting::Auto => self.rate as u64,
            RateSetting::Off => MAX_RATE,
            RateSetting::Rate(rate) => rate,
        }
    }

    /// The measured capacity of the path, bits per second; none if nothing has been measured.
    #[must_use]
    pub fn estimate(&self) -> Option<u64> {
        (self.path != PathEstimate::Unknown).then_some((self.rate / SHARE) as u64)
    }

    /// Whether the peer sends transport-wide feedback.
    pub fn set_feedback(&mut self, feedback: bool) {
        self.feedback = feedback;
    }

    /// An access unit of this many packets follows.
    pub fn begin(&mut self, now: Instant, packets: usize, relayed: bool) {
        self.end_train();
        if now.saturating_duration_since(self.train.last_released) >= IDLE {
            self.base = None;
        }
        let first = self.sent.next();
        self.relayed = relayed;
        self.settled = self.settled.max(first);
        self.pacer.reset(now.max(self.hold.unwrap_or(now)));
        self.use_source(if self.feedback && self.prompt {
            ArrivalSource::Feedback
        } else {
            ArrivalSource::Echoes
        });
        self.comparison = Comparison::default();
        self.doubt = None;
        self.train = Train {
            started: now,
            first,
            packets,
            released: 0,
            last_released: now,
            probe: None,
            judged: false,
        };
    }

    /// Lets a packet with this many bytes on the wire leave, or returns when to ask again.
    pub fn poll(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        if let Some(hold) = self.hold {
            if now < hold {
                return Some(hold);
            }
            self.hold = None;
            self.pacer.reset(now);
        }
        if let Some(rate) = self.rate_now(now)
            && let Some(until) = self.pacer.poll(now, bytes, rate)
        {
            return Some(until);
        }
        self.train.released += 1;
        self.train.last_released = now;
        None
    }

    /// The rate of the next packet; none means unlimited.
    fn rate_now(&mut self, now: Instant) -> Option<f64> {
        match self.pace {
            RateSetting::Off => self.relayed.then_some(MAX_RATE as f64),
            RateSetting::Rate(rate) => Some(rate as f64),
            RateSetting::Auto if self.path == PathEstimate::Unknown => self.first_rate(now),
            RateSetting::Auto => Some(self.train_rate()),
        }
    }

    fn first_rate(&self, now: Instant) -> Option<f64> {
        if self.train.released < HEAD_PACKETS {
            return None;
        }
        let waited = now.saturating_duration_since(self.train.started);
        let silent = self.silent_units >= SILENT_UNITS || waited >= FEEDBACK_TIMEOUT;
        Some(if silent { self.rate } else { TRICKLE_RATE })
    }

    fn train_rate(&mut self) -> f64 {
        if let Some((_, rate)) = self.train.probe {
            return rate;
        }
        let in_time = PROBE_TIME.as_secs_f64() * self.rate / 8.0 / PACKET_BYTES;
        let last = (in_time as usize).max(PROBE_PACKETS).min(self.train.packets / 2);
        if self.train.released + last < self.train.packets {
            return self.rate;
        }
        let rate = (self.rate * self.probe).min(MAX_RATE as f64);
        self.train.probe = Some((self.sent.next(), rate));
        rate
    }

    /// A packet with this RTP sequence number is about to leave. Returns its transport-wide number.
    pub fn sent(&mut self, now: Instant, bytes: usize, sequence: u16) -> u16 {
        self.sent.sent(now, bytes, sequence)
    }

    /// The peer requested packets of the last train again.
    pub fn missing(&mut self, sequences: impl IntoIterator<Item = u16>) {
        for sequence in sequences {
            self.sent.missing(sequence, self.train.first);
        }
    }

    /// The number of the packet that left last, if an echo should be sent behind it.
    #[must_use]
    pub fn wants_echo(&self) -> Option<u64> {
        let number = self.sent.next().checked_sub(1)?;
        let index = number.checked_sub(self.train.first)?;
        let last = (self.train.packets as u64).checked_sub(1)?;
        // Also in the middle and at the end of the head: see `estimate::between_stalls`.
        let due = [0, HEAD_PACKETS as u64 / 2, HEAD_PACKETS as u64 - 1, last].contains(&index);
        let due = due || index % ECHO_EVERY == ECHO_EVERY - 1;
        let wanted = self.pace == RateSetting::Auto && self.sent.source() == ArrivalSource::Echoes;
        (wanted && due && index <= last).then_some(number)
    }

    /// An echo was answered. True if that changes when the next packet leaves.
    pub fn echo(&mut self, now: Instant, echo: Echo) -> bool {
        let (at, least) = (self.sent.seconds(now), echo.least.as_secs_f64());
        self.sent.echo(echo.number, self.train.first, at, least);
        if self.pace != RateSetting::Auto || self.sent.source() != ArrivalSource::Echoes {
            return false;
        }
        self.comparison.echoes += 1;
        if self.sent.acknowledged_by(ArrivalSource::Feedback) <= echo.number {
            self.comparison.ahead.push((echo.number, now));
        }
        self.learn(now)
    }

    /// Transport-wide feedback arrived: when packets were received, in seconds on the peer's clock. True if that
    /// changes when the next packet leaves.
    pub fn feedback(
        &mut self,
        now: Instant,
        reports: impl IntoIterator<Item = (u16, Option<f64>)>,
    ) -> bool {
        for (number, arrived) in reports {
            self.sent.report(number, arrived);
        }
        if self.pace != RateSetting::Auto {
            return false;
        }
        self.compare(now);
        if self.sent.acknowledged_by(ArrivalSource::Echoes) <= self.train.first {
            self.use_source(ArrivalSource::Feedback);
        }
        self.sent.source() == ArrivalSource::Feedback && self.learn(now)
    }

    fn use_source(&mut self, source: ArrivalSource) {
        if self.sent.source() != source {
            // The two sources use different clocks.
            self.base = None;
            self.sent.set_source(source);
        }
    }

    fn compare(&mut self, now: Instant) {
        let reported = self.sent.acknowledged_by(ArrivalSource::Feedback);
        let Comparison { ahead, messages, lag, .. } = &mut self.comparison;
        *messages += 1;
        for (_, answered) in ahead.extract_if(.., |(number, _)| *number < reported) {
            *lag = (*lag).max(now.saturating_duration_since(answered));
        }
    }

    /// Whether feedback was as prompt as echoes in the train that has ended.
    fn judge_feedback(&mut self) {
        let Comparison { ahead, echoes, messages, lag } = &self.comparison;
        if self.sent.source() == ArrivalSource::Feedback {
            self.prompt &= self.sent.acknowledged() > self.train.first;
        } else if *echoes > 0 && self.train.packets >= PROMPT_PACKETS {
            let often = messages * PROMPT_PACKETS >= self.train.packets;
            self.prompt = often && ahead.is_empty() && *lag <= PROMPT;
        }
    }

    /// New arrival times are known.
    fn learn(&mut self, now: Instant) -> bool {
        let samples = self.sent.samples(self.train.first, self.sent.next());
        let Some(least) = estimate::base(&samples) else { return false };
        self.silent_units = 0;
        self.base = Some(self.base.map_or(least, |base| base.min(least)));
        let before = (self.rate, self.hold, self.path);
        match self.path {
            PathEstimate::Unknown => self.take_first(now, &samples),
            PathEstimate::Measured | PathEstimate::Full => {
                self.resolve_doubt();
                self.check_body(now, &samples);
            }
        }
        let train = &self.train;
        let complete = train.released == train.packets
            && self.sent.acknowledged() >= train.first + train.packets as u64;
        if complete {
            self.judge_probe();
        }
        before != (self.rate, self.hold, self.path)
    }

    /// Measures the path with the first packets, sent back to back: the spacing of their arrivals gives the rate.
    /// Packets that trickle behind them count only if the head was lost.
    fn take_first(&mut self, now: Instant, all: &[Sample]) {
        let head = self.sent.samples(self.train.first, self.train.first + HEAD_PACKETS as u64);
        if self.sent.source() == ArrivalSource::Echoes && (2..HEAD_PACKETS).contains(&head.len()) {
            // One more echo will show whether something stalled between two others.
            return;
        }
        let has_head = head.len() > HEAD_PACKETS / 2;
        let samples = if has_head { &head } else { all };
        let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return };
        let span = last.arrived - first.arrived;
        let enough = match samples.len() {
            0..=2 => false,
            3 => span >= 0.05,
            4..=5 => span >= 0.02,
            _ => true,
        };
        let Some(rate) = estimate::arrival_rate(samples).filter(|_| enough) else { return };
        // The head was lost, and the rest trickled: these packets arrive as slowly as they were sent.
        let sent = estimate::send_rate(samples).unwrap_or(rate);
        if !has_head && sent < TRICKLED * rate && rate < self.rate {
            return;
        }
        // If something stalled, the capacity of the path is not known yet.
        let rate = match estimate::between_stalls(samples) {
            Some(faster) => rate.max(faster.min(INITIAL_RATE as f64)),
            None => rate,
        };
        self.path = PathEstimate::Measured;
        self.set_rate((BACK_OFF * rate).min(MAX_FIRST_RATE));
        self.drain(now, all, rate.min(MAX_FIRST_RATE));
    }

    /// Checks whether a queue builds up at a rate that was considered right.
    fn check_body(&mut self, now: Instant, samples: &[Sample]) {
        let Some(base) = self.base else { return };
        let end = self.train.probe.map_or(self.sent.next(), |(first, _)| first);
        let body = self.sent.samples(self.settled, end);
        let Some(queueing) = estimate::queueing(&body, base, WINDOW) else { return };
        let Queueing { queue, rate, falling } = queueing;
        let early = &samples[..samples.len().min(WINDOW)];
        let uneven = estimate::unevenness(early, base).min(2.0 * QUEUE_LIMIT);
        let packet = self.packet_time();
        let full = queue > QUEUE_LIMIT.max(2.0 * packet) + uneven;
        let lost = self.sent.lost(self.settled, end) >= QUEUE_LOSS;
        let full = full || lost && queue > 2.0 * QUEUE_SHORT + packet + uneven;
        if full && !falling {
            self.doubt = samples.last().map(|last| Doubt {
                before: (self.rate, self.path, self.probe),
                rate,
                arrived: last.arrived,
                in_flight: (self.sent.acknowledged(), self.sent.next()),
            });
            let fell = BACK_OFF * rate < self.rate / 2.0;
            self.set_rate(self.rate.min(BACK_OFF * rate));
            self.path = PathEstimate::Full;
            // If a receiver merely stalled, a path that was much faster may be as fast again.
            self.probe = if fell { PROBE.1 } else { PROBE.0 };
            self.drain(now, samples, rate);
        }
    }

    /// Revokes a verdict if the packets then in flight arrived much faster.
    fn resolve_doubt(&mut self) {
        let Some(doubt) = self.doubt else { return };
        let (from, to) = doubt.in_flight;
        let samples = self.sent.samples(from, to);
        let all = self.sent.acknowledged() >= to;
        if !all && samples.len() < DOUBT_PACKETS.1 {
            return;
        }
        self.doubt = None;
        let Some(last) = samples.last().filter(|_| samples.len() >= DOUBT_PACKETS.0) else {
            return;
        };
        let rate = estimate::rate(&samples, last.arrived - doubt.arrived);
        if rate > DOUBTFUL * doubt.rate {
            let before;
            (before, self.path, self.probe) = doubt.before;
            self.set_rate(before.min(rate));
            self.hold = None;
        }
    }

    /// Judges the last part of the train, which was sent faster.
    fn judge_probe(&mut self) {
        if std::mem::replace(&mut self.train.judged, true) || self.path == PathEstimate::Unknown {
            return;
        }
        let (Some(base), Some((first, rate))) = (self.base, self.train.probe) else { return };
        let end = self.train.first + self.train.packets as u64;
        let samples = self.sent.samples(first.max(self.settled), end);
        let window = (samples.len() / 4).max(4);
        let Some(queueing) = estimate::queueing(&samples, base, window) else { return };
        let body = self.sent.samples(self.train.first, first);
        let uneven = estimate::unevenness(&body, base);
        let limit = QUEUE_SHORT + self.packet_time() / 2.0 + uneven;
        let lost = self.sent.lost(first, end);
        // More packets were lost at the higher rate: the queue was too small to be seen.
        let overflow = lost > self.sent.lost(self.train.first, first) + QUEUE_LOSS;
        if queueing.queue > limit && !queueing.falling || overflow {
            let carried = estimate::arrival_rate(&samples).unwrap_or(rate);
            let found = SHARE * if overflow { carried } else { queueing.rate }.min(rate);
            let step = match self.path {
                PathEstimate::Full => f64::midpoint(self.rate, found),
                PathEstimate::Unknown | PathEstimate::Measured => found,
            };
            self.set_rate(step.max(0.7 * self.rate));
            self.path = PathEstimate::Full;
            self.probe = PROBE.0;
        } else if lost < QUEUE_LOSS && !queueing.falling {
            let carried = estimate::send_rate(&samples).unwrap_or(rate).min(rate);
            self.set_rate(self.rate.max(SHARE * carried));
            if queueing.queue < limit / 2.0 {
                self.probe = (self.probe * PROBE.0).min(PROBE.1);
            }
        }
    }

    /// Evaluates a train before the next one begins.
    fn end_train(&mut self) {
        if self.train.packets == 0 || self.pace != RateSetting::Auto {
            return;
        }
        self.judge_probe();
        self.judge_feedback();
        let end = self.train.first + self.train.packets as u64;
        if self.sent.acknowledged() <= self.train.first {
            self.silent_units += 1;
        }
        let lost = self.sent.lost(self.train.first, end);
        self.judge_losses(end, lost);
        self.judge_heavy_loss(lost);
    }

    /// A policer drops packets without a queue, and drops fewer when fewer are sent. An outage looks the same but
    /// happens only once, and on a bad radio link the rate makes no difference.
    fn judge_heavy_loss(&mut self, lost: f64) {
        let heavy = lost > HEAVY_LOSS + self.random_loss;
        self.lossy_units = if heavy { self.lossy_units + 1 } else { 0 };
        if self.lossy_units < 2 || self.rate <= HEAVY_LOSS_RATE {
            return;
        }
        self.lossy_units = 0;
        match self.lowered.take() {
            Some((rate, before)) if lost > HELPED * before => {
                self.random_loss = lost.min(0.5);
                self.set_rate(rate);
            }
            lowered => {
                self.lowered = Some(lowered.map_or((self.rate, lost), |(rate, _)| (rate, lost)));
                self.set_rate((0.7 * self.rate).max(HEAVY_LOSS_RATE));
            }
        }
        self.probe = PROBE.0;
    }

    /// A small queue overflows before it shows in the middle of a train, and requests for the dropped packets
    /// arrive late.
    fn judge_losses(&mut self, end: u64, lost: f64) {
        let Some(base) = self.base.filter(|_| self.sent.source() == ArrivalSource::Echoes) else {
            return;
        };
        let train = self.sent.samples(self.train.first, end);
        let queue = estimate::unevenness(&train, base);
        if self.path != PathEstimate::Unknown
            && lost >= QUEUE_LOSS
            && queue > 2.0 * QUEUE_SHORT + self.packet_time()
        {
            self.set_rate(0.7 * self.rate);
            self.path = PathEstimate::Full;
            self.probe = PROBE.0;
        }
    }

    /// Holds packets back until the queue built so far is empty.
    fn drain(&mut self, now: Instant, samples: &[Sample], rate: f64) {
        self.settled = self.sent.next();
        self.pacer.reset(now);
        let (Some(base), Some(last)) = (self.base, samples.last()) else { return };
        let recent = &samples[samples.len().saturating_sub(3)..];
        let queue = estimate::base(recent).map_or(0.0, |least| least - base).max(0.0);
        let empty = last.sent + queue + self.sent.unacknowledged_bytes() * 8.0 / rate.max(1.0);
        let empty = self.sent.instant(empty).min(now + MAX_DRAIN);
        self.hold = (empty > now).then_some(empty);
    }

    fn packet_time(&self) -> f64 {
        pacer::time(PACKET_BYTES, self.rate).as_secs_f64()
    }

    fn set_rate(&mut self, rate: f64) {
        self.rate = rate.clamp(MIN_RATE as f64, MAX_RATE as f64);
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
