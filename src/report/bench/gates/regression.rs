//! `--max-regression`: one gate per metric compared with the baseline.

use serde_json::Value;

use super::percent;
use crate::report::{
    bench::{
        compare::DIFFERENT_SETUP,
        schema::{Comparison, MetricComparison, Verdict},
    },
    schema::GateResult,
};

/// One result per metric. A metric with too few samples does not fail (its note says so), but a metric that was
/// measured only in the baseline does, and so does a comparison in which no metric could be tested.
pub(super) fn checks(limit: f64, comparison: Option<&Comparison>) -> Vec<GateResult> {
    let Some(comparison) = comparison else {
        return vec![check(
            "max-regression",
            limit,
            None,
            false,
            "there is no baseline".to_owned(),
        )];
    };
    let same_setup = !comparison.method.contains(DIFFERENT_SETUP);
    let mut checks: Vec<GateResult> =
        comparison.metrics.iter().map(|metric| one(metric, limit, same_setup)).collect();
    if comparison.metrics.iter().all(|metric| metric.verdict == Verdict::Unknown) {
        let note = "no metric could be compared: not enough samples in one of the runs".to_owned();
        checks.insert(0, check("max-regression", limit, None, false, note));
    }
    checks
}

fn one(metric: &MetricComparison, limit: f64, same_setup: bool) -> GateResult {
    let points = metric.unit == "share";
    let missing = metric.current.is_none() && metric.baseline.is_some();
    let mut note = match (metric.baseline, metric.current) {
        (Some(_), None) => "not measured in this run, only in the baseline".to_owned(),
        (None, _) => "not measured in the baseline".to_owned(),
        _ => describe(metric, points),
    };
    if !same_setup && !missing {
        note += "; the runs differ in what they measured";
    }
    let pass = !missing && metric.verdict != Verdict::Regressed;
    check(&format!("max-regression {}", metric.name), limit, metric.change, pass, note)
}

fn describe(metric: &MetricComparison, points: bool) -> String {
    let unit = if points { "points" } else { "%" };
    let change = match metric.change {
        None => String::new(),
        Some(change) if signed(change) == "0" => "no change".to_owned(),
        Some(change) => {
            let direction = if change > 0.0 { "worse" } else { "better" };
            format!("{direction} by {} {unit}", signed(change.abs()).trim_start_matches('+'))
        }
    };
    let interval = metric.interval.map_or_else(String::new, |[low, high]| {
        format!(", 95 % CI {} to {} (+ is worse)", signed(low), signed(high))
    });
    let verdict = match metric.verdict {
        Verdict::Regressed => "more than allowed",
        Verdict::Worse => "significantly worse, but not significantly more than allowed",
        Verdict::Same => "no significant difference",
        Verdict::Better => "significantly better",
        Verdict::Unknown => "not enough samples",
    };
    format!("{change}{interval}: {verdict}")
}

/// As a percentage with a sign, without a unit: `+12.5`, `-3`, `0`.
fn signed(change: f64) -> String {
    let text = percent(change);
    match text.trim_end_matches(" %") {
        "-0" => "0".to_owned(),
        text if change > 0.0 && text != "0" => format!("+{text}"),
        text => text.to_owned(),
    }
}

fn check(name: &str, limit: f64, actual: Option<f64>, pass: bool, note: String) -> GateResult {
    GateResult {
        name: name.to_owned(),
        limit: limit.into(),
        actual: actual.map_or(Value::Null, Into::into),
        unit: "share".to_owned(),
        pass,
        note: Some(note),
    }
}
