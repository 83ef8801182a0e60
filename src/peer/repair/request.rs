//! Decides which packets are missing and when to request them again (RFC 4585 §6.2.1).
//!
//! A gap is requested as soon as its packets can no longer be merely late, and again after each round trip. A lost
//! request costs a round trip just as a lost packet does, but a request is small, so on a long path each is sent
//! twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rtc::rtcp::transport_feedbacks::transport_layer_nack::NackPair;

use super::{WINDOW, WORTH, round_trip::RoundTrip};
use crate::peer::sequence::{extend_sequence, near_sequence};

/// How late a packet may be before it is requested, minimum and maximum; the actual value follows observed
/// reordering.
const LATENESS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(40));

/// Number of packets requested before the first one that arrived, if it is in the middle of a picture.
const BEFORE_FIRST: u64 = 128;

/// Such packets may never have existed: each is requested at most this many times.
const BEFORE_FIRST_TRIES: u32 = 12;

/// A request is repeated after this share of the round trip: divisor, minimum and maximum.
const REPEAT_AFTER: (u32, Duration, Duration) =
    (8, Duration::from_millis(3), Duration::from_millis(10));

/// Requests are repeated only if the timeout is at least this long compared with their spacing.
const REPEAT_FROM: Duration = Duration::from_millis(30);

/// How many times a request is repeated: normally, and at or above this loss rate.
const REPEATS: (u8, u8, f64) = (1, 2, 0.03);

/// Weight of the latest packet in the loss rate.
const WEIGHT: f64 = 1.0 / 64.0;

/// This many consecutive ambiguous answers extend the timeout.
const MAX_AMBIGUOUS: u32 = 4;

/// Requests due within this time are sent in the same message.
const BATCH_WITHIN: Duration = Duration::from_millis(2);

/// After this many tries the interval grows.
const QUICK_TRIES: u32 = 5;

/// Maximum time between two tries, which is the delay that an outage may add.
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// A peer that has answered none of this many requests for a packet, although packets have arrived since, does not
/// repair.
const IGNORED_TRIES: u32 = 4;

/// A packet that is missing.
#[derive(Debug, Clone, Copy)]
struct MissingPacket {
    since: Instant,
    due: Instant,
    tries: u32,
    first_requested: Option<Instant>,
    last_requested: Option<Instant>,
    /// Remaining repeats of the last request.
    repeats_left: u8,
    last_sent: Option<Instant>,
}

/// The missing packets of one RTP stream.
#[derive(Debug)]
pub(super) struct Requests {
    newest: Option<u64>,
    /// The first packet that arrived; `oldest` is the packet with the lowest number that arrived.
    first: u64,
    oldest: u64,
    /// Every packet from this number on has arrived or is recorded as missing.
    known: u64,
    missing: BTreeMap<u64, MissingPacket>,
    lateness: Duration,
    /// The recent loss rate.
    loss: f64,
    round_trip: RoundTrip,
    /// Whether a request was ever answered.
    answered: bool,
    /// Consecutive answers that may belong to any of several requests, and when they last extended the timeout.
    ambiguous: u32,
    backed_off: Option<Instant>,
}

impl Requests {
    pub(super) fn new(round_trip: RoundTrip) -> Self {
        Self {
            newest: None,
            first: 0,
            oldest: 0,
            known: 0,
            missing: BTreeMap::new(),
            lateness: LATENESS.0,
            loss: 0.0,
            round_trip,
            answered: false,
            ambiguous: 0,
            backed_off: None,
        }
    }

