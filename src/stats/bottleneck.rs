//! Determines what limits the delivery of keyframes (the sender's pace, the path, or loss) and the rate of the path,
//! as far as the receiver can know.
//!
//! There are three indicators, the most reliable first:
//! 1. Pings that share the path with a keyframe. Where packets are sent faster than the path carries them, they
//!    queue, and so does a ping among them: its round trip is longer than an idle one. Where the sender paces them,
//!    it is not.
//! 2. Bursts: the rate within them is a lower bound (see [`super::delivery`]).
//! 3. The result of a recent keyframe that arrived at about the same rate.
//!
//! If none of them decides, the limit is unknown, and the rate of the keyframe itself is a lower bound for the path.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::delivery::{Delivery, median};

/// A keyframe that arrives within this time needs no attention.
pub const FAST: Duration = Duration::from_millis(30);

/// A keyframe that takes at most this many times its duration at the path's rate is limited by the path.
pub const NEAR: f64 = 1.5;

/// Maximum rate reported for a path, bits/s: above it, the spacing of packets is that of the receiver's reads.
pub const MAX_RATE: u64 = 100_000_000;

/// Minimum tolerance for round trips that differ from idle ones for other reasons than a queue.
const NOISE: Duration = Duration::from_millis(8);

/// For how many keyframes an observation of the path remains valid: paths change.
const MEMORY: usize = 8;

/// Minimum number of idle round trips for an estimate of their duration.
const MIN_IDLE: usize = 3;

/// Maximum number of keyframes that arrive concurrently.
const OVERLAPPING: usize = 4;

/// Interval of libwebrtc's pacer, with jitter of timers and path.
const LIBWEBRTC_BURSTS: [Duration; 2] = [Duration::from_millis(34), Duration::from_millis(56)];

/// A keyframe that arrived completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArrivedKeyframe {
    /// Arrival of its first packet.
    pub first: Instant,
    /// How it arrived.
    pub delivery: Delivery,
    /// Bytes of the access unit.
    pub bytes: u64,
    /// Pixels of the picture; none if unknown.
    pub pixels: Option<u64>,
}

/// A ping that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// When it was sent.
    pub sent: Instant,
    /// How long its answer took.
    pub took: Duration,
}

/// The peer that sends the pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingedBy {
    /// The receiver of the keyframes: the answers share the path with them.
    Receiver,
    /// The sender of the keyframes: the pings share the path with them.
    Sender,
}

/// The bottleneck of the delivery of a keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// None that matters: it took less than [`FAST`].
    None,
    /// The pace of the sender.
    Sender,
    /// The rate of the path.
    Path,
    /// Loss: most of the time was spent on retransmissions.
    Loss,
    /// Unknown.
    Unknown,
}

/// The known rate of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRate {
    /// Bits/s of IP packets.
    pub bits_per_second: u64,
    /// Whether this is a lower bound.
    pub at_least: bool,
}

/// The assessment of one keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assessment {
    /// The bottleneck.
    pub limit: Limit,
    /// Whether pings or its duration prove it; otherwise its packets make it likely.
    pub sure: bool,
    /// Rate of the path; none if not even this keyframe has a rate.
    pub path: Option<PathRate>,
    /// Whether it arrived in bursts like those of libwebrtc's pacer.
    pub libwebrtc: bool,
}

impl Assessment {
    /// Upper bound of the time a keyframe takes at the path's rate: the path may be faster.
    #[must_use]
    pub fn least(&self, delivery: &Delivery) -> Option<Duration> {
        let rate = self.path?.bits_per_second;
        Duration::try_from_secs_f64(delivery.bytes as f64 * 8.0 / rate as f64).ok()
    }
}

/// The evidence of pings for a queue while a keyframe arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// There was a queue.
    Present,
    /// There was none, although it would have been visible.
    Absent,
    /// No ping is conclusive.
    Unknown,
}

/// Idle round trips: median and scatter.
#[derive(Debug, Clone, Copy)]
struct Idle {
    median: Duration,
    noise: Duration,
}

