//! The human-readable report: failures first, each with its remedy; then passed rules; then those not run.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    result::{CaseResult, CheckReport, Outcome},
    rule::Rule,
};
use crate::{
    report::{
        human,
        layout::{WIDTH, fold},
    },
    text::printable,
};

/// Prefix of the line of a case, by outcome: passed, failed, not run.
pub const MARKED: [&str; 3] = ["pass", "FAIL", "  – "];

fn mark(outcome: Outcome) -> &'static str {
    let [pass, fail, not_run] = MARKED;
    match outcome {
        Outcome::Pass => pass,
        Outcome::Fail => fail,
        Outcome::NotRun => not_run,
    }
}

/// The report as text, without a trailing newline.
#[must_use]
pub fn text(report: &CheckReport) -> String {
    let mut page = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(page, "{}, level {}", report.signal, report.level.as_str());
    for case in report.with(Outcome::Fail) {
        failure(&mut page, case);
    }
    let _ = writeln!(page);
    let width = report.cases.iter().map(|case| case.id.len()).max().unwrap_or_default();
    for case in report.with(Outcome::Pass) {
        let took = human::millis(case.duration_ms);
        let mark = mark(case.outcome);
        let _ = writeln!(page, "{mark}  {:<width$}  {took:>8}  {}", case.id, printable(&case.seen));
    }
    not_run(&mut page, report);
    let counts = report.counts;
    let _ = write!(
        page,
        "\n{} passed, {} failed, {} not run, in {:.1} s",
        counts.passed, counts.failed, counts.not_run, report.duration_s
    );
    if report.partial {
        page.push_str("; stopped early");
    }
    page
}

fn failure(page: &mut String, case: &CaseResult) {
    let mark = mark(case.outcome);
    let _ = writeln!(page, "\n{mark}  {}: {}", case.id, case.rule);
    let _ = writeln!(page, "      expected: {}", printable(&case.expected));
    let _ = writeln!(page, "      observed: {}", printable(&case.seen));
    if let Some(remedy) = &case.remedy {
        let _ = writeln!(page, "      try:      {}", printable(remedy));
    }
}

/// Rules that were not run, grouped by reason.
fn not_run(page: &mut String, report: &CheckReport) {
    let mut reasons = BTreeMap::<&str, Vec<&str>>::new();
    for case in report.with(Outcome::NotRun) {
        reasons.entry(&case.seen).or_default().push(&case.id);
    }
    for (reason, ids) in reasons {
        let _ = writeln!(page, "{}  not run, {reason}: {}", mark(Outcome::NotRun), ids.join(", "));
    }
}

/// The list of rules as text.
#[must_use]
pub fn list(rules: &[&'static Rule]) -> String {
    let mut page = String::new();
    let mut group = "";
    for rule in rules {
        if rule.group() != group {
            group = rule.group();
            let _ = writeln!(page, "{}{group}", if page.is_empty() { "" } else { "\n" });
        }
        let slow = if rule.slow { ", slow" } else { "" };
        let _ =
            writeln!(page, "  {} ({}{slow})\n      {}", rule.id, rule.level.as_str(), rule.rule);
    }
    page.truncate(page.trim_end().len());
    fold(&page, WIDTH)
}
