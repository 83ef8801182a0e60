//! The login token of the token API: identifies the user.
//!
//! In production it is a Supabase access token: ES256 or RS256 with the project's published keys, HS256 with
//! its secret, or either while the project migrates. The dev server also accepts the fixed token
//! [`DEV_TOKEN`] when it listens on loopback only, and a random one otherwise.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    error::TokenError,
    jwks::Jwks,
    jws::{Algorithm, Jws, Key, KeyError, SigningKeys},
    jwt::check_window,
    secret::Secret,
};
use crate::proto::claims::{Audience, seconds, some_seconds};

/// Login token of the dev server.
pub const DEV_TOKEN: &str = "dev";

/// User id of [`DEV_TOKEN`].
pub const DEV_USER: &str = "dev-user";

/// The audience of a signed-in user's access token.
pub const AUTHENTICATED: &str = "authenticated";

/// Claims of a login token that [`AccessTokens`] accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoginClaims {
    /// User id.
    pub sub: String,
    /// Audience, always [`AUTHENTICATED`].
    pub aud: &'static str,
    /// Issuer, if the server requires one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Time of issue, seconds since 1970.
    pub iat: u64,
    /// Time of expiry, seconds since 1970.
    pub exp: u64,
}

impl LoginClaims {
    /// Claims for `user`, valid for `lifetime_s` from `now`.
    #[must_use]
    pub fn new(user: &str, issuer: Option<&str>, now: u64, lifetime_s: u64) -> Self {
        Self {
            sub: user.to_owned(),
            aud: AUTHENTICATED,
            iss: issuer.map(str::to_owned),
            iat: now,
            exp: now.saturating_add(lifetime_s),
        }
    }
}

/// Why a login is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The access token is rejected.
    #[error("the login token was rejected: {0}")]
    Refused(#[from] TokenError),
    /// The login service cannot be reached.
    #[error("cannot reach the login service: {0}")]
    Unavailable(String),
}

/// Identifies the user of a login token.
#[async_trait]
pub trait LoginCheck: Send + Sync {
    /// The id of the user of `token` at the time `now`, seconds since 1970.
    ///
    /// # Errors
    /// When the token is rejected, or the login service cannot be reached.
    async fn user(&self, token: &str, now: u64) -> Result<String, LoginError>;
}

/// Access tokens as Supabase issues them: `sub` is the user, `aud` is `authenticated`.
#[derive(Debug, Clone)]
pub struct AccessTokens {
    secret: Option<SigningKeys>,
    published: Option<Jwks>,
    issuer: Option<String>,
}

#[derive(Deserialize)]
struct AccessClaims {
    #[serde(default)]
    sub: String,
    #[serde(deserialize_with = "seconds")]
    exp: u64,
    #[serde(default, deserialize_with = "some_seconds")]
    iat: Option<u64>,
    #[serde(default, deserialize_with = "some_seconds")]
    nbf: Option<u64>,
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Option<Audience>,
}

impl AccessTokens {
    /// Accepts tokens signed with `secret` (HS256) and, if given, issued by `issuer`.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`] when the secret is too short.
    pub fn new(secret: &Secret, issuer: Option<String>) -> Result<Self, KeyError> {
        // The `kid` of a token is up to the issuer: the only key is tried for any.
        let keys = SigningKeys::new(vec![Key::hs256("login", secret)?])?;
        Ok(Self { secret: Some(keys), published: None, issuer })
    }

    /// Accepts tokens signed with the keys that `issuer` publishes (ES256 and RS256).
    #[must_use]
    pub fn published(keys: Jwks, issuer: String) -> Self {
        Self { secret: None, published: Some(keys), issuer: Some(issuer) }
    }

    /// Also accepts tokens signed with the keys that the issuer publishes.
    #[must_use]
    pub fn or_by(self, keys: Jwks) -> Self {
        Self { published: Some(keys), ..self }
    }

    /// The keys that the issuer publishes.
    #[must_use]
    pub fn published_keys(&self) -> Option<&Jwks> {
        self.published.as_ref()
    }

    /// Published keys and the secret share no algorithm: `alg` only selects which of them to use.
    async fn check_signature(&self, jws: &mut Jws<'_>, now: u64) -> Result<(), TokenError> {
        match (&self.secret, &self.published) {
            (Some(secret), published)
                if published.is_none() || jws.header.alg == Algorithm::Hs256.as_str() =>
            {
                jws.header.kid = None;
                secret.verify(jws)
            }
            (_, Some(published)) => published.verify(jws, now).await,
            (_, None) => Err(TokenError::UnknownKey(String::new())),
        }
    }

    async fn check(&self, token: &str, now: u64) -> Result<String, TokenError> {
        let mut jws = Jws::parse(token)?;
        // Do not fetch keys for a token that would be rejected anyway.
        jws.reject_unsafe_header()?;
        let user = self.check_claims(&jws.payload, now)?;
        self.check_signature(&mut jws, now).await?;
        Ok(user)
    }

    fn check_claims(&self, payload: &[u8], now: u64) -> Result<String, TokenError> {
        let claims: AccessClaims = serde_json::from_slice(payload)
            .map_err(|error| TokenError::BadClaims(error.to_string()))?;
        check_window(claims.exp, claims.nbf, claims.iat, now)?;
        if claims.sub.is_empty() {
            return Err(TokenError::MissingClaim("sub"));
        }
        if !claims.aud.is_some_and(|aud| aud.contains(AUTHENTICATED)) {
            return Err(TokenError::WrongAudience { expected: AUTHENTICATED.to_owned() });
        }
        if let Some(expected) = &self.issuer
            && claims.iss.as_ref() != Some(expected)
        {
            return Err(TokenError::WrongIssuer { found: claims.iss, expected: expected.clone() });
        }
        Ok(claims.sub)
    }
}

#[async_trait]
impl LoginCheck for AccessTokens {
    async fn user(&self, token: &str, now: u64) -> Result<String, LoginError> {
        self.check(token, now).await.map_err(|error| match error {
            TokenError::KeysUnavailable(cause) => LoginError::Unavailable(cause),
            error => error.into(),
        })
    }
}

/// Login of a dev server: one token for [`DEV_USER`], and access tokens if a secret is set.
#[derive(Debug, Clone)]
pub struct DevLogin {
    /// The token: [`DEV_TOKEN`] if only this machine can connect, otherwise a random one.
    pub token: Secret,
    /// Access tokens accepted in addition to the fixed one.
    pub access_tokens: Option<AccessTokens>,
}

impl Default for DevLogin {
    /// [`DEV_TOKEN`] and nothing else.
    fn default() -> Self {
        Self { token: Secret::from(DEV_TOKEN), access_tokens: None }
    }
}

#[async_trait]
impl LoginCheck for DevLogin {
    async fn user(&self, token: &str, now: u64) -> Result<String, LoginError> {
        if self.token.is(token.as_bytes()) {
            return Ok(DEV_USER.to_owned());
        }
        match &self.access_tokens {
            Some(tokens) => tokens.user(token, now).await,
            None if self.token.is(DEV_TOKEN.as_bytes()) => Err(TokenError::Malformed(format!(
                "a dev server accepts only the login token `{DEV_TOKEN}`"
            ))
            .into()),
            None => Err(TokenError::Malformed(
                "it is not the login token that the server printed at startup".into(),
            )
            .into()),
        }
    }
}

/// A new login token that is easy to type on a phone: 130 random bits as 26 letters and digits (the alphabet
/// of RFC 4648 §6 in lower case, which has no digits that look like letters).
#[must_use]
pub fn random_login() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    rand::random::<[u8; 26]>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
