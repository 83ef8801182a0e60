//! Terminal output: one run as a page of text, several side by side.

mod servers;

use super::{
    Named,
    layout::{Align, Column, WIDTH},
    page::{Page, comparison, row},
    schema::{BenchResult, FirstPicture},
    side_by_side::side_by_side,
    wording::{self, Outcome, keyframe_counts, number, stages},
};
use crate::{
    report::{
        human,
        schema::{FailureRecord, GateResult},
    },
    stats::{Spread, Stages},
};

/// The output of `bench` for its run, or of `report` for saved ones, at most [`WIDTH`] columns wide. Several runs are
/// shown side by side; the first is the reference.
#[must_use]
pub fn table(runs: &[Named]) -> String {
    table_of_width(runs, WIDTH)
}

/// Like [`table`], for a terminal of `width` columns, clamped to 80 to 100.
#[must_use]
pub fn table_of_width(runs: &[Named], width: usize) -> String {
    let width = width.clamp(WIDTH, 100);
    match runs {
        [] => "no results\n".into(),
        [run] => one(&run.result, width),
        runs => side_by_side(runs, width),
    }
}

fn one(result: &BenchResult, width: usize) -> String {
    let mut page = Page::new(width);
    head(&mut page, result);
    connections(&mut page, result);
    setup(&mut page, result);
    round_trips(&mut page, result);
    keyframes(&mut page, result);
    servers::servers(&mut page, result);
    failures(&mut page, result);
    gates(&mut page, result);
    comparison(&mut page, result);
    rest(&mut page, result);
    // Repeated at the end, for the last screen of a long page.
    page.line("");
    verdict(&mut page, result);
    page.text
}

/// The verdict, in a line or two.
fn verdict(page: &mut Page, result: &BenchResult) {
    let word = Outcome::of(result).word();
    page.paragraph(0, &format!("{word}: {}", wording::headline(result)));
}

/// Label, then numbers.
const NUMBERS: [Column; 7] = [
    (Align::Left, 15),
    (Align::Right, 8),
    (Align::Right, 8),
    (Align::Right, 8),
    (Align::Right, 8),
    (Align::Right, 8),
    (Align::Right, 8),
];

/// A labeled row of numbers.
fn numbers<const N: usize>(label: &str, values: [Option<f64>; N], unit: &str) -> Vec<String> {
    let numbers = values.map(|value| wording::maybe(value, unit));
    [vec![format!("  {label}")], numbers.into()].concat()
}

fn head(page: &mut Page, result: &BenchResult) {
    verdict(page, result);
    page.paragraph(2, &wording::provenance(result));
    let config: Vec<_> = wording::config(result).iter().map(|(k, v)| format!("{k}={v}")).collect();
    page.paragraph(2, &config.join("  "));
    if let Some(FailureRecord { stage, code, message, remedy }) = &result.ended {
        page.line("");
        page.paragraph(0, &format!("ended early: {}", wording::failure(*stage, code)));
        page.paragraph(4, message);
        page.paragraph(4, &format!("try: {remedy}"));
    }
}

fn connections(page: &mut Page, result: &BenchResult) {
    let connections = &result.connections;
    page.heading("connections");
    let Some(rate) = connections.success_rate else {
        return page.paragraph(2, "none attempted");
    };
    let [low, high] = connections.ci95.map(human::share);
    page.paragraph(
        2,
        &format!(
            "succeeded: {} of {}, {} (95 % CI: {low} to {high})",
            connections.succeeded,
            connections.attempted,
            human::share(rate)
        ),
    );
    page.paragraph(
        2,
        &format!("by type: {}", wording::by_type(result).as_deref().unwrap_or("none")),
    );
}

fn setup(page: &mut Page, result: &BenchResult) {
    let stages = stages(&result.connections.setup_ms);
    if stages.is_empty() {
        page.heading("setup");
        return page.paragraph(2, "no stage completed");
    }
    let mut rows = vec![row(["setup", "count", "p50", "p95", "p99", "max"])];
    for (name, spread) in &stages {
        let mut cells =
            numbers(wording::stage(name), [spread.p50, spread.p95, spread.p99, spread.max], "ms");
        cells.insert(1, spread.count.to_string());
        rows.push(cells);
    }
    page.line("");
    page.rows(&NUMBERS, &rows);
    if stages.iter().any(|(name, _)| *name == "firstKeyframe") {
        page.paragraph(
            2,
            "total: until the data channel is open; first keyframe: the time after that",
        );
    }
    first_picture(page, &result.connections.first_picture_ms);
}

