//! The top of a run's page: the verdict, what was run where, and the key figures.

use std::time::Duration;

use super::{
    markup::{esc, words},
    values::{NONE, budget, counted, in_unit, maybe, of, setting, started},
};
use crate::report::{
    bench::{
        Named,
        schema::{BenchResult, FailureRecord},
    },
    human,
};

/// How a run ended.
pub(super) struct Outcome {
    /// `good`, `bad` or `warn`.
    pub(super) class: &'static str,
    /// One word.
    pub(super) word: &'static str,
    /// What it rests on.
    pub(super) reason: String,
}

/// Judges a run from its gates and from how it ended.
pub(super) fn outcome(result: &BenchResult) -> Outcome {
    let gates = result.checks.len();
    let failed: Vec<_> =
        result.checks.iter().filter(|check| !check.pass).map(|check| check.name.as_str()).collect();
    let not_met = || format!("{} of {gates} gates not met: {}", failed.len(), failed.join(", "));
    if result.partial {
        let reason = if failed.is_empty() {
            "the run ended before it was done".to_owned()
        } else {
            format!("the run ended before it was done; {}", not_met())
        };
        return Outcome { class: "warn", word: "Partial", reason };
    }
    match (result.pass, failed.is_empty(), gates) {
        (_, false, _) => Outcome { class: "bad", word: "Failed", reason: not_met() },
        (false, ..) => {
            let reason = "the run could not be done".to_owned();
            Outcome { class: "bad", word: "Failed", reason }
        }
        (true, _, 0) => {
            let reason = "no gates were set".to_owned();
            Outcome { class: "plain", word: "Done", reason }
        }
        (true, _, 1) => {
            Outcome { class: "good", word: "Passed", reason: "the one gate was met".into() }
        }
        (true, ..) => {
            Outcome { class: "good", word: "Passed", reason: format!("all {gates} gates met") }
        }
    }
}

/// Connections that succeeded, and what ended the run when something did. Escaped.
pub(super) fn summary(result: &BenchResult) -> String {
    let connections = &result.connections;
    let mut text = match connections.attempted {
        0 => "No connection was attempted.".to_owned(),
        1 if connections.succeeded == 1 => "The one connection succeeded.".to_owned(),
        1 => "The one connection failed.".to_owned(),
        all => format!("{} connections succeeded.", of(connections.succeeded, all)),
    };
    if let Some(ended) = &result.ended {
        text.push_str(&why(ended));
    }
    text
}

/// What ended a run, and what to try. Escaped.
fn why(ended: &FailureRecord) -> String {
    let FailureRecord { stage, code, message, remedy } = ended;
    let remedy = match remedy.as_str() {
        "" => String::new(),
        remedy => format!(" <strong>Try</strong>: {}.", esc(remedy.trim_end_matches('.'))),
    };
    format!(
        " <strong>Why it ended</strong> ({stage}, {}): {}.{remedy}",
        esc(code),
        esc(message.trim_end_matches('.'))
    )
}

/// Machine in words. Escaped.
pub(super) fn machine(result: &BenchResult) -> String {
    let host = &result.host;
    let cpus = counted(host.cpus, "CPU", "CPUs");
    format!("{} {}, {cpus}", esc(&host.os), esc(&host.arch))
}

/// Length of the run in words.
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
        ("took", length(result)),
        ("machine", machine(result)),
        ("version", format!("orion-peer {}", esc(&result.version))),
    ];
    let facts: String = facts.iter().map(|(name, value)| pair(name, value)).collect();
    format!(
        "<header class=\"verdict {class}\">\n<p class=\"tool\">orion-peer bench</p>\n\
         <h1>{word}: {}</h1>\n<p>{}</p>\n</header>\n\
         <dl class=\"facts\">\n{facts}</dl>\n\
         <h2 class=\"quiet\">What was run</h2>\n<dl class=\"facts settings\">\n{settings}</dl>\n",
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
            detail.iter().filter(|line| !line.is_empty()).map(|line| esc(line)).collect();
        format!(
            "<li><span class=\"label\">{label}</span> <strong>{}</strong> \
             <span class=\"detail\">{}</span></li>\n",
            esc(value),
            lines.join("<br>")
        )
    }
}

/// A tile of something that was not measured, with the reason when the result tells one.
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
        format!("95 % interval {low} to {high}"),
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
    Tile { label, value: human::millis(p50), detail }
}

fn setup(result: &BenchResult) -> Tile {
    let (label, total) = ("Set-up p50", &result.connections.setup_ms.total);
    let Some(p50) = total.p50 else {
        return unmeasured(label, result, "connections.setupMs", "no connection was set up");
    };
    let detail = vec![
        format!("p95 {}, max {}", maybe(total.p95, "ms"), maybe(total.max, "ms")),
        "start to open data channel".to_owned(),
    ];
    Tile { label, value: human::millis(p50), detail }
}

fn intact(result: &BenchResult) -> Tile {
    let (label, keyframes) = ("Keyframes intact", &result.keyframes);
    let all = keyframes.sent.or(keyframes.received);
    let (Some(intact), Some(all @ 1..)) = (keyframes.intact, all) else {
        let why =
            if all == Some(0) { "no keyframe was sent" } else { "the other side did not tell" };
        return unmeasured(label, result, "keyframes", why);
    };
    let verb = if keyframes.sent.is_some() { "sent" } else { "received" };
    let share = human::share(intact as f64 / all as f64);
    let detail =
        vec![format!("{share} of those {verb}"), "whole, with the sender's SHA-256".into()];
    Tile { label, value: format!("{intact} / {all}"), detail }
}

fn latency(result: &BenchResult) -> Tile {
    let (label, latency) = ("Keyframe latency p50", &result.keyframes.latency_ms);
    let Some(p50) = latency.p50 else {
        return unmeasured(label, result, "keyframes.latency", "no keyframe was timed");
    };
    let detail = vec![
        format!("p95 {}, max {}", maybe(latency.p95, "ms"), maybe(latency.max, "ms")),
        "first packet to last packet".to_owned(),
    ];
    Tile { label, value: human::millis(p50), detail }
}

fn size(result: &BenchResult) -> Tile {
    let (label, bytes) = ("Keyframe size, mean", &result.keyframes.bytes);
    let Some(mean) = bytes.mean else {
        return unmeasured(label, result, "keyframes.bytes", "no keyframe was seen");
    };
    let limit = budget(result).map_or_else(String::new, |budget| {
        format!("{} over the budget of {}", result.keyframes.over_limit, in_unit(budget, "bytes"))
    });
    let detail = vec![format!("max {}", maybe(bytes.max, "bytes")), limit];
    Tile { label, value: in_unit(mean, "bytes"), detail }
}
