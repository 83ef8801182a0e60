//! Compares a run with baseline runs: for each metric the change, its confidence interval and a verdict.
//!
//! The tests and the reasons for them are documented in [`difference`](crate::stats::difference). The intervals hold
//! for all metrics of a comparison together with 95 % confidence (Bonferroni), so that an unchanged run is called a
//! regression at most once in 40 comparisons, not once in 40 per metric. A metric is [`Verdict::Regressed`] only if
//! even the better end of its interval is worse by more than the allowed regression.

use serde_json::Value;

use super::{
    BenchResult, Named,
    metrics::{ComparedMetric, METRICS, Test},
    schema::{Comparison, MetricComparison, Verdict},
};
use crate::stats::difference::{MIN_CLUSTERS, values_needed};

/// Two-sided error probability of a comparison without any change, all metrics together.
const ERROR: f64 = 0.05;

/// Minimum number of baseline runs for an estimate of the run-to-run variation.
const ENOUGH_RUNS: usize = 3;

/// Start of the part of [`Comparison::method`] that lists differences in what the runs measured.
pub const DIFFERENT_SETUP: &str = "The runs differ in: ";

/// Keys of `config` that specify how much is measured, not what; they need not be equal.
const AMOUNTS: [&str; 5] = ["connections", "pings", "keyframes", "duration", "warmup"];

/// Maximum number of configuration differences listed; runs with nothing in common would have more.
const MAX_DIFFERENCES: usize = 8;

/// Compares a run with one or more baseline runs. With `max_regression`, a share (0.1 for 10 %), metrics
/// that are worse by more than that are [`Verdict::Regressed`]: times by that share of the baseline,
/// shares (success, loss, intact keyframes) by that many points.
#[must_use]
pub fn compare(
    baseline: &[Named],
    current: &BenchResult,
    max_regression: Option<f64>,
) -> Comparison {
    let old: Vec<&BenchResult> = baseline.iter().map(|named| &named.result).collect();
    let tests: Vec<(&ComparedMetric, Option<Test>)> =
        METRICS.iter().map(|metric| (metric, metric.test(&old, current))).collect();
    let tested = tests.iter().filter(|(_, test)| test.is_some()).count();
    let error = ERROR / tested.max(1) as f64;
    let metrics = tests
        .iter()
        .filter_map(|(metric, test)| {
            one(metric, test.as_ref(), &old, current, error, max_regression)
        })
        .collect();
    Comparison {
        baseline: baseline.iter().map(|named| named.name.clone()).collect(),
        method: method(baseline, current, tested, error),
        max_regression,
        metrics,
    }
}

/// None when neither run measured it.
fn one(
    metric: &ComparedMetric,
    test: Option<&Test>,
    old: &[&BenchResult],
    current: &BenchResult,
    error: f64,
    max_regression: Option<f64>,
) -> Option<MetricComparison> {
    let [before, now] = [metric.value(old), metric.value(&[current])];
    if before.is_none() && now.is_none() {
        return None;
    }
    let interval = test.and_then(|test| test.interval(error));
    Some(MetricComparison {
        name: metric.name.to_owned(),
        unit: metric.unit().to_owned(),
        baseline: before,
        current: now,
        change: before.zip(now).and_then(|(before, now)| metric.change(before, now)),
        interval,
        verdict: interval.map_or(Verdict::Unknown, |interval| judge(interval, max_regression)),
    })
}

fn judge([low, high]: [f64; 2], max_regression: Option<f64>) -> Verdict {
    match max_regression {
        Some(limit) if low > limit => Verdict::Regressed,
        _ if low > 0.0 => Verdict::Worse,
        _ if high < 0.0 => Verdict::Better,
        _ => Verdict::Same,
    }
}