fn first_picture(page: &mut Page, first: &FirstPicture<Spread>) {
    let mut rows = vec![row(["first picture", "count", "p50", "p95", "p99", "max"])];
    for (label, spread) in first.named().into_iter().filter(|(_, spread)| spread.count > 0) {
        let mut cells = numbers(label, [spread.p50, spread.p95, spread.p99, spread.max], "ms");
        cells.insert(1, spread.count.to_string());
        rows.push(cells);
    }
    if rows.len() > 1 {
        page.line("");
        page.rows(&NUMBERS, &rows);
        page.paragraph(2, "until the first keyframe was complete at the receiver");
    }
}

fn round_trips(page: &mut Page, result: &BenchResult) {
    let rtt = &result.rtt_ms;
    let lost = || {
        let share = wording::part(rtt.lost, rtt.sent);
        let share = share.map_or_else(String::new, |share| format!(" ({share})"));
        format!("{} sent, {} lost{share}", wording::counted(rtt.sent, "ping"), rtt.lost)
    };
    if rtt.spread.count == 0 {
        page.heading("round-trip time");
        let text = match rtt.sent {
            0 => "no pings were sent".to_owned(),
            _ => format!("no pings were answered: {}", lost()),
        };
        return page.paragraph(2, &text);
    }
    let tail = |s: &Spread| [s.p50, s.p90, s.p95, s.p99, s.p999, s.max];
    page.line("");
    let mut rows = vec![row(["round-trip time", "p50", "p90", "p95", "p99", "p99.9", "max"])];
    rows.push(numbers("data channel", tail(&rtt.spread), "ms"));
    if let Some(one_way) = &result.one_way_ms {
        rows.push(numbers("one way, out", tail(&one_way.out), "ms"));
        rows.push(numbers("one way, back", tail(&one_way.back), "ms"));
    }
    page.rows(&NUMBERS, &rows);
    page.paragraph(2, &lost());
    if let Some(offset) = result.one_way_ms.and_then(|one_way| one_way.offset_ms) {
        let side = if offset < 0.0 { "behind" } else { "ahead" };
        let offset = number(offset.abs(), "ms");
        page.paragraph(
            2,
            &format!("the peer's clock is {offset} {side}; one-way times are corrected for it"),
        );
    }
}

fn keyframes(page: &mut Page, result: &BenchResult) {
    let Some(counts) = keyframe_counts(result) else {
        page.heading("keyframes");
        return page.paragraph(2, "none");
    };
    let keyframes = &result.keyframes;
    let mut rows = vec![row(["keyframes", "count", "min", "p50", "p95", "max"])];
    for (label, spread, unit) in [
        ("size", &keyframes.bytes, "bytes"),
        ("latency", &keyframes.latency_ms, "ms"),
        ("first to last", &keyframes.spread_ms, "ms"),
        ("PSNR", &keyframes.psnr_db, "dB"),
        ("SSIM", &keyframes.ssim, ""),
    ] {
        if spread.count > 0 {
            let mut cells = numbers(label, [spread.min, spread.p50, spread.p95, spread.max], unit);
            cells.insert(1, spread.count.to_string());
            rows.push(cells);
        }
    }
    page.line("");
    page.rows(&NUMBERS, &rows);
    page.paragraph(2, &counts);
    if let Some(delivery) = &keyframes.delivery {
        page.paragraph(2, &format!("delivery: {}", delivery.figures().join(", ")));
    }
    for finding in wording::findings(result) {
        page.paragraph(4, &finding.message);
        page.paragraph(8, &format!("try: {}", finding.remedy));
    }
    keyframe_stages(page, &keyframes.stages_ms);
}

