//! The report as `JUnit` XML: one suite per group, one test case per rule.

use super::{
    result::{CaseResult, CheckReport, Outcome},
    run::shown,
};
use crate::report::junit::{Case, Outcome as JunitOutcome, Suite, document};

/// Renders the report as an XML document.
#[must_use]
pub fn junit(report: &CheckReport) -> String {
    let mut suites: Vec<Suite> = Vec::new();
    for case in &report.cases {
        let at = suites.iter().position(|suite| suite.name == case.group);
        let at = at.unwrap_or_else(|| {
            suites.push(suite(report, &case.group));
            suites.len() - 1
        });
        suites[at].cases.push(test_case(case));
    }
    document("orion-peer check", report.duration_s, &suites)
}

/// The document of a run that could not start: one case, with `reason` as its error.
#[must_use]
pub fn unreached(signal: &url::Url, reason: &str) -> String {
    let case = Case {
        class: "orion-peer.check.reach".to_owned(),
        name: "reach".to_owned(),
        seconds: 0.0,
        outcome: JunitOutcome::Error(["unreachable".into(), reason.into(), reason.into()]),
    };
    let suite = Suite {
        name: "reach".to_owned(),
        timestamp: jiff::Timestamp::now().to_string(),
        properties: vec![("signal".to_owned(), shown(signal))],
        cases: vec![case],
    };
    document("orion-peer check", 0.0, &[suite])
}

fn suite(report: &CheckReport, group: &str) -> Suite {
    let properties = [
        ("version", report.version.as_str()),
        ("signal", &report.signal),
        ("tokenUrl", &report.token_url),
        ("level", report.level.as_str()),
    ];
    Suite {
        name: group.to_owned(),
        timestamp: report.started_at.clone(),
        properties: properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        cases: Vec::new(),
    }
}

fn test_case(case: &CaseResult) -> Case {
    let outcome = match case.outcome {
        Outcome::Pass => JunitOutcome::Passed,
        Outcome::NotRun => JunitOutcome::Skipped(case.seen.clone()),
        Outcome::Fail => {
            let remedy = case.remedy.as_deref().unwrap_or_default();
            let text = format!(
                "{}\nexpected: {}\nobserved: {}\ntry: {remedy}",
                case.rule, case.expected, case.seen
            );
            JunitOutcome::Failed([case.id.clone(), case.seen.clone(), text])
        }
    };
    Case {
        class: format!("orion-peer.check.{}", case.group),
        name: case.id.clone(),
        seconds: case.duration_ms / 1000.0,
        outcome,
    }
}
