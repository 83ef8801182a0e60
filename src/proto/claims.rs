//! Claims of the signaling JWT (RFC 7519 §4): which device may join which pair's room, and until when.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::types::{DeviceId, PairId};

/// Maximum lifetime (`exp - iat`) of a signaling token, in seconds.
pub const MAX_LIFETIME_S: u64 = 300;

/// Maximum clock difference tolerated when `exp`, `nbf` and `iat` are checked, in seconds.
pub const LEEWAY_S: u64 = 10;

/// Claims of a signaling JWT. `sub`, `pairId` and `exp` are required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The device the token was minted for.
    pub sub: DeviceId,
    /// The pair whose room the token opens.
    #[serde(rename = "pairId")]
    pub pair_id: PairId,
    /// Expiry, seconds since 1970 (RFC 7519 §4.1.4).
    #[serde(deserialize_with = "seconds")]
    pub exp: u64,
    /// Time of issue, seconds since 1970.
    #[serde(default, deserialize_with = "some_seconds", skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Not valid before, seconds since 1970.
    #[serde(default, deserialize_with = "some_seconds", skip_serializing_if = "Option::is_none")]
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

/// Deserializes seconds since 1970, or those of a duration; a fraction, which RFC 7519 §2 allows, is truncated.
///
/// # Errors
/// Not a number, or negative.
pub fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    whole(&number).ok_or_else(|| D::Error::custom(format!("{number} is not a time in seconds")))
}

/// Like [`seconds`], but the value may be missing or null.
///
/// # Errors
/// As [`seconds`].
pub fn some_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    struct Seconds(#[serde(deserialize_with = "seconds")] u64);
    Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(seconds)| seconds))
}

/// A number of seconds without its fraction; `None` when it is negative or too large.
#[must_use]
pub fn whole(number: &serde_json::Number) -> Option<u64> {
    let fits = |seconds: &f64| (0.0..u64::MAX as f64).contains(seconds);
    let fraction = || number.as_f64().filter(fits);
    number.as_u64().or_else(|| fraction().map(|seconds| seconds as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_a_second_are_truncated() {
        let read = |exp: &str| {
            let text = format!(r#"{{"sub":"s","pairId":"p","exp":{exp},"iat":{exp},"nbf":null}}"#);
            serde_json::from_str::<Claims>(&text)
        };
        for (written, meant) in [
            ("5", 5),
            ("1700000000.987", 1_700_000_000),
            ("1.7e9", 1_700_000_000),
            ("1e19", 10_000_000_000_000_000_000),
        ] {
            let claims = read(written).unwrap();
            assert_eq!(
                (claims.exp, claims.iat, claims.nbf),
                (meant, Some(meant), None),
                "{written}"
            );
        }
        for wrong in ["1e300", "18446744073709551616", "-1", "-0.5", "\"5\"", "true", "[]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
