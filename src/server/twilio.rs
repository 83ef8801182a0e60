//! Twilio's ICE servers for token answers: fetched ahead and shared by all, never asked for by a
//! request.
//!
//! They are renewed after half their life, so that credentials given away are good for as long again.
//! While that fails the last ones serve on until shortly before their end, then answers go without:
//! a call on the other servers is better than none.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::metrics::{counter, gauge};
use crate::{
    auth::{
        twilio::{Twilio, TwilioError},
        unix_now,
    },
    proto::{claims::MAX_LIFETIME_S, token::IceServer},
    signaling::server::counters::Family,
};

/// Between looks whether it is time to renew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Credentials are given away until so long before their end, seconds: as long as a token lives.
const LAST_GIVEN_S: u64 = MAX_LIFETIME_S;

/// Longest pause after failures, seconds.
const MAX_PAUSE_S: u64 = 60;

/// Pause after a refusal, which only a person can change, seconds.
const REFUSED_PAUSE_S: u64 = 300;

/// Longest pause that Twilio may ask for, seconds.
const MAX_ASKED_PAUSE_S: u64 = 900;

/// Shared ICE servers of one account.
#[derive(Debug)]
pub struct TwilioServers {
    twilio: Twilio,
    ttl: Duration,
    state: Mutex<State>,
    fetches: Family,
    without: AtomicU64,
}

/// Times are seconds since 1970.
#[derive(Debug, Default)]
struct State {
    servers: Vec<IceServer>,
    good_until: u64,
    next_try: u64,
    failures: u32,
}

impl TwilioServers {
    /// None yet; credentials will be asked for that are good for `ttl`.
    #[must_use]
    pub fn new(twilio: Twilio, ttl: Duration) -> Self {
        let fetches =
            Family::new(&["ok", "refused", "limited", "failed", "unreachable", "garbage", "other"]);
        Self { twilio, ttl, state: Mutex::default(), fetches, without: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers for an answer at the time `now`, seconds since 1970; none when there are no good
    /// ones, which is counted.
    #[must_use]
    pub fn servers(&self, now: u64) -> Vec<IceServer> {
        let state = self.state();
        if now.saturating_add(LAST_GIVEN_S) <= state.good_until {
            return state.servers.clone();
        }
        drop(state);
        self.without.fetch_add(1, Ordering::Relaxed);
        Vec::new()
    }

    /// Fetches when it is time to, and says how that went.
    ///
    /// # Errors
    /// [`TwilioError`]; the next try is planned, and what there is stays.
    pub async fn renew_if_due(&self, now: u64) -> Result<(), TwilioError> {
        if now < self.state().next_try {
            return Ok(());
        }
        let fetched = self.twilio.fetch(self.ttl).await;
        let mut state = self.state();
        match fetched {
            Ok(lease) => {
                self.fetches.count("ok");
                let life = lease.ttl.as_secs();
                tracing::info!(servers = lease.servers.len(), life, "Twilio's ICE servers fetched");
                let next_try = now + (life / 2).max(1);
                let good_until = now + life;
                *state = State { servers: lease.servers, good_until, next_try, failures: 0 };
                Ok(())
            }
            Err(error) => {
                self.fetches.count(error.code());
                state.failures += 1;
                let pause = pause(&error, state.failures);
                state.next_try = now + pause;
                let left = state.good_until.saturating_sub(now);
                drop(state);
                tracing::warn!(%error, pause, left, "Twilio's ICE servers cannot be renewed");
                if left < LAST_GIVEN_S {
                    tracing::error!("token answers go without Twilio's ICE servers");
                }
                Err(error)
            }
        }
    }

    /// Keeps them renewed; runs until it is dropped.
    pub async fn keep_renewed(&self) {
        loop {
            // Looking often, rather than sleeping until then, also notes a clock that was set.
            tokio::time::sleep(LOOK_EVERY).await;
            // What went wrong has been logged and counted.
            let _ = self.renew_if_due(unix_now()).await;
        }
    }

    /// Appends its metrics in the Prometheus text format.
    pub(super) fn metrics(&self, text: &mut String, now: u64) {
        let help = "Fetches of Twilio's ICE servers, by result.";
        let values: Vec<_> = self.fetches.read().collect();
        counter(text, "orion_twilio_fetches_total", "result", help, values);
        let help = "Token answers without Twilio's ICE servers, as there were no good ones.";
        let without = self.without.load(Ordering::Relaxed);
        counter(text, "orion_twilio_answers_without_total", "", help, [("", without)]);
        let help = "How long Twilio's ICE servers are good, seconds.";
        let left = self.state().good_until.saturating_sub(now);
        gauge(text, "orion_twilio_seconds_left", help, usize::try_from(left).unwrap_or(usize::MAX));
    }
}

/// Seconds until the next try.
fn pause(error: &TwilioError, failures: u32) -> u64 {
    match error {
        TwilioError::Limited(asked) => asked.as_secs().clamp(1, MAX_ASKED_PAUSE_S),
        TwilioError::Refused { .. } => REFUSED_PAUSE_S,
        // Nodes that failed together do not come back together.
        _ => 2u64.saturating_pow(failures).min(MAX_PAUSE_S) + rand::random_range(0..=2),
    }
}
