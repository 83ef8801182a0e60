//! Whether there is anything at a URL at all: what is silent, answers no HTTP or knows no such path is
//! asked a few times, not once a rule.

use std::sync::{Mutex, PoisonError};

use crate::check::{
    rule::Miss,
    wire::{Answer, Stream},
};

/// How often nothing may be there before nobody asks again.
const TRIES: u32 = 3;

#[derive(Debug, Default)]
struct Known {
    answers: bool,
    misses: u32,
    last: String,
}

/// One URL of the server under test.
pub(super) struct Endpoint {
    name: &'static str,
    known: Mutex<Known>,
}

/// What has an HTTP answer in it.
pub(super) trait Answered {
    /// The answer.
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
        Self { name, known: Mutex::default() }
    }

    /// # Errors
    /// Nothing has been there so far, and that was told often enough.
    pub(super) fn worth_asking(&self) -> Result<(), Miss> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.answers || known.misses < TRIES {
            return Ok(());
        }
        Err(Miss::NotRun(format!("{} is not at its URL ({})", self.name, known.last)))
    }

    /// Remembers what came of a request.
    pub(super) fn note<T: Answered>(&self, result: Result<T, Miss>) -> Result<T, Miss> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = match &result {
            Ok(answered) => {
                let answer = answered.answer();
                matches!(answer.status, 404 | 405).then(|| answer.summary())
            }
            Err(Miss::Broken(why)) => Some(why.clone()),
            Err(Miss::NotRun(_)) => return result,
        };
        match missing {
            Some(last) => (known.misses, known.last) = (known.misses + 1, last),
            None => known.answers = true,
        }
        drop(known);
        result
    }
}
