//! The login token of the token API: which user is asking.
//!
//! In production it is a Supabase access token: ES256 or RS256 by the project's published keys, or
//! HS256 by its secret, or either while the project changes over. The dev server also takes the fixed
//! token [`DEV_TOKEN`] when it listens on loopback only, and a random one elsewhere.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{
    jwks::Jwks,
    jws::{Algorithm, Jws, Key, KeyError, SigningKeys},
    jwt::{TokenError, check_window},
    secret::Secret,
};
use crate::proto::claims::{Audience, seconds, some_seconds};

/// Login token of the dev server.
pub const DEV_TOKEN: &str = "dev";

/// User behind [`DEV_TOKEN`].
pub const DEV_USER: &str = "dev-user";

/// The audience of a signed-in user's access token.
pub const AUTHENTICATED: &str = "authenticated";

/// Claims of a login token that [`AccessTokens`] takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoginClaims {
    /// The user.
    pub sub: String,
    /// [`AUTHENTICATED`].
    pub aud: &'static str,
    /// Issuer, where the server demands one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Seconds since 1970 when it was made.
    pub iat: u64,
    /// Seconds since 1970 when it expires.
    pub exp: u64,
}

impl LoginClaims {
    /// Claims for `user`, good for `lifetime_s` from `now` on.
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

/// A login that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The access token is no good.
    #[error("the login token is refused: {0}")]
    Refused(#[from] TokenError),
    /// Who could tell is not reachable.
    #[error("the login service cannot be asked: {0}")]
    Unavailable(String),
}

/// Tells who is behind a login token.
#[async_trait]
pub trait LoginCheck: Send + Sync {
    /// The id of the user behind `token` at the time `now`, seconds since 1970.
    ///
    /// # Errors
    /// When the token is refused, or nobody could be asked.
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
    /// Takes tokens signed with `secret` (HS256), and by `issuer` when it is given.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`] when the secret is too short.
    pub fn new(secret: &Secret, issuer: Option<String>) -> Result<Self, KeyError> {
        // A token's own `kid` is the issuer's business: there is one key, tried for any.
        let keys = SigningKeys::new(vec![Key::hs256("login", secret)?])?;
        Ok(Self { secret: Some(keys), published: None, issuer })
    }

    /// Takes tokens by the keys that `issuer` publishes (ES256 and RS256).
    #[must_use]
    pub fn published(keys: Jwks, issuer: String) -> Self {
        Self { secret: None, published: Some(keys), issuer: Some(issuer) }
    }

    /// Takes tokens by the keys that the issuer publishes, too.
    #[must_use]
    pub fn or_by(self, keys: Jwks) -> Self {
        Self { published: Some(keys), ..self }
    }

    /// The keys that the issuer publishes.
    #[must_use]
    pub fn elsewhere(&self) -> Option<&Jwks> {
        self.published.as_ref()
    }

    /// The public keys of the two kinds and the secret share no algorithm: `alg` only tells which of
    /// them to ask.
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
        // Nothing is fetched for a token that would be refused anyway.
        jws.refuse_unsafe_header()?;
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

/// The login of a server for development: one token, which is [`DEV_USER`]; access tokens when a secret is set.
#[derive(Debug, Clone)]
pub struct DevLogin {
    /// The token: [`DEV_TOKEN`] where only this machine can connect, else a random one.
    pub token: Secret,
    /// Access tokens taken besides the fixed one.
    pub access_tokens: Option<AccessTokens>,
}

impl Default for DevLogin {
    /// The dev server's: [`DEV_TOKEN`] and nothing else.
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
                "a dev server takes the login token `{DEV_TOKEN}` only"
            ))
            .into()),
            None => Err(TokenError::Malformed(
                "it is not the login token that the server printed when it started".into(),
            )
            .into()),
        }
    }
}

/// A fresh login token that can be typed on a phone: 130 random bits as 26 letters and digits (the alphabet of
/// RFC 4648 §6 in lower case, without digits that look like letters).
#[must_use]
pub fn random_login() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    rand::random::<[u8; 26]>()
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect()
}
