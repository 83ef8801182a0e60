//! The metrics of a comparison: where each is found in a result, and how it is tested.

use super::{
    BenchResult,
    schema::{ConnectionRecord, KeyframeRecord},
};
use crate::stats::difference::{Cluster, QuantileRatio, ShareDifference, Trials, pooled_quantile};

/// The metrics, in the order they are shown.
pub(super) const METRICS: [ComparedMetric; 10] = [
    ComparedMetric { name: "success", kind: Kind::Share { good: true, trials: success } },
    time("setup-p50", 0.5, setup, |result| result.connections.setup_ms.total.p50),
    time("setup-p95", 0.95, setup, |result| result.connections.setup_ms.total.p95),
    time("first-picture-p95", 0.95, first_picture, |result| {
        result.connections.first_picture_ms.from_start.p95
    }),
    time("rtt-p50", 0.5, rtt, |result| result.rtt_ms.spread.p50),
    time("rtt-p95", 0.95, rtt, |result| result.rtt_ms.spread.p95),
    ComparedMetric { name: "ping-loss", kind: Kind::Share { good: false, trials: pings } },
    ComparedMetric {
        name: "keyframes-intact",
        kind: Kind::Share { good: true, trials: keyframes },
    },
    time("keyframe-latency-p95", 0.95, latency, |result| result.keyframes.latency_ms.p95),
    time("keyframe-network-p95", 0.95, network, |result| result.keyframes.stages_ms.network.p95),
];

/// A metric by which runs are compared.
pub(super) struct ComparedMetric {
    /// The name, as in gates and tables.
    pub name: &'static str,
    kind: Kind,
}

enum Kind {
    /// A quantile of times.
    Time {
        quantile: f64,
        /// The times of a connection.
        values: fn(&ConnectionRecord) -> Cluster,
        /// The quantile in a result that has no records.
        summary: fn(&BenchResult) -> Option<f64>,
    },
    /// A share of trials.
    Share {
        /// Whether the share of successes is shown, not that of failures.
        good: bool,
        trials: fn(&BenchResult) -> Counts,
    },
}

/// The trials of a run.
enum Counts {
    /// Independent of each other.
    Independent(Trials),
    /// Grouped by connection.
    Clustered(Vec<Trials>),
    /// Only their sums, although they were grouped by connection: can be shown, but not tested.
    Sums(Trials),
}

/// A test of a metric for which both runs have enough samples.
pub(super) enum Test {
    /// Ratio of a quantile.
    Ratio(QuantileRatio),
    /// Difference of a share.
    Share(ShareDifference),
}

impl Test {
    /// The interval of the regression, with error probability `error`.
    pub fn interval(&self, error: f64) -> Option<[f64; 2]> {
        match self {
            Self::Ratio(ratio) => Some(ratio.interval(error)?.map(|end| end - 1.0)),
            Self::Share(difference) => Some(difference.interval(error)),
        }
    }
}

const fn time(
    name: &'static str,
    quantile: f64,
    values: fn(&ConnectionRecord) -> Cluster,
    summary: fn(&BenchResult) -> Option<f64>,
) -> ComparedMetric {
    ComparedMetric { name, kind: Kind::Time { quantile, values, summary } }
}

impl ComparedMetric {
    /// The unit, as in the schema.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Time { .. } => "ms",
            Kind::Share { .. } => "share",
        }
    }

    /// The value over several runs together; `None` when they did not measure it.
    pub fn value(&self, runs: &[&BenchResult]) -> Option<f64> {
        match &self.kind {
            Kind::Time { quantile, values, summary } => {
                let pooled = pooled_quantile(&clusters(runs, *values), *quantile);
                let single = || if let [run] = runs { summary(run) } else { None };
                pooled.or_else(single)
            }
            Kind::Share { good, trials } => {
                let sum = sum(runs.iter().map(|run| trials(run)));
                let share = (sum.of > 0).then(|| sum.bad as f64 / sum.of as f64)?;
                Some(if *good { 1.0 - share } else { share })
            }
        }
    }

    /// Regression from one value to another: relative to the first for times, in points for shares. `None` when
    /// the first is 0.
    pub fn change(&self, before: f64, now: f64) -> Option<f64> {
        match self.kind {
            Kind::Time { .. } => (before > 0.0).then(|| now / before - 1.0),
            Kind::Share { good: true, .. } => Some(before - now),
            Kind::Share { good: false, .. } => Some(now - before),
        }
    }

    /// The test of this metric; `None` when one of the runs has too few samples.
    pub fn test(&self, old: &[&BenchResult], new: &BenchResult) -> Option<Test> {
        match &self.kind {
            Kind::Time { quantile, values, .. } => {
                let current: Vec<Cluster> = new.connections.records.iter().map(*values).collect();
                let ratio = QuantileRatio::new(&clusters(old, *values), &current, *quantile);
                ratio.map(Test::Ratio)
            }
            Kind::Share { trials, .. } => {
                let old: Vec<Counts> = old.iter().map(|run| trials(run)).collect();
                test_shares(old, trials(new)).map(Test::Share)
            }
        }
    }
}