    /// A packet arrived. `begins`: it is the first of an access unit.
    pub(super) fn arrived(&mut self, sequence: u16, begins: bool, now: Instant) {
        let Some(newest) = self.newest else {
            let first = extend_sequence(&mut self.newest, sequence);
            self.join(first, begins, now);
            return;
        };
        let sequence = near_sequence(newest, sequence);
        if sequence > newest + u64::from(WINDOW) {
            // Too large to be a gap: the sender has restarted.
            self.missing.clear();
            self.newest = Some(sequence);
            self.join(sequence, begins, now);
            return;
        }
        if sequence > newest {
            self.newest = Some(sequence);
            let missing = (sequence - newest - 1) as i32;
            let arrived = (1.0 - self.loss) * (1.0 - WEIGHT).powi(missing);
            self.loss = (1.0 - arrived) * (1.0 - WEIGHT);
            if missing == 0 {
                self.no_reordering(now);
            }
            self.miss(newest + 1..sequence, now);
            self.forget_before(sequence.saturating_sub(u64::from(WINDOW)));
            return;
        }
        if let Some(missing) = self.missing.remove(&sequence) {
            self.learn(&missing, now);
        }
        if sequence < self.first {
            self.before_first(sequence, begins, now);
        }
    }

    /// A packet arrived right after the newest one. On a path without reordering, packets missing before these two
    /// are lost, so they are requested one packet after the gap appeared.
    fn no_reordering(&mut self, now: Instant) {
        if self.lateness > LATENESS.0 {
            return;
        }
        for missing in self.missing.values_mut().filter(|missing| missing.tries == 0) {
            missing.due = missing.due.min(now);
        }
    }

    fn join(&mut self, sequence: u64, begins: bool, now: Instant) {
        (self.first, self.oldest, self.known) = (sequence, sequence, sequence);
        if !begins {
            self.miss_before(sequence, now);
        }
    }

    /// Handles a packet from before the first one that arrived: more packets may be missing before it.
    fn before_first(&mut self, sequence: u64, begins: bool, now: Instant) {
        if sequence + u64::from(WINDOW) <= self.first {
            return;
        }
        if sequence < self.known {
            self.miss(sequence + 1..self.known, now);
            self.known = sequence;
        }
        if begins {
            self.forget_before(sequence);
        } else if sequence < self.oldest {
            self.miss_before(sequence, now);
        }
        self.oldest = self.oldest.min(sequence);
    }

    fn miss_before(&mut self, sequence: u64, now: Instant) {
        let from = sequence.saturating_sub(BEFORE_FIRST);
        self.miss(from..sequence, now);
        self.known = self.known.min(from);
    }

    fn miss(&mut self, sequences: std::ops::Range<u64>, now: Instant) {
        let missing = MissingPacket {
            since: now,
            due: now + self.lateness,
            tries: 0,
            first_requested: None,
            last_requested: None,
            repeats_left: 0,
            last_sent: None,
        };
        for sequence in sequences {
            self.missing.entry(sequence).or_insert(missing);
        }
    }

    fn forget_before(&mut self, sequence: u64) {
        self.missing = self.missing.split_off(&sequence);
    }

    /// Updates the lateness or the round trip when a missing packet arrives.
    fn learn(&mut self, missing: &MissingPacket, now: Instant) {
        let since = |time: Instant| now.saturating_duration_since(time);
        let late = match missing.first_requested {
            None => true,
            Some(first) if missing.tries == 1 => {
                // Either it was merely late, or the round trip has become shorter: accept at most half the
                // smoothed time.
                let soonest = self.round_trip.smoothed() / 2;
                let known = self.round_trip.is_known();
                self.ambiguous = 0;
                self.round_trip.sample(since(first).max(soonest));
                known && since(first) < soonest
            }
            Some(first) => {
                self.ambiguous_answer(since(first), now);
                false
            }
        };
        self.answered |= !late;
        let lateness = if late { since(missing.since) } else { Duration::ZERO };
        self.lateness = lateness.max(self.lateness * 15 / 16).clamp(LATENESS.0, LATENESS.1);
    }

    /// Handles an answer that may belong to any of several requests (Karn's problem). If all answers are
    /// ambiguous, the timeout is too short.
    fn ambiguous_answer(&mut self, since_first: Duration, now: Instant) {
        self.ambiguous += 1;
        let recently = self.backed_off.is_some_and(|at| now < at + self.round_trip.timeout());
        if self.ambiguous >= MAX_AMBIGUOUS && !recently {
            self.round_trip.back_off(since_first);
            self.backed_off = Some(now);
            self.ambiguous = 0;
        }
    }

