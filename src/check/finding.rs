//! What a case reports: an observation of a conforming server, or why it failed.

/// Why a case did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaseError {
    /// The server violates the rule; the text says what was observed.
    Violation(String),
    /// The rule could not be checked; the text gives the reason.
    NotRun(String),
}

/// What a case observed of a server that conforms, as one line of text.
pub type Finding = Result<String, CaseError>;

/// A violation of the rule, with what was observed.
pub(super) fn violation<T>(observed: impl Into<String>) -> Result<T, CaseError> {
    Err(CaseError::Violation(observed.into()))
}
