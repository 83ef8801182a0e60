//! Records that several result schemas share: failures and gates.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::Stage;

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// Where.
    pub stage: Stage,
    /// What, in kebab case: stable, for programs.
    pub code: String,
    /// What and why, for people.
    pub message: String,
    /// What to try.
    pub remedy: String,
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// The flag without its dashes: `max-rtt-p95`.
    pub name: String,
    /// What was asked for: a number in `unit`, or a word.
    pub limit: Value,
    /// What was measured; null when nothing was.
    pub actual: Value,
    /// `share`, `ms`, `bytes` or `type`.
    pub unit: String,
    /// Whether it was met.
    pub pass: bool,
    /// More for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
