//! The source of the client's tokens.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    proto::{claims::Claims, token::IceServer},
    signaling::client::token_error::TokenError,
    types::{DeviceId, PairId},
};

/// A token and its metadata. `Debug` omits the token.
#[derive(Clone, PartialEq)]
pub struct Access {
    /// The JWT.
    pub token: String,
    /// The pair that the token is for.
    pub pair_id: PairId,
    /// The device that the token is for.
    pub device_id: Option<DeviceId>,
    /// Expiry of the token, seconds since 1970.
    pub exp: Option<u64>,
    /// ICE servers returned with the token.
    pub ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the token API's, seconds (behind when negative);
    /// `None` when unknown or below 2 s.
    pub clock_skew: Option<f64>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("pair_id", &self.pair_id)
            .field("device_id", &self.device_id)
            .field("exp", &self.exp)
            .field("ice_servers", &self.ice_servers)
            .field("clock_skew", &self.clock_skew)
            .finish_non_exhaustive()
    }
}

/// Supplies tokens to the signaling client.
#[async_trait]
pub trait TokenProvider: Send + Sync {
    /// Returns a token; a fresh one on each call, if possible.
    ///
    /// # Errors
    /// [`TokenError`] when no token is available.
    async fn access(&self) -> Result<Access, TokenError>;

    /// Whether another call can return a different token.
    fn renews(&self) -> bool {
        true
    }
}

/// A fixed token.
#[derive(Debug, Clone)]
pub struct StaticToken(Access);

impl StaticToken {
    /// Reads pair, device and expiry from the token's claims. The signature is not checked; the server does that.
    ///
    /// # Errors
    /// [`TokenError::Unreadable`] when the token is not a JWT with the contract's claims.
    pub fn new(token: &str) -> Result<Self, TokenError> {
        let token = token.trim();
        let claims = read_claims(token)?;
        Ok(Self(Access {
            token: token.to_owned(),
            pair_id: claims.pair_id,
            device_id: Some(claims.sub),
            exp: Some(claims.exp),
            ice_servers: Vec::new(),
            clock_skew: None,
        }))
    }

    /// The token and its metadata.
    #[must_use]
    pub fn get(&self) -> &Access {
        &self.0
    }
}

#[async_trait]
impl TokenProvider for StaticToken {
    async fn access(&self) -> Result<Access, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.0.exp.map(|exp| now.saturating_sub(Duration::from_secs(exp))) {
            Some(ago) if !ago.is_zero() => Err(TokenError::Expired { ago_s: ago.as_secs() }),
            _ => Ok(self.0.clone()),
        }
    }

    fn renews(&self) -> bool {
        false
    }
}

/// The claims of a JWT, unverified.
pub(in crate::signaling) fn read_claims(token: &str) -> Result<Claims, TokenError> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Unreadable(
            "it does not have three parts separated by dots".into(),
        ));
    };
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_| TokenError::Unreadable("its claims are not in base64url".into()))?;
    serde_json::from_slice(&payload)
        .map_err(|error| TokenError::Unreadable(format!("its claims: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[tokio::test]
    async fn a_fixed_token_has_a_pair_and_expires() {
        let live = token(r#"{"sub":"phone","pairId":"demo","exp":99999999999}"#);
        let provider = StaticToken::new(&format!("{live}\n")).unwrap();
        let access = provider.access().await.unwrap();
        assert_eq!((access.token.as_str(), access.pair_id.as_str()), (live.as_str(), "demo"));
        assert!(!provider.renews());
        let expired =
            StaticToken::new(&token(r#"{"sub":"phone","pairId":"demo","exp":5}"#)).unwrap();
        assert!(matches!(expired.access().await, Err(TokenError::Expired { .. })));
    }

    #[test]
    fn malformed_tokens_are_rejected_without_showing_them() {
        for wrong in ["", "hush", "hush.hush.hush", "a.b", &token(r#"{"sub":"hush"}"#)] {
            let error = StaticToken::new(wrong).unwrap_err();
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        let access = StaticToken::new(&token(r#"{"sub":"s","pairId":"p","exp":5}"#)).unwrap();
        assert!(!format!("{access:?}").contains("e30"));
    }
}