fn method(baseline: &[Named], current: &BenchResult, tested: usize, error: f64) -> String {
    let mut sentences = vec![if tested == 0 {
        "No metric could be tested.".to_owned()
    } else {
        format!(
            "95 % confidence for all {tested} metrics together ({:.1} % each). Times: ratio of \
             the quantiles, bootstrap over connections. Shares: difference in points, Newcombe's score interval, allowing for clustered losses.",
            (1.0 - error) * 100.0
        )
    }];
    sentences.push(format!(
        "A metric with too few values is unknown: a time needs values from {MIN_CLUSTERS} \
         connections in each run, a p95 also {} values.",
        values_needed(0.95)
    ));
    if baseline.len() < ENOUGH_RUNS {
        sentences.push(format!(
            "{} baseline {} cannot show how much runs vary by chance: use {ENOUGH_RUNS} or more \
             from the same machine.",
            baseline.len(),
            if baseline.len() == 1 { "run" } else { "runs" },
        ));
    }
    let mut different: Vec<String> = Vec::new();
    for one in baseline.iter().flat_map(|named| setup_differences(&named.result, current)) {
        if !different.contains(&one) {
            different.push(one);
        }
    }
    if !different.is_empty() {
        let more = different.len().saturating_sub(MAX_DIFFERENCES);
        different.truncate(MAX_DIFFERENCES);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        sentences.push(format!(
            "{DIFFERENT_SETUP}{}{more}; this may explain a change.",
            different.join(", ")
        ));
    }
    sentences.join(" ")
}

