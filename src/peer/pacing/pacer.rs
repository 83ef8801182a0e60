//! When the next packet may leave: a bucket that fills at the send rate.
//!
//! Timers wake a millisecond or more late. The pacer catches up on missed packets, within bounds: a burst must fit
//! into the 64 KB that a browser or a phone reserves for its socket, and must not hold up control messages on a
//! slow link.

use std::time::{Duration, Instant};

/// Size of a full packet on the wire, bytes.
pub const PACKET_BYTES: f64 = 1250.0;

/// Maximum time to catch up on: a ping may wait this long behind the burst.
const MAX_SLACK: Duration = Duration::from_millis(10);

/// Maximum number of packets to catch up on: 30 KB. The 64 KB of a socket hold 57, as Linux counts them.
const BURST_PACKETS: f64 = 24.0;

/// Releases packets at a given rate.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// When the next packet is due.
    next: Instant,
}

impl Pacer {
    /// A pacer that lets a packet leave immediately.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// Discards both debt and credit: the next packet may leave at `at`.
    pub fn reset(&mut self, at: Instant) {
        self.next = at;
    }

    /// Lets a packet of this many bytes leave at this many bits per second, or returns when to ask again.
    pub fn poll(&mut self, now: Instant, bytes: usize, rate: f64) -> Option<Instant> {
        if self.next > now {
            return Some(self.next);
        }
        let earliest = now.checked_sub(slack(rate)).unwrap_or(now);
        self.next = self.next.max(earliest) + time(bytes as f64, rate);
        None
    }
}

/// Duration of a packet of this many bytes at this many bits per second.
#[must_use]
pub fn time(bytes: f64, rate: f64) -> Duration {
    Duration::from_secs_f64(bytes * 8.0 / rate.max(1.0))
}

fn slack(rate: f64) -> Duration {
    time(BURST_PACKETS * PACKET_BYTES, rate).min(MAX_SLACK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends everything that may leave at each wake; returns when each packet left.
    fn run(rate: f64, wakes: impl IntoIterator<Item = Duration>) -> Vec<Duration> {
        let begin = Instant::now();
        let mut pacer = Pacer::new(begin);
        let mut left = Vec::new();
        for wake in wakes {
            while pacer.poll(begin + wake, 1250, rate).is_none() {
                left.push(wake);
            }
        }
        left
    }

    #[test]
    fn the_rate_is_kept_even_when_wakes_are_late() {
        // 5 packets a millisecond, polled every 1.7 ms.
        let wakes = (0..1000).map(|n| Duration::from_micros(1700 * n));
        let left = run(50e6, wakes);
        assert!((8490..=8520).contains(&left.len()), "{}", left.len());
        // One every 5 ms.
        let left = run(2e6, (0..1000).map(Duration::from_millis));
        assert_eq!(left.len(), 200);
        assert!(
            left.windows(2).all(|two| two[1].saturating_sub(two[0]) == Duration::from_millis(5))
        );
    }

    #[test]
    fn reset_discards_debt_and_credit() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        assert_eq!(pacer.poll(now, 1250, 1e6), None);
        let due = pacer.poll(now, 1250, 1e6).unwrap();
        assert_eq!(due, now + Duration::from_millis(10));
        pacer.reset(now);
        assert_eq!(pacer.poll(now, 1250, 1e6), None);
    }

    proptest! {
        #[test]
        fn bursts_are_small_and_the_rate_is_not_exceeded(
            rate in 1e5..1e9_f64,
            gaps in prop::collection::vec(0..40_000_u64, 1..400),
        ) {
            let mut at = 0;
            let wakes: Vec<_> = gaps.iter().map(|gap| { at += gap; Duration::from_micros(at) }).collect();
            let left = run(rate, wakes.iter().copied());
            let max = (slack(rate).as_secs_f64() * rate / 10_000.0).ceil() as usize + 1;
            for burst in left.chunk_by(|a, b| a == b) {
                prop_assert!(burst.len() <= max, "{} in one burst, {max} allowed", burst.len());
                prop_assert!(burst.len() <= 26, "{} packets may not fit into 64 KB", burst.len());
            }
            let carried = at as f64 / 1e6 * rate / 10_000.0 + max as f64;
            prop_assert!(left.len() as f64 <= carried + 1.0, "{} of {carried}", left.len());
        }
    }
}
