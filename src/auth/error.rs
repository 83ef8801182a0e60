//! Why a token is rejected.

use super::key::Algorithm;
use crate::proto::claims::MAX_LIFETIME_S;

/// Why a token is rejected or could not be issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than any real token; its length in bytes.
    #[error("the token of {0} bytes is too long")]
    TooLong(usize),
    /// Not a compact JWS with a JSON header.
    #[error("the token is malformed: {0}")]
    Malformed(String),
    /// `alg` is `none`.
    #[error("the token is not signed (alg `none`)")]
    Unsigned,
    /// The header has `crit`.
    #[error("the token's header has `crit`, but no extensions are supported")]
    Critical,
    /// `alg` is not the algorithm that the key is bound to.
    #[error("the token's alg is `{found}`, but the key requires {pinned}")]
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
    /// A required claim is missing or empty.
    #[error("the claim `{0}` is missing")]
    MissingClaim(&'static str),
    /// A claim has the wrong JSON type.
    #[error("the claims are not valid: {0}")]
    BadClaims(String),
    /// Past `exp`, by this many seconds.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// Before `nbf`, by this many seconds.
    #[error("the token is not valid for another {0} s (nbf)")]
    NotYetValid(u64),
    /// `iat` is in the future, by this many seconds.
    #[error("the token was issued {0} s in the future (iat)")]
    IssuedInFuture(u64),
    /// Lifetime longer than allowed, seconds.
    #[error("the token is valid for {0} s, longer than the maximum of {MAX_LIFETIME_S} s")]
    LifetimeTooLong(u64),
    /// `iss` is not the configured one.
    #[error("the issuer is {}, not `{expected}`", quoted(.found.as_deref()))]
    WrongIssuer {
        /// `iss` of the token.
        found: Option<String>,
        /// The configured issuer.
        expected: String,
    },
    /// `aud` does not name the configured audience.
    #[error("the audience `{expected}` is not among the token's")]
    WrongAudience {
        /// The configured audience.
        expected: String,
    },
    /// The published keys cannot be fetched now: the token may or may not be valid.
    #[error("the token cannot be verified now: {0}")]
    KeysUnavailable(String),
    /// There is no private key, or signing failed.
    #[error("no key can sign")]
    CannotSign,
}

impl TokenError {
    /// Stable code for programs, as in error responses.
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
