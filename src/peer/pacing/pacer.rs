//! When the next packet may leave: a bucket that fills at the rate.
//!
//! Timers wake a millisecond or more late. What was missed is caught up with, within bounds: a burst must
//! fit into the 64 KB that a browser or a phone keeps for its socket, and must not hold up control
//! messages on a slow link.

use std::time::{Duration, Instant};

/// Bytes on the wire of a full packet.
pub const PACKET_BYTES: f64 = 1250.0;

/// Time that is caught up with at most: what a ping waits for behind it.
const MOST_SLACK: Duration = Duration::from_millis(10);

/// Packets that are caught up with at most: 30 KB. The 64 KB of a socket hold 57, as Linux counts them.
const BURST_PACKETS: f64 = 24.0;

/// Lets packets leave at a rate.
#[derive(Debug, Clone)]
pub struct Pacer {
    /// When the next packet is due.
    next: Instant,
}

impl Pacer {
    /// A pacer that lets a packet go now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { next: now }
    }

    /// Forgets what is owed and what was missed: the next packet may leave at `at`.
    pub fn reset(&mut self, at: Instant) {
        self.next = at;
    }

    /// Takes a packet of that many bytes at that many bits a second, or says when to ask again.
    pub fn poll(&mut self, now: Instant, bytes: usize, rate: f64) -> Option<Instant> {
        if self.next > now {
            return Some(self.next);
        }
        let earliest = now.checked_sub(slack(rate)).unwrap_or(now);
        self.next = self.next.max(earliest) + time(bytes as f64, rate);
        None
    }
}

/// How long a packet of that many bytes takes at that many bits a second.
#[must_use]
pub fn time(bytes: f64, rate: f64) -> Duration {
    Duration::from_secs_f64(bytes * 8.0 / rate.max(1.0))
}

fn slack(rate: f64) -> Duration {
    time(BURST_PACKETS * PACKET_BYTES, rate).min(MOST_SLACK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sends whatever may leave at each wake; gives when each packet left.
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
    fn the_rate_is_kept_although_wakes_are_late() {
        // 5 packets a millisecond, looked at every 1.7 ms.
        let wakes = (0..1000).map(|n| Duration::from_micros(1700 * n));
        let left = run(50e6, wakes);
        assert!((8490..=8520).contains(&left.len()), "{}", left.len());
        // One each 5 ms.
        let left = run(2e6, (0..1000).map(Duration::from_millis));
        assert_eq!(left.len(), 200);
        assert!(
            left.windows(2).all(|two| two[1].saturating_sub(two[0]) == Duration::from_millis(5))
        );
    }

    #[test]
    fn what_is_owed_and_missed_can_be_forgotten() {
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
        fn no_burst_is_large_and_no_second_too_full(
            rate in 1e5..1e9_f64,
            gaps in prop::collection::vec(0..40_000_u64, 1..400),
        ) {
            let mut at = 0;
            let wakes: Vec<_> = gaps.iter().map(|gap| { at += gap; Duration::from_micros(at) }).collect();
            let left = run(rate, wakes.iter().copied());
            let most = (slack(rate).as_secs_f64() * rate / 10_000.0).ceil() as usize + 1;
            for burst in left.chunk_by(|a, b| a == b) {
                prop_assert!(burst.len() <= most, "{} at once, {most} allowed", burst.len());
                prop_assert!(burst.len() <= 26, "{} packets may not fit into 64 KB", burst.len());
            }
            let carried = at as f64 / 1e6 * rate / 10_000.0 + most as f64;
            prop_assert!(left.len() as f64 <= carried + 1.0, "{} of {carried}", left.len());
        }
    }
}
