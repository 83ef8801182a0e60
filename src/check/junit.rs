//! A run as `JUnit` XML: a suite a group, a case a rule.

use super::{
    result::{CaseResult, Outcome, Report},
    run::shown,
};
use crate::report::junit::{Case, Outcome as Became, Suite, document};

/// The run as a document.
#[must_use]
pub fn junit(report: &Report) -> String {
    let mut suites: Vec<Suite> = Vec::new();
    for case in &report.cases {
        let at = suites.iter().position(|suite| suite.name == case.group);
        let at = at.unwrap_or_else(|| {
            suites.push(suite(report, &case.group));
            suites.len() - 1
        });
        suites[at].cases.push(written(case));
    }
    document("orion-peer check", report.duration_s, &suites)
}

/// A run that did not begin, for `reason`: one case, with an error.
#[must_use]
pub fn unreached(signal: &url::Url, reason: &str) -> String {
    let case = Case {
        class: "orion-peer.check.reach".to_owned(),
        name: "reach".to_owned(),
        seconds: 0.0,
        outcome: Became::Error(["unreachable".into(), reason.into(), reason.into()]),
    };
    let suite = Suite {
        name: "reach".to_owned(),
        timestamp: jiff::Timestamp::now().to_string(),
        properties: vec![("signal".to_owned(), shown(signal))],
        cases: vec![case],
    };
    document("orion-peer check", 0.0, &[suite])
}

fn suite(report: &Report, group: &str) -> Suite {
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

fn written(case: &CaseResult) -> Case {
    let outcome = match case.outcome {
        Outcome::Pass => Became::Passed,
        Outcome::NotRun => Became::Skipped(case.seen.clone()),
        Outcome::Fail => {
            let remedy = case.remedy.as_deref().unwrap_or_default();
            let text = format!(
                "{}\nexpected: {}\nseen: {}\ntry: {remedy}",
                case.rule, case.expected, case.seen
            );
            Became::Failed([case.id.clone(), case.seen.clone(), text])
        }
    };
    Case {
        class: format!("orion-peer.check.{}", case.group),
        name: case.id.clone(),
        seconds: case.duration_ms / 1000.0,
        outcome,
    }
}
