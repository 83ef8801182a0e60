//! How a command ends when it does not end well: a stage, a cause, a remedy and an exit code.

use std::fmt;

use serde::Serialize;

use crate::types::Stage;

/// Exit code of a run that was interrupted before it had done what it should: 128 + SIGINT, as shells
/// have it.
pub const INTERRUPTED: u8 = 130;

/// A failure of a command. Printed as `error: STAGE: message`, then `  try: remedy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Where it failed.
    pub stage: Stage,
    /// What failed, in kebab case: stable, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What failed and why, with its subject (a URL, a path, a device).
    pub message: String,
    /// What to try.
    pub remedy: String,
    /// Exit code: 1 could not do it, 2 usage or configuration, 3 a requirement was not met, 130 it was
    /// interrupted.
    pub exit: u8,
    /// The JSON result says it already: no error line of its own.
    #[serde(skip)]
    pub told: bool,
}

impl Failure {
    /// Could not do it: exit code 1, or that of the stages that have one of their own.
    pub fn new(stage: Stage, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), remedy.into());
        let exit = match stage {
            Stage::Gate => 3,
            Stage::Interrupted => INTERRUPTED,
            _ => 1,
        };
        Self { stage, code: None, message, remedy, exit, told: false }
    }

    /// A signal ended it before it was done: exit code 130.
    pub fn interrupted(remedy: impl Into<String>) -> Self {
        Self::new(Stage::Interrupted, "stopped before the end, by a signal", remedy)
    }

    /// Usage or configuration: exit code 2.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(Stage::Config, message, remedy) }
    }

    /// The same failure of a run whose JSON result says it already.
    #[must_use]
    pub fn told(self) -> Self {
        Self { told: true, ..self }
    }

    /// It ran, but a requirement was not met: exit code 3.
    pub fn requirement(
        stage: Stage,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { exit: 3, ..Self::new(stage, message, remedy) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.stage, self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "\n  try: {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// The last line of `--json` when a command failed: `{"error":{"stage","code"?,"message","remedy","exit"}}`.
#[derive(Debug, Serialize)]
pub struct ErrorLine<'f> {
    /// How it failed.
    pub error: &'f Failure,
}
