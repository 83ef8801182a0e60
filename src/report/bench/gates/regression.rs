//! `--max-regression`: a check for each metric that was compared with the baseline.

use serde_json::Value;

use super::percent;
use crate::report::{
    bench::{
        compare::NOT_ALIKE,
        schema::{Comparison, MetricComparison, Verdict},
    },
    schema::GateResult,
};

/// One check a metric. A metric of which too little was measured does not fail (the note says so), but
/// one that only the baseline has does, and so does a comparison that could tell of nothing.
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
    let alike = !comparison.method.contains(NOT_ALIKE);
    let mut checks: Vec<GateResult> =
        comparison.metrics.iter().map(|metric| one(metric, limit, alike)).collect();
    if comparison.metrics.iter().all(|metric| metric.verdict == Verdict::Unknown) {
        let note = "no metric could be compared: too little was measured on one side".to_owned();
        checks.insert(0, check("max-regression", limit, None, false, note));
    }
    checks
}

fn one(metric: &MetricComparison, limit: f64, alike: bool) -> GateResult {
    let points = metric.unit == "share";
    let missing = metric.current.is_none() && metric.baseline.is_some();
    let mut note = match (metric.baseline, metric.current) {
        (Some(_), None) => "nothing was measured, unlike in the baseline".to_owned(),
        (None, _) => "not measured in the baseline".to_owned(),
        _ => told(metric, points),
    };
    if !alike && !missing {
        note += "; the runs did not measure alike";
    }
    let pass = !missing && metric.verdict != Verdict::Regressed;
    check(&format!("max-regression {}", metric.name), limit, metric.change, pass, note)
}

fn told(metric: &MetricComparison, points: bool) -> String {
    let unit = if points { "points" } else { "%" };
    let change = match metric.change {
        None => String::new(),
        Some(change) if signed(change) == "0" => "no change".to_owned(),
        Some(change) => {
            let way = if change > 0.0 { "worse" } else { "better" };
            format!("{way} by {} {unit}", signed(change.abs()).trim_start_matches('+'))
        }
    };
    let interval = metric.interval.map_or_else(String::new, |[low, high]| {
        format!(", 95 % CI {} to {} (+ is worse)", signed(low), signed(high))
    });
    let verdict = match metric.verdict {
        Verdict::Regressed => "more than is allowed",
        Verdict::Worse => "significantly worse, not significantly by more than is allowed",
        Verdict::Same => "no significant difference",
        Verdict::Better => "significantly better",
        Verdict::Unknown => "not enough samples",
    };
    format!("{change}{interval}: {verdict}")
}

/// In hundredths with a sign, without a unit: `+12.5`, `-3`, `0`.
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
