//! Values of a result as text.

use serde_json::Value;

use super::markup::esc;
use crate::{
    report::{bench::schema::BenchResult, human},
    stats::Spread,
};

/// Written where nothing was measured.
pub(super) const NONE: &str = "–";

/// A number in a unit of the schema: `share`, `ms`, `bytes`, or another word that is left out.
pub(super) fn in_unit(value: f64, unit: &str) -> String {
    match unit {
        "share" => human::share(value),
        "ms" => human::millis(value),
        "bytes" => human::bytes(value.max(0.0).round() as u64),
        _ => human::trim(&format!("{value:.3}")),
    }
}

/// A number in a unit, or a dash.
pub(super) fn maybe(value: Option<f64>, unit: &str) -> String {
    value
        .filter(|value| value.is_finite())
        .map_or_else(|| NONE.into(), |value| in_unit(value, unit))
}

/// A JSON value in a unit: what a gate asks for or has measured. Not escaped.
pub(super) fn json_in_unit(value: &Value, unit: &str) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::Number(number) => maybe(number.as_f64(), unit),
        other => plain(other),
    }
}

/// A setting as people write it. Not escaped.
pub(super) fn setting(key: &str, value: &Value) -> String {
    match value.as_u64() {
        Some(count) if key.ends_with("ytes") => human::bytes(count),
        _ => plain(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// `18 of 20`.
pub(super) fn of(part: u64, all: u64) -> String {
    format!("{part} of {all}")
}

/// `one` of it, or how many of `many`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// The cells count, min, mean, p50, p90, p95, p99, p99.9 and max of a spread.
pub(super) fn spread_cells(spread: &Spread, unit: &str) -> Vec<String> {
    let Spread { count, min, mean, p50, p90, p95, p99, p999, max } = *spread;
    let values = [min, mean, p50, p90, p95, p99, p999, max];
    std::iter::once(count.to_string())
        .chain(values.into_iter().map(|value| maybe(value, unit)))
        .collect()
}

/// Middle of some values; none of nothing.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The largest size a keyframe should have, bytes, and what set it.
pub(super) fn budget(result: &BenchResult) -> Option<f64> {
    let gate = result.checks.iter().find(|check| check.name == "max-frame-bytes");
    let limit = result.config.get("maxBytes").or(gate.map(|gate| &gate.limit))?;
    limit.as_f64().filter(|limit| limit.is_finite() && *limit > 0.0)
}

/// When it began, for people; as it stands when it is no RFC 3339 time. Escaped.
pub(super) fn started(result: &BenchResult) -> String {
    match result.started_at.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => esc(&result.started_at),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_read_well() {
        assert_eq!(setting("maxBytes", &json!(100_000)), "100.0 KB");
        assert_eq!(setting("pingBytes", &json!(64)), "64 B");
        assert_eq!(setting("connections", &json!(20)), "20");
        assert_eq!(setting("iceServers", &json!(["a", "b"])), "a, b");
        assert_eq!(setting("paced", &json!(true)), "yes");
    }

    #[test]
    fn units_of_gates() {
        assert_eq!(json_in_unit(&json!(0.99), "share"), "99 %");
        assert_eq!(json_in_unit(&json!(100.0), "ms"), "100 ms");
        assert_eq!(json_in_unit(&json!("relay"), "type"), "relay");
        assert_eq!(json_in_unit(&Value::Null, "ms"), NONE);
        assert_eq!(maybe(Some(f64::NAN), "ms"), NONE);
    }

    #[test]
    fn the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
