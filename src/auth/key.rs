//! A key for JWTs: a shared secret, a PEM file (RFC 7468) or a JWK (RFC 7517).
//!
//! Each key is bound to one algorithm when it is configured: the one for its key type, never one that a
//! token names.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    DecodingKey, EncodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, ThumbprintHash},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::secret::Secret;

/// Minimum length of an HMAC secret, bytes (RFC 7518 §3.2: at least that of the hash).
pub const MIN_SECRET_BYTES: usize = 32;

/// Minimum length of an RSA modulus, bytes (RFC 7518 §3.3: 2048 bits).
const MIN_RSA_BYTES: usize = 256;

/// Signature algorithm a key is bound to (RFC 7518 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// The name in the header's `alg`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    pub(super) fn native(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a key is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Shorter than [`MIN_SECRET_BYTES`]; its length in bytes.
    #[error("an HS256 secret of {0} bytes is too short: the minimum is {MIN_SECRET_BYTES}")]
    ShortSecret(usize),
    /// Neither an EC P-256 nor an RSA key in PEM form.
    #[error(
        "the PEM text contains no P-256 or RSA key (PKCS#8 private or SubjectPublicKeyInfo public)"
    )]
    BadPem,
    /// An EC key in SEC 1 form (RFC 5915) instead of PKCS#8.
    #[error(
        "the PEM text contains a key in SEC 1 form: convert it to PKCS#8 with `openssl pkcs8 -topk8 \
         -nocrypt -in KEY -out KEY.pem`"
    )]
    Sec1,
    /// A private key encrypted with a passphrase.
    #[error(
        "the PEM text contains an encrypted key: remove the passphrase with `openssl pkey -in KEY \
         -out KEY.pem`"
    )]
    Encrypted,
    /// An RSA key of less than 2048 bits; its length in bits.
    #[error("an RSA key of {0} bits is too short: the minimum is 2048")]
    ShortRsa(usize),
    /// A JWK that is not a key for ES256 or RS256 signatures.
    #[error("the JWK is not usable: {0}")]
    BadJwk(&'static str),
    /// Two keys with the same id.
    #[error("two keys have the id `{0}`")]
    DuplicateKid(String),
    /// No key was given.
    #[error("no signing key was given")]
    NoKey,
}

/// A key: its id, its algorithm, its public half and possibly its private half.
#[derive(Clone)]
pub struct Key {
    kid: String,
    algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    pub(super) encoding: Option<EncodingKey>,
    /// The public half; `None` for a secret.
    public: Option<Jwk>,
}

