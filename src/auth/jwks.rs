//! Public keys of an external issuer, fetched by URL: a JWK Set (RFC 7517 §5), such as Supabase's
//! `/auth/v1/.well-known/jwks.json`.
//!
//! The set is cached for ten minutes. A token with an unknown `kid` causes another fetch, but at most one per
//! [`JwksTimes::refetch_after`], so that made-up ids cannot make this server flood the issuer. Only one fetch
//! runs at a time; concurrent requests wait for its result. While the set cannot be fetched, the last one is
//! used for up to [`JwksTimes::keep`].

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{
    error::TokenError,
    http,
    jws::{Algorithm, Jws, Key, SigningKeys},
};
use crate::lock::locked;

/// Maximum size of a set, bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Maximum number of keys used from a set.
const MAX_KEYS: usize = 32;

/// Cache times of the keys of a URL, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JwksTimes {
    /// Age up to which keys are used without another fetch.
    pub fresh: u64,
    /// Age up to which keys are used while fetches fail; after that, tokens cannot be verified.
    pub keep: u64,
    /// Minimum time between two fetches because of an unknown `kid`, after a successful one.
    pub refetch_after: u64,
    /// Minimum time between a failed fetch and the next.
    pub retry_after: u64,
    /// Timeout of a fetch.
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

/// Why keys are not available.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The URL cannot be used.
    #[error("`{url}` is not a valid JWK Set URL: {reason}")]
    Url {
        /// The URL as given.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The set cannot be fetched.
    #[error("cannot fetch the keys from {url}: {reason}")]
    Unavailable {
        /// URL of the set.
        url: String,
        /// Why the fetch failed.
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
    cache: Mutex<Cache>,
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Cache {
    /// The last set, and when it was fetched.
    keys: Option<(Arc<SigningKeys>, u64)>,
    /// When a fetch was last attempted, and its error.
    tried: Option<(u64, Option<String>)>,
}

/// Where to get the keys for a token.
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
        let (cache, fetching) = (Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self(Arc::new(Inner { url: parsed, http, times, cache, fetching })))
    }

    /// URL of the keys.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// Verifies the signature of `jws` at the time `now`, seconds since 1970.
    ///
    /// # Errors
    /// As [`SigningKeys::verify`]; [`TokenError::KeysUnavailable`] when the keys cannot be fetched.
    pub async fn verify(&self, jws: &Jws<'_>, now: u64) -> Result<(), TokenError> {
        jws.reject_unsafe_header()?;
        let alg = jws.header.alg.as_str();
        if ![Algorithm::Es256, Algorithm::Rs256].iter().any(|one| one.as_str() == alg) {
            // Public keys support no other algorithms, and a fetch would not change that.
            let (found, pinned) = (alg.to_owned(), Algorithm::Es256);
            return Err(TokenError::WrongAlgorithm { found, pinned });
        }
        let keys = self.keys(jws.header.kid.as_deref(), now).await;
        keys.map_err(|error| TokenError::KeysUnavailable(error.to_string()))?.verify(jws)
    }

    /// The keys for a token with the id `kid`, fetched if necessary.
    ///
    /// # Errors
    /// [`JwksError::Unavailable`] when there are no usable keys.
    pub async fn keys(&self, kid: Option<&str>, now: u64) -> Result<Arc<SigningKeys>, JwksError> {
        let mut next = self.0.next(kid, now, false);
        if matches!(next, Next::Fetch) {
            let (inner, wanted) = (Arc::clone(&self.0), kid.map(str::to_owned));
            // In a separate task: a client that disconnects does not cancel it for the others.
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
            Next::Fetch => Err(unavailable("the cached keys are too old".into())),
        }
    }
}

impl Inner {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        locked(&self.cache)
    }

    /// What to do at the time `now`; `tried` right after a fetch.
    fn next(&self, kid: Option<&str>, now: u64, tried: bool) -> Next {
        let (cache, times) = (self.cache(), &self.times);
        let pause = |failed: bool| if failed { times.retry_after } else { times.refetch_after };
        let recent = cache
            .tried
            .as_ref()
            .filter(|(at, failure)| tried || now.abs_diff(*at) < pause(failure.is_some()));
        let Some((keys, at)) = &cache.keys else {
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
        let _guard = self.fetching.lock().await;
        if !matches!(self.next(kid.as_deref(), now, false), Next::Fetch) {
            return;
        }
        let fetched = self.fetch().await;
        let mut cache = self.cache();
        match fetched {
            Ok(keys) => {
                let kids: Vec<&str> = keys.keys().iter().map(Key::kid).collect();
                tracing::info!(url = %self.url, ?kids, "public keys fetched");
                cache.keys = Some((Arc::new(keys), now));
                cache.tried = Some((now, None));
            }
            Err(reason) => {
                tracing::warn!(url = %self.url, reason, "cannot fetch public keys");
                cache.tried = Some((now, Some(reason)));
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

/// The keys of a JWK Set for ES256 or RS256 signatures; others are ignored (RFC 7517 §5).
fn parse(text: &[u8]) -> Result<SigningKeys, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(text)
        .map_err(|error| format!("the response is not a JWK Set: {error}"))?;
    let mut keys: Vec<Key> = Vec::new();
    for jwk in set.keys.iter().take(MAX_KEYS) {
        match Key::public(jwk) {
            Ok(key) if keys.iter().all(|other| other.kid() != key.kid()) => keys.push(key),
            Ok(key) => tracing::warn!(kid = key.kid(), "ignored a second key with this id"),
            Err(error) => tracing::debug!(%error, "ignored a public key"),
        }
    }
    SigningKeys::new(keys).map_err(|_| "the set has no key for ES256 or RS256".to_owned())
}
