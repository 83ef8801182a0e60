//! Public keys of others, by URL: a JWK Set (RFC 7517 §5), such as Supabase's
//! `/auth/v1/.well-known/jwks.json`.
//!
//! The set is kept for ten minutes. A token with an unknown `kid` has it fetched again, but only once
//! in [`JwksTimes::refetch_after`]: nobody can make this server flood the other by inventing ids. One
//! fetch runs at a time, and whoever else waits takes its result. While the set cannot be fetched, the
//! last one is good for [`JwksTimes::keep`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    http,
    jws::{Algorithm, Jws, Key, SigningKeys},
    jwt::TokenError,
};

/// Longest set read, bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Most keys taken from a set.
const MAX_KEYS: usize = 32;

/// How long the keys of a URL are used, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JwksTimes {
    /// Without looking again.
    pub fresh: u64,
    /// When looking again fails; then tokens can no longer be checked.
    pub keep: u64,
    /// Between two fetches because of an unknown `kid`, after one that went well.
    pub refetch_after: u64,
    /// After a fetch that failed.
    pub retry_after: u64,
    /// The longest a fetch may take.
    pub within: Duration,
}

impl Default for JwksTimes {
    fn default() -> Self {
        Self {
            fresh: 600,
            keep: 3600,
            refetch_after: 30,
            retry_after: 5,
            within: Duration::from_secs(5),
        }
    }
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The URL cannot be used.
    #[error("`{url}` is no URL of a JWK Set: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The set cannot be fetched.
    #[error("the keys of {url} cannot be fetched: {reason}")]
    Unavailable {
        /// Where they are.
        url: String,
        /// Why not.
        reason: String,
    },
}

/// The keys behind a URL; clones share them.
#[derive(Clone)]
pub struct Jwks(Arc<Inner>);

struct Inner {
    url: Url,
    http: Client,
    times: JwksTimes,
    state: Mutex<State>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// The last set, and when it was fetched.
    keys: Option<(Arc<SigningKeys>, u64)>,
    /// When it was last tried, and how that failed.
    tried: Option<(u64, Option<String>)>,
}

/// What to do for a token.
enum Next {
    Use(Arc<SigningKeys>),
    Fetch,
    Fail(String),
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("url", &self.0.url.as_str()).finish_non_exhaustive()
    }
}

impl Jwks {
    /// The keys at `url`; nothing is fetched yet.
    ///
    /// # Errors
    /// [`JwksError::Url`] when it is neither `https:` nor `http:` on this machine.
    pub fn new(url: &str, times: JwksTimes) -> Result<Self, JwksError> {
        let wrong = |reason| JwksError::Url { url: url.to_owned(), reason };
        let parsed = http::service_url(url).map_err(wrong)?;
        let http = http::client(&parsed, times.within).map_err(wrong)?;
        let (state, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self(Arc::new(Inner { url: parsed, http, times, state, fetching })))
    }

    /// Where the keys are.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// Checks the signature of `jws` at the time `now`, seconds since 1970.
    ///
    /// # Errors
    /// As [`SigningKeys::verify`]; [`TokenError::KeysUnavailable`] when nobody can tell.
    pub async fn verify(&self, jws: &Jws<'_>, now: u64) -> Result<(), TokenError> {
        jws.refuse_unsafe_header()?;
        let alg = jws.header.alg.as_str();
        if ![Algorithm::Es256, Algorithm::Rs256].iter().any(|one| one.as_str() == alg) {
            // Public keys are good for nothing else, and no fetch would change that.
            let (found, pinned) = (alg.to_owned(), Algorithm::Es256);
            return Err(TokenError::WrongAlgorithm { found, pinned });
        }
        let keys = self.keys(jws.header.kid.as_deref(), now).await;
        keys.map_err(|error| TokenError::KeysUnavailable(error.to_string()))?.verify(jws)
    }