/// Assesses the keyframes of one connection, in order of arrival.
#[must_use]
pub fn assess(
    keyframes: &[ArrivedKeyframe],
    round_trips: &[RoundTrip],
    pinged_by: PingedBy,
) -> Vec<Assessment> {
    let mut trips = round_trips.to_vec();
    trips.sort_unstable_by_key(|trip| trip.sent);
    let idle = idle(keyframes, &trips);
    let queue = |one: &ArrivedKeyframe| {
        idle.map_or(Queue::Unknown, |idle| queue(one, &trips, pinged_by, idle))
    };
    let queues: Vec<Queue> = keyframes.iter().map(queue).collect();
    let shown: Vec<Option<PathRate>> =
        keyframes.iter().zip(&queues).map(|(one, queue)| shown(&one.delivery, *queue)).collect();
    keyframes
        .iter()
        .zip(&queues)
        .enumerate()
        .map(|(at, (one, queue))| {
            let earlier = shown[at.saturating_sub(MEMORY)..at].iter().rev().flatten();
            let own = one.delivery.rate.unwrap_or_default() as f64;
            // A rate far from this keyframe's is not applicable: the path may have changed.
            let similar = |rate: &&PathRate| {
                let ratio = rate.bits_per_second as f64 / own;
                !rate.at_least && (1.0 / NEAR..=NEAR).contains(&ratio)
            };
            let known = shown[at].or_else(|| earlier.copied().find(|rate| similar(&rate)));
            conclude(&one.delivery, *queue, known)
        })
        .collect()
}

/// Duration of idle round trips: those that do not overlap with a keyframe.
fn idle(keyframes: &[ArrivedKeyframe], trips: &[RoundTrip]) -> Option<Idle> {
    let alone = |trip: &&RoundTrip| {
        let started = keyframes.partition_point(|one| one.first <= trip.sent + trip.took);
        let last = &keyframes[started.saturating_sub(OVERLAPPING)..started];
        last.iter().all(|one| trip.sent > one.first + one.delivery.spread)
    };
    let mut times: Vec<Duration> = trips.iter().filter(alone).map(|trip| trip.took).collect();
    times.sort_unstable();
    let [middle, high] = [times.len() / 2, times.len() * 9 / 10];
    let middle = *times.get(middle).filter(|_| times.len() >= MIN_IDLE)?;
    let scatter = times.get(high)?.saturating_sub(middle);
    Some(Idle { median: middle, noise: NOISE.max(scatter * 2) })
}

/// The evidence of the pings within a keyframe.
///
/// If packets are sent faster than the path carries them, they wait the longer the later they are sent, up to the
/// last one; a ping after it waits for the rest of the queue. So a ping that would reach the receiver `after` the
/// first packet and `before` the last is delayed by a share of the smaller of the two.
fn queue(one: &ArrivedKeyframe, trips: &[RoundTrip], pinged_by: PingedBy, idle: Idle) -> Queue {
    // A burst causes a queue for its duration even if the path is idle between bursts.
    let own = one.delivery.bursts.map_or(Duration::ZERO, |bursts| bursts.longest);
    let begin = trips.partition_point(|trip| trip.sent + idle.median < one.first);
    let last = one.first + one.delivery.original;
    let (mut with, mut without) = (0, 0);
    for trip in trips[begin..].iter().take_while(|trip| trip.sent <= last) {
        let reaches = match pinged_by {
            PingedBy::Receiver => trip.sent + idle.median,
            PingedBy::Sender => trip.sent + idle.median / 2,
        };
        let after = reaches.saturating_duration_since(one.first);
        let before = last.saturating_duration_since(reaches);
        // For packets sent 25 % faster than the path carries them.
        let due = before.min(after / 4);
        if due < idle.noise {
            continue;
        }
        let late = trip.took.saturating_sub(idle.median + own);
        if late >= idle.noise.max(due / 2) {
            with += 1;
        } else if due >= idle.noise * 2 {
            without += 1;
        }
    }
    match (with, without) {
        (0, 0) => Queue::Unknown,
        _ if with >= without => Queue::Present,
        _ => Queue::Absent,
    }
}

/// The rate of the path that a keyframe shows by itself.
fn shown(delivery: &Delivery, queue: Queue) -> Option<PathRate> {
    let rate = |bits: u64, at_least| PathRate {
        bits_per_second: bits.min(MAX_RATE),
        at_least: at_least || bits > MAX_RATE,
    };
    match (queue, delivery.bursts) {
        (Queue::Present, _) => {
            let own = delivery.rate?;
            // If the sender pauses now and then, the path is not always busy.
            let near = |usual: &u64| (own..=(own as f64 * NEAR) as u64).contains(usual);
            Some(rate(delivery.usual_rate.filter(near).unwrap_or(own), false))
        }
        (_, Some(bursts)) => Some(rate(bursts.rate, true)),
        (_, None) => {
            let fast = delivery.spread < FAST;
            delivery.rate.filter(|_| fast).map(|bits| rate(bits, true))
        }
    }
}