impl Key {
    /// An HMAC key from a shared secret.
    ///
    /// # Errors
    /// [`KeyError::ShortSecret`] below [`MIN_SECRET_BYTES`].
    pub fn hs256(kid: impl Into<String>, secret: &Secret) -> Result<Self, KeyError> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(Self {
            kid: kid.into(),
            algorithm: Algorithm::Hs256,
            decoding: DecodingKey::from_secret(secret.expose()),
            encoding: Some(EncodingKey::from_secret(secret.expose())),
            public: None,
        })
    }

    /// An ES256 or RS256 key from PEM text: a PKCS#8 private key, or a public key that only
    /// verifies. The key type determines the algorithm.
    ///
    /// # Errors
    /// [`KeyError::BadPem`] when it is neither, [`KeyError::ShortRsa`] below 2048 bits.
    pub fn pem(kid: impl Into<String>, pem: &[u8]) -> Result<Self, KeyError> {
        let private = [
            (Algorithm::Es256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::Rs256, EncodingKey::from_rsa_pem(pem)),
        ];
        for (algorithm, key) in private {
            let Ok(encoding) = key else { continue };
            let public = Jwk::from_encoding_key(&encoding, algorithm.native());
            if let Ok(public) = public
                && let Ok(decoding) = DecodingKey::from_jwk(&public)
            {
                return Self::asymmetric(kid.into(), algorithm, decoding, Some(encoding), public);
            }
        }
        let public = [
            (Algorithm::Es256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::Rs256, DecodingKey::from_rsa_pem(pem)),
        ];
        for (algorithm, key) in public {
            let Ok(decoding) = key else { continue };
            if let Ok(public) = Jwk::from_decoding_key(&decoding, Some(algorithm.native())) {
                return Self::asymmetric(kid.into(), algorithm, decoding, None, public);
            }
        }
        let contains = |label: &[u8]| pem.windows(label.len()).any(|window| window == label);
        Err(if contains(b"-----BEGIN EC PRIVATE KEY") {
            KeyError::Sec1
        } else if contains(b"-----BEGIN ENCRYPTED") || contains(b"Proc-Type: 4,ENCRYPTED") {
            KeyError::Encrypted
        } else {
            KeyError::BadPem
        })
    }

    fn asymmetric(
        kid: String,
        algorithm: Algorithm,
        decoding: DecodingKey,
        encoding: Option<EncodingKey>,
        public: Jwk,
    ) -> Result<Self, KeyError> {
        match &public.algorithm {
            AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => {}
            AlgorithmParameters::RSA(key) => {
                let modulus = URL_SAFE_NO_PAD.decode(&key.n).map_err(|_| KeyError::BadPem)?;
                check_modulus(&modulus)?;
            }
            _ => return Err(KeyError::BadPem),
        }
        Ok(Self { kid, algorithm, decoding, encoding, public: Some(public) })
    }

    /// A published public key for signatures: EC P-256 or RSA. Its id is its `kid`, or otherwise its
    /// thumbprint (RFC 7638).
    ///
    /// # Errors
    /// [`KeyError::BadJwk`] for any other key, and for one that contains its private half.
    pub fn public(jwk: &Value) -> Result<Self, KeyError> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if jwk.get("d").is_some() || jwk.get("k").is_some() {
            return Err(KeyError::BadJwk("it is not a public key"));
        }
        if text("use").is_some_and(|usage| usage != "sig") {
            return Err(KeyError::BadJwk("its `use` is not `sig`"));
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|all| all.iter().all(|one| one != "verify")) {
            return Err(KeyError::BadJwk("its `key_ops` do not contain `verify`"));
        }
        let algorithm = match (text("kty"), text("crv")) {
            (Some("EC"), Some("P-256")) => Algorithm::Es256,
            (Some("RSA"), _) => Algorithm::Rs256,
            _ => return Err(KeyError::BadJwk("it is neither a P-256 nor an RSA key")),
        };
        if text("alg").is_some_and(|alg| alg != algorithm.as_str()) {
            return Err(KeyError::BadJwk("its `alg` is neither ES256 nor RS256"));
        }
        let number = |name: &str| {
            text(name)
                .and_then(|value| URL_SAFE_NO_PAD.decode(value).ok())
                .ok_or(KeyError::BadJwk("one of its numbers is missing or not base64url"))
        };
        if algorithm == Algorithm::Rs256 {
            check_modulus(&number("n")?)?;
            number("e")?;
        } else if number("x")?.len() != 32 || number("y")?.len() != 32 {
            return Err(KeyError::BadJwk("one of its coordinates is not 32 bytes long"));
        }
        let unread = |_| KeyError::BadJwk("it cannot be parsed");
        // Only the key itself: other members may have forms that the crate rejects.
        let names = ["kty", "crv", "x", "y", "n", "e"];
        let bare = names.iter().filter_map(|name| Some((*name, jwk.get(*name)?.clone())));
        let bare = Value::Object(bare.map(|(name, value)| (name.to_owned(), value)).collect());
        let public: Jwk = serde_json::from_value(bare).map_err(unread)?;
        let decoding = DecodingKey::from_jwk(&public)
            .map_err(|_| KeyError::BadJwk("its numbers are not valid"))?;
        let kid = text("kid").map_or_else(|| thumbprint(&public), str::to_owned);
        Self::asymmetric(kid, algorithm, decoding, None, public)
    }

    /// A key from an operator's input: PEM text, otherwise a shared secret. Its id is derived from the
    /// key, so that the same key has the same id everywhere: for a PEM key, private or public, the
    /// thumbprint (RFC 7638); for a secret, the start of its SHA-256.
    ///
    /// # Errors
    /// As [`Key::hs256`] and [`Key::pem`].
    pub fn from_secret_or_pem(secret: &Secret) -> Result<Self, KeyError> {
        Self::named(None, secret)
    }

    /// As [`Key::from_secret_or_pem`], with the id `kid` if given.
    ///
    /// # Errors
    /// As [`Key::hs256`] and [`Key::pem`].
    pub fn named(kid: Option<&str>, secret: &Secret) -> Result<Self, KeyError> {
        if secret.expose().trim_ascii_start().starts_with(b"-----BEGIN") {
            let mut key = Self::pem(kid.unwrap_or_default(), secret.expose())?;
            if let (None, Some(public)) = (kid, &key.public) {
                key.kid = thumbprint(public);
            }
            return Ok(key);
        }
        let digest = Sha256::digest(secret.expose());
        let made =
            || format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        Self::hs256(kid.map_or_else(made, str::to_owned), secret)
    }

    /// The `kid` in the header of tokens signed with this key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm that this key is bound to.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half as a JWK; `None` for a secret.
    #[must_use]
    pub fn public_jwk(&self) -> Option<Value> {
        let mut jwk = serde_json::to_value(self.public.as_ref()?).ok()?;
        let members = jwk.as_object_mut()?;
        members.insert("kid".into(), self.kid.as_str().into());
        members.insert("alg".into(), self.algorithm.as_str().into());
        members.insert("use".into(), "sig".into());
        Some(jwk)
    }
}

