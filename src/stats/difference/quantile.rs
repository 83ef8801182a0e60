//! The ratio of a quantile of two runs, by a cluster bootstrap.

use std::ops::Range;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::MIN_CLUSTERS;
use crate::stats::normal::{normal_probability, student_quantile};

/// Number of resamples: enough for about 10 of them beyond each end of a 99.4 % interval of 20 connections.
const RESAMPLES: usize = 10_000;

/// An arbitrary but fixed seed.
const SEED: u64 = 0x0107_1011;

/// Number of values between two marks of the running count, see [`Pool`].
const BLOCK: usize = 64;

/// The measurements of one connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Values, in any order.
    pub values: Vec<f64>,
    /// Number of values that each one represents: 1, or more where only every n-th was kept.
    pub weight: f64,
}

impl Cluster {
    /// A cluster with all its values.
    #[must_use]
    pub fn new(values: Vec<f64>) -> Self {
        Self { values, weight: 1.0 }
    }
}

/// Minimum number of values for a quantile: with fewer it is the maximum, whose distribution resampling cannot
/// estimate. 2 for a p50, 20 for a p95, 100 for a p99.
#[must_use]
pub fn values_needed(quantile: f64) -> usize {
    // In binary floating point, 1 / (1 - 0.95) is slightly more than 20.
    (1.0 / (1.0 - quantile) - 1e-9).ceil() as usize
}

/// The smallest value that a share `quantile` of the values of some runs together does not exceed; none
/// without values.
#[must_use]
pub fn pooled_quantile(runs: &[Vec<Cluster>], quantile: f64) -> Option<f64> {
    let pool = Pool::new(runs);
    (!pool.values.is_empty()).then(|| pool.quantile(quantile, &pool.weights))
}

/// The quantile of the current run over that of the baseline.
#[derive(Debug, Clone)]
pub struct QuantileRatio {
    /// Quantile of the baseline runs together; the smallest value that this share of them does not exceed.
    pub baseline: f64,
    /// Quantile of the current run.
    pub current: f64,
    /// Ratios of the resamples, ascending.
    ratios: Vec<f64>,
    /// Number of clusters in the smaller side.
    clusters: f64,
}

impl QuantileRatio {
    /// Resamples baseline runs and a current run, each a list of clusters. None when a side has fewer
    /// than [`MIN_CLUSTERS`] clusters with values or fewer values than [`values_needed`], or when the
    /// baseline's quantile is not above 0.
    #[must_use]
    pub fn new(baseline: &[Vec<Cluster>], current: &[Cluster], quantile: f64) -> Option<Self> {
        Self::resample(baseline, current, quantile, RESAMPLES)
    }

    pub(super) fn resample(
        baseline: &[Vec<Cluster>],
        current: &[Cluster],
        quantile: f64,
        resamples: usize,
    ) -> Option<Self> {
        let [old, new] = [Pool::new(baseline), Pool::new(&[current.to_vec()])];
        if !old.is_sufficient(quantile) || !new.is_sufficient(quantile) {
            return None;
        }
        let effects = old.run_effects(quantile)?;
        let mut random = StdRng::seed_from_u64(SEED);
        let mut drawn = Vec::new();
        let mut ratios: Vec<f64> = (0..resamples)
            .map(|_| {
                let effect = effects[random.random_range(0..effects.len())];
                new.draw(&mut random, &mut drawn);
                let now = new.quantile(quantile, &drawn);
                old.draw(&mut random, &mut drawn);
                now * effect / old.quantile(quantile, &drawn)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        Some(Self {
            baseline: old.quantile(quantile, &old.weights),
            current: new.quantile(quantile, &new.weights),
            ratios,
            clusters: old.weights.len().min(new.weights.len()) as f64,
        })
    }

    /// `current / baseline`.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.current / self.baseline
    }

    /// The interval that misses the ratio with a probability of at most `error`: 0.05 for a 95 % interval. None when
    /// it has no finite ends.
    #[must_use]
    pub fn interval(&self, error: f64) -> Option<[f64; 2]> {
        let freedom = self.clusters - 1.0;
        let wider = (self.clusters / freedom).sqrt();
        let tail = normal_probability(wider * student_quantile(error / 2.0, freedom));
        let beyond = (tail * self.ratios.len() as f64) as usize;
        let low = *self.ratios.get(beyond)?;
        let high = *self.ratios.iter().rev().nth(beyond)?;
        (low.is_finite() && high.is_finite() && low <= high).then_some([low, high])
    }
}

/// Values of all clusters in ascending order. A resample is a weight for each cluster, and a quantile of
/// it is found by the running count of the values, without sorting them again: marks every [`BLOCK`] values hold the
/// number of values of each cluster before them.
struct Pool {
    values: Vec<f64>,
    /// Cluster of each value.
    cluster: Vec<usize>,
    /// Number of values of each cluster before each mark, mark by mark; the last mark is after all values.
    marks: Vec<f64>,
    /// Weight of each cluster.
    weights: Vec<f64>,
    /// The clusters of each run.
    runs: Vec<Range<usize>>,
}

impl Pool {
    /// Ignores clusters and runs without values, and non-finite values.
    fn new(runs: &[Vec<Cluster>]) -> Self {
        let mut pairs: Vec<(f64, usize)> = Vec::new();
        let (mut weights, mut ranges) = (Vec::new(), Vec::new());
        for run in runs {
            let start = weights.len();
            for cluster in run {
                let before = pairs.len();
                let values = cluster.values.iter().filter(|value| value.is_finite());
                pairs.extend(values.map(|value| (*value, weights.len())));
                if pairs.len() > before {
                    weights.push(cluster.weight);
                }
            }
            if weights.len() > start {
                ranges.push(start..weights.len());
            }
        }
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (values, cluster): (Vec<f64>, Vec<usize>) = pairs.into_iter().unzip();
        let marks = marks(&cluster, weights.len());
        Self { values, cluster, marks, weights, runs: ranges }
    }

