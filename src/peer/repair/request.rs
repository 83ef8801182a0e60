//! What the receiver asks for again: which packets are missing, and when to ask (RFC 4585 §6.2.1).
//!
//! A gap is asked for as soon as its packets can no longer be just late, and again after each round trip.
//! A request that gets lost costs a round trip like a lost packet, and is small: over a long way each
//! is said twice.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rtc::rtcp::transport_feedbacks::transport_layer_nack::NackPair;

use super::{WINDOW, WORTH, round_trip::RoundTrip};
use crate::peer::sequence::{extend_sequence, near_sequence};

/// How late a packet may be before it is asked for: what was seen of packets that overtook each other,
/// within these.
const LATENESS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(40));

/// Packets asked for before the first one that came, when that is in the middle of a picture.
const BEFORE_FIRST: u64 = 128;

/// They may never have been: each is asked for only so often.
const BEFORE_FIRST_TRIES: u32 = 12;

/// A request is said again after this share of the round trip, within these.
const SAID_AGAIN: (u32, Duration, Duration) =
    (8, Duration::from_millis(3), Duration::from_millis(10));

/// But only where that is short against the wait for an answer.
const SAID_AGAIN_FROM: Duration = Duration::from_millis(30);

/// How often it is said again, and where this share of the packets gets lost.
const TIMES: (u8, u8, f64) = (1, 2, 0.03);

/// Weight of the last packet in the share of packets lost.
const WEIGHT: f64 = 1.0 / 64.0;

/// As many unclear answers in a row make the wait longer.
const UNCLEAR: u32 = 4;

/// What is due this soon is asked for in the same message.
const TOGETHER: Duration = Duration::from_millis(2);

/// After this many tries the time between them grows.
const QUICK_TRIES: u32 = 5;

/// Longest time between two tries. After an outage it is waited for once.
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// A peer that has not answered any of so many requests for a packet, although something of it has come since, does not
/// repair.
const IGNORED: u32 = 4;

/// A packet that is missing.
#[derive(Debug, Clone, Copy)]
struct Missing {
    since: Instant,
    due: Instant,
    tries: u32,
    first_asked: Option<Instant>,
    last_asked: Option<Instant>,
    /// So often the last request is to be said once more.
    again: u8,
    last_said: Option<Instant>,
}