fn keyframe_stages(page: &mut Page, stages: &Stages<Spread>) {
    let mut rows = vec![row(["keyframe stages", "count", "p50", "p95", "p99", "max"])];
    for (name, spread) in stages.named() {
        if spread.count > 0 {
            let values = [spread.p50, spread.p95, spread.p99, spread.max];
            let mut cells = numbers(wording::keyframe_stage(name), values, "ms");
            cells.insert(1, spread.count.to_string());
            rows.push(cells);
        }
    }
    if rows.len() > 1 {
        page.line("");
        page.rows(&NUMBERS, &rows);
        page.paragraph(
            2,
            "send is part of network; latency is the sum from capture age to network",
        );
    }
}

fn failures(page: &mut Page, result: &BenchResult) {
    page.heading("failures");
    if result.connections.failures.is_empty() {
        return page.paragraph(2, "none");
    }
    for group in &result.connections.failures {
        page.paragraph(
            2,
            &format!("{} x {}", group.count, wording::failure(group.stage, &group.code)),
        );
        page.paragraph(6, &group.message);
        page.paragraph(6, &format!("try: {}", group.remedy));
    }
}

fn gates(page: &mut Page, result: &BenchResult) {
    if result.checks.is_empty() {
        page.heading("gates");
        return page.paragraph(2, "none set");
    }
    let max_actual = page.width - 61;
    let cells = |check: &GateResult| {
        let (limit, actual) = wording::limit_and_actual(check);
        let met = if check.pass { "met" } else { "NOT met" };
        let short = |text: String, max| {
            if text.chars().count() > max { "see below".to_owned() } else { text }
        };
        row([&format!("  {}", check.name), met, &short(limit, 22), &short(actual, max_actual)])
    };
    let mut rows = vec![row(["gates", "", "limit", "measured"])];
    rows.extend(result.checks.iter().map(cells));
    let layout = [(Align::Left, 15), (Align::Left, 0), (Align::Left, 0), (Align::Left, 0)];
    page.line("");
    let mut lines = page.named_rows(&layout, &rows).into_iter();
    lines.next().into_iter().flatten().for_each(|line| page.line(&line));
    for (lines, check) in lines.zip(&result.checks) {
        for line in &lines {
            page.line(line);
        }
        let (limit, actual) = wording::limit_and_actual(check);
        if limit.chars().count() > 22 {
            page.paragraph(6, &format!("limit: {limit}"));
        }
        if actual.chars().count() > max_actual {
            page.paragraph(6, &format!("measured: {actual}"));
        }
        if let Some(note) = &check.note {
            page.paragraph(6, note);
        }
    }
}

