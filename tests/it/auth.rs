//! Signaling tokens: tables of accepted tokens, and of every reason to reject one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use orion_peer::{
    auth::{
        jws::{Algorithm, Key, SigningKeys},
        jwt::{Policy, TokenError, Verifier, check_unverified, inspect_unverified},
        login::{AccessTokens, DEV_TOKEN, DEV_USER, DevLogin, LoginCheck, LoginError},
        secret::Secret,
    },
    types::{DeviceId, PairId},
};
use serde_json::{Value, json};
use sha2::Sha256;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW: u64 = 1_700_000_000;
const EC: &[u8] = include_bytes!("keys/ec.pem");
const EC_PUBLIC: &[u8] = include_bytes!("keys/ec.pub");
const RSA: &[u8] = include_bytes!("keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("keys/rsa.pub");

/// A token signed with HMAC-SHA256, regardless of its header.
fn hmac_token(header: &Value, claims: &str, secret: &[u8]) -> String {
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn keys() -> SigningKeys {
    SigningKeys::new(vec![Key::hs256("k", &Secret::from(SECRET)).unwrap()]).unwrap()
}

fn verifier() -> Verifier {
    let policy = Policy { issuer: Some("orion".into()), audience: Some("signal".into()) };
    Verifier::new(keys(), policy)
}

fn good_claims() -> Value {
    json!({
        "sub": "phone", "pairId": "demo", "iat": NOW, "exp": NOW + 300,
        "iss": "orion", "aud": "signal",
    })
}

/// [`good_claims`] with one claim set, or removed if the value is null.
fn with(name: &str, value: Value) -> Value {
    let mut claims = good_claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn verify(claims: &Value) -> Result<(), TokenError> {
    let header = json!({"alg": "HS256", "kid": "k"});
    let token = hmac_token(&header, &claims.to_string(), SECRET.as_bytes());
    verifier().verify(&token, NOW).map(|_| ())
}

#[test]
fn claims_that_are_accepted() {
    for claims in [
        good_claims(),
        with("exp", json!(NOW - 9)),
        with("iat", json!(NOW + 10)),
        with("nbf", json!(NOW + 10)),
        with("nbf", json!(NOW)),
        with("iat", Value::Null),
        with("aud", json!(["other", "signal"])),
        with("role", json!("something unknown")),
    ] {
        assert_eq!(verify(&claims), Ok(()), "{claims}");
    }
}

#[test]
fn claims_that_are_rejected() {
    use TokenError::{
        BadClaims, Expired, IssuedInFuture, LifetimeTooLong, MissingClaim, NotYetValid,
        WrongAudience, WrongIssuer,
    };
    let issuer = |found: Option<&str>| WrongIssuer {
        found: found.map(str::to_owned),
        expected: "orion".into(),
    };
    let audience = WrongAudience { expected: "signal".into() };
    for (claims, reason) in [
        (with("sub", Value::Null), MissingClaim("sub")),
        (with("sub", json!("")), MissingClaim("sub")),
        (with("pairId", Value::Null), MissingClaim("pairId")),
        (with("pairId", json!("")), MissingClaim("pairId")),
        (with("exp", Value::Null), MissingClaim("exp")),
        (with("exp", json!(NOW - 10)), Expired(10)),
        (with("exp", json!(0)), Expired(NOW)),
        (with("nbf", json!(NOW + 11)), NotYetValid(11)),
        (with("iat", json!(NOW + 11)), IssuedInFuture(11)),
        (with("iat", json!(NOW - 1)), LifetimeTooLong(301)),
        (with("exp", json!(NOW + 301)), LifetimeTooLong(301)),
        (with("exp", json!(u64::MAX)), LifetimeTooLong(u64::MAX - NOW)),
        (with("iss", json!("other")), issuer(Some("other"))),
        (with("iss", Value::Null), issuer(None)),
        (with("aud", json!("other")), audience.clone()),
        (with("aud", json!([])), audience.clone()),
        (with("aud", Value::Null), audience),
    ] {
        assert_eq!(verify(&claims), Err(reason), "{claims}");
    }
    let mut endless = with("iat", Value::Null);
    endless["exp"] = json!(NOW + 311);
    assert_eq!(
        verify(&endless),
        Err(LifetimeTooLong(301)),
        "a missing iat does not hide a long lifetime"
    );
    for claims in [
        with("sub", json!(7)),
        with("exp", json!("soon")),
        with("exp", json!(-1)),
        with("iat", json!("then")),
        with("aud", json!(7)),
    ] {
        assert!(matches!(verify(&claims), Err(BadClaims(_))), "{claims}");
    }
}

#[test]
fn duplicate_claims_and_payloads_other_than_objects_are_rejected() {
    let header = json!({"alg": "HS256", "kid": "k"});
    let duplicate = good_claims().to_string().replacen('{', r#"{"sub":"mac","#, 1);
    for payload in [duplicate.as_str(), "[]", "null", "7", "", "{"] {
        let token = hmac_token(&header, payload, SECRET.as_bytes());
        assert!(verifier().verify(&token, NOW).is_err(), "{payload} was accepted");
    }
}

#[test]
fn headers_that_are_rejected() {
    let claims = good_claims().to_string();
    let wrong =
        |found: &str| TokenError::WrongAlgorithm { found: found.into(), pinned: Algorithm::Hs256 };
    for (header, reason) in [
        (json!({"alg": "none"}), TokenError::Unsigned),
        (json!({"alg": "None", "kid": "k"}), TokenError::Unsigned),
        (json!({"alg": "nOnE", "kid": "k"}), TokenError::Unsigned),
        (json!({"alg": "HS256", "kid": "k", "crit": ["b64"], "b64": false}), TokenError::Critical),
        (json!({"alg": "HS256", "kid": "k", "crit": []}), TokenError::Critical),
        (json!({"alg": "HS256", "kid": "other"}), TokenError::UnknownKey("other".into())),
        (json!({"alg": "HS384", "kid": "k"}), wrong("HS384")),
        (json!({"alg": "hs256", "kid": "k"}), wrong("hs256")),
        (json!({"alg": "RS256"}), wrong("RS256")),
        (json!({"alg": "", "kid": "k"}), wrong("")),
    ] {
        let token = hmac_token(&header, &claims, SECRET.as_bytes());
        assert_eq!(verifier().verify(&token, NOW), Err(reason), "{header}");
    }
    let unsigned = hmac_token(&json!({"alg": "none"}), &claims, b"x");
    let unsigned = &unsigned[..=unsigned.rfind('.').unwrap()];
    assert_eq!(verifier().verify(unsigned, NOW), Err(TokenError::Unsigned));
}

#[test]
fn signatures_that_are_rejected() {
    let header = json!({"alg": "HS256", "kid": "k"});
    let claims = good_claims().to_string();
    let good = hmac_token(&header, &claims, SECRET.as_bytes());
    assert!(verifier().verify(&good, NOW).is_ok());
    let other = hmac_token(&header, &claims.replace("phone", "mac"), SECRET.as_bytes());
    let (good_input, signature) = good.rsplit_once('.').unwrap();
    let (other_input, _) = other.rsplit_once('.').unwrap();
    for token in [
        hmac_token(&header, &claims, b"another secret of thirty-two byt"),
        format!("{other_input}.{signature}"),
        format!("{good_input}."),
        format!("{good_input}.{}", &signature[..signature.len() - 2]),
        format!("{good_input}.{signature}="),
    ] {
        assert_eq!(verifier().verify(&token, NOW), Err(TokenError::BadSignature), "{token}");
    }
}

#[test]
fn a_token_without_kid_is_tried_with_all_keys() {
    let header = json!({"alg": "HS256"});
    let token = hmac_token(&header, &good_claims().to_string(), SECRET.as_bytes());
    assert!(verifier().verify(&token, NOW).is_ok());
}

/// The classic confusion: a public RSA key used as an HMAC secret.
#[test]
fn a_public_key_is_not_an_hmac_secret() {
    let key = Key::pem("k", RSA_PUBLIC).unwrap();
    let verifier = Verifier::new(SigningKeys::new(vec![key]).unwrap(), Policy::default());
    for header in [json!({"alg": "HS256", "kid": "k"}), json!({"alg": "HS256"})] {
        let token = hmac_token(&header, &good_claims().to_string(), RSA_PUBLIC);
        let wrong = TokenError::WrongAlgorithm { found: "HS256".into(), pinned: Algorithm::Rs256 };
        assert_eq!(verifier.verify(&token, NOW), Err(wrong));
    }
    let header = json!({"alg": "RS256", "kid": "k"});
    let token = hmac_token(&header, &good_claims().to_string(), RSA_PUBLIC);
    assert_eq!(verifier.verify(&token, NOW), Err(TokenError::BadSignature));
}

#[test]
fn pem_keys_sign_with_the_private_half_and_verify_with_either() {
    for (private, public, algorithm) in
        [(EC, EC_PUBLIC, Algorithm::Es256), (RSA, RSA_PUBLIC, Algorithm::Rs256)]
    {
        let one = |pem| {
            let key = Key::pem("k", pem).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            Verifier::new(SigningKeys::new(vec![key]).unwrap(), Policy::default())
        };
        let (signer, checker) = (one(private), one(public));
        let (token, claims) =
            signer.mint(DeviceId::from("phone"), PairId::from("demo"), NOW, 300).unwrap();
        assert_eq!(signer.verify(&token, NOW), Ok(claims.clone()));
        assert_eq!(checker.verify(&token, NOW), Ok(claims));
        assert_eq!(
            checker.mint("phone".into(), "demo".into(), NOW, 300),
            Err(TokenError::CannotSign)
        );
    }
}

#[test]
fn a_minted_token_is_accepted_until_it_expires() {
    let (token, claims) = verifier().mint("phone".into(), "demo".into(), NOW, 300).unwrap();
    assert_eq!(verifier().verify(&token, NOW), Ok(claims.clone()));
    assert_eq!(verifier().verify(&token, NOW + 309), Ok(claims));
    assert_eq!(verifier().verify(&token, NOW + 310), Err(TokenError::Expired(10)));
    let shown = inspect_unverified(&token).unwrap();
    assert_eq!(shown.header["kid"], "k");
    assert_eq!(shown.claims["pairId"], "demo");
}

#[test]
fn inspection_reports_the_reason_without_a_key() {
    let header = json!({"alg": "HS256", "kid": "k"});
    let mut late = with("exp", json!(NOW - 60));
    late["iat"] = json!(NOW - 360);
    let late = hmac_token(&header, &late.to_string(), b"unknown");
    let policy = Policy::default();
    assert_eq!(check_unverified(&late, &policy, NOW), Err(TokenError::Expired(60)));
    assert!(check_unverified(&late, &policy, NOW - 100).is_ok());
    let unsigned = hmac_token(&json!({"alg": "none"}), &good_claims().to_string(), b"unknown");
    assert_eq!(check_unverified(&unsigned, &policy, NOW), Err(TokenError::Unsigned));
}

#[tokio::test]
async fn access_tokens_are_those_of_signed_in_users() {
    let tokens = AccessTokens::new(&Secret::from(SECRET), Some("login".into())).unwrap();
    let claims = json!({
        "sub": "user-1", "aud": "authenticated", "iss": "login", "iat": NOW, "exp": NOW + 3600,
        "role": "authenticated",
    });
    let header = json!({"alg": "HS256", "kid": "whatever", "typ": "JWT"});
    let user = async |claims: &Value, header: &Value| {
        let token = hmac_token(header, &claims.to_string(), SECRET.as_bytes());
        tokens.user(&token, NOW).await
    };
    assert_eq!(user(&claims, &header).await, Ok("user-1".into()));
    for (name, value) in [
        ("sub", json!("")),
        ("aud", json!("anon")),
        ("aud", Value::Null),
        ("iss", json!("other")),
        ("iss", Value::Null),
        ("exp", json!(NOW - 10)),
        ("exp", Value::Null),
        ("iat", json!(NOW + 11)),
        ("nbf", json!(NOW + 11)),
    ] {
        let mut wrong = claims.clone();
        wrong[name] = value;
        let refused = user(&wrong, &header).await;
        assert!(matches!(refused, Err(LoginError::Refused(_))), "{wrong}: {refused:?}");
    }
    let refused = user(&claims, &json!({"alg": "none"})).await;
    assert_eq!(refused, Err(LoginError::Refused(TokenError::Unsigned)));
}

#[tokio::test]
async fn the_dev_login_accepts_only_its_token() {
    let login = DevLogin::default();
    assert_eq!(login.user(DEV_TOKEN, NOW).await, Ok(DEV_USER.to_owned()));
    for other in ["", "Dev", "dev ", "a.b.c"] {
        assert!(login.user(other, NOW).await.is_err(), "{other} was accepted");
    }
}
