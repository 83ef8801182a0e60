//! RTP timestamps of the video track (RFC 3550 §5.1).
//!
//! They follow the monotonic clock, so the intervals between pictures are correct even if the wall clock is changed. A
//! pause of more than half the range of the counter (6.6 hours) is shortened to half the range, so that every
//! receiver recognizes the next picture as newer.

use std::time::{Duration, Instant};

/// Maximum age of a picture when it reaches the track; a larger age means that the wall clock was changed.
const MAX_AGE: Duration = Duration::from_secs(10);

/// The maximum step of the timestamp, ticks. A larger one would look like a step back.
const MAX_STEP: u64 = (1 << 31) - 1;

/// The timestamps of one track, 90 kHz (RFC 6184 §5.1).
pub(super) struct Timestamps {
    epoch: Instant,
    /// Ticks since `epoch`, and the timestamp, of the last picture.
    last: (u64, u32),
}

impl Timestamps {
    /// Timestamps that start approximately at `first`.
    pub(super) fn new(first: u32, now: Instant) -> Self {
        Self { epoch: now, last: (0, first) }
    }

    /// The timestamp of a picture captured `age` ago. Timestamps always increase.
    pub(super) fn next(&mut self, now: Instant, age: Duration) -> u32 {
        let since = now.saturating_duration_since(self.epoch).saturating_sub(age.min(MAX_AGE));
        let ticks = since.as_secs() * 90_000 + u64::from(since.subsec_nanos()) * 9 / 100_000;
        let (before, timestamp) = self.last;
        let step = ticks.saturating_sub(before).clamp(1, MAX_STEP);
        self.last = (ticks.max(before), timestamp.wrapping_add(step as u32));
        self.last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_follow_the_monotonic_clock_and_increase() {
        let start = Instant::now();
        let mut timestamps = Timestamps::new(u32::MAX - 5, start);
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let first = timestamps.next(at(20.0), Duration::ZERO);
        assert_eq!(timestamps.next(at(20.0), Duration::ZERO), first.wrapping_add(1));
        let later = timestamps.next(at(23.5), Duration::from_millis(100));
        assert_eq!(later.wrapping_sub(first), 306_001);
        // The wall clock was set forward by a day between capture and sending.
        let set = timestamps.next(at(27.0), Duration::from_hours(24));
        assert_eq!(set.wrapping_sub(later), 1);
        let next = timestamps.next(at(30.5), Duration::ZERO);
        assert_eq!(next.wrapping_sub(first), 945_002);
        // 13 hours of silence, nearly the whole range; then the intervals are correct again.
        let after = timestamps.next(at(30.5 + 13.0 * 3600.0), Duration::ZERO);
        assert_eq!(after.wrapping_sub(next), (1 << 31) - 1);
        let last = timestamps.next(at(34.0 + 13.0 * 3600.0), Duration::ZERO);
        assert_eq!(last.wrapping_sub(after), 315_000);
    }
}