    fn is_sufficient(&self, quantile: f64) -> bool {
        self.weights.len() >= MIN_CLUSTERS && self.values.len() >= values_needed(quantile)
    }

    /// Draws runs, then clusters of each; the weight of a cluster is counted as often as it is drawn.
    fn draw(&self, random: &mut StdRng, drawn: &mut Vec<f64>) {
        drawn.clear();
        drawn.resize(self.weights.len(), 0.0);
        for _ in 0..self.runs.len() {
            let run = &self.runs[random.random_range(0..self.runs.len())];
            for _ in run.clone() {
                let cluster = random.random_range(run.clone());
                drawn[cluster] += self.weights[cluster];
            }
        }
    }

    /// The smallest value that a share `quantile` of the values, weighed by cluster, does not exceed.
    fn quantile(&self, quantile: f64, weights: &[f64]) -> f64 {
        let before = |mark: usize| -> f64 {
            let counts = &self.marks[mark * weights.len()..][..weights.len()];
            counts.iter().zip(weights).map(|(count, weight)| count * weight).sum()
        };
        let last = self.marks.len() / weights.len() - 1;
        // 0.95 * 20 must not result in slightly more than 19.
        let wanted = before(last) * quantile * (1.0 - 1e-12);
        let (mut low, mut high) = (0, last);
        while high - low > 1 {
            let middle = usize::midpoint(low, high);
            if before(middle) < wanted {
                low = middle;
            } else {
                high = middle;
            }
        }
        let mut sum = before(low);
        for at in low * BLOCK..self.values.len() {
            sum += weights[self.cluster[at]];
            if sum >= wanted && weights[self.cluster[at]] > 0.0 {
                return self.values[at];
            }
        }
        self.values.last().copied().unwrap_or(f64::NAN)
    }

