//! The failure of a command: stage, cause, remedy and exit code.

use std::fmt;

use serde::Serialize;

use crate::types::Stage;

/// Exit code of a run that was interrupted before it completed: 128 + SIGINT, as in shells.
pub const INTERRUPTED: u8 = 130;

/// A failure of a command. Printed as `error: STAGE: message`, then `  try: remedy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The stage that failed.
    pub stage: Stage,
    /// Stable error code in kebab case, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What failed and why, including the subject (a URL, a path, a device).
    pub message: String,
    /// The remedy, in the imperative.
    pub remedy: String,
    /// Exit code: 1 failed, 2 usage or configuration error, 3 requirement not met, 130 interrupted.
    pub exit: u8,
    /// The JSON result already contains this failure, so no error line is printed to stdout.
    #[serde(skip)]
    pub in_result: bool,
}

impl Failure {
    /// A failed run: exit code 1, unless the stage has its own.
    pub fn new(stage: Stage, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), remedy.into());
        let exit = match stage {
            Stage::Gate => 3,
            Stage::Interrupted => INTERRUPTED,
            _ => 1,
        };
        Self { stage, code: None, message, remedy, exit, in_result: false }
    }

    /// A run ended by a signal before it completed: exit code 130.
    pub fn interrupted(remedy: impl Into<String>) -> Self {
        Self::new(Stage::Interrupted, "interrupted by a signal", remedy)
    }

    /// A usage or configuration error: exit code 2.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::new(Stage::Config, message, remedy) }
    }

    /// Marks the failure as already contained in the JSON result.
    #[must_use]
    pub fn in_result(self) -> Self {
        Self { in_result: true, ..self }
    }

    /// The run completed, but a requirement was not met: exit code 3.
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

/// The last line of `--json` output of a failed command: `{"error":{"stage","code"?,"message","remedy","exit"}}`.
#[derive(Debug, Serialize)]
pub struct ErrorLine<'f> {
    /// The failure.
    pub error: &'f Failure,
}
