//! The human-readable wording of a result, the same in every format. Text from the result is included unescaped: each
//! format escapes what it writes.

use std::time::Duration;

use serde_json::Value;

use super::{
    Named,
    layout::cut,
    schema::{BenchResult, MetricComparison, Setup, Verdict},
};
use crate::{
    report::{delivery::Finding, human, schema::GateResult},
    stats::Spread,
    types::Stage,
};

/// Written in place of a value that was not measured.
pub(super) const NOTHING: &str = "-";

/// Maximum length of a number with its unit, characters; a longer one is written with an exponent.
const MAX_NUMBER: usize = 9;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Complete, all gates met.
    Passed,
    /// Complete, at least one gate not met.
    Failed,
    /// Ended before everything that was requested was done.
    Partial,
}

impl Outcome {
    pub(super) fn of(result: &BenchResult) -> Self {
        match (result.partial, result.pass) {
            (true, _) => Self::Partial,
            (false, true) => Self::Passed,
            (false, false) => Self::Failed,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Passed => "PASS",
            Self::Failed => "FAIL",
            Self::Partial => "PARTIAL",
        }
    }
}

pub(super) use crate::report::human::counted;

/// A run in one line, without the verdict.
pub(super) fn headline(result: &BenchResult) -> String {
    let connections = &result.connections;
    let mut parts = vec![match connections.attempted {
        0 => "no connection was attempted".to_owned(),
        n => format!("{} of {} succeeded", connections.succeeded, counted(n, "connection")),
    }];
    let gates = result.checks.len() as u64;
    let not_met = result.checks.iter().filter(|check| !check.pass).count();
    match (gates, not_met) {
        (0, _) => {}
        // A gate of a partial run cannot be met yet.
        (_, 0) if result.partial => {}
        (_, 0) => parts.push(format!("{gates} of {} met", counted(gates, "gate"))),
        _ => parts.push(format!("{not_met} of {} not met", counted(gates, "gate"))),
    }
    let inconclusive =
        result.comparison.as_ref().filter(|c| c.max_regression.is_some()).map_or(0, |c| {
            c.metrics.iter().filter(|metric| metric.verdict == Verdict::Unknown).count()
        });
    if inconclusive > 0 && not_met == 0 {
        let metrics = counted(inconclusive as u64, "metric");
        parts.push(format!("{metrics} inconclusive against the baseline: not enough samples"));
    }
    if result.partial {
        parts.push(format!("ended early, after {}", seconds(result.duration_s)));
    }
    parts.join("; ")
}

/// The version, the machine and the time of the measurement.
pub(super) fn provenance(result: &BenchResult) -> String {
    let host = &result.host;
    format!(
        "orion-peer {} on {} {}, {}; {}, {}",
        result.version,
        host.os,
        host.arch,
        counted(host.cpus, "CPU"),
        result.started_at,
        seconds(result.duration_s),
    )
}

