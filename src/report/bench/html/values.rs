//! Values of a result as text.

use serde_json::Value;

use crate::{
    report::{
        bench::{
            layout::cut,
            schema::BenchResult,
            wording::{self, number},
        },
        html::{markup::esc, scale::tick_ms},
    },
    stats::Spread,
    text::printable,
};

/// Written in place of a value that was not measured.
pub(super) const NONE: &str = "–";

/// Maximum length of a name inside a plot, characters.
const MAX_NAME: usize = 24;

/// Maximum time that is written out, ms; a file may contain 1e300.
const MAX_MS: f64 = 1e9;

/// Formats milliseconds for display.
pub(super) fn ms(value: f64) -> String {
    number(value, "ms")
}

/// Formats bytes for display.
pub(super) fn bytes(value: f64) -> String {
    number(value, "bytes")
}

/// A number in a unit of the schema, or a dash. Not escaped: the unit may come from a file.
pub(super) fn maybe(value: Option<f64>, unit: &str) -> String {
    value.filter(|value| value.is_finite()).map_or_else(|| NONE.into(), |value| number(value, unit))
}

/// A number in a unit of the schema, or a dash, for a cell of a table: `<0.01 ms` is escaped.
pub(super) fn cell(value: Option<f64>, unit: &str) -> String {
    esc(&maybe(value, unit))
}

/// Formats a setting for display. Not escaped.
pub(super) fn setting(key: &str, value: &Value) -> String {
    match value.as_f64() {
        Some(count) if key.ends_with("ytes") => bytes(count),
        Some(time) if key.ends_with("Ms") && time.abs() < MAX_MS => tick_ms(time),
        _ => wording::setting(value),
    }
}

/// A name short enough for a plot.
pub(super) fn short_name(name: &str) -> String {
    cut(&printable(name), MAX_NAME)
}

/// `18 of 20`.
pub(super) fn of(part: u64, all: u64) -> String {
    format!("{part} of {all}")
}

/// `1 one` or `n many`.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// The cells count, min, mean, p50, p90, p95, p99, p99.9 and max of a spread.
pub(super) fn spread_cells(spread: &Spread, unit: &str) -> Vec<String> {
    let Spread { count, min, mean, p50, p90, p95, p99, p999, max } = *spread;
    let values = [min, mean, p50, p90, p95, p99, p999, max];
    std::iter::once(count.to_string())
        .chain(values.into_iter().map(|value| cell(value, unit)))
        .collect()
}

/// Median of some values; `None` when there are none.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The size budget of a keyframe, bytes.
pub(super) fn budget(result: &BenchResult) -> Option<f64> {
    let gate = result.checks.iter().find(|check| check.name == "max-frame-bytes");
    let limit = result.config.get("maxBytes").or(gate.map(|gate| &gate.limit))?;
    limit.as_f64().filter(|limit| limit.is_finite() && *limit > 0.0)
}

/// The start time, human-readable; verbatim if it is not a valid RFC 3339 time. Escaped.
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
    fn settings_are_readable() {
        assert_eq!(setting("maxBytes", &json!(100_000)), "100.0 KB");
        assert_eq!(setting("pingBytes", &json!(64)), "64 B");
        assert_eq!(setting("connections", &json!(20)), "20");
        assert_eq!(setting("iceServers", &json!(["a", "b"])), "a, b");
        let times = [20.0, 1000.0, 15_000.0, 1e300].map(|ms| setting("timeoutMs", &json!(ms)));
        assert_eq!(times[..3], ["20 ms", "1 s", "15 s"]);
        assert!(times[3].len() < 40, "{}", times[3]);
    }

    #[test]
    fn missing_numbers_are_dashes_and_huge_ones_are_short() {
        assert_eq!(
            [None, Some(f64::NAN), Some(0.99)].map(|v| maybe(v, "share")),
            [NONE, NONE, "99 %"]
        );
        assert!(ms(1e300).len() < 12 && bytes(1e300).len() < 12);
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(short_name("relay/udp"), "relay/udp");
        assert_eq!(short_name(&"x".repeat(100)).chars().count(), MAX_NAME);
    }

    #[test]
    fn the_median_is_the_middle_value() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
