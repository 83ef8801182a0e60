//! Whether a URL is served at all: if the server is silent, does not speak HTTP or answers 404, it is tried only
//! a few times, not once per rule.

use std::sync::Mutex;

use crate::{
    check::{
        finding::CaseError,
        wire::{Answer, Stream},
    },
    lock::locked,
};

/// Number of failures after which the URL is not tried again.
const TRIES: u32 = 3;

#[derive(Debug, Default)]
struct Reachability {
    answers: bool,
    failures: u32,
    last_failure: String,
}

/// One URL of the server under test.
pub(super) struct Endpoint {
    name: &'static str,
    reachability: Mutex<Reachability>,
}

/// A value that contains an HTTP response.
pub(super) trait Answered {
    /// The response.
    fn answer(&self) -> &Answer;
}

impl Answered for Answer {
    fn answer(&self) -> &Answer {
        self
    }
}

impl Answered for (Answer, Stream) {
    fn answer(&self) -> &Answer {
        &self.0
    }
}

impl Endpoint {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, reachability: Mutex::default() }
    }

    /// # Errors
    /// Requests to the URL have failed [`TRIES`] times, and none has succeeded.
    pub(super) fn check_reachable(&self) -> Result<(), CaseError> {
        let known = locked(&self.reachability);
        if known.answers || known.failures < TRIES {
            return Ok(());
        }
        Err(CaseError::NotRun(format!(
            "{} is not served at its URL ({})",
            self.name, known.last_failure
        )))
    }

    /// Records the outcome of a request.
    pub(super) fn record<T: Answered>(&self, result: Result<T, CaseError>) -> Result<T, CaseError> {
        let mut known = locked(&self.reachability);
        let missing = match &result {
            Ok(answered) => {
                let answer = answered.answer();
                matches!(answer.status, 404 | 405).then(|| answer.summary())
            }
            Err(CaseError::Violation(why)) => Some(why.clone()),
            Err(CaseError::NotRun(_)) => return result,
        };
        match missing {
            Some(last) => (known.failures, known.last_failure) = (known.failures + 1, last),
            None => known.answers = true,
        }
        drop(known);
        result
    }
}
