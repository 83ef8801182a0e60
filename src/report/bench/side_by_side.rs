//! Terminal output of several runs, side by side; the first is the reference.

use super::{
    Named,
    layout::{Align, Column, columns, cut_front},
    page::{Page, comparison},
    schema::{BenchResult, Setup},
    wording::{self, NOTHING, Outcome, maybe, stages},
};

/// Widths of a label, a value and a change, in columns, including gaps.
const LABEL: usize = 22;
const VALUE: usize = 12;
const CHANGE: usize = 10;

/// A row of the comparison: a number in a unit.
struct MetricRow {
    label: String,
    unit: &'static str,
    value: fn(&BenchResult, &str) -> Option<f64>,
    /// Second argument of `value` if it needs one, such as a stage or a type.
    key: String,
}

/// The page of several runs, at most `width` columns wide.
pub(super) fn side_by_side(runs: &[Named], width: usize) -> String {
    let mut page = Page::new(width);
    legend(&mut page, runs);
    let others = (width - LABEL - VALUE) / (VALUE + CHANGE);
    let rest: Vec<usize> = (1..runs.len()).collect();
    for block in rest.chunks(others) {
        let shown = [&[0], block].concat();
        block_of(&mut page, runs, &shown);
    }
    page.line("");
    page.paragraph(0, "A change compares only two numbers and may be due to chance.");
    for (index, run) in runs.iter().enumerate().filter(|(_, run)| run.result.comparison.is_some()) {
        page.line("");
        page.line(&format!("statistical test of {}", letter(index)));
        comparison(&mut page, &run.result);
    }
    for (index, run) in runs.iter().enumerate() {
        problems(&mut page, &letter(index), &run.result);
    }
    page.text
}

/// `A`, `B`, …, `Z`, `A1`, …
fn letter(index: usize) -> String {
    let letter = char::from(b'A' + (index % 26) as u8);
    if index < 26 { letter.to_string() } else { format!("{letter}{}", index / 26) }
}

fn legend(page: &mut Page, runs: &[Named]) {
    page.line(&format!("{} side by side", wording::counted(runs.len() as u64, "run")));
    for (index, run) in runs.iter().enumerate() {
        let room = page.width - 6;
        page.line(&format!("  {:<3} {}", letter(index), cut_front(&run.name, room)));
        let outcome = Outcome::of(&run.result).word();
        page.paragraph(6, &format!("{outcome}: {}", wording::headline(&run.result)));
        page.paragraph(6, &wording::provenance(&run.result));
    }
}

fn block_of(page: &mut Page, runs: &[Named], shown: &[usize]) {
    let mut layout: Vec<Column> = vec![(Align::Left, LABEL - 2), (Align::Right, VALUE - 2)];
    let mut header = vec![String::new(), letter(shown[0])];
    for index in &shown[1..] {
        layout.extend([(Align::Right, VALUE - 2), (Align::Right, CHANGE - 2)]);
        header.extend([letter(*index), "change".into()]);
    }
    let results: Vec<_> = shown.iter().map(|index| &runs[*index].result).collect();
    let mut rows = vec![header];
    for (heading, metrics) in sections(&results) {
        let metrics: Vec<_> = metrics.iter().filter_map(|metric| cells(metric, &results)).collect();
        if !metrics.is_empty() {
            rows.extend([Vec::new(), vec![heading.to_owned()]]);
            rows.extend(metrics);
        }
    }
    page.line("");
    for line in columns(&layout, &rows) {
        page.line(&line);
    }
}

/// The cells of a row; `None` when no run has the quantity.
fn cells(metric: &MetricRow, results: &[&BenchResult]) -> Option<Vec<String>> {
    let values: Vec<_> = results.iter().map(|result| (metric.value)(result, &metric.key)).collect();
    values.iter().any(Option::is_some).then_some(())?;
    let mut cells = vec![format!("  {}", metric.label), maybe(values[0], metric.unit)];
    for value in &values[1..] {
        cells.push(maybe(*value, metric.unit));
        cells.push(change(values[0], *value, metric.unit));
    }
    Some(cells)
}

/// Change from `a` to `b`: in percent of `a`; for counts the difference, for percentages in percentage points.
fn change(a: Option<f64>, b: Option<f64>, unit: &str) -> String {
    let (Some(a), Some(b)) = (a, b) else { return NOTHING.into() };
    let text = match unit {
        "share" => wording::signed(b - a).replace('%', "pp"),
        "" if a.to_bits() == b.to_bits() => "0".into(),
        "" => format!("{:+}", b - a),
        // A change from 0 has no percentage.
        _ if a == 0.0 && b != 0.0 => NOTHING.into(),
        _ if a == 0.0 => "0 %".into(),
        _ => wording::signed((b - a) / a),
    };
    if text.chars().count() > CHANGE - 2 { "a lot".into() } else { text }
}

