//! The report of a run. Its schema is in `schema.json`.

use serde::{Deserialize, Serialize};

use super::{
    level::{Level, Need},
    rule::Rule,
};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/check/1";

/// Outcome of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The server conforms.
    Pass,
    /// The server violates the rule.
    Fail,
    /// The rule was not checked.
    NotRun,
}

/// One rule and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// Stable id of the rule.
    pub id: String,
    /// The part of the id before the dot.
    pub group: String,
    /// The lowest level that includes it.
    pub level: Level,
    /// The requirement of the contract, in one sentence.
    pub rule: String,
    /// What a server must do.
    pub expected: String,
    /// Whether the server conforms.
    pub outcome: Outcome,
    /// What was observed, or why the rule was not run.
    pub seen: String,
    /// What to do; only for a failed rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Duration of the case, ms.
    pub duration_ms: f64,
}

impl CaseResult {
    /// The result of `rule`.
    #[must_use]
    pub fn new(rule: &Rule, outcome: Outcome, seen: String, duration_ms: f64) -> Self {
        let remedy = (outcome == Outcome::Fail).then(|| rule.remedy.to_owned());
        Self {
            id: rule.id.to_owned(),
            group: rule.group().to_owned(),
            level: rule.level,
            rule: rule.rule.to_owned(),
            expected: rule.expected.to_owned(),
            outcome,
            seen,
            remedy,
            duration_ms,
        }
    }
}

/// Number of rules by outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Rules the server conforms to.
    pub passed: usize,
    /// Rules the server violates.
    pub failed: usize,
    /// Rules that were not checked.
    pub not_run: usize,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of orion-peer.
    pub version: String,
    /// Start of the run, RFC 3339.
    pub started_at: String,
    /// Duration of the run, seconds.
    pub duration_s: f64,
    /// URL of the WebSocket, without its query.
    pub signal: String,
    /// URL of the token API, without its query.
    pub token_url: String,
    /// How much of the contract was checked.
    pub level: Level,
    /// The run was stopped early.
    pub partial: bool,
    /// Number of rules by outcome.
    pub counts: Counts,
    /// Each rule, in the order of the contract.
    pub cases: Vec<CaseResult>,
    /// Whether at least one rule passed, none failed, and the run is complete.
    pub pass: bool,
}

impl CheckReport {
    /// Rules with this outcome.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = &CaseResult> {
        self.cases.iter().filter(move |case| case.outcome == outcome)
    }
}

/// Schema of the list of rules.
pub const LIST_SCHEMA: &str = "orion-peer/check-list/1";

/// The rules, for `--list --json`.
#[derive(Debug, Serialize)]
pub struct List {
    /// [`LIST_SCHEMA`].
    pub schema: &'static str,
    /// Each rule.
    pub rules: Vec<Listed>,
}

/// One rule of the list.
#[derive(Debug, Serialize)]
pub struct Listed {
    /// Id.
    pub id: &'static str,
    /// Group.
    pub group: &'static str,
    /// The lowest level that includes it.
    pub level: Level,
    /// Whether it runs only with `--slow`.
    pub slow: bool,
    /// What the run must provide.
    pub needs: &'static [Need],
    /// The requirement of the contract, in one sentence.
    pub rule: &'static str,
    /// What a server must do.
    pub expected: &'static str,
    /// What to do if the server does not conform.
    pub remedy: &'static str,
}

impl List {
    /// The list of these rules.
    #[must_use]
    pub fn of(rules: &[&'static Rule]) -> Self {
        let listed = |rule: &&'static Rule| Listed {
            id: rule.id,
            group: rule.group(),
            level: rule.level,
            slow: rule.slow,
            needs: rule.needs,
            rule: rule.rule,
            expected: rule.expected,
            remedy: rule.remedy,
        };
        Self { schema: LIST_SCHEMA, rules: rules.iter().map(listed).collect() }
    }
}
