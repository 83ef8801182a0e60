//! Compact JWS (RFC 7515 §3.1): signing, and verifying a signature with a set of keys.
//!
//! The `alg` of a token is only compared with that of its key, never obeyed (RFC 8725 §3.1): a token
//! cannot choose `none`, nor have a public key used as an HMAC secret.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::crypto;
use serde::Deserialize;

use super::error::TokenError;
pub use super::key::{Algorithm, Key, KeyError, MIN_SECRET_BYTES};

/// Maximum length of a token, bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The keys in use: the first private key signs, all verify. Several keys allow for rotation.
#[derive(Debug, Clone)]
pub struct SigningKeys(Vec<Key>);

impl SigningKeys {
    /// A set of keys, the signing one first.
    ///
    /// # Errors
    /// When there is none, or two have the same id.
    pub fn new(keys: Vec<Key>) -> Result<Self, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::NoKey);
        }
        for (at, key) in keys.iter().enumerate() {
            if keys[..at].iter().any(|earlier| earlier.kid() == key.kid()) {
                return Err(KeyError::DuplicateKid(key.kid().to_owned()));
            }
        }
        Ok(Self(keys))
    }

    /// No keys, for a server whose tokens are signed by an external issuer.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Whether one of the keys has this id.
    #[must_use]
    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid() == kid)
    }

    /// Whether one of the keys is private.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        self.0.iter().any(|key| key.encoding.is_some())
    }

    /// The public halves as a JWK Set (RFC 7517 §5), without secrets.
    #[must_use]
    pub fn public_jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = self.0.iter().filter_map(Key::public_jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    /// All keys, the signing one first.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Signs `payload`, which must be JSON.
    ///
    /// # Errors
    /// [`TokenError::CannotSign`] when there is no private key, or the computation failed.
    pub fn sign(&self, payload: &[u8]) -> Result<String, TokenError> {
        let (key, encoding) = self
            .0
            .iter()
            .find_map(|key| key.encoding.as_ref().map(|encoding| (key, encoding)))
            .ok_or(TokenError::CannotSign)?;
        let header = serde_json::json!({
            "alg": key.algorithm().as_str(), "typ": "JWT", "kid": key.kid(),
        });
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(payload, &mut token);
        let signature = crypto::sign(token.as_bytes(), encoding, key.algorithm().native())
            .map_err(|_| TokenError::CannotSign)?;
        token.push('.');
        token.push_str(&signature);
        Ok(token)
    }

    /// Verifies the signature of `jws`. A token with a `kid` must be signed with that key; one without
    /// is tried with every key bound to its `alg`.
    ///
    /// # Errors
    /// `none`, `crit`, an unknown `kid`, an algorithm other than the key's, or an invalid signature.
    pub fn verify(&self, jws: &Jws<'_>) -> Result<(), TokenError> {
        jws.reject_unsafe_header()?;
        let candidates: Vec<&Key> = match &jws.header.kid {
            Some(kid) => {
                let key = self.0.iter().find(|key| key.kid() == kid);
                vec![key.ok_or_else(|| TokenError::UnknownKey(kid.clone()))?]
            }
            None => self.0.iter().collect(),
        };
        let Some(pinned) = candidates.first().map(|key| key.algorithm()) else {
            return Err(TokenError::UnknownKey(String::new()));
        };
        let mut tried = false;
        for key in candidates {
            if key.algorithm().as_str() != jws.header.alg {
                continue;
            }
            tried = true;
            let message = jws.signing_input.as_bytes();
            let good =
                crypto::verify(jws.signature, message, &key.decoding, key.algorithm().native());
            if matches!(good, Ok(true)) {
                return Ok(());
            }
        }
        if tried {
            Err(TokenError::BadSignature)
        } else {
            Err(TokenError::WrongAlgorithm { found: jws.header.alg.clone(), pinned })
        }
    }
}

/// Header parameters that are evaluated (RFC 7515 §4.1); others are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    /// Algorithm the token claims to be signed with.
    pub alg: String,
    /// Id of the key.
    #[serde(default)]
    pub kid: Option<String>,
    /// Extensions that must be understood: always a reason to reject.
    #[serde(default)]
    pub crit: Option<serde_json::Value>,
}

