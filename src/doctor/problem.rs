//! A problem that was found, with its remedy.

use serde::Serialize;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It prevents peers from connecting, or may do so.
    Error,
    /// It does not affect the verdict.
    Warning,
}

/// A problem that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Identifier in kebab case, stable across versions.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// The URL, address or interface concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do, as an imperative sentence.
    pub remedy: String,
}

impl Problem {
    /// A problem that prevents peers from connecting.
    pub fn error(
        code: impl Into<String>,
        subject: Option<&str>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            severity: Severity::Error,
            subject: subject.map(str::to_owned),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }
}
