//! The signaling JWT (RFC 7519): minting one, and every reason to reject one.
//!
//! Requirements, stricter than common library defaults: `sub`, `pairId` and `exp` are required; `iss` and
//! `aud` are required and compared if configured; `nbf` and `iat` are checked; a lifetime above
//! [`MAX_LIFETIME_S`] is rejected; clocks may differ by [`LEEWAY_S`].

use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use serde_json::Value;

pub use super::error::TokenError;
use super::{
    jwks::Jwks,
    jws::{Jws, SigningKeys},
};
use crate::{
    proto::claims::{Audience, Claims, LEEWAY_S, MAX_LIFETIME_S},
    types::{DeviceId, IdError, PairId, check_id},
};

/// Claims required in addition to `sub`, `pairId` and `exp`. `None` is not checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The one issuer accepted.
    pub issuer: Option<String>,
    /// The audience that must be named.
    pub audience: Option<String>,
}

/// Checks and mints signaling tokens; clones share the keys.
#[derive(Debug, Clone)]
pub struct Verifier {
    keys: Arc<RwLock<Arc<SigningKeys>>>,
    external: Option<Jwks>,
    policy: Policy,
}

impl Verifier {
    /// A verifier for tokens signed with any of `keys`.
    #[must_use]
    pub fn new(keys: SigningKeys, policy: Policy) -> Self {
        Self { keys: Arc::new(RwLock::new(Arc::new(keys))), external: None, policy }
    }

    /// Also accepts tokens of an external issuer, signed with the keys it publishes.
    #[must_use]
    pub fn or_by(self, external: Jwks) -> Self {
        Self { external: Some(external), ..self }
    }

    /// The keys of the external issuer.
    #[must_use]
    pub fn external(&self) -> Option<&Jwks> {
        self.external.as_ref()
    }