fn rest(page: &mut Page, result: &BenchResult) {
    let resources = &result.resources;
    let parts: Vec<_> = [
        resources.cpu_seconds.map(|s| format!("{s:.1} s of CPU time")),
        resources.max_rss_bytes.map(|b| format!("{} of peak memory", human::bytes(b))),
        resources.rss_bytes_per_connection.map(|b| format!("{} per connection", human::bytes(b))),
    ]
    .into_iter()
    .flatten()
    .collect();
    page.heading("resources");
    let none = "unknown on this system".to_owned();
    page.paragraph(2, &if parts.is_empty() { none } else { parts.join(", ") });
    if !result.not_measured.is_empty() {
        page.heading("not measured");
    }
    for missing in &result.not_measured {
        page.paragraph(2, &format!("{}: {}", missing.what, missing.why));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::example, *};

    fn page(result: BenchResult) -> String {
        table(&[example::named("a.json", result)])
    }

    #[test]
    fn a_page_of_a_failed_run() {
        let text = page(example::full());
        print!("{text}");
        for part in [
            "FAIL: 3 of 4 connections succeeded; 1 of 3 gates not met\n",
            "  succeeded: 3 of 4, 75 % (95 % CI: 30.1 % to 95.4 %)\n",
            "  DNS                    3  <0.01 ms  <0.01 ms  <0.01 ms  <0.01 ms\n",
            "  6 pings sent, 1 lost (16.7 %)\n",
            "  3 sent, 3 received, 2 intact (66.7 %), 1 over the size limit\n",
            "  1 x ice/no-pair\n      no pair worked\n      try: add a TURN server, or two\n",
            "  min-success    NOT met  at least 99 %   75 %\n      3 of 4\n",
            "  max-rtt-p95    met      at most 100 ms  0.53 ms\n",
            "+37 %",
            "the peer's clock is 12.5 ms behind",
            "  3.2 s of CPU time, 88.0 MB of peak memory, 1.2 MB per connection\n",
            "  host.load: not asked\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn empty_sections_are_named() {
        let text = page(example::empty());
        print!("{text}");
        for part in [
            "PASS: no connection was attempted\n",
            "connections
  none attempted\n",
            "setup
  no stage completed\n",
            "round-trip time\n  no pings were sent\n",
            "keyframes
  none\n",
            "failures\n  none\n",
            "gates
  none set\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        let mut result = example::minimal();
        (result.rtt_ms.sent, result.rtt_ms.lost) = (51, 51);
        assert!(page(result).contains("no pings were answered: 51 pings sent, 51 lost (100 %)"));
    }

    #[test]
    fn a_partial_run_says_why() {
        let text = page(example::partial());
        assert!(text.starts_with("PARTIAL: "), "{text}");
        assert!(text.contains("ended early: signaling/gone"), "{text}");
        assert!(text.contains("try: look at its log"), "{text}");
    }

    #[test]
    fn the_output_fits_a_terminal_and_cannot_control_it() {
        let hostile = || example::named(&"\u{1b}]0;x\u{7}".repeat(50), example::hostile());
        let full = || example::named("a.json", example::full());
        let pages = [
            (table_of_width(&[full()], 0), 80),
            (table_of_width(&std::iter::repeat_with(full).take(5).collect::<Vec<_>>(), 0), 80),
            (table_of_width(&[hostile()], 1000), 100),
            (table_of_width(&[hostile(), full(), hostile()], 1000), 100),
        ];
        for (page, width) in pages {
            for line in page.lines() {
                assert!(line.chars().count() <= width, "{line:?}");
                assert!(!line.chars().any(char::is_control), "{line:?}");
                assert_eq!(line, line.trim_end());
            }
        }
    }

    #[test]
    fn names_and_verdict_are_never_cut() {
        let mut result = example::full();
        let names = ["max-regression keyframe-latency-p95", "max-regression keyframe-latency-p50"];
        for name in names {
            result.checks.push(GateResult {
                name: name.to_owned(),
                limit: json!(0.25),
                actual: json!({"relay/tcp": 123_456, "relay/udp": 234_567, "host": 345_678}),
                unit: "share".into(),
                pass: false,
                note: None,
            });
        }
        let comparison = result.comparison.as_mut().unwrap();
        let mut metric = comparison.metrics[0].clone();
        metric.name = "keyframe-latency-p95".into();
        metric.interval = Some([-0.1234, 6.1659]);
        metric.baseline = Some(12_345.6);
        metric.verdict = super::super::schema::Verdict::Regressed;
        comparison.metrics.push(metric);
        let text = page(result);
        print!("{text}");
        for name in names.into_iter().chain(["keyframe-latency-p95"]) {
            assert!(text.contains(&format!("  {name}  ")), "{name} in\n{text}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
        assert!(!text.contains('…'), "{text}");
        let verdict = text.lines().next().unwrap();
        assert!(verdict.starts_with("FAIL: ") && text.trim_end().ends_with(verdict), "{text}");
    }

    #[test]
    fn the_output_cannot_command_a_ci_runner() {
        let mut result = example::partial();
        if let Some(ended) = &mut result.ended {
            ended.message = "::stop-commands::x ##[error]y ::1 is fine".into();
        }
        let text = page(result);
        assert!(
            text.contains("    \u{fffd}:stop-commands::x #\u{fffd}[error]y ::1 is fine\n"),
            "{text}"
        );
    }

    #[test]
    fn several_runs_are_shown_side_by_side() {
        let mut slower = example::full();
        slower.rtt_ms.spread.p50 = Some(0.43);
        slower.connections.success_rate = Some(0.5);
        slower.connections.succeeded = 2;
        let text = table(&[example::named("a", example::full()), example::named("b", slower)]);
        print!("{text}");
        for part in [
            "  p50                    0.34 ms     0.43 ms     +25 %\n",
            "  success rate              75 %        50 %    -25 pp\n",
            "  succeeded                    3           2        -1\n",
            "what went wrong in B\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