/// Formats a duration read from a file, which may contain any number.
pub(super) fn seconds(seconds: f64) -> String {
    human::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The configuration as `key value` pairs.
pub(super) fn config(result: &BenchResult) -> Vec<(String, String)> {
    let pairs = result.config.iter();
    pairs.map(|(key, value)| (key.clone(), setting(value))).collect()
}

/// Formats a setting; simulated networks by their names.
pub(super) fn setting(value: &Value) -> String {
    simulated(value).unwrap_or_else(|| words(value))
}

/// Simulated networks by their names: `A: lte-symmetric (sym, 2 % loss), B: udp-blocked; seed 1`; `None` for other
/// values.
fn simulated(value: &Value) -> Option<String> {
    let networks = value.get("networks")?.as_array()?;
    let networks = networks.iter().enumerate().map(|(index, network)| {
        let text = |key: &str| network.get(key).and_then(Value::as_str).unwrap_or_default();
        let (name, nat, link) = (text("name"), text("nat"), text("link"));
        let informative = |part: &&str| !part.is_empty() && *part != name && *part != "clear";
        let inside: Vec<&str> = [nat, link].into_iter().filter(informative).collect();
        let side = if index == 0 { 'A' } else { 'B' };
        match (name.is_empty(), inside.is_empty()) {
            (true, _) => format!("{side}: {}", inside.join(", ")),
            (false, true) => format!("{side}: {name}"),
            (false, false) => format!("{side}: {name} ({})", inside.join(", ")),
        }
    });
    let seed = value.get("seed").map_or_else(String::new, |seed| format!("; seed {}", words(seed)));
    Some(networks.collect::<Vec<_>>().join(", ") + &seed)
}

/// Connections by type: `host 12`, `relay/udp 3`; `None` when none succeeded.
pub(super) fn by_type(result: &BenchResult) -> Option<String> {
    let types = &result.connections.by_type;
    let parts: Vec<_> = types.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// The label of a setup stage, given its JSON name.
pub(super) fn stage(name: &'static str) -> &'static str {
    match name {
        "dns" => "DNS",
        "tls" => "TLS",
        "ice" => "ICE",
        "dtls" => "DTLS",
        "dataChannel" => "data channel",
        "firstKeyframe" => "first keyframe",
        other => other,
    }
}

pub(super) use crate::stats::stages::stage_words as keyframe_stage;

/// Findings about the delivery of keyframes, limited in number because a file may contain any number of them.
pub(super) fn findings(result: &BenchResult) -> impl Iterator<Item = &Finding> {
    const MAX: usize = 8;
    result.keyframes.delivery.iter().flat_map(|delivery| &delivery.findings).take(MAX)
}

/// A stage and a code in one word: `ice/no-pair`.
pub(super) fn failure(stage: Stage, code: &str) -> String {
    format!("{stage}/{code}")
}

/// A number in a unit of the schema: `share`, `ms`, `bytes`, `dB`.
pub(super) fn number(value: f64, unit: &str) -> String {
    let text = match unit {
        "share" => human::share(value),
        "ms" => human::millis(value),
        "bytes" => human::bytes(value.max(0.0).round() as u64),
        "dB" => format!("{value:.1} dB"),
        "" => value.to_string(),
        unit => format!("{value} {}", cut(unit, 10)),
    };
    // A file may contain 1e300.
    if text.len() > MAX_NUMBER { format!("{value:.1e}") } else { text }
}

/// A number that may be missing.
pub(super) fn maybe(value: Option<f64>, unit: &str) -> String {
    value.map_or_else(|| NOTHING.to_owned(), |value| number(value, unit))
}

/// `part` of `whole` in percent; `None` when `whole` is 0.
pub(super) fn part(part: u64, whole: u64) -> Option<String> {
    (whole > 0).then(|| human::share(part as f64 / whole as f64))
}

/// The limit of a gate and the measured value: `at least 99 %`, `90 %`.
pub(super) fn limit_and_actual(check: &GateResult) -> (String, String) {
    let sense = match check.name.split('-').next() {
        Some("min") => "at least ",
        Some("max") => "at most ",
        _ => "",
    };
    let (limit, actual) =
        (quantity(&check.limit, &check.unit), quantity(&check.actual, &check.unit));
    // The two numbers differ only in digits that would be rounded away.
    if limit == actual && !check.pass && check.limit.is_number() && check.actual.is_number() {
        let unit = &check.unit;
        return (format!("{sense}{} {unit}", check.limit), format!("{} {unit}", check.actual));
    }
    let limit = match (check.unit.as_str(), check.limit.as_f64()) {
        // All digits of the requested limit: `99.99 %`.
        ("share", Some(share)) => format!("{} %", (share * 1e6).round() / 1e4),
        _ => limit,
    };
    (format!("{sense}{limit}"), actual)
}

fn quantity(value: &Value, unit: &str) -> String {
    match value {
        Value::Null => "nothing measured".into(),
        Value::Number(n) => n.as_f64().map_or_else(|| n.to_string(), |n| number(n, unit)),
        value => words(value),
    }
}

/// Any JSON as words: `host, relay/udp`, `host 12, srflx 3`.
pub(super) fn words(value: &Value) -> String {
    match value {
        Value::Null => NOTHING.into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key} {}", words(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A change in percent, with its sign: `+4.2 %`, `-12 %`.
pub(super) fn signed(change: f64) -> String {
    let percent = change * 100.0;
    let digits = if percent.abs() < 9.95 { 10.0 } else { 1.0 };
    let percent = (percent * digits).round() / digits;
    // A zero has no sign.
    if percent == 0.0 { "0 %".into() } else { format!("{percent:+} %") }
}

/// A change as a share of the baseline, positive for worse: `37 % worse`.
pub(super) fn worsening(change: f64) -> String {
    let signed = signed(change);
    match signed.strip_prefix('+') {
        Some(size) => format!("{size} worse"),
        None if signed.starts_with('-') => format!("{} better", &signed[1..]),
        None => signed,
    }
}

/// The interval of a change: `-3 to +12 %`.
pub(super) fn interval(metric: &MetricComparison) -> String {
    let Some([low, high]) = metric.interval.map(|ends| ends.map(signed)) else {
        return NOTHING.into();
    };
    format!("{} to {high}", low.trim_end_matches(" %"))
}

/// The verdict on a change as a word.
pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Regressed => "REGRESSED",
        Verdict::Worse => "worse",
        Verdict::Same => "same",
        Verdict::Better => "better",
        Verdict::Unknown => "unknown",
    }
}

/// Names of the baseline runs.
pub(super) fn baseline(names: &[String]) -> String {
    names.join(", ")
}

/// Prefix for a statement about one of several runs: its name; empty when it is the only one.
pub(super) fn of_run(runs: &[Named], run: &Named) -> String {
    if runs.len() > 1 { format!("{}: ", run.name) } else { String::new() }
}

/// Stages that at least one connection completed, in chronological order: the total ends with the data channel.
pub(super) fn stages(setup: &Setup<Spread>) -> Vec<(&'static str, &Spread)> {
    let mut stages: Vec<_> = setup.stages().into_iter().filter(|(_, s)| s.count > 0).collect();
    stages.sort_by_key(|(name, _)| *name == "firstKeyframe");
    stages
}

/// Counts of keyframes sent, received and intact; `None` when there were no keyframes.
pub(super) fn keyframe_counts(result: &BenchResult) -> Option<String> {
    let keyframes = &result.keyframes;
    let whole = keyframes.sent.or(keyframes.received).unwrap_or(0);
    if whole == 0 && keyframes.bytes.count == 0 {
        return None;
    }
    let counted = |count: Option<u64>, what: &str| match count {
        Some(count) => format!("{count} {what}"),
        None => format!("{what}: not reported"),
    };
    let intact = keyframes.intact.and_then(|intact| part(intact, whole));
    let intact = intact.map_or_else(String::new, |share| format!(" ({share})"));
    Some(format!(
        "{}, {}, {}{intact}, {} over the size limit",
        counted(keyframes.sent, "sent"),
        counted(keyframes.received, "received"),
        counted(keyframes.intact, "intact"),
        keyframes.over_limit
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts_of(name: &str, limit: Value, actual: Value, unit: &str) -> (String, String) {
        let (name, unit) = (name.to_owned(), unit.to_owned());
        limit_and_actual(&GateResult { name, limit, actual, unit, pass: false, note: None })
    }

    #[test]
    fn gates_are_described_in_words() {
        let texts = |limit: &str, actual: &str| (limit.to_owned(), actual.to_owned());
        assert_eq!(
            texts_of("min-success", json!(0.9999), json!(0.9), "share"),
            texts("at least 99.99 %", "90 %")
        );
        assert_eq!(
            texts_of("max-rtt-p95", json!(100), json!(123.4), "ms"),
            texts("at most 100 ms", "123 ms")
        );
        assert_eq!(
            texts_of("max-rtt-p95", json!(100), Value::Null, "ms"),
            texts("at most 100 ms", "nothing measured")
        );
        assert_eq!(
            texts_of("require-type", json!("relay"), json!({"host": 2, "srflx": 1}), "type"),
            texts("relay", "host 2, srflx 1")
        );
    }

    #[test]
    fn simulated_networks_are_shown_by_name() {
        let value = json!({"networks": [
            {"name": "lte-symmetric", "nat": "sym", "link": "0.5 % loss, 30ms delay"},
            {"name": "udp-blocked", "nat": "udp-blocked", "link": "clear"},
        ], "seed": 1});
        let expected = "A: lte-symmetric (sym, 0.5 % loss, 30ms delay), B: udp-blocked; seed 1";
        assert_eq!(simulated(&value).as_deref(), Some(expected));
        // A result of an older version.
        let older = json!({"networks": [{"nat": "sym", "link": "2 % loss"}], "seed": 7});
        assert_eq!(simulated(&older).as_deref(), Some("A: sym, 2 % loss; seed 7"));
        assert_eq!(simulated(&json!("host")), None);
    }

    #[test]
    fn a_limit_missed_by_little_does_not_look_met() {
        let (limit, actual) = texts_of("max-frame-bytes", json!(100_000), json!(100_020), "bytes");
        assert_eq!((limit.as_str(), actual.as_str()), ("at most 100000 bytes", "100020 bytes"));
    }

    #[test]
    fn changes_have_a_direction() {
        assert_eq!([0.1, -0.05, 0.0].map(worsening), ["10 % worse", "5 % better", "0 %"]);
        assert_eq!([0.1, -0.05, 0.0].map(signed), ["+10 %", "-5 %", "0 %"]);
    }
}