    /// The current keys of this server.
    #[must_use]
    pub fn keys(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys, in every clone.
    pub fn replace_keys(&self, keys: SigningKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Checks signature and claims of `token` with this server's own keys at the time `now`, seconds
    /// since 1970.
    ///
    /// # Errors
    /// The first reason to reject it.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let jws = Jws::parse(token)?;
        self.keys().verify(&jws)?;
        check_claims(&jws.payload, &self.policy, now)
    }

    /// As [`Verifier::verify`], but also with the keys of the external issuer.
    ///
    /// # Errors
    /// The first reason to reject it; [`TokenError::KeysUnavailable`] when the keys cannot be fetched.
    pub async fn check(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let Some(external) = &self.external else { return self.verify(token, now) };
        let jws = Jws::parse(token)?;
        let keys = self.keys();
        let ours = match &jws.header.kid {
            Some(kid) if keys.has(kid) => return self.verify(token, now),
            Some(_) => false,
            None => keys.verify(&jws).is_ok(),
        };
        if !ours {
            // Do not fetch keys for a token that would be rejected anyway.
            check_claims(&jws.payload, &self.policy, now)?;
            external.verify(&jws, now).await?;
        }
        check_claims(&jws.payload, &self.policy, now)
    }

    /// Mints a token for one device of a pair, valid for `ttl_s` from `now` on.
    ///
    /// # Errors
    /// [`TokenError::CannotSign`] when there is no private key.
    pub fn mint(
        &self,
        device: DeviceId,
        pair: PairId,
        now: u64,
        ttl_s: u64,
    ) -> Result<(String, Claims), TokenError> {
        let claims = Claims {
            sub: device,
            pair_id: pair,
            exp: now + ttl_s,
            iat: Some(now),
            nbf: None,
            iss: self.policy.issuer.clone(),
            aud: self.policy.audience.clone().map(Audience::One),
            jti: Some(uuid::Uuid::new_v4().to_string()),
        };
        Ok((mint(&self.keys(), &claims)?, claims))
    }
}

/// Signs the `claims` of a signaling or login token unchecked.
///
/// # Errors
/// [`TokenError::CannotSign`] when there is no private key.
pub fn mint(keys: &SigningKeys, claims: &impl Serialize) -> Result<String, TokenError> {
    let payload = serde_json::to_vec(claims).map_err(|_| TokenError::CannotSign)?;
    keys.sign(&payload)
}

/// Contents of a token, without any verification.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unverified {
    /// The protected header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

/// Decodes a token for display, without any verification.
///
/// # Errors
/// [`TokenError::Malformed`] or [`TokenError::TooLong`] when it cannot be decoded.
pub fn inspect_unverified(token: &str) -> Result<Unverified, TokenError> {
    let jws = Jws::parse(token)?;
    let header = token.split('.').next().unwrap_or_default();
    let header = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let claims = serde_json::from_slice(&jws.payload)
        .map_err(|error| TokenError::Malformed(format!("its claims: {error}")))?;
    Ok(Unverified { header, claims })
}

/// Every check of [`Verifier::verify`] that needs no key: `none`, `crit` and the claims.
///
/// # Errors
/// The first reason to reject it.
pub fn check_unverified(token: &str, policy: &Policy, now: u64) -> Result<Claims, TokenError> {
    let jws = Jws::parse(token)?;
    jws.reject_unsafe_header()?;
    check_claims(&jws.payload, policy, now)
}

fn check_claims(payload: &[u8], policy: &Policy, now: u64) -> Result<Claims, TokenError> {
    let claims = required_claims(payload)?;
    check_times(&claims, now)?;
    if let Some(expected) = &policy.issuer
        && claims.iss.as_ref() != Some(expected)
    {
        return Err(TokenError::WrongIssuer { found: claims.iss, expected: expected.clone() });
    }
    if let Some(expected) = &policy.audience
        && !claims.aud.as_ref().is_some_and(|aud| aud.contains(expected))
    {
        return Err(TokenError::WrongAudience { expected: expected.clone() });
    }
    Ok(claims)
}

fn required_claims(payload: &[u8]) -> Result<Claims, TokenError> {
    let bad = |error: serde_json::Error| TokenError::BadClaims(error.to_string());
    let value: Value = serde_json::from_slice(payload).map_err(bad)?;
    for name in ["sub", "pairId", "exp"] {
        if matches!(value.get(name), None | Some(Value::Null)) {
            return Err(TokenError::MissingClaim(name));
        }
    }
    // Parse the text again: a duplicate claim is an error there, but is lost in `value`.
    let claims: Claims = serde_json::from_slice(payload).map_err(bad)?;
    for (name, id) in [("sub", claims.sub.as_str()), ("pairId", claims.pair_id.as_str())] {
        check_id(id).map_err(|error| match error {
            IdError::Empty => TokenError::MissingClaim(name),
            error => TokenError::BadClaims(format!("`{name}` is not a valid id: {error}")),
        })?;
    }
    Ok(claims)
}

/// Checks `exp`, `nbf`, `iat` and the lifetime, which counts from `now` if there is no `iat`.
fn check_times(claims: &Claims, now: u64) -> Result<(), TokenError> {
    check_window(claims.exp, claims.nbf, claims.iat, now)?;
    let lifetime = match claims.iat {
        Some(iat) => claims.exp.saturating_sub(iat),
        None => claims.exp.saturating_sub(now.saturating_add(LEEWAY_S)),
    };
    if lifetime > MAX_LIFETIME_S {
        return Err(TokenError::LifetimeTooLong(lifetime));
    }
    Ok(())
}

/// Checks the time window of any token: `exp`, `nbf` and `iat`, each with [`LEEWAY_S`].
pub(super) fn check_window(
    exp: u64,
    nbf: Option<u64>,
    iat: Option<u64>,
    now: u64,
) -> Result<(), TokenError> {
    if now >= exp.saturating_add(LEEWAY_S) {
        return Err(TokenError::Expired(now - exp));
    }
    let latest = now.saturating_add(LEEWAY_S);
    if let Some(nbf) = nbf.filter(|nbf| *nbf > latest) {
        return Err(TokenError::NotYetValid(nbf - now));
    }
    if let Some(iat) = iat.filter(|iat| *iat > latest) {
        return Err(TokenError::IssuedInFuture(iat - now));
    }
    Ok(())
}
