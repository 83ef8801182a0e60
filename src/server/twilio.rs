//! Twilio's ICE servers for token responses: fetched in advance and shared by all clients, never fetched
//! during a request.
//!
//! They are renewed after half their lifetime, so that issued credentials stay valid for at least the other
//! half. While renewal fails, the last ones are used until shortly before they expire; after that, responses
//! omit them, because a call that uses the other servers is better than none.

use std::{
    sync::{
        Mutex, MutexGuard,
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
    lock::locked,
    proto::{claims::MAX_LIFETIME_S, token::IceServer},
    signaling::server::counters::Family,
};

/// How often to check whether renewal is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Minimum remaining lifetime of issued credentials, seconds: that of a token.
const LAST_GIVEN_S: u64 = MAX_LIFETIME_S;

/// Maximum pause after failures, seconds.
const MAX_PAUSE_S: u64 = 60;

/// Pause after a rejection, which only an operator can resolve, seconds.
const REFUSED_PAUSE_S: u64 = 300;

/// Maximum pause that Twilio may request, seconds.
const MAX_ASKED_PAUSE_S: u64 = 900;

/// ICE servers of one account, shared by all clients.
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
    /// Starts without servers; requests credentials that are valid for `ttl`.
    #[must_use]
    pub fn new(twilio: Twilio, ttl: Duration) -> Self {
        let fetches =
            Family::new(&["ok", "refused", "limited", "failed", "unreachable", "garbage", "other"]);
        Self { twilio, ttl, state: Mutex::default(), fetches, without: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// The servers for a response at the time `now`, seconds since 1970; empty, and counted, when none are
    /// valid.
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

    /// Fetches new servers when renewal is due, and logs the result.
    ///
    /// # Errors
    /// [`TwilioError`]; the next attempt is scheduled, and the current servers stay in use.
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
                tracing::info!(servers = lease.servers.len(), life, "fetched Twilio's ICE servers");
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
                tracing::warn!(%error, pause, left, "cannot renew Twilio's ICE servers");
                if left < LAST_GIVEN_S {
                    tracing::error!(
                        "token responses omit Twilio's ICE servers until they are renewed"
                    );
                }
                Err(error)
            }
        }
    }

    /// Renews the servers whenever due; runs until the future is dropped.
    pub async fn keep_renewed(&self) {
        loop {
            // Checking often, rather than sleeping until then, also notices changes of the system clock.
            tokio::time::sleep(LOOK_EVERY).await;
            // An error has been logged and counted.
            let _ = self.renew_if_due(unix_now()).await;
        }
    }

    /// Appends the metrics of these servers in the Prometheus text format.
    pub(super) fn metrics(&self, text: &mut String, now: u64) {
        let help = "Fetches of Twilio's ICE servers, by result.";
        let values: Vec<_> = self.fetches.read().collect();
        counter(text, "orion_twilio_fetches_total", "result", help, values);
        let help = "Token responses without Twilio's ICE servers, because none were valid.";
        let without = self.without.load(Ordering::Relaxed);
        counter(text, "orion_twilio_answers_without_total", "", help, [("", without)]);
        let help = "Remaining lifetime of Twilio's ICE servers, seconds.";
        let left = self.state().good_until.saturating_sub(now);
        gauge(text, "orion_twilio_seconds_left", help, usize::try_from(left).unwrap_or(usize::MAX));
    }
}

/// Seconds until the next attempt.
fn pause(error: &TwilioError, failures: u32) -> u64 {
    match error {
        TwilioError::Limited(asked) => asked.as_secs().clamp(1, MAX_ASKED_PAUSE_S),
        TwilioError::Refused { .. } => REFUSED_PAUSE_S,
        // Nodes that failed at the same time should not retry at the same time.
        _ => 2u64.saturating_pow(failures).min(MAX_PAUSE_S) + rand::random_range(0..=2),
    }
}
