//! A histogram of a measured quantity, and its [`Spread`], the object `H` of the reports:
//! `{count, min, mean, p50, p90, p95, p99, p999, max}`.
//!
//! Percentiles are measured values, by the nearest rank, up to `EXACT` values; beyond that they are accurate to 0.1 %
//! of their value. Minimum, maximum and mean are always exact.

use serde::{Deserialize, Serialize, Serializer};

/// Resolution, parts per unit: a value of 0.42 ms is counted as 420.
const PARTS: f64 = 1000.0;

/// Maximum countable value, in units; larger ones count as this one.
const MAX_COUNTED: f64 = 1e12;

/// Maximum number of values kept individually: 256 KB. Beyond it, the size of a histogram depends on its range only.
const EXACT: usize = 32_768;

/// Recorded values, in any unit.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
    /// All values, as long as there are at most [`EXACT`].
    values: Option<Vec<f64>>,
    min: f64,
    max: f64,
    sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    ///
    /// # Panics
    /// Never: the precision is a valid constant.
    #[must_use]
    pub fn new() -> Self {
        let counts = hdrhistogram::Histogram::new(3).expect("3 digits are between 0 and 5");
        Self { counts, values: Some(Vec::new()), min: f64::INFINITY, max: 0.0, sum: 0.0 }
    }

    /// Counts a value; negative and non-finite values are ignored.
    pub fn record(&mut self, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        // The histogram grows by itself up to u64, and MAX_COUNTED is below it.
        if self.counts.record((value.min(MAX_COUNTED) * PARTS).round() as u64).is_ok() {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sum += value;
            self.keep(&[value]);
        }
    }

    /// Keeps values individually, as long as there are few enough.
    fn keep(&mut self, more: &[f64]) {
        self.values = self.values.take().filter(|kept| kept.len() + more.len() <= EXACT);
        if let Some(kept) = &mut self.values {
            kept.extend_from_slice(more);
        }
    }

    /// Adds all values of `other`.
    pub fn add(&mut self, other: &Self) {
        // It grows by itself up to u64.
        if self.counts.add(&other.counts).is_ok() {
            self.min = self.min.min(other.min);
            self.max = self.max.max(other.max);
            self.sum += other.sum;
            match &other.values {
                Some(values) => self.keep(values),
                None => self.values = None,
            }
        }
    }

    /// Number of counted values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.len()
    }

    /// Minimum; none when empty.
    #[must_use]
    pub fn min(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.min)
    }

    /// Maximum; none when empty.
    #[must_use]
    pub fn max(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.max)
    }

    /// Arithmetic mean; none when empty.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum / self.count() as f64)
    }

    /// The value that a share `quantile` of all values (0.5: half of them) does not exceed; none when empty.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        self.quantiles([quantile])[0]
    }

    /// [`Self::quantile`] for several quantiles.
    fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [Option<f64>; N] {
        let Some(values) = &self.values else {
            return quantiles.map(|quantile| self.approximately(quantile));
        };
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        quantiles.map(|quantile| {
            // Slightly less: 0.95 of 20 is 19, not the 19.000000000000004 of floating point.
            let rank = (quantile * sorted.len() as f64 - 1e-9).ceil().max(1.0) as usize;
            sorted.get(rank - 1).copied()
        })
    }

    fn approximately(&self, quantile: f64) -> Option<f64> {
        let parts = self.counts.value_at_quantile(quantile) as f64;
        (self.count() > 0).then(|| (parts / PARTS).clamp(self.min, self.max))
    }
}

impl Histogram {
    /// The summary for the reports.
    #[must_use]
    pub fn spread(&self) -> Spread {
        let [p50, p90, p95, p99, p999] = self.quantiles([0.5, 0.9, 0.95, 0.99, 0.999]);
        Spread {
            count: self.count(),
            min: self.min(),
            mean: self.mean(),
            p50,
            p90,
            p95,
            p99,
            p999,
            max: self.max(),
        }
    }
}

impl Extend<f64> for Histogram {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.record(value));
    }
}

impl FromIterator<f64> for Histogram {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut histogram = Self::new();
        histogram.extend(values);
        histogram
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.spread().serialize(serializer)
    }
}

/// The object `H` of the reports. All except the count are null when nothing was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Number of values.
    pub count: u64,
    /// Minimum.
    pub min: Option<f64>,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Half of the values do not exceed it.
    pub p50: Option<f64>,
    /// 90 % of the values do not exceed it.
    pub p90: Option<f64>,
    /// 95 % of the values do not exceed it.
    #[serde(default)]
    pub p95: Option<f64>,
    /// 99 % of the values do not exceed it.
    pub p99: Option<f64>,
    /// 99.9 % of the values do not exceed it.
    pub p999: Option<f64>,
    /// Maximum.
    pub max: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_thousand_values() {
        let mut histogram = Histogram::new();
        (1..=1000).for_each(|value| histogram.record(f64::from(value) / 10.0));
        let close = |value: Option<f64>, expected: f64| {
            let value = value.unwrap();
            assert!((value - expected).abs() <= expected * 0.002, "{value} is not {expected}");
        };
        close(histogram.quantile(0.5), 50.0);
        close(histogram.quantile(0.99), 99.0);
        close(histogram.mean(), 50.05);
        assert_eq!((histogram.min(), histogram.max()), (Some(0.1), Some(100.0)));
    }

    #[test]
    fn percentiles_are_measured_values() {
        // Sizes of keyframes: half of 99,680 parts of a byte were 99,680.255 bytes.
        let sizes = [99_680.0, 99_676.0, 99_702.0, 99_688.0];
        let spread = sizes.into_iter().collect::<Histogram>().spread();
        assert_eq!((spread.p50, spread.p95), (Some(99_680.0), Some(99_702.0)));
        let mut twenty: Histogram = (1..=10).map(f64::from).collect();
        twenty.add(&(11..=20).map(f64::from).collect());
        assert_eq!(twenty.quantile(0.95), Some(19.0), "the 19th of 20");
        assert_eq!(twenty.quantile(0.0), Some(1.0));
    }

    #[test]
    fn very_many_values_are_only_counted() {
        let mut many: Histogram = (0..EXACT).map(|value| value as f64).collect();
        assert!(many.values.is_some());
        many.record(5.0);
        assert!(many.values.is_none() && many.count() == EXACT as u64 + 1);
        let p50 = many.quantile(0.5).unwrap();
        assert!((p50 - 16_383.0).abs() < 33.0, "{p50}");
        let mut few: Histogram = [1.0].into_iter().collect();
        few.add(&many);
        assert!(few.values.is_none() && few.max() == Some(32_767.0));
    }

    #[test]
    fn empty_is_written_as_nulls() {
        let json = serde_json::to_value(Histogram::new()).unwrap();
        assert_eq!(json["count"], 0);
        assert!(json["min"].is_null() && json["p99"].is_null() && json["max"].is_null());
    }

    #[test]
    fn invalid_values_are_ignored() {
        let mut histogram = Histogram::new();
        for value in [f64::NAN, f64::INFINITY, -1.0] {
            histogram.record(value);
        }
        assert_eq!(histogram.count(), 0);
        histogram.record(1e300);
        assert_eq!(histogram.max(), Some(1e300));
    }
}
