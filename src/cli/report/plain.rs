//! Results as plain text: a few lines a result, and its comparison with the first one.

use crate::report::{
    bench::{
        Named,
        schema::{Comparison, MetricComparison, Verdict},
    },
    human,
};

/// Results one after the other.
pub(super) fn text(runs: &[Named]) -> String {
    runs.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn one(run: &Named) -> String {
    let result = &run.result;
    let connections = &result.connections;
    let types: Vec<String> =
        connections.by_type.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (succeeded, attempted) = (connections.succeeded, connections.attempted);
    let mut lines = vec![
        format!("{}: {}", run.name, if result.pass { "pass" } else { "FAIL" }),
        format!("  connections: {succeeded} of {attempted} ({})", types.join(", ")),
    ];
    for (name, spread) in [
        ("setup", &connections.setup_ms.total),
        ("rtt", &result.rtt_ms.spread),
        ("keyframe latency", &result.keyframes.latency_ms),
    ] {
        if let (Some(p50), Some(p95)) = (spread.p50, spread.p95) {
            let [p50, p95] = [p50, p95].map(human::millis);
            lines.push(format!("  {name}: p50 {p50}, p95 {p95} of {}", spread.count));
        }
    }
    lines.extend(result.checks.iter().map(|check| {
        let mark = if check.pass { "ok  " } else { "FAIL" };
        let note = check.note.as_deref().map_or_else(String::new, |note| format!(" ({note})"));
        format!("  {mark} {} {}: {}{note}", check.name, check.limit, check.actual)
    }));
    lines.extend(result.comparison.iter().flat_map(against));
    lines.join("\n") + "\n"
}

fn against(comparison: &Comparison) -> Vec<String> {
    let mut lines = vec![format!("  against {}:", comparison.baseline.join(", "))];
    lines.extend(comparison.metrics.iter().map(|metric| {
        let interval = metric
            .interval
            .map_or_else(String::new, |[low, high]| format!("{} to {}", signed(low), signed(high)));
        format!(
            "    {:<21} {:>10} {:>10} {:>9} {:>21}  {}",
            metric.name,
            value(metric, metric.baseline),
            value(metric, metric.current),
            metric.change.map(signed).unwrap_or_default(),
            interval,
            word(metric.verdict),
        )
    }));
    lines.push(format!("  {}", comparison.method));
    lines
}

fn value(metric: &MetricComparison, value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if metric.unit == "share" => format!("{:.2} %", value * 100.0),
        Some(value) => human::millis(value),
    }
}

fn signed(change: f64) -> String {
    format!("{:+.1} %", change * 100.0)
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Regressed => "REGRESSED",
        Verdict::Worse => "worse",
        Verdict::Same => "same",
        Verdict::Better => "better",
        Verdict::Unknown => "unknown",
    }
}
