//! One direction of a link: decides for each packet when it is delivered, or that it is lost. No I/O; the
//! time is passed in, and is monotonic.
//!
//! A packet passes, in this order: loss, independent or in bursts; a queue that is drained at the rate; and
//! the path, with delay and jitter. As in `tc netem`, a lost packet takes no room in the queue, and jitter
//! reorders packets. Every packet consumes two random numbers regardless of the settings, so that the same packets
//! are lost when only the delay is changed.

use std::time::Duration;

use super::random::Random;
use crate::nat::{LinkSettings, Queue};

/// IPv4 and UDP headers in bytes: the rate counts IP packets.
const HEADER_BYTES: u64 = 28;

/// TCP payload per packet in bytes.
const SEGMENT_BYTES: usize = 1460;

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is delivered at this time.
    Due(Duration),
    /// It is lost in transit.
    Lost,
    /// It is dropped because the queue is full.
    Overflow,
}

/// The state of one direction of a [`LinkSettings`].
#[derive(Debug, Clone)]
pub struct LinkQueue {
    link: LinkSettings,
    random: Random,
    /// Number of packets that the current burst will still drop.
    burst_left: u32,
    /// When the last queued packet leaves the queue.
    free_at: Duration,
}

impl LinkQueue {
    /// An idle link; `direction` gives the two directions of one seed different losses.
    #[must_use]
    pub fn new(link: LinkSettings, seed: u64, direction: &str) -> Self {
        let random = Random::new(seed, direction);
        Self { link, random, burst_left: 0, free_at: Duration::ZERO }
    }

    /// Changes the link for subsequent packets.
    pub fn set_link(&mut self, link: LinkSettings) {
        self.link = link;
        self.burst_left = 0;
    }

    /// Whether the next packet is lost. Bursts start just often enough to keep the loss rate: of every
    /// `N + (1 - p) / p` packets, where `p` is the probability that one starts, `N` are lost.
    fn loses(&mut self) -> bool {
        let chance = self.random.share();
        if self.burst_left > 0 {
            self.burst_left -= 1;
            return true;
        }
        let (loss, burst) = (self.link.loss, self.link.loss_burst.max(1));
        let begins = loss / (loss + f64::from(burst) * (1.0 - loss));
        let lost = chance < begins;
        if lost {
            self.burst_left = burst - 1;
        }
        lost
    }

    /// The fate of a datagram with this many bytes of payload.
    pub fn send(&mut self, now: Duration, bytes: usize) -> Fate {
        let (lost, jitter) = (self.loses(), self.random.share());
        if lost {
            return Fate::Lost;
        }
        match self.enqueue(now, bytes, true) {
            Some(sent) => Fate::Due(sent + self.link.delay + self.link.jitter.mul_f64(jitter)),
            None => Fate::Overflow,
        }
    }

    /// When this many bytes of a TCP stream are delivered. TCP repairs loss and keeps order: a lost segment
    /// costs one more round trip of this link, and the writer blocks instead of overflowing the queue.
    pub fn send_stream(&mut self, now: Duration, bytes: usize) -> Duration {
        let segments = bytes.div_ceil(SEGMENT_BYTES);
        let (mut lost, mut jitter) = (false, 0.0_f64);
        for _ in 0..segments {
            lost |= self.loses();
            jitter = jitter.max(self.random.share());
        }
        let sent = self.enqueue(now, bytes, false).unwrap_or(now);
        let repair = if lost { 2 * self.link.delay } else { Duration::ZERO };
        sent + self.link.delay + repair + self.link.jitter.mul_f64(jitter)
    }

    /// When the last bit leaves the queue; `None` if the queue is full.
    fn enqueue(&mut self, now: Duration, bytes: usize, bounded: bool) -> Option<Duration> {
        let Some(rate) = self.link.rate else { return Some(now) };
        let rate = rate.max(1) as f64;
        let size = bytes as u64 + HEADER_BYTES;
        let begin = self.free_at.max(now);
        let waiting = begin.saturating_sub(now).as_secs_f64() * rate / 8.0;
        if bounded && waiting + size as f64 > self.capacity() as f64 {
            return None;
        }
        self.free_at = begin + Duration::from_secs_f64(size as f64 * 8.0 / rate);
        Some(self.free_at)
    }

    /// Queue size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        let rate = self.link.rate.unwrap_or_default();
        self.link.queue.unwrap_or_else(|| Queue::of_router(rate)).bytes(rate)
    }
}

#[cfg(test)]
#[path = "link/tests.rs"]
mod tests;