/// Differences between two runs in machine and configuration, except for the amounts.
fn setup_differences(old: &BenchResult, new: &BenchResult) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |what: &str, before: &Value, now: &Value| {
        if before != now {
            found.push(format!("{what} was {}, is {}", word(before), word(now)));
        }
    };
    compare("os", &old.host.os.clone().into(), &new.host.os.clone().into());
    compare("arch", &old.host.arch.clone().into(), &new.host.arch.clone().into());
    compare("cpus", &old.host.cpus.into(), &new.host.cpus.into());
    let keys = old.config.keys().chain(new.config.keys().filter(|k| !old.config.contains_key(*k)));
    for key in keys.filter(|key| !AMOUNTS.contains(&key.as_str())) {
        let value = |result: &BenchResult| result.config.get(key).cloned().unwrap_or_default();
        compare(key, &value(old), &value(new));
    }
    if old.partial != new.partial {
        let which = if old.partial { "the baseline" } else { "this run" };
        found.push(format!("{which} ended early"));
    }
    found
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::bench::samples::{Sample, named};

    fn metric<'c>(comparison: &'c Comparison, name: &str) -> &'c MetricComparison {
        comparison.metrics.iter().find(|metric| metric.name == name).unwrap()
    }

    #[test]
    fn an_unchanged_run_is_the_same() {
        let old = Sample { seed: 1, ..Sample::default() }.result();
        let new = Sample { seed: 2, ..Sample::default() }.result();
        let comparison = compare(&[named("old.json", old)], &new, Some(0.1));
        assert_eq!(comparison.baseline, ["old.json"]);
        let names: Vec<_> = comparison.metrics.iter().map(|m| m.name.as_str()).collect();
        let all = [
            "success",
            "setup-p50",
            "setup-p95",
            "first-picture-p95",
            "rtt-p50",
            "rtt-p95",
            "ping-loss",
            "keyframes-intact",
            "keyframe-latency-p95",
            "keyframe-network-p95",
        ];
        assert_eq!(names, all);
        for metric in &comparison.metrics {
            assert_eq!(metric.verdict, Verdict::Same, "{metric:?}");
            let [low, high] = metric.interval.unwrap();
            let change = metric.change.unwrap();
            assert!(low <= change && change <= high && low < high, "{metric:?}");
        }
        assert!(comparison.method.contains("all 10 metrics together (99.5 % each)"));
        assert!(comparison.method.contains("1 baseline run cannot show"));
        assert!(!comparison.method.contains(DIFFERENT_SETUP), "{}", comparison.method);
    }

    #[test]
    fn slower_is_a_regression_only_above_the_allowed_share() {
        let old = named("old", Sample::default().result());
        let slow = Sample { seed: 2, slower: 1.5, ..Sample::default() }.result();
        let verdict = |new: &BenchResult, limit| {
            metric(&compare(std::slice::from_ref(&old), new, limit), "rtt-p50").verdict
        };
        assert_eq!(verdict(&slow, Some(0.1)), Verdict::Regressed);
        assert_eq!(verdict(&slow, Some(0.45)), Verdict::Worse);
        assert_eq!(verdict(&slow, None), Verdict::Worse);
        let fast = Sample { seed: 2, slower: 0.6, ..Sample::default() }.result();
        assert_eq!(verdict(&fast, Some(0.1)), Verdict::Better);
    }

    #[test]
    fn failures_and_losses_are_compared_in_points() {
        let old = named("old", Sample::default().result());
        let new = Sample { seed: 2, failed: 12, lost: 10, torn: 1, ..Sample::default() }.result();
        let comparison = compare(&[old], &new, Some(0.05));
        let success = metric(&comparison, "success");
        assert!((success.baseline.unwrap() - 1.0).abs() < 1e-9);
        assert!((success.current.unwrap() - 18.0 / 30.0).abs() < 1e-9);
        assert!((success.change.unwrap() - 0.4).abs() < 1e-9);
        for name in ["success", "ping-loss", "keyframes-intact"] {
            assert_eq!(metric(&comparison, name).verdict, Verdict::Regressed, "{name}");
        }
    }

    #[test]
    fn too_few_samples_are_unknown_and_no_metric_is_left_out() {
        let old = named("old", Sample { connections: 19, ..Sample::default() }.result());
        let few = Sample { connections: 7, keyframes: 0, ..Sample::default() }.result();
        let comparison = compare(std::slice::from_ref(&old), &few, Some(0.0));
        for name in ["setup-p50", "setup-p95", "rtt-p50", "rtt-p95", "ping-loss"] {
            let metric = metric(&comparison, name);
            assert_eq!((metric.verdict, metric.interval), (Verdict::Unknown, None), "{name}");
            assert!(metric.change.is_some(), "{name}");
        }
        assert_eq!(metric(&comparison, "success").verdict, Verdict::Same);
        assert_eq!(metric(&comparison, "keyframes-intact").current, None);
        let neither = Sample { keyframes: 0, ..Sample::default() }.result();
        let comparison = compare(&[named("old", neither.clone())], &neither, None);
        assert!(comparison.metrics.iter().all(|metric| !metric.name.starts_with("keyframe")));
        // 19 values have no p95, though as many connections have a p50.
        let comparison = compare(std::slice::from_ref(&old), &old.result, None);
        assert_eq!(metric(&comparison, "setup-p95").verdict, Verdict::Unknown);
        assert_eq!(metric(&comparison, "setup-p50").verdict, Verdict::Same);
        assert_eq!(metric(&comparison, "rtt-p95").verdict, Verdict::Same);
    }

    #[test]
    fn a_result_without_records_is_shown_but_not_tested() {
        let mut old = Sample::default().result();
        old.connections.records.clear();
        let comparison = compare(&[named("old", old)], &Sample::default().result(), None);
        let rtt = metric(&comparison, "rtt-p95");
        assert!(rtt.baseline.is_some() && rtt.verdict == Verdict::Unknown, "{rtt:?}");
        assert_eq!(metric(&comparison, "success").verdict, Verdict::Same);
    }

    #[test]
    fn differing_setups_are_listed() {
        let old = Sample::default().result();
        let mut new = Sample { connections: 40, ..Sample::default() }.result();
        new.config.insert("pingInterval".into(), "5ms".into());
        new.config.insert("rate".into(), 3.into());
        new.host.cpus = 64;
        new.partial = true;
        let method = compare(&[named("a", old.clone()), named("b", old)], &new, None).method;
        for expected in [
            "pingInterval was 20ms, is 5ms",
            "rate was not set, is 3",
            "cpus was 2, is 64",
            "this run ended early",
        ] {
            assert_eq!(method.matches(expected).count(), 1, "no `{expected}` in {method}");
        }
        assert!(!method.contains("connections was"), "{method}");
    }
}
