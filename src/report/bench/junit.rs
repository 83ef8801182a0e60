//! `JUnit` XML of bench results: a suite with a case for each connection, and one with a case for each
//! gate.

use super::{
    Named,
    schema::{BenchResult, ConnectionRecord},
    wording,
};
use crate::report::{
    junit::{Case, Outcome, Suite, document},
    schema::{FailureRecord, GateResult},
};

/// Maximum number of cases for individual connections of a run; the remaining connections share one case.
pub const MAX_CASES: usize = 1000;

/// The results as `JUnit` XML. A failed connection is a failure even if the gates allow it; a run that ended early
/// has an error.
#[must_use]
pub fn junit(runs: &[Named]) -> String {
    let mut suites = Vec::new();
    for run in runs {
        let of = wording::of_run(runs, run);
        suites.push(connections(&of, &run.result));
        suites.push(gates(&of, &run.result));
    }
    let seconds: f64 = runs.iter().map(|run| run.result.duration_s).sum();
    document("orion-peer bench", seconds, &suites)
}

fn suite(name: String, result: &BenchResult, cases: Vec<Case>) -> Suite {
    Suite { name, timestamp: result.started_at.clone(), properties: properties(result), cases }
}

fn case(class: &str, name: String, seconds: f64, outcome: Outcome) -> Case {
    Case { class: format!("orion-peer.bench.{class}"), name, seconds, outcome }
}

fn properties(result: &BenchResult) -> Vec<(String, String)> {
    let host = &result.host;
    let mut properties = vec![
        ("version".to_owned(), result.version.clone()),
        ("os".into(), host.os.clone()),
        ("arch".into(), host.arch.clone()),
        ("cpus".into(), host.cpus.to_string()),
    ];
    properties.extend(wording::config(result).into_iter().map(|(k, v)| (format!("config.{k}"), v)));
    properties
}

/// Type, message and text of a failure.
fn why(failure: &FailureRecord) -> [String; 3] {
    let kind = wording::failure(failure.stage, &failure.code);
    let text = format!("{kind}: {}\ntry: {}", failure.message, failure.remedy);
    [kind, failure.message.clone(), text]
}

fn connections(of: &str, result: &BenchResult) -> Suite {
    let records = &result.connections.records;
    let (alone, together) = records.split_at(records.len().min(MAX_CASES));
    let mut cases: Vec<_> = alone.iter().map(connection).collect();
    if !together.is_empty() {
        cases.push(summed(together));
    }
    if result.partial {
        let texts = result.ended.as_ref().map_or_else(
            || ["partial".into(), "the run ended early".into(), wording::headline(result)],
            why,
        );
        let outcome = Outcome::Error(texts);
        cases.push(case("connections", "whole run".into(), 0.0, outcome));
    }
    suite(format!("{of}connections"), result, cases)
}

/// Time until the data channel was open or the connection failed, as far as it is known, seconds.
fn taken(record: &ConnectionRecord) -> f64 {
    let setup = &record.setup_ms;
    let stages = setup.stages();
    let until_failed = || stages.iter().filter_map(|(_, ms)| **ms).sum();
    setup.total.unwrap_or_else(until_failed) / 1000.0
}

fn connection(record: &ConnectionRecord) -> Case {
    let outcome = match (&record.failure, record.ok) {
        (_, true) => Outcome::Passed,
        (Some(failure), _) => Outcome::Failed(why(failure)),
        (None, _) => {
            Outcome::Failed(["failed", "it failed", "the cause is unknown"].map(Into::into))
        }
    };
    let name = format!("connection {}", record.index);
    case("connections", name, taken(record), outcome)
}

/// One case for many connections.
fn summed(records: &[ConnectionRecord]) -> Case {
    let failed: Vec<_> = records.iter().filter(|record| !record.ok).collect();
    let outcome = match failed.first() {
        None => Outcome::Passed,
        Some(first) => {
            let message = format!("{} of {} failed", failed.len(), records.len());
            let [kind, _, text] = first.failure.as_ref().map_or_else(Default::default, why);
            Outcome::Failed([kind, message, format!("the first one: {text}")])
        }
    };
    let name = format!("{} more connections", records.len());
    case("connections", name, records.iter().map(taken).sum(), outcome)
}

