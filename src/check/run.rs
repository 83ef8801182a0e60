//! Which rule runs when: first what the others cannot do without, then cases that need no room side by
//! side, those of the room one after the other, then floods alone, and at the end what leaves the server
//! changed.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::{
    plan::CheckConfig,
    result::{CaseResult, Counts, Outcome, Report, SCHEMA},
    rule::{Lane, Miss, Rule},
    site::Site,
};
use crate::auth::jws::KeyError;

/// Added to the bound of cases that take long.
const SLOW_WITHIN: Duration = Duration::from_mins(8);

/// Told of each case before and after it.
pub type Tell<'t> = &'t (dyn Fn(usize, &str) + Sync);

/// Results by the place of the rule.
type Results = Mutex<BTreeMap<usize, CaseResult>>;

struct Run<'r> {
    site: Site,
    results: Results,
    tell: Tell<'r>,
}

/// Checks a server. When `stop` completes, the rest is not run.
///
/// # Errors
/// The signing secret is no key.
pub async fn run(
    config: CheckConfig,
    tell: Tell<'_>,
    stop: impl Future<Output = ()>,
) -> Result<Report, KeyError> {
    let (begun, started_at) = (Instant::now(), jiff::Timestamp::now().to_string());
    let rules = config.rules();
    let (signal, token_url) = (shown(&config.signal), shown(&config.token_url));
    let level = config.level;
    let run = Run { site: Site::new(config)?, results: Results::default(), tell };
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
    Ok(Report {
        schema: SCHEMA.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        started_at,
        duration_s: begun.elapsed().as_secs_f64(),
        signal,
        token_url,
        level,
        partial,
        counts,
        cases,
        pass: !partial && counts.failed == 0 && counts.passed > 0,
    })
}

/// A URL without its query, which may hold a secret.
pub(super) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn locked(results: &Results) -> MutexGuard<'_, BTreeMap<usize, CaseResult>> {
    results.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run<'_> {
    async fn all(&self, rules: &[&'static Rule]) {
        let lane = |lane: Lane| {
            rules.iter().copied().enumerate().filter(move |(_, rule)| rule.lane == lane)
        };
        for (at, rule) in lane(Lane::First) {
            if self.one(at, rule).await == Outcome::Fail {
                self.site.without(rule.id);
            }
        }
        let parallel = self.site.config.parallel.max(1);
        if parallel == 1 {
            self.serial(lane(Lane::Free).chain(lane(Lane::Room))).await;
        } else {
            let free = stream::iter(lane(Lane::Free)).for_each_concurrent(
                parallel - 1,
                |(at, rule)| async move {
                    self.one(at, rule).await;
                },
            );
            tokio::join!(free, self.serial(lane(Lane::Room)));
        }
        self.serial(lane(Lane::Alone)).await;
        self.serial(lane(Lane::Last)).await;
    }

    async fn serial(&self, rules: impl Iterator<Item = (usize, &'static Rule)>) {
        for (at, rule) in rules {
            if self.one(at, rule).await == Outcome::Fail {
                // The server may still have to notice that sockets of it are gone.
                sleep(self.site.config.patience.quiet / 2).await;
            }
        }
    }

    async fn one(&self, at: usize, rule: &Rule) -> Outcome {
        (self.tell)(locked(&self.results).len(), rule.id);
        let begun = Instant::now();
        let (outcome, seen) = match self.reason_against(rule) {
            Some(reason) => (Outcome::NotRun, reason.to_owned()),
            None => self.look(rule).await,
        };
        let duration_ms = begun.elapsed().as_secs_f64() * 1000.0;
        let result = CaseResult::new(rule, outcome, seen, duration_ms);
        locked(&self.results).insert(at, result);
        outcome
    }

    fn reason_against(&self, rule: &Rule) -> Option<&'static str> {
        let config = &self.site.config;
        let missing = rule.needs.iter().find(|need| !config.has(**need));
        match missing {
            Some(need) => Some(need.reason()),
            None if rule.slow && !config.slow => Some("needs --slow"),
            None => None,
        }
    }

    async fn look(&self, rule: &Rule) -> (Outcome, String) {
        let within = self.site.config.within + if rule.slow { SLOW_WITHIN } else { Duration::ZERO };
        match timeout(within, (rule.case)(&self.site)).await {
            Ok(Ok(seen)) => (Outcome::Pass, seen),
            Ok(Err(Miss::Broken(seen))) => (Outcome::Fail, seen),
            Ok(Err(Miss::NotRun(reason))) => (Outcome::NotRun, reason),
            Err(_) => (Outcome::Fail, format!("no end within {} s", within.as_secs_f64())),
        }
    }
}
