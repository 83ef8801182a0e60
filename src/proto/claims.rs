//! Claims of the signaling JWT (RFC 7519 §4): who may join which pair's room, and until when.

use serde::{Deserialize, Serialize};

use crate::types::{DeviceId, PairId};

/// Longest lifetime (`exp - iat`) a signaling token may have, in seconds.
pub const MAX_LIFETIME_S: u64 = 300;

/// Largest clock difference forgiven when `exp`, `nbf` and `iat` are checked, in seconds.
pub const LEEWAY_S: u64 = 10;

/// Claims of a signaling JWT. `sub`, `pairId` and `exp` are required of every token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The device the token was minted for.
    pub sub: DeviceId,
    /// The pair whose room the token opens.
    #[serde(rename = "pairId")]
    pub pair_id: PairId,
    /// Expiry, seconds since 1970 (RFC 7519 §4.1.4).
    pub exp: u64,
    /// Time of issue, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Not valid before, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// Issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Audience: one name, or several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Audience>,
    /// Id of this token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// The `aud` claim: RFC 7519 §4.1.3 allows a single string or an array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// A single audience.
    One(String),
    /// Several audiences.
    Many(Vec<String>),
}

impl Audience {
    /// Whether `name` is among the audiences.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}