fn check_modulus(modulus: &[u8]) -> Result<(), KeyError> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let length = modulus.len() - zeros;
    if length < MIN_RSA_BYTES { Err(KeyError::ShortRsa(length * 8)) } else { Ok(()) }
}

fn thumbprint(public: &Jwk) -> String {
    public
        .thumbprint(ThumbprintHash::SHA256)
        .expect("P-256 and RSA keys have a thumbprint (RFC 7638 §3.2)")
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The example of RFC 7638 §3.1.
    fn rfc_7638() -> Value {
        json!({
            "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        })
    }

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let mut jwk = rfc_7638();
        assert_eq!(Key::public(&jwk).unwrap().kid(), "2011-04-29");
        jwk.as_object_mut().unwrap().remove("kid");
        let key = Key::public(&jwk).unwrap();
        assert_eq!(key.kid(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
        assert_eq!(key.public_jwk().unwrap()["use"], "sig");
        assert_eq!(key.public_jwk().unwrap()["n"], jwk["n"]);
    }

    #[test]
    fn keys_for_other_purposes_are_rejected() {
        for (name, value) in [
            ("use", json!("enc")),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!([])),
            ("alg", json!("RS512")),
            ("alg", json!("HS256")),
            ("kty", json!("oct")),
            ("kty", json!("OKP")),
            ("d", json!("AQAB")),
            ("k", json!("AQAB")),
            ("n", json!("!")),
            ("e", Value::Null),
        ] {
            let mut jwk = rfc_7638();
            jwk[name] = value;
            assert!(matches!(Key::public(&jwk), Err(KeyError::BadJwk(_))), "{jwk}");
        }
        let mut short = rfc_7638();
        short["n"] = json!("0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4");
        assert!(matches!(Key::public(&short), Err(KeyError::ShortRsa(_))));
        let mut fine = rfc_7638();
        fine["use"] = json!("sig");
        fine["key_ops"] = json!(["verify"]);
        fine["x5t#S256"] = json!(7);
        assert!(Key::public(&fine).is_ok());
    }
}
