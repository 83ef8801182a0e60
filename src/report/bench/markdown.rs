//! Markdown for a comment on a pull request and for `$GITHUB_STEP_SUMMARY`.
//!
//! GitHub Flavored Markdown: tables, and HTML's `<details>` for secondary material. Untrusted text is escaped so that
//! it is only ever displayed.

use std::fmt::Write as _;

use super::{
    Named,
    layout::{cut, cut_front},
    schema::BenchResult,
    wording::{self, NOTHING, Outcome, keyframe_counts, maybe, stages},
};
use crate::{report::human, stats::Spread, text::printable};

/// Maximum size of the text, bytes. GitHub accepts 64 KiB in a comment and 1 MiB in a step summary.
pub const MAX_BYTES: usize = 60_000;

/// Maximum length of untrusted text, characters.
const MAX_TEXT: usize = 300;

/// Maximum rows of a table whose length a file determines.
const MAX_ROWS: usize = 20;

/// The results as Markdown, less than [`MAX_BYTES`] bytes: sections at the end that do not fit are replaced with a
/// note.
#[must_use]
pub fn markdown(runs: &[Named]) -> String {
    let mut sections = Vec::new();
    if runs.len() > 1 {
        sections.push(overview(runs));
    }
    for run in runs {
        sections.push(verdict(runs, run));
        sections.extend(problems(&run.result));
        sections.push(numbers(&run.result));
        sections.extend(comparison(&run.result));
        sections.push(details(&run.result));
    }
    let note = "_Truncated; the full result is in the JSON file._\n";
    let mut text = String::new();
    for section in sections {
        if text.len() + section.len() + note.len() >= MAX_BYTES {
            text.push_str(note);
            break;
        }
        text.push_str(&section);
        text.push('\n');
    }
    text
}

