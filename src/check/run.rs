//! Order of the rules: first the prerequisites; then rules that need no room, concurrently,
//! alongside rules that need it, one at a time; then floods, one at a time; and finally the rules
//! that leave the server changed.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::{
    finding::CaseError,
    plan::CheckConfig,
    result::{CaseResult, CheckReport, Counts, Outcome, SCHEMA},
    rule::{Rule, Schedule},
    rules,
    server::ServerUnderTest,
};
use crate::{auth::jws::KeyError, lock::locked};

/// Added to the timeout of slow cases.
const SLOW_WITHIN: Duration = Duration::from_mins(8);

/// Called when a case starts, with the number of finished cases and the rule's id.
pub type OnCase<'t> = &'t (dyn Fn(usize, &str) + Sync);

/// Results by the index of the rule.
type Results = Mutex<BTreeMap<usize, CaseResult>>;

struct Run<'r> {
    server: ServerUnderTest,
    results: Results,
    on_case: OnCase<'r>,
}

/// Checks a server. When `stop` completes, the remaining rules are not run.
///
/// # Errors
/// The signing secret is not a valid key.
pub async fn run(
    config: CheckConfig,
    on_case: OnCase<'_>,
    stop: impl Future<Output = ()>,
) -> Result<CheckReport, KeyError> {
    let (started, started_at) = (Instant::now(), jiff::Timestamp::now().to_string());
    let rules = rules::selected(&config);
    let (signal, token_url) = (shown(&config.signal), shown(&config.token_url));
    let level = config.level;
    let run = Run { server: ServerUnderTest::new(config)?, results: Results::default(), on_case };
    let partial = tokio::select! {
        biased;
        () = stop => true,
        () = run.all(&rules) => false,
    };
    let mut done = std::mem::take(&mut *locked(&run.results));
    let missing =
        |rule: &Rule| CaseResult::new(rule, Outcome::NotRun, "the run was stopped".into(), 0.0);
    let cases: Vec<CaseResult> = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| done.remove(&at).unwrap_or_else(|| missing(rule)))
        .collect();
    let count = |outcome| cases.iter().filter(|case| case.outcome == outcome).count();
    let counts = Counts {
        passed: count(Outcome::Pass),
        failed: count(Outcome::Fail),
        not_run: count(Outcome::NotRun),
    };
    Ok(CheckReport {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at,
        duration_s: started.elapsed().as_secs_f64(),
        signal,
        token_url,
        level,
        partial,
        counts,
        cases,
        pass: !partial && counts.failed == 0 && counts.passed > 0,
    })
}

/// A URL without its query, which may contain a secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

impl Run<'_> {
    async fn all(&self, rules: &[&'static Rule]) {
        let schedule = |schedule: Schedule| {
            rules.iter().copied().enumerate().filter(move |(_, rule)| rule.schedule == schedule)
        };
        for (at, rule) in schedule(Schedule::First) {
            if self.one(at, rule).await == Outcome::Fail {
                self.server.prerequisite_failed(rule.id);
            }
        }
        let parallel = self.server.config.parallel.max(1);
        if parallel == 1 {
            self.serial(schedule(Schedule::Concurrent).chain(schedule(Schedule::Room))).await;
        } else {
            let free = stream::iter(schedule(Schedule::Concurrent)).for_each_concurrent(
                parallel - 1,
                |(at, rule)| async move {
                    self.one(at, rule).await;
                },
            );
            tokio::join!(free, self.serial(schedule(Schedule::Room)));
        }
        self.serial(schedule(Schedule::Exclusive)).await;
        self.serial(schedule(Schedule::Last)).await;
    }

    async fn serial(&self, rules: impl Iterator<Item = (usize, &'static Rule)>) {
        for (at, rule) in rules {
            if self.one(at, rule).await == Outcome::Fail {
                // The server may not have noticed yet that the sockets of the case are closed.
                sleep(self.server.config.timeouts.quiet / 2).await;
            }
        }
    }

    async fn one(&self, at: usize, rule: &Rule) -> Outcome {
        (self.on_case)(locked(&self.results).len(), rule.id);
        let started = Instant::now();
        let (outcome, seen) = match self.reason_not_run(rule) {
            Some(reason) => (Outcome::NotRun, reason.to_owned()),
            None => self.check(rule).await,
        };
        let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
        let result = CaseResult::new(rule, outcome, seen, duration_ms);
        locked(&self.results).insert(at, result);
        outcome
    }

    fn reason_not_run(&self, rule: &Rule) -> Option<&'static str> {
        let config = &self.server.config;
        let missing = rule.needs.iter().find(|need| !config.has(**need));
        match missing {
            Some(need) => Some(need.reason()),
            None if rule.slow && !config.slow => Some("needs --slow"),
            None => None,
        }
    }

    async fn check(&self, rule: &Rule) -> (Outcome, String) {
        let within =
            self.server.config.case_timeout + if rule.slow { SLOW_WITHIN } else { Duration::ZERO };
        match timeout(within, (rule.case)(&self.server)).await {
            Ok(Ok(seen)) => (Outcome::Pass, seen),
            Ok(Err(CaseError::Violation(seen))) => (Outcome::Fail, seen),
            Ok(Err(CaseError::NotRun(reason))) => (Outcome::NotRun, reason),
            Err(_) => (Outcome::Fail, format!("not finished within {} s", within.as_secs_f64())),
        }
    }
}
