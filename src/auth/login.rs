//! The login token of the token API: which user is asking.
//!
//! In production it is a Supabase access token: ES256 or RS256 by the project's published keys, or
//! HS256 by its secret, or either while the project changes over. The dev server also takes the fixed
//! token [`DEV_TOKEN`]; it listens on loopback only.

use async_trait::async_trait;
use serde::Deserialize;

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

/// The dev server's login: [`DEV_TOKEN`] is [`DEV_USER`]; access tokens when a secret is set.
#[derive(Debug, Clone, Default)]
pub struct DevLogin {
    /// Access tokens taken besides the fixed one.
    pub access_tokens: Option<AccessTokens>,
}

#[async_trait]
impl LoginCheck for DevLogin {
    async fn user(&self, token: &str, now: u64) -> Result<String, LoginError> {
        if token == DEV_TOKEN {
            return Ok(DEV_USER.to_owned());
        }
        match &self.access_tokens {
            Some(tokens) => tokens.user(token, now).await,
            None => Err(TokenError::Malformed(format!(
                "a dev server takes the login token `{DEV_TOKEN}` only"
            ))
            .into()),
        }
    }
}
