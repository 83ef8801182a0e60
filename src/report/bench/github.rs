//! GitHub Actions: annotations for the log and the checks page, and step outputs.
//!
//! Workflow commands as the runner reads them (`actions/toolkit`, `packages/core/src/command.ts`): `%`, CR and LF
//! are escaped in the message, `:` and `,` also in properties.

use super::{
    Named,
    schema::{BenchResult, FailureGroup, Verdict},
    wording::{self, Outcome},
};
use crate::text::printable::is_unprintable;

/// Maximum number of annotations of one kind that the runner shows per step.
pub const MAX_ANNOTATIONS: usize = 10;

/// Lines to print: an `::error` for each gate not met and each failure of a failed run, a `::warning` for failures
/// that the gates allow and for metrics that got worse than the baseline, a `::notice` for metrics not measured and
/// for a run that passed. At most [`MAX_ANNOTATIONS`] of each kind; the last one states how many were left out.
#[must_use]
pub fn annotations(runs: &[Named]) -> Vec<String> {
    let mut kinds: [(&str, Vec<Annotation>); 3] =
        [("error", Vec::new()), ("warning", Vec::new()), ("notice", Vec::new())];
    for run in runs {
        let [(_, errors), (_, warnings), (_, notices)] = &mut kinds;
        gather(&run.result, &wording::of_run(runs, run), errors, warnings, notices);
    }
    let lines = kinds.into_iter().flat_map(|(kind, annotations)| {
        let lines = room_for(annotations).into_iter().map(move |(title, message)| {
            format!("::{kind} title={}::{}", property(&title), data(&message))
        });
        lines.collect::<Vec<_>>()
    });
    lines.collect()
}

/// Title and message.
type Annotation = (String, String);

fn gather(
    result: &BenchResult,
    of: &str,
    errors: &mut Vec<Annotation>,
    warnings: &mut Vec<Annotation>,
    notices: &mut Vec<Annotation>,
) {
    let outcome = Outcome::of(result);
    if let Some(ended) = &result.ended {
        let what = wording::failure(ended.stage, &ended.code);
        let message = format!("{}\ntry: {}", ended.message, ended.remedy);
        errors.push((format!("{of}bench ended early: {what}"), message));
    } else if outcome == Outcome::Partial {
        errors.push((format!("{of}bench ended early"), wording::headline(result)));
    }
    for check in result.checks.iter().filter(|check| !check.pass) {
        let (limit, actual) = wording::limit_and_actual(check);
        let note = check.note.as_ref().map_or_else(String::new, |note| format!("\n{note}"));
        errors
            .push((format!("{of}{} not met", check.name), format!("{actual}, not {limit}{note}")));
    }
    let failures = result.connections.failures.iter().map(|group| failure(of, group));
    if outcome == Outcome::Passed { &mut *warnings } else { errors }.extend(failures);
    for metric in result.comparison.iter().flat_map(|comparison| &comparison.metrics) {
        if matches!(metric.verdict, Verdict::Regressed | Verdict::Worse) {
            let change = metric.change.map_or_else(|| "worse".into(), wording::worsening);
            let message = format!(
                "{change} than the baseline: {}, was {}",
                wording::maybe(metric.current, &metric.unit),
                wording::maybe(metric.baseline, &metric.unit)
            );
            warnings.push((format!("{of}{} got worse", metric.name), message));
        }
    }
    if outcome == Outcome::Passed {
        notices.push((format!("{of}bench passed"), wording::headline(result)));
    }
    for missing in &result.not_measured {
        notices.push((format!("{of}{} was not measured", missing.what), missing.why.clone()));
    }
}

fn failure(of: &str, group: &FailureGroup) -> Annotation {
    let what = wording::failure(group.stage, &group.code);
    let count = wording::counted(group.count, "connection");
    let message = format!("{}\ntry: {}", group.message, group.remedy);
    (format!("{of}{count} failed: {what}"), message)
}

/// At most [`MAX_ANNOTATIONS`]; if some are left out, the last one says how many.
fn room_for(mut annotations: Vec<Annotation>) -> Vec<Annotation> {
    if annotations.len() > MAX_ANNOTATIONS {
        let more = annotations.len() - (MAX_ANNOTATIONS - 1);
        annotations.truncate(MAX_ANNOTATIONS - 1);
        annotations.push((format!("and {more} more"), "see the job summary for all".into()));
    }
    annotations
}

