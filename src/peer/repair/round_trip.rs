//! The round-trip time that repair waits by, smoothed as in RFC 6298.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Taken before anything was measured: a long way, for a question asked too often costs packets.
const UNKNOWN: Duration = Duration::from_millis(150);

/// Least room above the smoothed time: timers, and the time the other side takes.
const MARGIN: Duration = Duration::from_millis(10);

/// Longest wait for an answer.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// A wait is made longer without a measurement only up to this: on a way that loses nearly everything
/// unclear answers are all there is.
const MAX_GUESS: Duration = Duration::from_millis(300);

/// A round-trip time measured elsewhere (by ICE), for as long as repair has no measurement of its own.
/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct RoundTripHint(Arc<AtomicU64>);

impl RoundTripHint {
    /// Sets it.
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
    hint: RoundTripHint,
    /// Smoothed time and mean deviation.
    measured: Option<(Duration, Duration)>,
}

impl RoundTrip {
    pub(super) fn new(hint: RoundTripHint) -> Self {
        Self { hint, measured: None }
    }

    /// Whether repair has measured it itself.
    pub(super) fn is_measured(&self) -> bool {
        self.measured.is_some()
    }

    /// Whether it is more than a guess.
    pub(super) fn is_known(&self) -> bool {
        self.is_measured() || self.hint.get().is_some()
    }

    /// Takes a measurement. One that is longer than any wait says no more than that: a machine may have slept.
    pub(super) fn sample(&mut self, sample: Duration) {
        let sample = sample.min(MAX_TIMEOUT);
        self.measured = Some(match self.measured {
            // The first deviation is a guess: half, as RFC 6298 has it, would wait for three times.
            None => (sample, sample / 8),
            Some((smoothed, deviation)) => {
                let off = smoothed.abs_diff(sample);
                ((smoothed * 7 + sample) / 8, (deviation * 3 + off) / 4)
            }
        });
    }

    /// No answer came in time although there was one: twice as long, but not longer than `at_most`.
    pub(super) fn back_off(&mut self, at_most: Duration) {
        let longer = (self.smoothed() * 2).min(at_most).min(MAX_GUESS).max(self.smoothed());
        self.measured = Some((longer, longer / 8));
    }

    /// The best guess.
    pub(super) fn smoothed(&self) -> Duration {
        self.measured.map(|(smoothed, _)| smoothed).or_else(|| self.hint.get()).unwrap_or(UNKNOWN)
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
    fn a_steady_way_is_waited_for_a_tenth_longer() {
        let mut time = RoundTrip::default();
        assert_eq!(time.smoothed(), UNKNOWN);
        for _ in 0..50 {
            time.sample(200 * MS);
        }
        assert_eq!(time.smoothed(), 200 * MS);
        assert_eq!(time.timeout(), 220 * MS);
    }

    #[test]
    fn a_hint_counts_until_something_was_measured() {
        let hint = RoundTripHint::default();
        let mut time = RoundTrip::new(hint.clone());
        hint.set(30 * MS);
        assert_eq!((time.smoothed(), time.timeout()), (30 * MS, 40 * MS));
        time.sample(80 * MS);
        assert_eq!(time.smoothed(), 80 * MS);
    }

    #[test]
    fn a_machine_that_slept_does_not_spoil_it() {
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
    fn unclear_answers_make_it_longer_but_not_without_bound() {
        let mut time = RoundTrip::default();
        time.sample(50 * MS);
        time.back_off(90 * MS);
        assert_eq!(time.smoothed(), 90 * MS);
        time.back_off(10 * MS);
        assert_eq!(time.smoothed(), 90 * MS);
    }
}