    /// Whether the peer ignores requests. Call this only when a packet has arrived: during an outage nothing
    /// arrives.
    pub(super) fn is_ignored(&self, now: Instant) -> bool {
        let wait = self.round_trip.timeout();
        let unanswered = |missing: &MissingPacket| {
            missing.tries >= IGNORED_TRIES
                && missing.last_requested.is_some_and(|requested| now >= requested + wait)
        };
        // Packets further before the oldest may never have existed.
        let sent = self.missing.range(self.oldest.saturating_sub(1)..);
        !self.answered && sent.into_iter().any(|(_, missing)| unanswered(missing))
    }

    /// When to call [`Requests::take`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.due).min()
    }

    /// The sequence numbers to request now, in order.
    pub(super) fn take(&mut self, now: Instant) -> Vec<u16> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let oldest = self.oldest;
        self.missing.retain(|&sequence, missing| {
            // The packet right before the oldest exists, because the oldest does not begin an access unit.
            let over = sequence + 1 < oldest && missing.tries >= BEFORE_FIRST_TRIES;
            !(over || now.saturating_duration_since(missing.since) >= WORTH)
        });
        let timeout = self.round_trip.timeout();
        let repeats = match (timeout >= REPEAT_FROM, self.loss >= REPEATS.2) {
            (false, _) => 0,
            (true, false) => REPEATS.0,
            (true, true) => REPEATS.1,
        };
        let (divisor, min, max) = REPEAT_AFTER;
        let spacing = (self.round_trip.smoothed() / divisor).clamp(min, max);
        let plan = RequestPlan { timeout, repeats, spacing };
        let mut requested = Vec::new();
        for (&sequence, missing) in &mut self.missing {
            if missing.due <= now + BATCH_WITHIN || missing.may_repeat_now(now) {
                missing.request(now, plan);
                requested.push(sequence as u16);
            }
        }
        requested
    }
}

/// When to repeat a request.
#[derive(Debug, Clone, Copy)]
struct RequestPlan {
    /// Timeout of the answer.
    timeout: Duration,
    /// How many times the request is repeated, and at which interval.
    repeats: u8,
    spacing: Duration,
}

impl MissingPacket {
    fn request(&mut self, now: Instant, plan: RequestPlan) {
        self.last_sent = Some(now);
        if self.repeats_left > 0 {
            self.repeats_left -= 1;
        } else {
            self.tries += 1;
            self.first_requested.get_or_insert(now);
            self.last_requested = Some(now);
            self.repeats_left = plan.repeats;
        }
        self.due = if self.repeats_left > 0 {
            now + plan.spacing
        } else {
            self.last_requested.unwrap_or(now) + pause(plan.timeout, self.tries)
        };
    }

    /// Whether a repeat that is due soon can join a message that is sent anyway.
    fn may_repeat_now(&self, now: Instant) -> bool {
        self.repeats_left > 0 && self.last_sent.is_none_or(|sent| now >= sent + BATCH_WITHIN)
    }
}

/// Time from one try to the next.
fn pause(timeout: Duration, tries: u32) -> Duration {
    let longer = timeout * (1 + tries.saturating_sub(QUICK_TRIES).min(8));
    longer.min(MAX_PAUSE.max(timeout))
}

/// Packs sequence numbers, which must be in order, into the FCI of a generic NACK (RFC 4585 §6.2.1).
pub(super) fn pack(sequences: &[u16]) -> Vec<NackPair> {
    let mut pairs: Vec<NackPair> = Vec::new();
    for &sequence in sequences {
        if let Some(pair) = pairs.last_mut() {
            let distance = sequence.wrapping_sub(pair.packet_id);
            if (1..=16).contains(&distance) {
                pair.lost_packets |= 1 << (distance - 1);
                continue;
            }
        }
        pairs.push(NackPair::new(sequence));
    }
    pairs
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
