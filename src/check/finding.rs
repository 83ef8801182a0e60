//! Outcome of a case: an observation of a conforming server, or the reason it
//! did not pass.

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseError {
    /// The server violates the rule; the text says what was observed.
    Violation(String),
    /// The rule could not be checked; the text gives the reason.
    NotRun(String),
}

/// One line of text about a conforming server, or the reason the case did not
/// pass.
pub type Finding = Result<String, CaseError>;

/// Reports a violation of the rule with the observed behavior.
pub(super) fn violation<T>(observed: impl Into<String>) -> Result<T, CaseError> {
    Err(CaseError::Violation(observed.into()))
}
