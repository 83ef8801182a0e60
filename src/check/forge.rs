//! Tokens made by the rules themselves: valid ones if the secret is known, and ones that must be
//! rejected (RFC 7515, RFC 8725).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as Jwa, EncodingKey, crypto};
use serde_json::{Value, json};

use super::finding::CaseError;
use crate::auth::{
    jws::{Algorithm, Key, KeyError},
    secret::Secret,
};

/// Header and claims of a token, to be modified.
#[derive(Debug, Clone)]
pub struct Template {
    /// The protected header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

impl Template {
    /// Header and claims of a token; `None` when it is not a compact JWS of JSON objects.
    #[must_use]
    pub fn of(token: &str) -> Option<Self> {
        let mut parts = token.split('.').map(|part| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
        });
        let (header, claims) = (parts.next()??, parts.next()??);
        (token.split('.').count() == 3).then_some(Self { header, claims })
    }

    /// Sets a header parameter.
    #[must_use]
    pub fn header(mut self, name: &str, value: Value) -> Self {
        self.header[name] = value;
        self
    }

    /// Sets a claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    /// Removes a claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        if let Some(claims) = self.claims.as_object_mut() {
            claims.remove(name);
        }
        self
    }

    /// Valid for 200 s from `now` (seconds since 1970), with a unique `jti`.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        self.claim("iat", now).claim("exp", now + 200).claim("jti", id).without("nbf")
    }

    /// The JWS signing input (RFC 7515 §5.1).
    #[must_use]
    pub fn signing_input(&self) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", encode(&self.header), encode(&self.claims))
    }

    /// An unsigned token with this spelling of `alg`.
    #[must_use]
    pub fn unsigned(&self, alg: &str) -> String {
        format!("{}.", self.clone().header("alg", json!(alg)).signing_input())
    }
}

/// A token with one character of its signature changed.
#[must_use]
pub fn with_bad_signature(token: &str) -> String {
    let at = token.rfind('.').map_or(0, |at| at + 1);
    let mut bytes = token.as_bytes()[at..].to_vec();
    // The first character of the signature: the last one may contain unused bits.
    if let Some(first) = bytes.first_mut() {
        *first = if *first == b'A' { b'B' } else { b'A' };
    }
    format!("{}{}", &token[..at], String::from_utf8_lossy(&bytes))
}

/// A token with modified claims and the original signature.
#[must_use]
pub fn with_claims_of(token: &str, template: &Template) -> String {
    let signature = token.rsplit('.').next().unwrap_or_default();
    format!("{}.{signature}", template.signing_input())
}

/// Signs tokens with the server's secret.
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: String,
    secret: Secret,
}

impl Signer {
    /// A signer with an HS256 secret or a PEM private key.
    ///
    /// # Errors
    /// [`KeyError`] when it is neither.
    pub fn new(secret: &Secret) -> Result<Self, KeyError> {
        let key = Key::from_secret_or_pem(secret)?;
        let bytes = secret.expose();
        let encoding = match key.algorithm() {
            Algorithm::Hs256 => Ok(EncodingKey::from_secret(bytes)),
            Algorithm::Es256 => EncodingKey::from_ec_pem(bytes),
            Algorithm::Rs256 => EncodingKey::from_rsa_pem(bytes),
        };
        Ok(Self {
            key: encoding.map_err(|_| KeyError::BadPem)?,
            algorithm: key.algorithm(),
            kid: key.kid().to_owned(),
            secret: secret.clone(),
        })
    }

    /// The header of tokens signed with this key.
    #[must_use]
    pub fn header(&self) -> Value {
        json!({"alg": self.algorithm.as_str(), "typ": "JWT", "kid": self.kid})
    }

    /// Signs a token with the key's own algorithm.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, template: &Template) -> Result<String, CaseError> {
        let algorithm = match self.algorithm {
            Algorithm::Hs256 => Jwa::HS256,
            Algorithm::Es256 => Jwa::ES256,
            Algorithm::Rs256 => Jwa::RS256,
        };
        let template = template.clone().header("alg", json!(self.algorithm.as_str()));
        signed(&template, &self.key, algorithm)
    }

    /// Signs a token with an algorithm other than the key's: HS384 with a shared secret, HS256 with
    /// the text of a PEM key.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign_otherwise(&self, template: &Template) -> Result<String, CaseError> {
        let (algorithm, name) = match self.algorithm {
            Algorithm::Hs256 => (Jwa::HS384, "HS384"),
            Algorithm::Es256 | Algorithm::Rs256 => (Jwa::HS256, "HS256"),
        };
        let key = EncodingKey::from_secret(self.secret.expose());
        signed(&template.clone().header("alg", json!(name)), &key, algorithm)
    }
}

/// Signs a token with a random key that no server knows, and keeps the header's `kid`.
///
/// # Errors
/// HMAC failed.
pub fn sign_with_foreign_key(template: &Template) -> Result<String, CaseError> {
    let key = EncodingKey::from_secret(Secret::random().expose());
    signed(&template.clone().header("alg", json!("HS256")), &key, Jwa::HS256)
}

fn signed(template: &Template, key: &EncodingKey, algorithm: Jwa) -> Result<String, CaseError> {
    let input = template.signing_input();
    crypto::sign(input.as_bytes(), key, algorithm)
        .map(|signature| format!("{input}.{signature}"))
        .map_err(|_| CaseError::NotRun("the key of --jwt-secret cannot sign".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{
        jws::SigningKeys,
        jwt::{Policy, Verifier},
    };

    const NOW: u64 = 1_700_000_000;

    fn verifier(secret: &Secret) -> Verifier {
        let key = Key::from_secret_or_pem(secret).unwrap();
        Verifier::new(SigningKeys::new(vec![key]).unwrap(), Policy::default())
    }

    #[test]
    fn valid_tokens_are_accepted_and_every_forgery_is_rejected() {
        let secret = Secret::random();
        let (verifier, signer) = (verifier(&secret), Signer::new(&secret).unwrap());
        let claims = json!({"sub": "phone", "pairId": "demo"});
        let template = Template { header: signer.header(), claims }.at(NOW);
        let good = signer.sign(&template).unwrap();
        assert_eq!(verifier.verify(&good, NOW).unwrap().pair_id.as_str(), "demo");
        let other = template.clone().claim("pairId", "other");
        for forged in [
            with_bad_signature(&good),
            with_claims_of(&good, &other),
            template.unsigned("none"),
            sign_with_foreign_key(&template).unwrap(),
            signer.sign_otherwise(&template).unwrap(),
            signer.sign(&template.clone().without("exp")).unwrap(),
            signer.sign(&template.clone().header("crit", json!(["x"]))).unwrap(),
        ] {
            assert!(verifier.verify(&forged, NOW).is_err(), "{forged}");
        }
    }

    #[test]
    fn malformed_tokens_have_no_template() {
        for text in ["", "a.b.c", "dev", "e30.e30", "e30.W10.x"] {
            assert!(Template::of(text).is_none(), "{text}");
        }
        assert!(Template::of("e30.e30.x").is_some());
    }
}