type Section = (&'static str, Vec<MetricRow>);

fn metric(
    label: &str,
    unit: &'static str,
    value: fn(&BenchResult, &str) -> Option<f64>,
) -> MetricRow {
    MetricRow { label: label.into(), unit, value, key: String::new() }
}

fn sections(results: &[&BenchResult]) -> Vec<Section> {
    let mut connections = vec![
        metric("attempted", "", |r, _| Some(r.connections.attempted as f64)),
        metric("succeeded", "", |r, _| Some(r.connections.succeeded as f64)),
        metric("success rate", "share", |r, _| r.connections.success_rate),
    ];
    let types: std::collections::BTreeSet<_> =
        results.iter().flat_map(|r| r.connections.by_type.keys()).take(12).collect();
    connections.extend(types.into_iter().map(|kind| MetricRow {
        label: cut_front(kind, LABEL - 4),
        unit: "",
        value: |r, kind| Some(r.connections.by_type.get(kind).copied().unwrap_or(0) as f64),
        key: kind.clone(),
    }));
    vec![
        ("connections", connections),
        ("setup, p50", setup(results)),
        ("setup, p95", vec![metric("total", "ms", |r, _| r.connections.setup_ms.total.p95)]),
        (
            "first picture",
            vec![
                metric("p50", "ms", |r, _| r.connections.first_picture_ms.from_start.p50),
                metric("p95", "ms", |r, _| r.connections.first_picture_ms.from_start.p95),
                metric("from joining, p50", "ms", |r, _| {
                    r.connections.first_picture_ms.from_join.p50
                }),
            ],
        ),
        ("round-trip time", round_trips()),
        ("keyframes", keyframes()),
        (
            "resources",
            vec![
                metric("peak memory", "bytes", |r, _| r.resources.max_rss_bytes.map(|b| b as f64)),
                metric("CPU time", "ms", |r, _| r.resources.cpu_seconds.map(|s| s * 1000.0)),
            ],
        ),
    ]
}

fn setup(results: &[&BenchResult]) -> Vec<MetricRow> {
    let mut names: Vec<&'static str> = Vec::new();
    // In chronological order, over all runs.
    let all: Vec<_> = results.iter().map(|r| stages(&r.connections.setup_ms)).collect();
    for stage in Setup::<()>::default().stages() {
        if all.iter().flatten().any(|(name, _)| *name == stage.0) {
            names.push(stage.0);
        }
    }
    names.sort_by_key(|name| *name == "firstKeyframe");
    let p50 = |result: &BenchResult, key: &str| {
        let stages = result.connections.setup_ms.stages();
        stages.iter().find(|(name, _)| *name == key).and_then(|(_, spread)| spread.p50)
    };
    let stage = |name: &'static str| MetricRow {
        label: wording::stage(name).into(),
        unit: "ms",
        value: p50,
        key: name.into(),
    };
    names.into_iter().map(stage).collect()
}

fn round_trips() -> Vec<MetricRow> {
    vec![
        metric("p50", "ms", |r, _| r.rtt_ms.spread.p50),
        metric("p90", "ms", |r, _| r.rtt_ms.spread.p90),
        metric("p95", "ms", |r, _| r.rtt_ms.spread.p95),
        metric("p99", "ms", |r, _| r.rtt_ms.spread.p99),
        metric("p99.9", "ms", |r, _| r.rtt_ms.spread.p999),
        metric("max", "ms", |r, _| r.rtt_ms.spread.max),
        metric("lost", "share", |r, _| {
            (r.rtt_ms.sent > 0).then(|| r.rtt_ms.lost as f64 / r.rtt_ms.sent as f64)
        }),
    ]
}

fn keyframes() -> Vec<MetricRow> {
    vec![
        metric("sent", "", |r, _| r.keyframes.sent.map(|n| n as f64)),
        metric("received", "", |r, _| r.keyframes.received.map(|n| n as f64)),
        metric("intact", "", |r, _| r.keyframes.intact.map(|n| n as f64)),
        metric("over the limit", "", |r, _| Some(r.keyframes.over_limit as f64)),
        metric("size, p50", "bytes", |r, _| r.keyframes.bytes.p50),
        metric("size, max", "bytes", |r, _| r.keyframes.bytes.max),
        metric("latency, p50", "ms", |r, _| r.keyframes.latency_ms.p50),
        metric("latency, p95", "ms", |r, _| r.keyframes.latency_ms.p95),
        metric("first to last, p50", "ms", |r, _| r.keyframes.spread_ms.p50),
        metric("first to last, p95", "ms", |r, _| r.keyframes.spread_ms.p95),
        metric("network, p50", "ms", |r, _| r.keyframes.stages_ms.network.p50),
        metric("network, p95", "ms", |r, _| r.keyframes.stages_ms.network.p95),
        metric("encoding, p50", "ms", |r, _| r.keyframes.encode_ms.p50),
        metric("PSNR, p50", "dB", |r, _| r.keyframes.psnr_db.p50),
        metric("capture to disk, p50", "ms", |r, _| r.keyframes.stages_ms.total.p50),
    ]
}

/// Failures and unmet gates of one of the runs.
fn problems(page: &mut Page, name: &str, result: &BenchResult) {
    let not_met: Vec<_> = result.checks.iter().filter(|check| !check.pass).collect();
    let failures = &result.connections.failures;
    if failures.is_empty() && not_met.is_empty() && result.ended.is_none() {
        return;
    }
    page.heading(&format!("what went wrong in {name}"));
    if let Some(ended) = &result.ended {
        let what = wording::failure(ended.stage, &ended.code);
        page.paragraph(2, &format!("ended early: {what}: {}", ended.message));
    }
    for check in not_met {
        let (limit, actual) = wording::limit_and_actual(check);
        page.paragraph(2, &format!("{} NOT met: {actual}, not {limit}", check.name));
    }
    for group in failures {
        let what = wording::failure(group.stage, &group.code);
        page.paragraph(2, &format!("{} x {what}: {}", group.count, group.message));
        page.paragraph(6, &format!("try: {}", group.remedy));
    }
}
