//! The top of a run's page: the verdict, machine and settings, and the key figures.

use std::time::Duration;

use serde_json::Value;

use super::values::{NONE, budget, bytes, counted, maybe, ms, of, setting, started};
use crate::{
    report::{
        bench::{
            Named,
            schema::{BenchResult, FailureGroup},
            wording::failure,
        },
        html::markup::{esc, words},
        human,
        schema::FailureRecord,
    },
    stats::Spread,
};

/// How a run ended.
pub(super) struct Outcome {
    /// `good`, `bad` or `warn`.
    pub(super) class: &'static str,
    /// The outcome in one word.
    pub(super) word: &'static str,
    /// The reason for the outcome.
    pub(super) reason: String,
}

/// Judges a run by its gates and how it ended.
pub(super) fn outcome(result: &BenchResult) -> Outcome {
    let gates = result.checks.len();
    let failed: Vec<_> =
        result.checks.iter().filter(|check| !check.pass).map(|check| check.name.as_str()).collect();
    let not_met = match (gates, failed.len()) {
        (_, 0) => None,
        (1, _) => Some(format!("gate not met: {}", failed[0])),
        (_, count) => Some(format!("{count} of {gates} gates not met: {}", failed.join(", "))),
    };
    let (class, word, reason) = match (result.partial, result.pass, not_met, gates) {
        (true, _, None, _) => ("warn", "Partial", ended_after(result)),
        (true, _, Some(gates), _) => {
            ("bad", "Partial", format!("{}; {gates}", ended_after(result)))
        }
        (false, _, Some(gates), _) => ("bad", "Failed", gates),
        (false, false, None, _) => ("bad", "Failed", ungated(result)),
        (false, true, None, 0) => ("good", "Passed", ungated(result)),
        (false, true, None, 1) => ("good", "Passed", "the only gate was met".to_owned()),
        (false, true, None, 2) => ("good", "Passed", "both gates were met".to_owned()),
        (false, true, None, _) => ("good", "Passed", format!("all {gates} gates were met")),
    };
    Outcome { class, word, reason }
}

/// How far an unfinished run got.
fn ended_after(result: &BenchResult) -> String {
    let attempted = result.connections.attempted;
    match result.config.get("connections").and_then(Value::as_u64) {
        _ if attempted == 0 => "ended before the first connection".to_owned(),
        Some(planned) if planned > attempted => {
            format!("ended after {attempted} of {planned} connections")
        }
        _ => "ended early".to_owned(),
    }
}

/// The reason for the verdict when there are no gates.
fn ungated(result: &BenchResult) -> String {
    let connections = &result.connections;
    match connections.attempted.saturating_sub(connections.succeeded) {
        _ if connections.attempted == 0 => "no connection was attempted".to_owned(),
        0 if connections.attempted == 1 => "the only connection succeeded".to_owned(),
        1 if connections.attempted == 1 => "the only connection failed".to_owned(),
        0 => format!("all {} connections succeeded", connections.attempted),
        failed => format!("{} connections failed", of(failed, connections.attempted)),
    }
}

/// Number of successful connections, and why the run ended early or else the most frequent failure. Escaped.
pub(super) fn summary(result: &BenchResult) -> String {
    let connections = &result.connections;
    let text = match connections.attempted {
        // The verdict already says so.
        _ if result.checks.is_empty() && !result.partial => String::new(),
        0 => "No connection was attempted.".to_owned(),
        1 if connections.succeeded == 1 => "The only connection succeeded.".to_owned(),
        1 => "The only connection failed.".to_owned(),
        all => format!("{} connections succeeded.", of(connections.succeeded, all)),
    };
    let why = match (&result.ended, connections.failures.first()) {
        (Some(FailureRecord { stage, code, message, remedy }), _) => {
            why("Why it ended", &failure(*stage, code), message, remedy)
        }
        (None, Some(FailureGroup { stage, code, count, message, remedy })) => {
            let what = format!("{}, {}", failure(*stage, code), counted(*count, "time", "times"));
            why("Most frequent failure", &what, message, remedy)
        }
        (None, None) => String::new(),
    };
    text + &why
}

