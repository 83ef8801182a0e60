//! Definition of a rule: its requirement, the expected behavior, and the case that checks it.

use futures_util::future::BoxFuture;

use super::{
    finding::Finding,
    level::{Level, Need},
    server::ServerUnderTest,
};

/// When a case runs, and what may run concurrently with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Alone, before all others, which depend on it.
    First,
    /// Concurrently with anything: it does not join a room.
    Concurrent,
    /// Concurrently with [`Schedule::Concurrent`] only: it needs the pair's room to itself.
    Room,
    /// Alone, after the preceding ones: it floods the server.
    Exclusive,
    /// Alone, at the very end: it changes the server permanently.
    Last,
}

/// The function that checks a rule against a server.
pub type Case = for<'s> fn(&'s ServerUnderTest) -> BoxFuture<'s, Finding>;

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Stable id, `group.name`.
    pub id: &'static str,
    /// The requirement of the contract, in one sentence.
    pub rule: &'static str,
    /// What a server must do.
    pub expected: &'static str,
    /// What to do if the server does not conform, as an imperative sentence.
    pub remedy: &'static str,
    /// The lowest level that includes it.
    pub level: Level,
    /// Runs only with `--slow`: it takes seconds to minutes.
    pub slow: bool,
    /// When it runs.
    pub schedule: Schedule,
    /// What the run must provide.
    pub needs: &'static [Need],
    /// The check itself.
    pub case: Case,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Rule {
    /// A strict rule that does not join a room; `texts` are the requirement, the expectation and
    /// the remedy.
    #[must_use]
    pub const fn new(id: &'static str, texts: [&'static str; 3], case: Case) -> Self {
        let [rule, expected, remedy] = texts;
        let (level, slow, schedule) = (Level::Strict, false, Schedule::Concurrent);
        Self { id, rule, expected, remedy, level, slow, schedule, needs: &[], case }
    }

    /// The same rule, included in level `production`.
    #[must_use]
    pub const fn production(self) -> Self {
        Self { level: Level::Production, ..self }
    }

    /// The same rule, run only with `--slow`.
    #[must_use]
    pub const fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    /// The same rule with another schedule.
    #[must_use]
    pub const fn schedule(self, schedule: Schedule) -> Self {
        Self { schedule, ..self }
    }

    /// The same rule with requirements on the run.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// The part of the id before the dot.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.id.split('.').next().unwrap_or_default()
    }
}