fn conclude(delivery: &Delivery, queue: Queue, known: Option<PathRate>) -> Assessment {
    let own = delivery.rate.map(|bits| bits.min(MAX_RATE));
    let at_least_own = own.map(|bits_per_second| PathRate { bits_per_second, at_least: true });
    let path = known.or(at_least_own);
    let [from, to] = LIBWEBRTC_BURSTS;
    let libwebrtc = delivery.bursts.is_some_and(|bursts| (from..to).contains(&bursts.period));
    let near = known.zip(own).map(|(known, own)| known.bits_per_second as f64 <= own as f64 * NEAR);
    let (limit, sure) = if delivery.spread < FAST {
        (Limit::None, true)
    } else if delivery.repair() > delivery.spread / 2 {
        (Limit::Loss, true)
    } else {
        match (queue, near) {
            (Queue::Present, _) => (Limit::Path, true),
            (_, Some(true)) => (Limit::Path, false),
            (Queue::Absent, _) => (Limit::Sender, true),
            (Queue::Unknown, Some(false)) => (Limit::Sender, false),
            (Queue::Unknown, None) => (Limit::Unknown, false),
        }
    };
    Assessment { limit, sure, path, libwebrtc }
}

/// The assessment of many keyframes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overall {
    /// Number of keyframes assessed.
    pub of: u64,
    /// The most frequent bottleneck among keyframes with a known one.
    pub limit: Limit,
    /// Number of keyframes with that bottleneck.
    pub count: u64,
    /// Whether the bottleneck is certain for at least one of these keyframes.
    pub sure: bool,
    /// Median of the time from the first packet to the last, over these keyframes.
    pub spread: Duration,
    /// Median rate of these keyframes, bits/s.
    pub rate: Option<u64>,
    /// Median rate of the path.
    pub path: Option<PathRate>,
    /// Median of their duration at the path's rate.
    pub least: Option<Duration>,
    /// Median part of the spread due to retransmissions.
    pub repair: Duration,
    /// Whether most of these keyframes arrived in bursts like those of libwebrtc's pacer.
    pub libwebrtc: bool,
    /// Median size of all access units, bytes.
    pub bytes: u64,
    /// Median of the pixels of all pictures, where they are known.
    pub pixels: Option<u64>,
}

/// Summarizes keyframes; `None` if there are no keyframes.
#[must_use]
pub fn summarize<'k>(
    keyframes: impl IntoIterator<Item = (&'k ArrivedKeyframe, &'k Assessment)>,
) -> Option<Overall> {
    let all: Vec<(&ArrivedKeyframe, &Assessment)> = keyframes.into_iter().collect();
    let having = |limit| all.iter().filter(|(_, assessment)| assessment.limit == limit).count();
    let limits = [Limit::None, Limit::Loss, Limit::Path, Limit::Sender];
    let limit = limits.into_iter().max_by_key(|limit| having(*limit))?;
    let limit = if having(limit) > 0 { limit } else { Limit::Unknown };
    let mut those = all.clone();
    those.retain(|(_, assessment)| assessment.limit == limit);
    let (deliveries, assessment): (Vec<&Delivery>, Vec<&Assessment>) =
        those.into_iter().map(|(keyframe, assessment)| (&keyframe.delivery, assessment)).unzip();
    let times =
        |of: fn(&Delivery) -> Duration| median(deliveries.iter().map(|one| of(one)).collect());
    let path =
        median(assessment.iter().filter_map(|assessment| assessment.path).map(ordered).collect());
    let path = path.map(|(bits_per_second, at_least)| PathRate { bits_per_second, at_least });
    let least =
        deliveries.iter().zip(&assessment).filter_map(|(one, assessment)| assessment.least(one));
    Some(Overall {
        of: all.len() as u64,
        limit,
        count: assessment.len() as u64,
        sure: assessment.iter().any(|assessment| assessment.sure),
        spread: times(|delivery| delivery.spread)?,
        rate: median(deliveries.iter().filter_map(|delivery| delivery.rate).collect()),
        path,
        least: median(least.collect()),
        repair: times(Delivery::repair)?,
        libwebrtc: assessment.iter().filter(|assessment| assessment.libwebrtc).count() * 2
            > assessment.len(),
        bytes: median(all.iter().map(|(keyframe, _)| keyframe.bytes).collect())?,
        pixels: median(all.iter().filter_map(|(keyframe, _)| keyframe.pixels).collect()),
    })
}

fn ordered(rate: PathRate) -> (u64, bool) {
    (rate.bits_per_second, rate.at_least)
}

#[cfg(test)]
#[path = "bottleneck/tests.rs"]
mod tests;
