//! What limits the delivery of keyframes: the sender's pace, the path, or loss; and what the path carries,
//! as far as the receiver can know.
//!
//! Three things show it, the surest first:
//! 1. Pings that share the path with a keyframe. Where packets come faster than the path carries them, they
//!    queue, and so does a ping among them: its round trip is longer than an idle one. Where the sender
//!    holds them back, it is not.
//! 2. Bursts: what the path carried within them is a lower bound (see [`super::delivery`]).
//! 3. What a keyframe shortly before showed that arrived at about the same rate.
//!
//! Where none of them decides, the limit is unknown, and of the path only the rate of the keyframe itself
//! is known, as a lower bound.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::delivery::{Delivery, median};

/// A keyframe that arrives within this time needs no one's attention.
pub const FAST: Duration = Duration::from_millis(30);

/// A keyframe that takes at most so many times what the path's rate asks for is limited by the path.
pub const NEAR: f64 = 1.5;

/// Highest rate that is claimed of a path, bits/s: beyond, the spacing of packets is that of the receiver's reads.
pub const HIGHEST_CLAIM: u64 = 100_000_000;

/// How much a round trip may differ from an idle one for other reasons than a queue, at least.
const NOISE: Duration = Duration::from_millis(8);

/// Keyframes back that what a keyframe showed of the path is valid for: paths change.
const MEMORY: usize = 8;

/// Round trips of idle moments that are needed to know what an idle one takes.
const FEWEST_IDLE: usize = 3;

/// Keyframes that arrive at the same time, at most.
const OVERLAPPING: usize = 4;

/// Interval of libwebrtc's pacer, with the jitter of timers and of a path.
const LIBWEBRTC_BURSTS: [Duration; 2] = [Duration::from_millis(34), Duration::from_millis(56)];

/// A keyframe that arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Arrival of its first packet.
    pub first: Instant,
    /// How it arrived.
    pub delivery: Delivery,
    /// Bytes of the access unit.
    pub bytes: u64,
    /// Pixels of the picture; none where they are not known.
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

/// Which end sends the pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PingedBy {
    /// The receiver of the keyframes: the answers share the path with them.
    Receiver,
    /// The sender of the keyframes: the pings share the path with them.
    Sender,
}

/// What the delivery of a keyframe is limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// By nothing that matters: it took less than [`FAST`].
    None,
    /// The pace of the sender.
    Sender,
    /// The rate of the path.
    Path,
    /// Loss: most of the time was spent on retransmissions.
    Loss,
    /// It cannot be told.
    Unknown,
}

/// What is known of the rate of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRate {
    /// Bits/s of IP packets.
    pub bits_per_second: u64,
    /// It may carry more: this much was seen.
    pub at_least: bool,
}

/// What is concluded of one keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What limits it.
    pub limit: Limit,
    /// Whether pings or its duration show it; else its packets make it likely.
    pub sure: bool,
    /// What the path carries; none when not even this keyframe has a rate.
    pub path: Option<PathRate>,
    /// It came in bursts as libwebrtc's pacer sends them.
    pub libwebrtc: bool,
}

impl Judged {
    /// How long the bytes of a keyframe take at the path's rate, at most: the path may carry more.
    #[must_use]
    pub fn least(&self, delivery: &Delivery) -> Option<Duration> {
        let rate = self.path?.bits_per_second;
        Duration::try_from_secs_f64(delivery.bytes as f64 * 8.0 / rate as f64).ok()
    }
}

/// What pings say of a queue while a keyframe arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// There was one.
    Seen,
    /// There was none, where it would have been seen.
    Absent,
    /// No ping shows it.
    Unknown,
}

/// Idle round trips: the median, and what they differ by.
#[derive(Debug, Clone, Copy)]
struct Idle {
    median: Duration,
    noise: Duration,
}

/// Judges the keyframes of one connection, in the order they arrived.
#[must_use]
pub fn judge(seen: &[Seen], round_trips: &[RoundTrip], pinged_by: PingedBy) -> Vec<Judged> {
    let mut trips = round_trips.to_vec();
    trips.sort_unstable_by_key(|trip| trip.sent);
    let idle = idle(seen, &trips);
    let queue =
        |one: &Seen| idle.map_or(Queue::Unknown, |idle| queue(one, &trips, pinged_by, idle));
    let queues: Vec<Queue> = seen.iter().map(queue).collect();
    let shown: Vec<Option<PathRate>> =
        seen.iter().zip(&queues).map(|(one, queue)| shown(&one.delivery, *queue)).collect();
    seen.iter()
        .zip(&queues)
        .enumerate()
        .map(|(at, (one, queue))| {
            let earlier = shown[at.saturating_sub(MEMORY)..at].iter().rev().flatten();
            let own = one.delivery.rate.unwrap_or_default() as f64;
            // A rate that is far from this keyframe's says nothing of it: the path may have changed.
            let alike = |rate: &&PathRate| {
                let ratio = rate.bits_per_second as f64 / own;
                !rate.at_least && (1.0 / NEAR..=NEAR).contains(&ratio)
            };
            let known = shown[at].or_else(|| earlier.copied().find(|rate| alike(&rate)));
            conclude(&one.delivery, *queue, known)
        })
        .collect()
}