/// The missing packets of one RTP stream.
#[derive(Debug)]
pub(super) struct Requests {
    newest: Option<u64>,
    /// The first packet that came, and the oldest one.
    first: u64,
    oldest: u64,
    /// From here on every packet came or is missing.
    known: u64,
    missing: BTreeMap<u64, Missing>,
    lateness: Duration,
    /// The share of packets that was lost lately.
    loss: f64,
    round_trip: RoundTrip,
    /// Whether a request was ever answered.
    answered: bool,
    /// Answers in a row of which it is not clear what they answer, and when that last made the wait
    /// longer.
    unclear: u32,
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
            unclear: 0,
            backed_off: None,
        }
    }

    /// A packet came. `begins` says that it is the first of an access unit.
    pub(super) fn arrived(&mut self, sequence: u16, begins: bool, now: Instant) {
        let Some(newest) = self.newest else {
            let first = extend_sequence(&mut self.newest, sequence);
            self.join(first, begins, now);
            return;
        };
        let sequence = near_sequence(newest, sequence);
        if sequence > newest + u64::from(WINDOW) {
            // Too far to be a gap: the sender has begun anew.
            self.missing.clear();
            self.newest = Some(sequence);
            self.join(sequence, begins, now);
            return;
        }
        if sequence > newest {
            self.newest = Some(sequence);
            let missing = (sequence - newest - 1) as i32;
            let came = (1.0 - self.loss) * (1.0 - WEIGHT).powi(missing);
            self.loss = (1.0 - came) * (1.0 - WEIGHT);
            if missing == 0 {
                self.follows(now);
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

    /// A packet came right after the newest one. Where packets do not overtake each other, what is missing before those
    /// two is lost: it is asked for one packet after the gap showed.
    fn follows(&mut self, now: Instant) {
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

    /// A packet from before the first one came: is there more before it?
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
        let missing = Missing {
            since: now,
            due: now + self.lateness,
            tries: 0,
            first_asked: None,
            last_asked: None,
            again: 0,
            last_said: None,
        };
        for sequence in sequences {
            self.missing.entry(sequence).or_insert(missing);
        }
    }

    fn forget_before(&mut self, sequence: u64) {
        self.missing = self.missing.split_off(&sequence);
    }

    /// Learns from a packet that was missing how late packets are, or how long an answer takes.
    fn learn(&mut self, missing: &Missing, now: Instant) {
        let since = |time: Instant| now.saturating_duration_since(time);
        let late = match missing.first_asked {
            None => true,
            Some(first) if missing.tries == 1 => {
                // It came by itself, or the way has become shorter: believed by half.
                let soonest = self.round_trip.smoothed() / 2;
                let known = self.round_trip.is_known();
                self.unclear = 0;
                self.round_trip.sample(since(first).max(soonest));
                known && since(first) < soonest
            }
            Some(first) => {
                self.unclear_answer(since(first), now);
                false
            }
        };
        self.answered |= !late;
        let seen = if late { since(missing.since) } else { Duration::ZERO };
        self.lateness = seen.max(self.lateness * 15 / 16).clamp(LATENESS.0, LATENESS.1);
    }

    /// An answer to one of several requests, nobody knows which (Karn's problem). Where there are only
    /// such, the wait is too short.
    fn unclear_answer(&mut self, since_first: Duration, now: Instant) {
        self.unclear += 1;
        let lately = self.backed_off.is_some_and(|at| now < at + self.round_trip.timeout());
        if self.unclear >= UNCLEAR && !lately {
            self.round_trip.back_off(since_first);
            self.backed_off = Some(now);
            self.unclear = 0;
        }
    }

    /// Whether the peer answers no request. To be asked when something of it has come: nothing comes in an outage.
    pub(super) fn is_ignored(&self, now: Instant) -> bool {
        let wait = self.round_trip.timeout();
        let unanswered = |missing: &Missing| {
            missing.tries >= IGNORED && missing.last_asked.is_some_and(|asked| now >= asked + wait)
        };
        // What is farther before the oldest may never have been.
        let sent = self.missing.range(self.oldest.saturating_sub(1)..);
        !self.answered && sent.into_iter().any(|(_, missing)| unanswered(missing))
    }

    /// When [`Requests::take`] wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.missing.values().map(|missing| missing.due).min()
    }

    /// The sequence numbers to ask for now, in order.
    pub(super) fn take(&mut self, now: Instant) -> Vec<u16> {
        if self.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let oldest = self.oldest;
        self.missing.retain(|&sequence, missing| {
            // The one right before the oldest was sent, for that one begins nothing.
            let over = sequence + 1 < oldest && missing.tries >= BEFORE_FIRST_TRIES;
            !(over || now.saturating_duration_since(missing.since) >= WORTH)
        });
        let timeout = self.round_trip.timeout();
        let again = match (timeout >= SAID_AGAIN_FROM, self.loss >= TIMES.2) {
            (false, _) => 0,
            (true, false) => TIMES.0,
            (true, true) => TIMES.1,
        };
        let (share, least, most) = SAID_AGAIN;
        let apart = (self.round_trip.smoothed() / share).clamp(least, most);
        let wait = Wait { timeout, again, apart };
        let mut asked = Vec::new();
        for (&sequence, missing) in &mut self.missing {
            if missing.due <= now + TOGETHER || missing.may_go_along(now) {
                missing.ask(now, wait);
                asked.push(sequence as u16);
            }
        }
        asked
    }
}

/// What follows a request.
#[derive(Debug, Clone, Copy)]
struct Wait {
    /// For the answer.
    timeout: Duration,
    /// So often it is said again, so far apart.
    again: u8,
    apart: Duration,
}

impl Missing {
    fn ask(&mut self, now: Instant, wait: Wait) {
        self.last_said = Some(now);
        if self.again > 0 {
            self.again -= 1;
        } else {
            self.tries += 1;
            self.first_asked.get_or_insert(now);
            self.last_asked = Some(now);
            self.again = wait.again;
        }
        self.due = if self.again > 0 {
            now + wait.apart
        } else {
            self.last_asked.unwrap_or(now) + pause(wait.timeout, self.tries)
        };
    }

    /// Whether what is to be said again soon goes along with a message that leaves anyway.
    fn may_go_along(&self, now: Instant) -> bool {
        self.again > 0 && self.last_said.is_none_or(|said| now >= said + TOGETHER)
    }
}

/// Time from one try to the next.
fn pause(timeout: Duration, tries: u32) -> Duration {
    let longer = timeout * (1 + tries.saturating_sub(QUICK_TRIES).min(8));
    longer.min(MAX_PAUSE.max(timeout))
}

/// Packs sequence numbers, which are in order, as the FCI of a generic NACK (RFC 4585 §6.2.1).
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