/// Text in the message of a command: line ends are escaped for the runner, other control characters are replaced as
/// in all other formats.
fn data(text: &str) -> String {
    let escaped = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    escaped
        .chars()
        .map(|c| if is_unprintable(c) { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

/// Text in a property of a command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// `key=value` lines for `$GITHUB_OUTPUT`; a value that was not measured is empty. Times in ms,
/// `success-rate` from 0 to 1, `keyframes-intact` a count.
#[must_use]
pub fn outputs(result: &BenchResult) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    let (setup, rtt) = (&result.connections.setup_ms.total, &result.rtt_ms.spread);
    let pairs = [
        ("pass", result.pass.to_string()),
        ("success-rate", number(result.connections.success_rate)),
        ("rtt-p50-ms", number(rtt.p50)),
        ("rtt-p95-ms", number(rtt.p95)),
        ("setup-p50-ms", number(setup.p50)),
        ("setup-p95-ms", number(setup.p95)),
        ("keyframes-intact", number(result.keyframes.intact.map(|count| count as f64))),
    ];
    pairs.map(|(key, value)| format!("{key}={value}\n")).concat()
}

#[cfg(test)]
mod tests {
    use super::{super::example, *};

    fn starting<'l>(lines: &'l [String], start: &str) -> Vec<&'l String> {
        lines.iter().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn a_failed_run_is_annotated() {
        let lines = annotations(&[example::named("a.json", example::full())]);
        assert_eq!(
            starting(&lines, "::error"),
            [
                "::error title=min-success not met::75 %25, not at least 99 %25%0A3 of 4",
                "::error title=1 connection failed%3A ice/no-pair::no pair worked%0A\
                 try: add a TURN server, or two",
            ]
        );
        assert_eq!(
            starting(&lines, "::warning"),
            ["::warning title=rtt-p95 got worse::37 %25 worse than the baseline: 0.53 ms, was \
                 0.39 ms"]
        );
        assert_eq!(starting(&lines, "::notice").len(), 1);
    }

    #[test]
    fn failures_that_the_gates_allow_are_warnings() {
        let mut result = example::full();
        (result.pass, result.comparison) = (true, None);
        result.checks.clear();
        let lines = annotations(&[example::named("a", result)]);
        assert!(starting(&lines, "::error").is_empty(), "{lines:?}");
        assert_eq!(starting(&lines, "::warning").len(), 1);
        assert!(lines.iter().any(|line| line.starts_with("::notice title=bench passed::3 of 4")));
    }

    #[test]
    fn a_partial_run_is_an_error_and_runs_are_named() {
        let runs = [
            example::named("a,b:c", example::partial()),
            example::named("whole", example::minimal()),
        ];
        let lines = annotations(&runs);
        let start = "::error title=a%2Cb%3Ac%3A bench ended early%3A signaling/gone::";
        assert_eq!(starting(&lines, start).len(), 1, "{lines:?}");
    }

    #[test]
    fn annotations_are_limited_per_kind_and_cannot_be_forged() {
        let mut result = example::full();
        let group = result.connections.failures[0].clone();
        let message = "x\r\n::set-env name=A::B%\u{1b}]0;x\u{7}\u{202e}".to_owned();
        result.connections.failures = vec![FailureGroup { message, ..group }; 40];
        let lines = annotations(&[example::named("a", result)]);
        assert_eq!(starting(&lines, "::error").len(), MAX_ANNOTATIONS);
        assert!(lines.iter().any(|line| line.starts_with("::error title=and 32 more::")));
        assert!(lines.iter().all(|line| !line.contains(is_unprintable)), "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains("x%0D%0A::set-env name=A::B%25\u{fffd}]0;x"))
        );
    }

    #[test]
    fn outputs_are_numbers_or_empty() {
        let expected = "pass=false\nsuccess-rate=0.75\nrtt-p50-ms=0.344\nrtt-p95-ms=0.529\n\
                        setup-p50-ms=24\nsetup-p95-ms=33\nkeyframes-intact=2\n";
        assert_eq!(outputs(&example::full()), expected);
        assert!(outputs(&example::empty()).contains("\nrtt-p95-ms=\n"));
    }
}