fn gates(of: &str, result: &BenchResult) -> Suite {
    let cases = result.checks.iter().map(gate).collect();
    suite(format!("{of}gates"), result, cases)
}

fn gate(check: &GateResult) -> Case {
    let outcome = if check.pass {
        Outcome::Passed
    } else {
        let (limit, actual) = wording::limit_and_actual(check);
        let note = check.note.as_ref().map_or_else(String::new, |note| format!("\n{note}"));
        let message = format!("{actual}, not {limit}");
        Outcome::Failed([check.name.clone(), message.clone(), format!("{message}{note}")])
    };
    case("gates", check.name.clone(), 0.0, outcome)
}

#[cfg(test)]
mod tests {
    use roxmltree::{Document, Node};

    use super::{super::example, *};

    fn elements<'d>(document: &'d Document, name: &str) -> Vec<Node<'d, 'd>> {
        document.descendants().filter(|node| node.has_tag_name(name)).collect()
    }

    /// Checks that the counts of every suite match its cases.
    fn check_counts(document: &Document) {
        for suite in elements(document, "testsuite") {
            for (attribute, element) in
                [("tests", "testcase"), ("failures", "failure"), ("errors", "error")]
            {
                let count = suite.descendants().filter(|node| node.has_tag_name(element)).count();
                assert_eq!(suite.attribute(attribute), Some(count.to_string().as_str()));
            }
        }
    }

    #[test]
    fn connections_and_gates_are_cases() {
        let xml = junit(&[example::named("a.json", example::full())]);
        let document = Document::parse(&xml).unwrap();
        check_counts(&document);
        let suites = elements(&document, "testsuite");
        let names: Vec<_> = suites.iter().map(|s| s.attribute("name").unwrap()).collect();
        assert_eq!(names, ["connections", "gates"]);
        let cases = elements(&document, "testcase");
        assert_eq!(cases.len(), 4 + 3);
        assert_eq!(cases[0].attribute("classname"), Some("orion-peer.bench.connections"));
        assert_eq!(cases[0].attribute("time"), Some("0.023"));
        let failures = elements(&document, "failure");
        let of = |i: usize, attribute: &str| failures[i].attribute(attribute).unwrap();
        assert_eq!([of(0, "type"), of(0, "message")], ["ice/no-pair", "no pair worked"]);
        assert_eq!(
            failures[0].text(),
            Some("ice/no-pair: no pair worked\ntry: add a TURN server, or two")
        );
        assert_eq!(of(1, "message"), "75 %, not at least 99 %");
        let properties = elements(&document, "property");
        assert!(properties.iter().any(|p| p.attribute("name") == Some("config.mode")));
    }

    #[test]
    fn a_partial_run_is_an_error() {
        let runs = [example::named("a", example::partial()), example::named("b", example::empty())];
        let xml = junit(&runs);
        let document = Document::parse(&xml).unwrap();
        check_counts(&document);
        let errors = elements(&document, "error");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].attribute("type"), Some("signaling/gone"));
        assert!(xml.contains("name=\"a: connections\"") && xml.contains("name=\"b: gates\""));
    }

    #[test]
    fn many_connections_share_a_case() {
        let mut result = example::full();
        let records = &mut result.connections.records;
        *records = records.iter().cycle().take(MAX_CASES + 8).cloned().collect();
        let xml = junit(&[example::named("a", result)]);
        let document = Document::parse(&xml).unwrap();
        check_counts(&document);
        let cases = elements(&document, "testcase");
        assert_eq!(cases.len(), MAX_CASES + 1 + 3);
        assert_eq!(cases[MAX_CASES].attribute("name"), Some("8 more connections"));
        let failure = cases[MAX_CASES].descendants().find(|n| n.has_tag_name("failure")).unwrap();
        assert_eq!(failure.attribute("message"), Some("2 of 8 failed"));
    }

    #[test]
    fn any_text_is_well_formed() {
        let xml = junit(&[example::named("\u{0}<&\"\u{ffff}", example::hostile())]);
        let document = Document::parse(&xml).unwrap();
        check_counts(&document);
        let message = elements(&document, "failure")[0].attribute("message").unwrap();
        assert!(message.contains("]]>\u{fffd}[2J") && message.contains("&amp;|`x`<img src=x>"));
        assert!(message.contains("\r\n::error::"), "{message:?}");
    }
}