/// A failure and its remedy. Escaped.
fn why(heading: &str, what: &str, message: &str, remedy: &str) -> String {
    let sentence = |text: &str| esc(text.trim_end_matches('.'));
    let remedy = match remedy {
        "" => String::new(),
        remedy => format!(" <strong>Try</strong>: {}.", sentence(remedy)),
    };
    format!(" <strong>{heading}</strong> ({}): {}.{remedy}", esc(what), sentence(message))
}

/// Describes the machine. Escaped.
pub(super) fn machine(result: &BenchResult) -> String {
    let host = &result.host;
    let cpus = counted(host.cpus, "CPU", "CPUs");
    format!("{} {}, {cpus}", esc(&host.os), esc(&host.arch))
}

/// Formats the length of the run.
pub(super) fn length(result: &BenchResult) -> String {
    Duration::try_from_secs_f64(result.duration_s).map_or_else(|_| NONE.into(), human::duration)
}

/// The heading of one run: verdict, circumstances, settings.
pub(super) fn header(run: &Named) -> String {
    let result = &run.result;
    let Outcome { class, word, reason } = outcome(result);
    let settings: String = result
        .config
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| pair(&esc(&words(key)), &esc(&setting(key, value))))
        .collect();
    let facts = [
        ("result", esc(&run.name)),
        ("started", started(result)),
        ("duration", length(result)),
        ("machine", machine(result)),
        ("version", format!("orion-peer {}", esc(&result.version))),
    ];
    let facts: String = facts.iter().map(|(name, value)| pair(name, value)).collect();
    format!(
        "<header class=\"verdict {class}\">\n<p class=\"tool\">orion-peer bench</p>\n\
         <h1>{word}: {}</h1>\n<p>{}</p>\n</header>\n\
         <dl class=\"facts\">\n{facts}</dl>\n\
         <h2 class=\"quiet\">Settings</h2>\n<dl class=\"facts settings\">\n{settings}</dl>\n",
        esc(&reason),
        summary(result)
    )
}

fn pair(name: &str, value: &str) -> String {
    format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")
}

/// The key figures.
pub(super) fn tiles(result: &BenchResult) -> String {
    let tiles = [
        success(result),
        rtt(result),
        setup(result),
        first_picture(result),
        intact(result),
        latency(result),
        size(result),
    ];
    let tiles: String = tiles.iter().map(Tile::render).collect();
    format!("<h2 class=\"quiet\">Key figures</h2>\n<ul class=\"tiles\">\n{tiles}</ul>\n")
}

struct Tile {
    label: &'static str,
    value: String,
    detail: Vec<String>,
}

impl Tile {
    fn render(&self) -> String {
        let Self { label, value, detail } = self;
        let lines: Vec<_> =
            detail.iter().filter(|line| !line.is_empty()).map(|line| glued(&esc(line))).collect();
        format!(
            "<li><span class=\"label\">{label}</span> <strong>{}</strong> \
             <span class=\"detail\">{}</span></li>\n",
            esc(value),
            lines.join("<br/>")
        )
    }
}

/// Keeps a number with its unit, and a name with its number, on one line.
fn glued(text: &str) -> String {
    const BREAK: char = ' ';
    let chars: Vec<char> = text.chars().collect();
    let joined = |index: usize| {
        let before = index.checked_sub(1).map_or(BREAK, |before| chars[before]);
        let after = chars.get(index + 1).copied().unwrap_or(BREAK);
        let unit = after.is_ascii_uppercase() || matches!(after, 'm' | 's' | '%');
        after.is_ascii_digit() || (before.is_ascii_digit() && unit)
    };
    let glue = |(index, c): (usize, &char)| if *c == ' ' && joined(index) { '\u{a0}' } else { *c };
    chars.iter().enumerate().map(glue).collect()
}

/// A tile for a value that was not measured, with the reason if the result has one.
fn unmeasured(label: &'static str, result: &BenchResult, what: &str, otherwise: &str) -> Tile {
    let why = result.not_measured.iter().find(|missing| missing.what.starts_with(what));
    let detail = why.map_or(otherwise, |missing| missing.why.as_str()).to_owned();
    Tile { label, value: NONE.into(), detail: vec![detail] }
}