fn clusters(runs: &[&BenchResult], values: fn(&ConnectionRecord) -> Cluster) -> Vec<Vec<Cluster>> {
    runs.iter().map(|run| run.connections.records.iter().map(values).collect()).collect()
}

fn test_shares(old: Vec<Counts>, new: Counts) -> Option<ShareDifference> {
    match new {
        Counts::Independent(new) => ShareDifference::independent(sum(old), new),
        Counts::Clustered(new) => {
            let mut all = Vec::new();
            for counts in old {
                let Counts::Clustered(trials) = counts else { return None };
                all.extend(trials);
            }
            ShareDifference::clustered(&all, &new)
        }
        Counts::Sums(_) => None,
    }
}

fn sum(runs: impl IntoIterator<Item = Counts>) -> Trials {
    let mut sum = Trials::default();
    for counts in runs {
        let trials = match counts {
            Counts::Independent(one) | Counts::Sums(one) => vec![one],
            Counts::Clustered(trials) => trials,
        };
        for one in trials {
            sum.bad = sum.bad.saturating_add(one.bad);
            sum.of = sum.of.saturating_add(one.of);
        }
    }
    sum
}

fn success(result: &BenchResult) -> Counts {
    let connections = &result.connections;
    let bad = connections.attempted.saturating_sub(connections.succeeded);
    Counts::Independent(Trials { bad, of: connections.attempted })
}

fn pings(result: &BenchResult) -> Counts {
    let records = &result.connections.records;
    if records.is_empty() {
        return Counts::Sums(Trials { bad: result.rtt_ms.lost, of: result.rtt_ms.sent });
    }
    let one = |r: &ConnectionRecord| Trials { bad: r.pings_lost, of: r.pings_sent };
    Counts::Clustered(records.iter().map(one).collect())
}

fn keyframes(result: &BenchResult) -> Counts {
    let hashed = |record: &KeyframeRecord| record.intact.is_some();
    let records = &result.connections.records;
    if !records.iter().flat_map(|record| &record.keyframes).any(hashed) {
        let (sent, intact) = (result.keyframes.sent, result.keyframes.intact);
        let trials =
            sent.zip(intact).map(|(of, intact)| Trials { bad: of.saturating_sub(intact), of });
        return Counts::Sums(trials.unwrap_or_default());
    }
    let one = |record: &ConnectionRecord| Trials {
        bad: record.keyframes.iter().filter(|k| k.intact != Some(true)).count() as u64,
        of: record.keyframes.len() as u64,
    };
    Counts::Clustered(records.iter().map(one).collect())
}

fn setup(record: &ConnectionRecord) -> Cluster {
    Cluster::new(record.setup_ms.total.into_iter().collect())
}

fn first_picture(record: &ConnectionRecord) -> Cluster {
    Cluster::new(record.first_picture_ms.from_start.into_iter().collect())
}

fn rtt(record: &ConnectionRecord) -> Cluster {
    let values: Vec<f64> = record.rtt.iter().map(|[_, ms]| *ms).collect();
    let answered = record.pings_sent.saturating_sub(record.pings_lost);
    // Above 1 only if the samples of a long connection were thinned out.
    let weight = (answered as f64 / values.len().max(1) as f64).max(1.0);
    Cluster { values, weight }
}

fn latency(record: &ConnectionRecord) -> Cluster {
    Cluster::new(record.keyframes.iter().filter_map(|keyframe| keyframe.latency_ms).collect())
}

fn network(record: &ConnectionRecord) -> Cluster {
    let keyframes = record.keyframes.iter();
    Cluster::new(keyframes.filter_map(|keyframe| keyframe.stages_ms.network).collect())
}
