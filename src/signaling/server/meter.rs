//! Duration histograms with fixed bounds, and the state of the pair store.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::pairs::StoreError;

/// Upper bounds of the buckets, in seconds; longer durations count in `+Inf` only.
pub const BOUNDS: [f64; 12] =
    [0.000_1, 0.000_25, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0];

/// A histogram of durations, in the form of Prometheus.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    nanos: AtomicU64,
}

/// A snapshot of [`Durations`].
#[derive(Debug, Clone, PartialEq)]
pub struct DurationsRead {
    /// Number of durations up to each bound in [`BOUNDS`].
    pub cumulative: [u64; BOUNDS.len()],
    /// Number of durations.
    pub count: u64,
    /// Sum of the durations, in seconds.
    pub sum: f64,
}

impl Durations {
    /// Adds a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a snapshot.
    #[must_use]
    pub fn read(&self) -> DurationsRead {
        let mut total = 0;
        let cumulative = std::array::from_fn(|at| {
            total += self.buckets[at].load(Ordering::Relaxed);
            total
        });
        DurationsRead {
            cumulative,
            // A concurrent `observe` may have updated a bucket but not yet the count.
            count: self.count.load(Ordering::Relaxed).max(total),
            sum: self.nanos.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

/// Latency and state of the pair store, as observed by its callers.
#[derive(Debug, Default)]
pub struct StoreMeter {
    /// Durations of all operations, including failed ones.
    pub durations: Durations,
    /// Number of failed operations.
    pub errors: AtomicU64,
    down: AtomicBool,
}

impl StoreMeter {
    /// Runs an operation of the store and counts it.
    ///
    /// # Errors
    /// The error of the operation.
    pub async fn watch<T>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let result = operation.await;
        self.durations.observe(started.elapsed());
        if result.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let outage = result.as_ref().err().filter(|error| error.is_outage());
        let was_down = self.down.swap(outage.is_some(), Ordering::Relaxed);
        match (outage, was_down) {
            (Some(error), false) => tracing::error!(%error, "the pair store is down"),
            (None, true) => tracing::info!("the pair store is up again"),
            _ => {}
        }
        result
    }

    /// Whether the store is up: the latest operation did not fail with an outage.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let durations = Durations::default();
        for ms in [0, 1, 3, 60_000] {
            durations.observe(Duration::from_millis(ms));
        }
        let read = durations.read();
        assert_eq!(read.count, 4);
        assert_eq!(read.cumulative[0], 1);
        assert_eq!(read.cumulative[2], 2, "the bound is included in its bucket");
        assert_eq!(read.cumulative[BOUNDS.len() - 1], 3);
        assert!((read.sum - 60.004).abs() < 1e-6, "{}", read.sum);
    }

    #[tokio::test]
    async fn the_store_is_up_again_after_any_response() {
        let meter = StoreMeter::default();
        let broken = StoreError::Query { operation: "read", cause: "gone".into() };
        assert!(meter.watch(async { Err::<(), _>(broken) }).await.is_err());
        assert!(!meter.is_up());
        assert!(
            meter.watch(async { Err::<(), _>(StoreError::value("read", "NUL")) }).await.is_err()
        );
        assert!(meter.is_up(), "the store answered, with an error");
        assert_eq!(meter.watch(async { Ok(7) }).await.unwrap(), 7);
        assert!(meter.is_up());
        assert_eq!((meter.durations.read().count, meter.errors.load(Ordering::Relaxed)), (3, 2));
    }
}