/// A decoded token; nothing is verified yet.
#[derive(Debug)]
pub struct Jws<'a> {
    /// The protected header.
    pub header: Header,
    /// The decoded payload.
    pub payload: Vec<u8>,
    signing_input: &'a str,
    signature: &'a str,
}

impl<'a> Jws<'a> {
    /// Decodes a compact JWS.
    ///
    /// # Errors
    /// [`TokenError::TooLong`] and [`TokenError::Malformed`].
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong(token.len()));
        }
        let malformed = |what: &str| TokenError::Malformed(what.to_owned());
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed("it does not have three parts"));
        };
        let signing_input = &token[..header.len() + 1 + payload.len()];
        let header =
            URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed("its header is not base64url"))?;
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| malformed("its payload is not base64url"))?;
        let header = serde_json::from_slice(&header)
            .map_err(|error| TokenError::Malformed(format!("its header: {error}")))?;
        Ok(Self { header, payload, signing_input, signature })
    }

    pub(super) fn reject_unsafe_header(&self) -> Result<(), TokenError> {
        if self.header.alg.eq_ignore_ascii_case("none") {
            return Err(TokenError::Unsigned);
        }
        if self.header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::secret::Secret;

    /// RFC 7515 appendix A.1.
    const A1: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const A1_KEY: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

    fn a1_keys() -> SigningKeys {
        let secret = Secret::from(URL_SAFE_NO_PAD.decode(A1_KEY).unwrap().as_slice());
        SigningKeys::new(vec![Key::hs256("a1", &secret).unwrap()]).unwrap()
    }

    #[test]
    fn rfc_7515_a1_verifies_and_a_modified_one_does_not() {
        assert_eq!(a1_keys().verify(&Jws::parse(A1).unwrap()), Ok(()));
        let forged = A1.replace("dBjftJ", "dBjftK");
        assert_eq!(a1_keys().verify(&Jws::parse(&forged).unwrap()), Err(TokenError::BadSignature));
    }

    #[test]
    fn kid_is_looked_up_and_rotation_keeps_old_tokens_valid() {
        let key = |kid: &str, fill: &str| Key::hs256(kid, &Secret::from(fill.repeat(32))).unwrap();
        let before = SigningKeys::new(vec![key("old", "a")]).unwrap();
        let during = SigningKeys::new(vec![key("new", "b"), key("old", "a")]).unwrap();
        let after = SigningKeys::new(vec![key("new", "b")]).unwrap();
        let old = before.sign(b"{}").unwrap();
        let new = during.sign(b"{}").unwrap();
        assert_eq!(during.verify(&Jws::parse(&old).unwrap()), Ok(()));
        assert_eq!(during.verify(&Jws::parse(&new).unwrap()), Ok(()));
        assert_eq!(
            after.verify(&Jws::parse(&old).unwrap()),
            Err(TokenError::UnknownKey("old".into()))
        );
    }

    #[test]
    fn weak_and_duplicate_keys_are_rejected() {
        assert_eq!(Key::hs256("k", &Secret::from("short")).unwrap_err(), KeyError::ShortSecret(5));
        let key = Key::hs256("k", &Secret::random()).unwrap();
        assert_eq!(
            SigningKeys::new(vec![key.clone(), key]).unwrap_err(),
            KeyError::DuplicateKid("k".into())
        );
        assert_eq!(SigningKeys::new(Vec::new()).unwrap_err(), KeyError::NoKey);
        assert_eq!(Key::pem("k", b"-----BEGIN NOTHING-----").unwrap_err(), KeyError::BadPem);
    }

    #[test]
    fn garbage_is_malformed() {
        for garbage in ["", "a", "a.b", "a.b.c.d", "e30.e30.", "!.!.!", "bnVsbA.e30.x"] {
            assert!(
                matches!(Jws::parse(garbage), Err(TokenError::Malformed(_))),
                "{garbage} was accepted"
            );
        }
        let long = "a".repeat(MAX_TOKEN_BYTES + 1);
        assert_eq!(Jws::parse(&long).unwrap_err(), TokenError::TooLong(long.len()));
    }
}
