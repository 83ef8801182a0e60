//! What came of a run. The schema is written down in `schema.json`.

use serde::{Deserialize, Serialize};

use super::rule::{Level, Rule};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/check/1";

/// What came of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The server keeps it.
    Pass,
    /// The server breaks it.
    Fail,
    /// It could not be looked at.
    NotRun,
}

/// One rule and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// Id of the rule.
    pub id: String,
    /// Its group.
    pub group: String,
    /// The lowest level that has it.
    pub level: Level,
    /// The sentence of the contract.
    pub rule: String,
    /// What a server must do.
    pub expected: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was seen; when it was not run, why.
    pub seen: String,
    /// Where to look; only when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// How long it took, ms.
    pub duration_ms: f64,
}

impl CaseResult {
    /// A result of `rule`.
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

/// How many rules came out how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Kept.
    pub passed: usize,
    /// Broken.
    pub failed: usize,
    /// Not looked at.
    pub not_run: usize,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of orion-peer.
    pub version: String,
    /// When the run began, RFC 3339.
    pub started_at: String,
    /// Length of the run, seconds.
    pub duration_s: f64,
    /// The WebSocket, without its query.
    pub signal: String,
    /// The token API, without its query.
    pub token_url: String,
    /// How much was checked.
    pub level: Level,
    /// The run was stopped before its end.
    pub partial: bool,
    /// How many rules came out how.
    pub counts: Counts,
    /// Each rule, in the order of the contract.
    pub cases: Vec<CaseResult>,
    /// Whether at least one rule was run, none is broken, and the run is whole.
    pub pass: bool,
}

impl Report {
    /// Rules that came out so.
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
    /// The lowest level that has it.
    pub level: Level,
    /// Run with `--slow` only.
    pub slow: bool,
    /// What it needs.
    pub needs: &'static [super::rule::Need],
    /// The sentence of the contract.
    pub rule: &'static str,
    /// What a server must do.
    pub expected: &'static str,
    /// Where to look when it does not.
    pub remedy: &'static str,
}

impl List {
    /// A list of these rules.
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