    /// Deviation of each run from their mean, as a factor and corrected for few runs: what one more run may differ
    /// by. None if a run's quantile is not above 0.
    fn run_effects(&self, quantile: f64) -> Option<Vec<f64>> {
        let mut logs = Vec::new();
        for run in &self.runs {
            let mut weights = vec![0.0; self.weights.len()];
            weights[run.clone()].copy_from_slice(&self.weights[run.clone()]);
            let own = self.quantile(quantile, &weights);
            if own <= 0.0 {
                return None;
            }
            logs.push(own.ln());
        }
        let runs = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / runs;
        // The same correction as from the variance of a sample to that of its population.
        let wider = if runs > 1.0 { (runs / (runs - 1.0)).sqrt() } else { 1.0 };
        Some(logs.iter().map(|log| ((log - mean) * wider).exp()).collect())
    }
}

fn marks(cluster: &[usize], clusters: usize) -> Vec<f64> {
    let mut counts = vec![0.0; clusters];
    let mut marks = counts.clone();
    for block in cluster.chunks(BLOCK) {
        for cluster in block {
            counts[*cluster] += 1.0;
        }
        marks.extend_from_slice(&counts);
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(values: impl IntoIterator<Item = f64>) -> Vec<Cluster> {
        values.into_iter().map(|value| Cluster::new(vec![value])).collect()
    }

    fn hundred(factor: f64) -> Vec<Cluster> {
        singles((1..=100).map(|value| f64::from(value) * factor))
    }

    #[test]
    fn quantiles_by_marks_match_sorted_values() {
        let clusters: Vec<Cluster> = (0..7)
            .map(|c| Cluster {
                values: (0..90).map(|v| f64::from((v * 37 + c * 11) % 101)).collect(),
                weight: 1.0 + f64::from(c % 3),
            })
            .collect();
        let pool = Pool::new(std::slice::from_ref(&clusters));
        let mut random = StdRng::seed_from_u64(1);
        let mut drawn = Vec::new();
        for quantile in [0.01, 0.5, 0.95, 1.0] {
            pool.draw(&mut random, &mut drawn);
            let mut all: Vec<f64> = Vec::new();
            for (cluster, weight) in clusters.iter().zip(&drawn) {
                for value in &cluster.values {
                    all.extend(std::iter::repeat_n(*value, *weight as usize));
                }
            }
            all.sort_by(f64::total_cmp);
            let rank = (quantile * all.len() as f64 - 1e-9).ceil() as usize;
            let expected = all[rank.max(1) - 1];
            assert!((pool.quantile(quantile, &drawn) - expected).abs() < 1e-9, "{quantile}");
        }
    }

    #[test]
    fn a_ratio_and_its_interval() {
        let ratio = QuantileRatio::new(&[hundred(1.0)], &hundred(2.0), 0.5).unwrap();
        assert!((ratio.baseline - 50.0).abs() < 1e-9 && (ratio.ratio() - 2.0).abs() < 1e-9);
        let [low, high] = ratio.interval(0.05).unwrap();
        assert!(low > 1.2 && low < 1.8 && high > 2.2 && high < 3.2, "{low} {high}");
        let [lower, higher] = ratio.interval(0.001).unwrap();
        assert!(lower < low && high < higher);
        let again = QuantileRatio::new(&[hundred(1.0)], &hundred(2.0), 0.5).unwrap();
        assert_eq!(again.interval(0.05), Some([low, high]), "deterministic");
    }

    #[test]
    fn the_interval_of_a_median_is_near_the_exact_one() {
        // Against a baseline without spread it is that of one median: of 100 values the exact one of
        // 95 % goes from the 40th to the 61st.
        let flat = vec![singles(vec![1.0; 5000])];
        let ratio = QuantileRatio::new(&flat, &hundred(1.0), 0.5).unwrap();
        let [low, high] = ratio.interval(0.05).unwrap();
        assert!((low - 40.0).abs() <= 1.0 && (high - 61.0).abs() <= 1.0, "{low} {high}");
    }

    #[test]
    fn weights_represent_values_that_were_not_kept() {
        let mut clusters = hundred(1.0);
        clusters[99].weight = 200.0;
        let ratio = QuantileRatio::new(&[hundred(1.0)], &clusters, 0.5).unwrap();
        assert!((ratio.current - 100.0).abs() < 1e-9);
    }

    #[test]
    fn pings_of_one_connection_are_not_independent() {
        let spread = |connections: u32, pings: usize| -> Vec<Cluster> {
            (0..connections)
                .map(|c| Cluster::new(vec![1.0 + f64::from(c % 10) / 10.0; pings]))
                .collect()
        };
        let width = |clusters: &[Cluster]| {
            let ratio = QuantileRatio::new(&[clusters.to_vec()], clusters, 0.5).unwrap();
            let [low, high] = ratio.interval(0.05).unwrap();
            high - low
        };
        assert!((width(&spread(20, 50)) - width(&spread(20, 1))).abs() < 1e-9);
        assert!(width(&spread(1000, 1)) < width(&spread(20, 50)) / 3.0);
    }

    #[test]
    fn too_few_values_give_no_ratio() {
        let all = hundred(1.0);
        let none = |baseline: &[Vec<Cluster>], current: &[Cluster], quantile| {
            QuantileRatio::new(baseline, current, quantile).is_none()
        };
        assert!(none(&[], &all, 0.5) && none(std::slice::from_ref(&all), &[], 0.5));
        assert!(none(&[vec![Cluster::new(vec![1.0; 500])]], &all, 0.5), "one cluster");
        assert!(none(std::slice::from_ref(&all), &all[..19], 0.95), "19 values, p95");
        assert!(!none(std::slice::from_ref(&all), &all[..20], 0.95), "20 values, p95");
        assert!(!none(std::slice::from_ref(&all), &all[..8], 0.5));
        assert!(none(&[singles(vec![0.0; 50])], &all, 0.5), "nothing to divide by");
        assert!(none(&[singles(vec![f64::NAN; 50])], &all, 0.5));
        assert_eq!([0.5, 0.95, 0.99].map(values_needed), [2, 20, 100]);
    }

    #[test]
    fn equal_values_have_an_exact_ratio() {
        let same = singles(vec![3.0; 20]);
        let ratio = QuantileRatio::new(std::slice::from_ref(&same), &same, 0.95).unwrap();
        assert_eq!(ratio.interval(0.05), Some([1.0, 1.0]));
    }
}
