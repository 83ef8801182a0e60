//! The round-trip time that repair uses for its timeouts, smoothed as in RFC 6298.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Assumed before any measurement: high, because requests that are too frequent cost packets.
const UNKNOWN: Duration = Duration::from_millis(150);

/// Minimum margin above the smoothed time, for timers and the peer's processing time.
const MARGIN: Duration = Duration::from_millis(10);

/// Maximum wait for an answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// Without a measurement, a timeout grows only up to this: on a path that loses nearly everything, all answers are
/// ambiguous.
const MAX_GUESS: Duration = Duration::from_millis(300);

/// A round-trip time measured elsewhere (by ICE), used until repair has a measurement of its own. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct RttSeed(Arc<AtomicU64>);

impl RttSeed {
    /// Sets the round-trip time.
    pub fn set(&self, round_trip: Duration) {
        self.0.store(round_trip.as_micros() as u64, Ordering::Relaxed);
    }

    fn get(&self) -> Option<Duration> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }
}

/// A smoothed round-trip time.
#[derive(Debug, Clone, Default)]
pub(super) struct RoundTrip {
    seed: RttSeed,
    /// Smoothed time and mean deviation.
    measured: Option<(Duration, Duration)>,
}

impl RoundTrip {
    pub(super) fn new(seed: RttSeed) -> Self {
        Self { seed, measured: None }
    }

    /// Whether repair itself has measured the time.
    pub(super) fn is_measured(&self) -> bool {
        self.measured.is_some()
    }

    /// Whether the time is known, by measurement or from the seed.
    pub(super) fn is_known(&self) -> bool {
        self.is_measured() || self.seed.get().is_some()
    }

    /// Adds a measurement, limited to the maximum wait: a machine may have slept.
    pub(super) fn sample(&mut self, sample: Duration) {
        let sample = sample.min(MAX_TIMEOUT);
        self.measured = Some(match self.measured {
            // The first deviation is a guess: half, as in RFC 6298, would triple the wait.
            None => (sample, sample / 8),
            Some((smoothed, deviation)) => {
                let off = smoothed.abs_diff(sample);
                ((smoothed * 7 + sample) / 8, (deviation * 3 + off) / 4)
            }
        });
    }

    /// Doubles the time, up to `at_most`: an answer arrived, but too late.
    pub(super) fn back_off(&mut self, at_most: Duration) {
        let longer = (self.smoothed() * 2).min(at_most).min(MAX_GUESS).max(self.smoothed());
        self.measured = Some((longer, longer / 8));
    }

    /// The best estimate.
    pub(super) fn smoothed(&self) -> Duration {
        self.measured.map(|(smoothed, _)| smoothed).or_else(|| self.seed.get()).unwrap_or(UNKNOWN)
    }

    /// How long to wait for an answer.
    pub(super) fn timeout(&self) -> Duration {
        let smoothed = self.smoothed();
        let deviation = self.measured.map_or(Duration::ZERO, |(_, deviation)| deviation);
        (smoothed + MARGIN.max(smoothed / 10).max(deviation * 4)).min(MAX_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_path_adds_a_tenth_to_the_timeout() {
        let mut time = RoundTrip::default();
        assert_eq!(time.smoothed(), UNKNOWN);
        for _ in 0..50 {
            time.sample(200 * MS);
        }
        assert_eq!(time.smoothed(), 200 * MS);
        assert_eq!(time.timeout(), 220 * MS);
    }

    #[test]
    fn the_seed_is_used_until_the_first_measurement() {
        let seed = RttSeed::default();
        let mut time = RoundTrip::new(seed.clone());
        seed.set(30 * MS);
        assert_eq!((time.smoothed(), time.timeout()), (30 * MS, 40 * MS));
        time.sample(80 * MS);
        assert_eq!(time.smoothed(), 80 * MS);
    }

    #[test]
    fn a_machine_that_slept_does_not_distort_the_estimate() {
        let mut time = RoundTrip::default();
        time.sample(50 * MS);
        time.sample(Duration::from_hours(10));
        assert!(time.smoothed() < 300 * MS, "{:?}", time.smoothed());
        for _ in 0..40 {
            time.sample(50 * MS);
        }
        assert!(time.timeout() < 200 * MS, "{:?}", time.timeout());
    }

    #[test]
    fn ambiguous_answers_extend_the_timeout_within_bounds() {
        let mut time = RoundTrip::default();
        time.sample(50 * MS);
        time.back_off(90 * MS);
        assert_eq!(time.smoothed(), 90 * MS);
        time.back_off(10 * MS);
        assert_eq!(time.smoothed(), 90 * MS);
    }
}
