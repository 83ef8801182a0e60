//! The difference of two shares (proportions): Newcombe's hybrid score interval, also for clustered trials.

use super::MIN_CLUSTERS;
use crate::stats::{
    interval::wilson_share,
    normal::{normal_quantile, student_quantile},
};

/// Trials of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trials {
    /// Failed trials.
    pub bad: u64,
    /// All trials.
    pub of: u64,
}

/// The share of bad trials of the current run minus that of the baseline.
#[derive(Debug, Clone, Copy)]
pub struct ShareDifference {
    baseline: Side,
    current: Side,
    /// Number of trials that count as one, at least 1.
    design_effect: f64,
    clustered: bool,
}

/// Sums over the clusters of one side.
#[derive(Debug, Clone, Copy)]
struct Side {
    bad: f64,
    of: f64,
    clusters: f64,
    /// Sum over clusters of the squared difference between bad and expected bad trials, corrected for the bias of few
    /// clusters.
    between: f64,
    /// Mean size of the cluster of a trial: the maximum design effect.
    together: f64,
}

impl Side {
    /// None without trials, and for inconsistent counts.
    fn new(clusters: &[Trials]) -> Option<Self> {
        let used = || clusters.iter().filter(|cluster| cluster.of > 0);
        if used().any(|cluster| cluster.bad > cluster.of) || used().count() == 0 {
            return None;
        }
        let sum = |f: &dyn Fn(&Trials) -> f64| used().map(f).sum::<f64>();
        let (bad, of) = (sum(&|c| c.bad as f64), sum(&|c| c.of as f64));
        let count = used().count() as f64;
        let share = bad / of;
        let squares = sum(&|c| (c.bad as f64 - share * c.of as f64).powi(2));
        Some(Self {
            bad,
            of,
            clusters: count,
            between: squares * count / (count - 1.0).max(1.0),
            together: sum(&|c| (c.of as f64).powi(2)) / of,
        })
    }

    fn share(&self) -> f64 {
        self.bad / self.of
    }

    /// The expected [`Side::between`] if trials were independent of clusters.
    fn independent(&self) -> f64 {
        self.of * self.share() * (1.0 - self.share())
    }
}

impl ShareDifference {
    /// For independent trials such as connections. None when a side has none.
    #[must_use]
    pub fn independent(baseline: Trials, current: Trials) -> Option<Self> {
        let [baseline, current] = [Side::new(&[baseline])?, Side::new(&[current])?];
        Some(Self { baseline, current, design_effect: 1.0, clustered: false })
    }

    /// For clustered trials such as the pings of connections. None when a side has fewer than
    /// [`MIN_CLUSTERS`] clusters with trials.
    ///
    /// The design effect is that of both sides together, because it cannot be estimated from a side without losses,
    /// and only poorly from a side with few.
    #[must_use]
    pub fn clustered(baseline: &[Trials], current: &[Trials]) -> Option<Self> {
        let [baseline, current] = [Side::new(baseline)?, Side::new(current)?];
        if baseline.clusters.min(current.clusters) < MIN_CLUSTERS as f64 {
            return None;
        }
        let independent = baseline.independent() + current.independent();
        let between = baseline.between + current.between;
        let design_effect = if independent > 0.0 { (between / independent).max(1.0) } else { 1.0 };
        Some(Self { baseline, current, design_effect, clustered: true })
    }

    /// Bad share of the current run minus that of the baseline: positive is worse.
    #[must_use]
    pub fn difference(&self) -> f64 {
        self.current.share() - self.baseline.share()
    }

    /// The interval that misses the difference with a probability of at most `error`: 0.05 for a 95 % interval.
    #[must_use]
    pub fn interval(&self, error: f64) -> [f64; 2] {
        let z = -normal_quantile(error / 2.0);
        let (now, [low_now, high_now]) = self.score(&self.current, z, error);
        let (old, [low_old, high_old]) = self.score(&self.baseline, z, error);
        let difference = now - old;
        [
            difference - (now - low_now).hypot(high_old - old),
            difference + (high_now - now).hypot(old - low_old),
        ]
    }

    fn score(&self, side: &Side, z: f64, error: f64) -> (f64, [f64; 2]) {
        let mut trials = side.of;
        if self.clustered {
            let t = -student_quantile(error / 2.0, side.clusters - 1.0);
            trials *= (z / t).powi(2) / self.design_effect.min(side.together);
        }
        (side.share(), wilson_share(side.share() * trials, trials, z))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn independent(now: (u64, u64), old: (u64, u64)) -> [f64; 2] {
        let trials = |(bad, of)| Trials { bad, of };
        ShareDifference::independent(trials(old), trials(now)).unwrap().interval(0.05)
    }

    #[test]
    fn intervals_match_the_paper() {
        // Newcombe (1998), table II, method 10.
        for (now, old, low, high) in [
            ((56, 70), (48, 80), 0.0524, 0.3339),
            ((9, 10), (3, 10), 0.1705, 0.8090),
            ((6, 7), (2, 7), 0.0582, 0.8062),
            ((5, 56), (0, 29), -0.0381, 0.1926),
            ((0, 10), (0, 20), -0.1611, 0.2775),
            ((0, 10), (0, 10), -0.2775, 0.2775),
            ((10, 10), (0, 20), 0.6791, 1.0),
            ((10, 10), (0, 10), 0.6075, 1.0),
        ] {
            let [l, h] = independent(now, old);
            assert!((l - low).abs() < 6e-5 && (h - high).abs() < 6e-5, "{now:?} {old:?}: {l} {h}");
        }
    }

    #[test]
    fn losses_in_bursts_are_weaker_evidence_than_single_ones() {
        let side = |lost: &[u64]| -> Vec<Trials> {
            lost.iter().map(|bad| Trials { bad: *bad, of: 50 }).collect()
        };
        let none = side(&[0; 20]);
        let single = side(&[1; 20]);
        let mut burst = [0; 20];
        burst[7] = 20;
        let burst = side(&burst);
        let single = ShareDifference::clustered(&none, &single).unwrap();
        let burst = ShareDifference::clustered(&none, &burst).unwrap();
        assert!((single.difference() - 0.02).abs() < 1e-9);
        assert!((burst.difference() - 0.02).abs() < 1e-9);
        assert!(single.interval(0.05)[0] > 0.0, "{:?}", single.interval(0.05));
        assert!(burst.interval(0.05)[0] < 0.0, "{:?}", burst.interval(0.05));
        // 20 lost of 1,000 in one burst: about as weak as one failed connection of 20.
        let connections = independent((1, 20), (0, 20));
        assert!(
            burst.interval(0.05)[0] > connections[0],
            "one burst of 20 of 50 is not a whole cluster"
        );
    }

    #[test]
    fn too_few_trials_give_no_difference() {
        let one = Trials { bad: 0, of: 10 };
        assert!(ShareDifference::independent(Trials::default(), one).is_none());
        assert!(ShareDifference::independent(one, Trials { bad: 3, of: 2 }).is_none());
        assert!(ShareDifference::clustered(&[one; 20], &[one; 7]).is_none());
        assert!(ShareDifference::clustered(&[one; 20], &[Trials::default(); 20]).is_none());
        let nothing = ShareDifference::clustered(&[one; 20], &[one; 20]).unwrap();
        let [low, high] = nothing.interval(0.05);
        assert!(low < 0.0 && high > 0.0 && nothing.difference().abs() < 1e-12);
    }
}