/// What idle round trips take: those that share no moment with a keyframe.
fn idle(seen: &[Seen], trips: &[RoundTrip]) -> Option<Idle> {
    let alone = |trip: &&RoundTrip| {
        let begun = seen.partition_point(|one| one.first <= trip.sent + trip.took);
        let last = &seen[begun.saturating_sub(OVERLAPPING)..begun];
        last.iter().all(|one| trip.sent > one.first + one.delivery.spread)
    };
    let mut times: Vec<Duration> = trips.iter().filter(alone).map(|trip| trip.took).collect();
    times.sort_unstable();
    let [middle, high] = [times.len() / 2, times.len() * 9 / 10];
    let middle = *times.get(middle).filter(|_| times.len() >= FEWEST_IDLE)?;
    let scatter = times.get(high)?.saturating_sub(middle);
    Some(Idle { median: middle, noise: NOISE.max(scatter * 2) })
}

/// What the pings within a keyframe say.
///
/// Sent at more than the path carries, packets wait longer the later they are sent, until the last one is: after
/// it a ping waits for what is left. So a ping that would reach the receiver `after` the first packet and
/// `before` the last is late by a share of the smaller one of the two.
fn queue(one: &Seen, trips: &[RoundTrip], pinged_by: PingedBy, idle: Idle) -> Queue {
    // A burst makes a queue for as long as it takes, also where the path is idle between bursts.
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
        // At a fourth more than the path carries.
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
        _ if with >= without => Queue::Seen,
        _ => Queue::Absent,
    }
}

/// What a keyframe shows of the path by itself.
fn shown(delivery: &Delivery, queue: Queue) -> Option<PathRate> {
    let rate = |bits: u64, at_least| PathRate {
        bits_per_second: bits.min(HIGHEST_CLAIM),
        at_least: at_least || bits > HIGHEST_CLAIM,
    };
    match (queue, delivery.bursts) {
        (Queue::Seen, _) => {
            let own = delivery.rate?;
            // Where the sender holds back now and then, the path is not always busy.
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

fn conclude(delivery: &Delivery, queue: Queue, known: Option<PathRate>) -> Judged {
    let own = delivery.rate.map(|bits| bits.min(HIGHEST_CLAIM));
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
            (Queue::Seen, _) => (Limit::Path, true),
            (_, Some(true)) => (Limit::Path, false),
            (Queue::Absent, _) => (Limit::Sender, true),
            (Queue::Unknown, Some(false)) => (Limit::Sender, false),
            (Queue::Unknown, None) => (Limit::Unknown, false),
        }
    };
    Judged { limit, sure, path, libwebrtc }
}

/// What is concluded of many keyframes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overall {
    /// Keyframes that were looked at.
    pub of: u64,
    /// What limits the most of those of which it is known.
    pub limit: Limit,
    /// How many are limited so.
    pub count: u64,
    /// Whether it is sure of one of them at least.
    pub sure: bool,
    /// Median of the time from the first packet to the last, of those.
    pub spread: Duration,
    /// Median rate of those, bits/s.
    pub rate: Option<u64>,
    /// Median of what the path carries.
    pub path: Option<PathRate>,
    /// Median of how long one of those takes at the path's rate.
    pub least: Option<Duration>,
    /// Median time that retransmissions took of the spread.
    pub repair: Duration,
    /// Most of those came in bursts as libwebrtc's pacer sends them.
    pub libwebrtc: bool,
    /// Median size of all access units, bytes.
    pub bytes: u64,
    /// Median of the pixels of all pictures, where they are known.
    pub pixels: Option<u64>,
}

/// Sums up; none of nothing.
#[must_use]
pub fn sum_up<'k>(keyframes: impl IntoIterator<Item = (&'k Seen, &'k Judged)>) -> Option<Overall> {
    let all: Vec<(&Seen, &Judged)> = keyframes.into_iter().collect();
    let having = |limit| all.iter().filter(|(_, judged)| judged.limit == limit).count();
    let limits = [Limit::None, Limit::Loss, Limit::Path, Limit::Sender];
    let limit = limits.into_iter().max_by_key(|limit| having(*limit))?;
    let limit = if having(limit) > 0 { limit } else { Limit::Unknown };
    let mut those = all.clone();
    those.retain(|(_, judged)| judged.limit == limit);
    let (deliveries, judged): (Vec<&Delivery>, Vec<&Judged>) =
        those.into_iter().map(|(seen, judged)| (&seen.delivery, judged)).unzip();
    let times =
        |of: fn(&Delivery) -> Duration| median(deliveries.iter().map(|one| of(one)).collect());
    let path = median(judged.iter().filter_map(|judged| judged.path).map(ordered).collect());
    let path = path.map(|(bits_per_second, at_least)| PathRate { bits_per_second, at_least });
    let least = deliveries.iter().zip(&judged).filter_map(|(one, judged)| judged.least(one));
    Some(Overall {
        of: all.len() as u64,
        limit,
        count: judged.len() as u64,
        sure: judged.iter().any(|judged| judged.sure),
        spread: times(|delivery| delivery.spread)?,
        rate: median(deliveries.iter().filter_map(|delivery| delivery.rate).collect()),
        path,
        least: median(least.collect()),
        repair: times(Delivery::repair)?,
        libwebrtc: judged.iter().filter(|judged| judged.libwebrtc).count() * 2 > judged.len(),
        bytes: median(all.iter().map(|(seen, _)| seen.bytes).collect())?,
        pixels: median(all.iter().filter_map(|(seen, _)| seen.pixels).collect()),
    })
}

fn ordered(rate: PathRate) -> (u64, bool) {
    (rate.bits_per_second, rate.at_least)
}

#[cfg(test)]
#[path = "bottleneck/tests.rs"]
mod tests;