fn success(result: &BenchResult) -> Tile {
    let connections = &result.connections;
    let label = "Success rate";
    let Some(rate) = connections.success_rate else {
        return unmeasured(label, result, "connections", "no connection was attempted");
    };
    let [low, high] = connections.ci95.map(human::share);
    let detail = vec![
        format!("{} connections", of(connections.succeeded, connections.attempted)),
        format!("95 % CI {low} to {high}"),
    ];
    Tile { label, value: human::share(rate), detail }
}

fn rtt(result: &BenchResult) -> Tile {
    let (label, rtt) = ("RTT p50", &result.rtt_ms);
    let Some(p50) = rtt.spread.p50 else {
        let mut tile = unmeasured(label, result, "rttMs", "no ping was answered");
        if rtt.sent > 0 {
            tile.detail.push(format!("{} pings lost", of(rtt.lost, rtt.sent)));
        }
        return tile;
    };
    let (p95, p99) = (maybe(rtt.spread.p95, "ms"), maybe(rtt.spread.p99, "ms"));
    let loss = match rtt.sent {
        0 => String::new(),
        sent => {
            let share = human::share(rtt.lost as f64 / sent as f64);
            format!("{} pings lost, {share}", of(rtt.lost, sent))
        }
    };
    let detail = vec![format!("p95 {p95}, p99 {p99}"), loss];
    Tile { label, value: ms(p50), detail }
}

/// A tile for times: median, p95 and maximum, and their meaning; if there are no times, the result of
/// `missing`.
fn times(label: &'static str, spread: &Spread, of: &str, missing: impl FnOnce() -> Tile) -> Tile {
    let Some(p50) = spread.p50 else { return missing() };
    let ends = format!("p95 {}, max {}", maybe(spread.p95, "ms"), maybe(spread.max, "ms"));
    Tile { label, value: ms(p50), detail: vec![ends, of.to_owned()] }
}

fn setup(result: &BenchResult) -> Tile {
    let (label, total) = ("Setup p50", &result.connections.setup_ms.total);
    times(label, total, "start to open data channel", || {
        unmeasured(label, result, "connections.setupMs", "no connection was set up")
    })
}

fn first_picture(result: &BenchResult) -> Tile {
    let (label, first) = ("First picture p50", &result.connections.first_picture_ms.from_start);
    times(label, first, "start to complete keyframe", || {
        unmeasured(label, result, "keyframes", "no connection had a picture")
    })
}

fn intact(result: &BenchResult) -> Tile {
    let (label, keyframes) = ("Keyframes intact", &result.keyframes);
    let all = keyframes.sent.or(keyframes.received);
    let (Some(intact), Some(all @ 1..)) = (keyframes.intact, all) else {
        let why = if all == Some(0) { "no keyframe was sent" } else { "not reported by the peer" };
        return unmeasured(label, result, "keyframes", why);
    };
    let verb = if keyframes.sent.is_some() { "sent" } else { "received" };
    let share = human::share(intact as f64 / all as f64);
    let detail =
        vec![format!("{share} of those {verb}"), "complete, with the sender's SHA-256".into()];
    Tile { label, value: format!("{intact} / {all}"), detail }
}

fn latency(result: &BenchResult) -> Tile {
    let (label, latency) = ("Keyframe latency p50", &result.keyframes.latency_ms);
    times(label, latency, "capture to complete", || {
        unmeasured(label, result, "keyframes.latency", "no keyframe was timed")
    })
}

fn size(result: &BenchResult) -> Tile {
    let (label, sizes) = ("Keyframe size, mean", &result.keyframes.bytes);
    let Some(mean) = sizes.mean else {
        return unmeasured(label, result, "keyframes.bytes", "no keyframe was sent or received");
    };
    let limit = budget(result).map_or_else(String::new, |budget| {
        format!("{} over the budget of {}", result.keyframes.over_limit, bytes(budget))
    });
    let detail = vec![format!("max {}", maybe(sizes.max, "bytes")), limit];
    Tile { label, value: bytes(mean), detail }
}
