//! The signaling JWT (RFC 7519): minting one, and every reason to refuse one.
//!
//! What is demanded, and stricter than common library defaults: `sub`, `pairId` and `exp` must be
//! there; `iss` and `aud` must be there and right when they are configured; `nbf` and `iat` are
//! checked; a lifetime over [`MAX_LIFETIME_S`] is refused; clocks may differ by [`LEEWAY_S`].

use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use serde_json::Value;

use super::{
    jwks::Jwks,
    jws::{Algorithm, Jws, SigningKeys},
};
use crate::{
    proto::claims::{Audience, Claims, LEEWAY_S, MAX_LIFETIME_S},
    types::{DeviceId, IdError, PairId, check_id},
};

/// Why a token is refused, or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any real token.
    #[error("the token of {0} bytes is too long")]
    TooLong(usize),
    /// Not a compact JWS with a JSON header.
    #[error("the token is malformed: {0}")]
    Malformed(String),
    /// `alg` is `none`.
    #[error("the token is not signed (alg `none`)")]
    Unsigned,
    /// The header has `crit`.
    #[error("the token's header has `crit`, and no extension is understood")]
    Critical,
    /// Another algorithm than the key is bound to.
    #[error("the token's alg is `{found}`, but the key is for {pinned}")]
    WrongAlgorithm {
        /// `alg` of the token.
        found: String,
        /// Algorithm of the key.
        pinned: Algorithm,
    },
    /// No key with this `kid`.
    #[error("no key has the token's kid `{0}`")]
    UnknownKey(String),
    /// The signature does not match.
    #[error("the signature does not match")]
    BadSignature,
    /// A claim that must be there is missing or empty.
    #[error("the claim `{0}` is missing")]
    MissingClaim(&'static str),
    /// A claim has the wrong JSON type.
    #[error("the claims are not understood: {0}")]
    BadClaims(String),
    /// Past `exp`.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// Before `nbf`.
    #[error("the token is not valid for another {0} s (nbf)")]
    NotYetValid(u64),
    /// `iat` lies in the future.
    #[error("the token was issued {0} s in the future (iat)")]
    IssuedInFuture(u64),
    /// Valid for longer than allowed.
    #[error("the token lives for {0} s, over the limit of {MAX_LIFETIME_S}")]
    LifetimeTooLong(u64),
    /// `iss` is not the configured one.
    #[error("the issuer is {}, not `{expected}`", quoted(.found.as_deref()))]
    WrongIssuer {
        /// `iss` of the token.
        found: Option<String>,
        /// The configured one.
        expected: String,
    },
    /// `aud` does not name the configured audience.
    #[error("the audience `{expected}` is not among the token's")]
    WrongAudience {
        /// The configured one.
        expected: String,
    },
    /// The keys are published elsewhere, and cannot be fetched now: nothing is said about the token.
    #[error("the token cannot be checked now: {0}")]
    KeysUnavailable(String),
    /// There is no private key, or signing failed.
    #[error("no key that can sign")]
    CannotSign,
}

impl TokenError {
    /// Short name for programs, as in error answers.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Expired(_) => "token-expired",
            Self::CannotSign => "cannot-sign",
            Self::KeysUnavailable(_) => "keys-unavailable",
            _ => "bad-token",
        }
    }
}

fn quoted(text: Option<&str>) -> String {
    text.map_or_else(|| "missing".to_owned(), |text| format!("`{text}`"))
}

/// What a token must say besides the required claims. What is `None` is not looked at.
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
    elsewhere: Option<Jwks>,
    policy: Policy,
}

impl Verifier {
    /// A verifier for tokens by any of `keys`.
    #[must_use]
    pub fn new(keys: SigningKeys, policy: Policy) -> Self {
        Self { keys: Arc::new(RwLock::new(Arc::new(keys))), elsewhere: None, policy }
    }

    /// Takes tokens that are signed elsewhere, too, by keys published there.
    #[must_use]
    pub fn or_by(self, elsewhere: Jwks) -> Self {
        Self { elsewhere: Some(elsewhere), ..self }
    }

    /// The keys published elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Jwks> {
        self.elsewhere.as_ref()
    }

    /// The keys of this server now.
    #[must_use]
    pub fn keys(&self) -> Arc<SigningKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses other keys from now on, in every clone.
    pub fn replace_keys(&self, keys: SigningKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Checks signature and claims of `token` by this server's own keys at the time `now`, seconds
    /// since 1970.
    ///
    /// # Errors
    /// The first reason to refuse it.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let jws = Jws::parse(token)?;
        self.keys().verify(&jws)?;
        check_claims(&jws.payload, &self.policy, now)
    }

    /// As [`Verifier::verify`], by the keys published elsewhere, too.
    ///
    /// # Errors
    /// The first reason to refuse it; [`TokenError::KeysUnavailable`] when nobody can tell now.
    pub async fn check(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let Some(elsewhere) = &self.elsewhere else { return self.verify(token, now) };
        let jws = Jws::parse(token)?;
        let keys = self.keys();
        let ours = match &jws.header.kid {
            Some(kid) if keys.has(kid) => return self.verify(token, now),
            Some(_) => false,
            None => keys.verify(&jws).is_ok(),
        };
        if !ours {
            // Nothing is fetched for a token that would be refused anyway.
            check_claims(&jws.payload, &self.policy, now)?;
            elsewhere.verify(&jws, now).await?;
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

/// Signs `claims`, of a signaling or a login token, as they are; they need not be acceptable.
///
/// # Errors
/// [`TokenError::CannotSign`] when there is no private key.
pub fn mint(keys: &SigningKeys, claims: &impl Serialize) -> Result<String, TokenError> {
    let payload = serde_json::to_vec(claims).map_err(|_| TokenError::CannotSign)?;
    keys.sign(&payload)
}

/// What a token says of itself; nothing is verified.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unverified {
    /// The protected header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

/// Takes a token apart for display, without any check.
///
/// # Errors
/// [`TokenError::Malformed`] or [`TokenError::TooLong`] when there is nothing to display.
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
/// The first reason to refuse it.
pub fn check_unverified(token: &str, policy: &Policy, now: u64) -> Result<Claims, TokenError> {
    let jws = Jws::parse(token)?;
    jws.refuse_unsafe_header()?;
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
    // Read from the text again: a doubled claim is an error there, and lost in `value`.
    let claims: Claims = serde_json::from_slice(payload).map_err(bad)?;
    for (name, id) in [("sub", claims.sub.as_str()), ("pairId", claims.pair_id.as_str())] {
        check_id(id).map_err(|error| match error {
            IdError::Empty => TokenError::MissingClaim(name),
            error => TokenError::BadClaims(format!("`{name}` is not a valid id: {error}")),
        })?;
    }
    Ok(claims)
}

/// `exp`, `nbf`, `iat` and the lifetime. Without `iat` the lifetime is counted from `now`.
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

/// The time window of any token: `exp`, `nbf` and `iat`, each with [`LEEWAY_S`].
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