/// Escapes untrusted text: characters special to Markdown, HTML and GitHub become character references, and an `@` or
/// `#` no longer mentions a user or an issue.
fn escape(text: &str) -> String {
    let text = cut(&printable(text), MAX_TEXT);
    let mut escaped = String::with_capacity(text.len());
    for c in text.replace("://", ":\u{0}//").replace("www.", "www\u{0}.").chars() {
        match c {
            // Keeps GitHub from turning the text into a link; not shown.
            '\u{0}' => escaped.push_str("<!-- -->"),
            '@' | '#' => {
                let _ = write!(escaped, "&#{};<!-- -->", c as u32);
            }
            '!' | '"' | '$' | '&' | '\'' | '*' | '<' | '>' | '[' | '\\' | ']' | '^' | '_' | '`'
            | '{' | '|' | '}' | '~' => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A table of numbers: the first column is left-aligned, the others are right-aligned.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    aligned(header, "--:", rows)
}

/// A table of texts, of which the first [`MAX_ROWS`] rows are shown.
fn list_table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = aligned(header, ":--", &rows[..rows.len().min(MAX_ROWS)]);
    if rows.len() > MAX_ROWS {
        let _ = writeln!(text, "\n_and {} more_", rows.len() - MAX_ROWS);
    }
    text
}

fn aligned(header: &[&str], rule: &str, rows: &[Vec<String>]) -> String {
    let rules = format!("|{rule}").repeat(header.len() - 1);
    let mut text = format!("| {} |\n|:--{rules}|\n", header.join(" | "));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn mark(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "✅",
        Outcome::Failed => "❌",
        Outcome::Partial => "⚠️",
    }
}

fn name(run: &Named) -> String {
    escape(&cut_front(&printable(&run.name), 60))
}

fn overview(runs: &[Named]) -> String {
    let row = |run: &Named| {
        let result = &run.result;
        let setup = &result.connections.setup_ms.total;
        let outcome = Outcome::of(result);
        vec![
            name(run),
            format!("{} {}", mark(outcome), outcome.word()),
            format!("{}/{}", result.connections.succeeded, result.connections.attempted),
            maybe(setup.p50, "ms"),
            maybe(setup.p95, "ms"),
            maybe(result.rtt_ms.spread.p50, "ms"),
            maybe(result.rtt_ms.spread.p95, "ms"),
            intact(result),
        ]
    };
    let rows: Vec<_> = runs.iter().take(MAX_ROWS).map(row).collect();
    let header = ["run", "", "connected", "setup p50", "p95", "RTT p50", "p95", "keyframes intact"];
    let mut text = format!("## orion-peer bench: {} runs\n\n{}", runs.len(), table(&header, &rows));
    if runs.len() > MAX_ROWS {
        let _ = writeln!(text, "\n_and {} more_", runs.len() - MAX_ROWS);
    }
    text
}

fn intact(result: &BenchResult) -> String {
    let keyframes = &result.keyframes;
    match (keyframes.intact, keyframes.sent.or(keyframes.received)) {
        (Some(intact), Some(of)) => format!("{intact}/{of}"),
        _ => NOTHING.into(),
    }
}

fn verdict(runs: &[Named], run: &Named) -> String {
    let result = &run.result;
    let outcome = Outcome::of(result);
    let title = if runs.len() > 1 { name(run) } else { "orion-peer bench".into() };
    let mut text = format!("## {} {title}: {}\n\n", mark(outcome), outcome.word());
    let _ = write!(text, "**{}**", wording::headline(result));
    if let Some(rate) = result.connections.success_rate {
        let [low, high] = result.connections.ci95.map(human::share);
        let _ = write!(text, " · {} (95 % CI: {low} to {high})", human::share(rate));
    }
    if let Some(types) = wording::by_type(result) {
        let _ = write!(text, " · {}", escape(&types));
    }
    text.push('\n');
    if let Some(ended) = &result.ended {
        let what = escape(&wording::failure(ended.stage, &ended.code));
        let (message, remedy) = (escape(&ended.message), escape(&ended.remedy));
        let _ = writeln!(text, "\nEnded early, {what}: {message}. Try: {remedy}");
    }
    text
}

/// Failures and gates.
fn problems(result: &BenchResult) -> Vec<String> {
    let mut sections = Vec::new();
    let failures = result.connections.failures.iter().map(|group| {
        vec![
            escape(&wording::failure(group.stage, &group.code)),
            group.count.to_string(),
            escape(&group.message),
            escape(&group.remedy),
        ]
    });
    let failures: Vec<_> = failures.collect();
    if !failures.is_empty() {
        let table = list_table(&["failure", "count", "what", "try"], &failures);
        sections.push(format!("### Failures\n\n{table}"));
    }
    // Unmet gates first: a long list is cut at its end.
    let mut checks: Vec<_> = result.checks.iter().collect();
    checks.sort_by_key(|check| check.pass);
    let gates = checks.into_iter().map(|check| {
        let (limit, actual) = wording::limit_and_actual(check);
        let met = if check.pass { "✅ met" } else { "❌ not met" };
        let note = check.note.as_deref().map(escape).unwrap_or_default();
        vec![escape(&check.name), met.into(), escape(&limit), escape(&actual), note]
    });
    let gates: Vec<_> = gates.collect();
    if !gates.is_empty() {
        sections.push(list_table(&["gate", "", "limit", "measured", ""], &gates));
    }
    sections
}

fn spread_row(label: &str, spread: &Spread, unit: &str) -> Option<Vec<String>> {
    let values = [spread.p50, spread.p95, spread.p99, spread.max].map(|value| maybe(value, unit));
    let cells = [vec![label.to_owned(), spread.count.to_string()], values.into()].concat();
    (spread.count > 0).then_some(cells)
}

const SPREAD: [&str; 6] = ["", "count", "p50", "p95", "p99", "max"];

/// The main numbers in one table.
fn numbers(result: &BenchResult) -> String {
    let keyframes = &result.keyframes;
    let rows: Vec<_> = [
        spread_row("setup, total", &result.connections.setup_ms.total, "ms"),
        spread_row("first picture", &result.connections.first_picture_ms.from_start, "ms"),
        spread_row("round-trip time", &result.rtt_ms.spread, "ms"),
        spread_row("keyframe latency, capture to complete", &keyframes.latency_ms, "ms"),
        spread_row("keyframe, first to last packet", &keyframes.spread_ms, "ms"),
        spread_row("keyframe size", &keyframes.bytes, "bytes"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut text = String::new();
    if !rows.is_empty() {
        text = table(&SPREAD, &rows) + "\n";
    }
    let rtt = &result.rtt_ms;
    let pings = match wording::part(rtt.lost, rtt.sent) {
        Some(share) => format!("{} of {} pings lost ({share})", rtt.lost, rtt.sent),
        None => "no pings were sent".to_owned(),
    };
    let counts = keyframe_counts(result);
    let _ = writeln!(text, "{pings} · keyframes: {}", counts.as_deref().unwrap_or("none"));
    for finding in wording::findings(result) {
        let (message, remedy) = (escape(&finding.message), escape(&finding.remedy));
        let _ = writeln!(text, "\n- {message}. Try: {remedy}");
    }
    text
}

fn comparison(result: &BenchResult) -> Option<String> {
    let comparison = result.comparison.as_ref()?;
    let row = |metric: &super::schema::MetricComparison| {
        vec![
            escape(&metric.name),
            maybe(metric.baseline, &metric.unit),
            maybe(metric.current, &metric.unit),
            metric.change.map_or_else(|| NOTHING.into(), wording::worsening),
            wording::interval(metric),
            wording::verdict(metric.verdict).into(),
        ]
        .into_iter()
        // A number may contain a unit from the file.
        .enumerate()
        .map(|(index, cell)| if index == 0 { cell } else { escape(&cell) })
        .collect()
    };
    let rows: Vec<Vec<String>> = comparison.metrics.iter().map(row).collect();
    let header = ["metric", "baseline", "this run", "change", "interval (+ is worse)", ""];
    let baseline = escape(&wording::baseline(&comparison.baseline));
    Some(format!(
        "### Against the baseline\n\n{}\n{}\n",
        list_table(&header, &rows),
        details_of("How", &format!("Baseline: {baseline}. {}\n", escape(&comparison.method)))
    ))
}

fn details_of(summary: &str, content: &str) -> String {
    format!("<details><summary>{summary}</summary>\n\n{content}\n</details>\n")
}

/// Secondary numbers and settings, in a `<details>` element.
fn details(result: &BenchResult) -> String {
    let setup = stages(&result.connections.setup_ms);
    let mut rows: Vec<_> =
        setup.iter().filter_map(|(name, s)| spread_row(wording::stage(name), s, "ms")).collect();
    let keyframes = &result.keyframes;
    let from_join = &result.connections.first_picture_ms.from_join;
    rows.extend(spread_row("first picture, from joining", from_join, "ms"));
    rows.extend(spread_row("PSNR of a keyframe", &keyframes.psnr_db, "dB"));
    for (name, spread) in keyframes.stages_ms.named() {
        let name = format!("keyframe: {}", wording::keyframe_stage(name));
        rows.extend(spread_row(&name, spread, "ms"));
    }
    if let Some(one_way) = &result.one_way_ms {
        rows.extend(spread_row("one way, out", &one_way.out, "ms"));
        rows.extend(spread_row("one way, back", &one_way.back, "ms"));
    }
    let mut text = String::new();
    if !rows.is_empty() {
        text = table(&SPREAD, &rows) + "\n";
    }
    let _ = writeln!(text, "{}\n", escape(&wording::provenance(result)));
    let config = wording::config(result).into_iter().take(40);
    let config: Vec<_> = config
        .map(|(k, v)| format!("{} {}", escape(&cut(&k, 40)), escape(&cut(&v, MAX_TEXT))))
        .collect();
    if !config.is_empty() {
        let _ = writeln!(text, "{}\n", config.join(" · "));
    }
    for missing in result.not_measured.iter().take(MAX_ROWS) {
        let _ =
            writeln!(text, "- not measured: {}: {}", escape(&missing.what), escape(&missing.why));
    }
    details_of("Stages, machine, configuration", &text)
}

#[cfg(test)]
mod tests {
    use super::{super::example, *};

    #[test]
    fn a_failed_run() {
        let text = markdown(&[example::named("a.json", example::full())]);
        print!("{text}");
        for part in [
            "## ❌ orion-peer bench: FAIL\n\n**3 of 4 connections succeeded; 1 of 3 gates not \
             met** · 75 %",
            "| ice/no-pair | 1 | no pair worked | add a TURN server, or two |\n",
            "| min-success | ❌ not met | at least 99 % | 75 % | 3 of 4 |\n",
            "| max-rtt-p95 | ✅ met | at most 100 ms | 0.53 ms |  |\n",
            "| rtt-p95 | 0.39 ms | 0.53 ms | 37 % worse | +26 to +50 % | REGRESSED |\n",
            "1 of 6 pings lost (16.7 %)",
            "<details><summary>",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn marks_are_clear() {
        let start = |result| markdown(&[example::named("a", result)]);
        assert!(start(example::minimal()).starts_with("## ✅ orion-peer bench: PASS\n"));
        assert!(start(example::partial()).starts_with("## ⚠️ orion-peer bench: PARTIAL\n"));
        assert!(start(example::partial()).contains("Ended early, signaling/gone: the signaling"));
        assert!(start(example::empty()).contains("no connection was attempted"));
    }

    #[test]
    fn untrusted_text_is_only_displayed() {
        let text = markdown(&[example::named("a", example::hostile())]);
        for active in ["<img", "`x`", "</td>", "@orion", " #1 ", "://", "\u{1b}", "\u{202e}"] {
            assert!(!text.contains(active), "{active:?} in\n{text}");
        }
        for line in text.lines().filter(|line| line.starts_with("| ice")) {
            assert_eq!(line.matches('|').count(), 5, "{line}");
        }
        assert_eq!(escape("a|b"), "a&#124;b");
    }

    #[test]
    fn the_output_is_never_too_large() {
        let mut result = example::hostile();
        let (checks, failures) = (result.checks[0].clone(), result.connections.failures[0].clone());
        result.checks = vec![checks; 1000];
        result.connections.failures = vec![failures; 1000];
        let runs: Vec<_> =
            (0..40).map(|_| example::named("`".repeat(5000).as_str(), result.clone())).collect();
        let text = markdown(&runs);
        assert!(text.len() < MAX_BYTES, "{}", text.len());
        assert!(text.contains("in the JSON file") && text.contains("and 980 more"));
    }
}
