//! Records that several result schemas share: failures and gates.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::Stage;

/// A failure with its cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The stage that failed.
    pub stage: Stage,
    /// Kebab-case code, stable across versions.
    pub code: String,
    /// The cause in a sentence.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// The outcome of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// The flag without its dashes, such as `max-rtt-p95`.
    pub name: String,
    /// The limit: a number in `unit`, or a word.
    pub limit: Value,
    /// The measured value; null if there is none.
    pub actual: Value,
    /// Unit: `share`, `ms`, `bytes` or `type`.
    pub unit: String,
    /// Whether the gate was met.
    pub pass: bool,
    /// Additional explanation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}