    /// The keys for a token with the id `kid`, fetched when that is needed.
    ///
    /// # Errors
    /// [`JwksError::Unavailable`] when there are none that may be used.
    pub async fn keys(&self, kid: Option<&str>, now: u64) -> Result<Arc<SigningKeys>, JwksError> {
        let mut next = self.0.next(kid, now, false);
        if matches!(next, Next::Fetch) {
            let (inner, wanted) = (Arc::clone(&self.0), kid.map(str::to_owned));
            // In a task of its own: a client that goes away does not cut it off for the others.
            let fetch = tokio::spawn(async move { inner.fetch_unless_done(wanted, now).await });
            if let Err(error) = fetch.await {
                next = Next::Fail(error.to_string());
            } else {
                next = self.0.next(kid, now, true);
            }
        }
        let unavailable = |reason| JwksError::Unavailable { url: self.0.url.to_string(), reason };
        match next {
            Next::Use(keys) => Ok(keys),
            Next::Fail(reason) => Err(unavailable(reason)),
            Next::Fetch => Err(unavailable("they are too old".into())),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do now; `tried` when it was just tried.
    fn next(&self, kid: Option<&str>, now: u64, tried: bool) -> Next {
        let (state, times) = (self.state(), &self.times);
        let pause = |failed: bool| if failed { times.retry_after } else { times.refetch_after };
        let recent = state
            .tried
            .as_ref()
            .filter(|(at, failure)| tried || now.abs_diff(*at) < pause(failure.is_some()));
        let Some((keys, at)) = &state.keys else {
            return match recent {
                Some((_, Some(failure))) => Next::Fail(failure.clone()),
                _ => Next::Fetch,
            };
        };
        let age = now.abs_diff(*at);
        let known = kid.is_none_or(|kid| keys.has(kid));
        if known && age <= times.fresh {
            return Next::Use(Arc::clone(keys));
        }
        match recent {
            None => Next::Fetch,
            Some((_, None)) => Next::Use(Arc::clone(keys)),
            Some((_, Some(_))) if known && age <= times.keep => Next::Use(Arc::clone(keys)),
            Some((_, Some(failure))) => Next::Fail(failure.clone()),
        }
    }

    async fn fetch_unless_done(&self, kid: Option<String>, now: u64) {
        let _one = self.fetching.lock().await;
        if !matches!(self.next(kid.as_deref(), now, false), Next::Fetch) {
            return;
        }
        let fetched = self.fetch().await;
        let mut state = self.state();
        match fetched {
            Ok(keys) => {
                let kids: Vec<&str> = keys.keys().iter().map(Key::kid).collect();
                tracing::info!(url = %self.url, ?kids, "public keys fetched");
                state.keys = Some((Arc::new(keys), now));
                state.tried = Some((now, None));
            }
            Err(reason) => {
                tracing::warn!(url = %self.url, reason, "public keys cannot be fetched");
                state.tried = Some((now, Some(reason)));
            }
        }
    }

    async fn fetch(&self) -> Result<SigningKeys, String> {
        let request = self.http.get(self.url.clone()).header("Accept", "application/json");
        let response = request.send().await.map_err(|error| http::cause(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP {}", response.status().as_u16()));
        }
        parse(&http::body(response, MAX_BYTES).await?)
    }
}

/// The keys of a JWK Set that are for ES256 or RS256 signatures; others are left out (RFC 7517 §5).
fn parse(text: &[u8]) -> Result<SigningKeys, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set =
        serde_json::from_slice(text).map_err(|error| format!("it is no JWK Set: {error}"))?;
    let mut keys: Vec<Key> = Vec::new();
    for jwk in set.keys.iter().take(MAX_KEYS) {
        match Key::public(jwk) {
            Ok(key) if keys.iter().all(|other| other.kid() != key.kid()) => keys.push(key),
            Ok(key) => tracing::warn!(kid = key.kid(), "a second key of this id is left out"),
            Err(error) => tracing::debug!(%error, "a public key is left out"),
        }
    }
    SigningKeys::new(keys).map_err(|_| "it has no key for ES256 or RS256".to_owned())
}
