//! Public keys by URL: cached, refetched, rotated, and kept while they cannot be fetched.

use std::{sync::Arc, time::Duration};

use orion_peer::{
    auth::{
        jwks::{Jwks, JwksTimes},
        jws::{Key, SigningKeys},
        jwt::{Policy, TokenError, Verifier},
        login::{AccessTokens, LoginCheck, LoginError},
        secret::Secret,
        unix_now,
    },
    proto::claims::Claims,
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::stub::{Said, Stub};
use crate::raw_http::request;

const NOW: u64 = 1_700_000_000;
const PATH: &str = "/auth/v1/.well-known/jwks.json";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const EC: &[u8] = include_bytes!("../keys/ec.pem");
const RSA: &[u8] = include_bytes!("../keys/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../keys/rsa.pub");

fn keys(kid: &str, pem: &[u8]) -> SigningKeys {
    SigningKeys::new(vec![Key::pem(kid, pem).unwrap()]).unwrap()
}

fn set(all: &[&SigningKeys]) -> Said {
    let keys: Vec<Value> = all
        .iter()
        .flat_map(|keys| keys.public_jwks()["keys"].as_array().unwrap().clone())
        .collect();
    Said::new(200, json!({ "keys": keys }))
}

fn access_claims(issuer: &str, now: u64) -> Value {
    json!({
        "sub": "user-1", "aud": "authenticated", "iss": issuer, "role": "authenticated",
        "iat": now, "exp": now + 3600, "session_id": "s", "is_anonymous": false,
    })
}

/// A stub that responds with `said`, and access tokens verified with the keys it publishes.
async fn service(said: Said, times: JwksTimes) -> (Stub, AccessTokens) {
    let stub = Stub::start(said).await;
    let jwks = Jwks::new(&stub.url(PATH), times).unwrap();
    (stub, AccessTokens::published(jwks, "issuer".into()))
}

async fn user(tokens: &AccessTokens, by: &SigningKeys, now: u64) -> Result<String, LoginError> {
    let token = by.sign(access_claims("issuer", now).to_string().as_bytes()).unwrap();
    tokens.user(&token, now).await
}

fn unavailable<T: std::fmt::Debug>(result: &Result<T, LoginError>) -> bool {
    matches!(result, Err(LoginError::Unavailable(_)))
}

#[tokio::test]
async fn both_kinds_of_keys_are_accepted_and_fetched_once() {
    let (ec, rsa) = (keys("ec", EC), keys("rsa", RSA));
    let (stub, tokens) = service(set(&[&ec, &rsa]), JwksTimes::default()).await;
    for by in [&ec, &rsa, &ec] {
        assert_eq!(user(&tokens, by, NOW).await, Ok("user-1".into()));
    }
    assert_eq!(stub.asked().len(), 1);
    assert_eq!(stub.asked()[0].line, format!("GET {PATH}"));
    assert_eq!(user(&tokens, &ec, NOW + 601).await, Ok("user-1".into()), "fetched again when old");
    assert_eq!(stub.asked().len(), 2);
}

#[tokio::test]
async fn claims_of_access_tokens_are_checked() {
    let ec = keys("ec", EC);
    let (_stub, tokens) = service(set(&[&ec]), JwksTimes::default()).await;
    for (name, value) in [
        ("aud", json!("anon")),
        ("aud", Value::Null),
        ("iss", json!("https://other.example")),
        ("iss", Value::Null),
        ("sub", json!("")),
        ("exp", json!(NOW - 10)),
        ("exp", Value::Null),
        ("nbf", json!(NOW + 11)),
        ("iat", json!(NOW + 11)),
    ] {
        let mut claims = access_claims("issuer", NOW);
        claims[name] = value;
        let token = ec.sign(claims.to_string().as_bytes()).unwrap();
        let answer = tokens.user(&token, NOW).await;
        assert!(matches!(answer, Err(LoginError::Refused(_))), "{claims}: {answer:?}");
    }
    let token = ec.sign(access_claims("issuer", NOW).to_string().as_bytes()).unwrap();
    assert_eq!(tokens.user(&token, NOW).await, Ok("user-1".into()), "and accepted unchanged");
}

#[tokio::test]
async fn a_new_kid_causes_a_fetch_but_not_repeatedly() {
    let (old, new) = (keys("old", EC), keys("new", RSA));
    let (stub, tokens) = service(set(&[&old]), JwksTimes::default()).await;
    assert!(user(&tokens, &old, NOW).await.is_ok());
    for now in [NOW + 1, NOW + 29] {
        let early = user(&tokens, &new, now).await;
        assert_eq!(early, Err(LoginError::Refused(TokenError::UnknownKey("new".into()))));
        assert_eq!(stub.asked().len(), 1, "not within 30 s");
    }
    stub.say(set(&[&new, &old]));
    assert!(user(&tokens, &new, NOW + 30).await.is_ok(), "rotated");
    assert!(user(&tokens, &old, NOW + 31).await.is_ok(), "the old one still verifies");
    assert_eq!(stub.asked().len(), 2);
    for n in 0..50 {
        let invented = keys(&format!("invented-{n}"), EC);
        assert!(user(&tokens, &invented, NOW + 40).await.is_err());
    }
    assert_eq!(stub.asked().len(), 2, "invented ids do not flood the service");
    stub.say(set(&[&new]));
    assert!(
        user(&tokens, &old, NOW + 640).await.is_err(),
        "removed, and gone after the next fetch"
    );
}

#[tokio::test]
async fn concurrent_lookups_share_one_request() {
    let ec = keys("ec", EC);
    let slow = Said { pause: Duration::from_millis(200), ..set(&[&ec]) };
    let (stub, tokens) = service(slow, JwksTimes::default()).await;
    let tokens = Arc::new(tokens);
    let asking: Vec<_> = (0..30)
        .map(|_| {
            let (tokens, ec) = (Arc::clone(&tokens), ec.clone());
            tokio::spawn(async move { user(&tokens, &ec, NOW).await })
        })
        .collect();
    for one in asking {
        assert_eq!(one.await.unwrap(), Ok("user-1".into()));
    }
    assert_eq!(stub.asked().len(), 1);
}

#[tokio::test]
async fn keys_are_kept_while_they_cannot_be_fetched_but_not_forever() {
    let (ec, rsa) = (keys("ec", EC), keys("rsa", RSA));
    let (stub, tokens) = service(set(&[&ec]), JwksTimes::default()).await;
    assert!(user(&tokens, &ec, NOW).await.is_ok());
    stub.say(Said::new(500, "down"));
    assert_eq!(user(&tokens, &ec, NOW + 700).await, Ok("user-1".into()));
    assert_eq!(stub.asked().len(), 2);
    assert_eq!(user(&tokens, &ec, NOW + 703).await, Ok("user-1".into()));
    assert_eq!(stub.asked().len(), 2, "a service that is down is not retried immediately");
    assert!(
        unavailable(&user(&tokens, &rsa, NOW + 703).await),
        "the validity of this token is unknown"
    );
    assert!(user(&tokens, &ec, NOW + 3600).await.is_ok());
    assert!(unavailable(&user(&tokens, &ec, NOW + 3700).await), "an hour at most");
    stub.say(set(&[&ec, &rsa]));
    assert!(user(&tokens, &rsa, NOW + 3710).await.is_ok(), "the service is up again");
}

#[tokio::test]
async fn an_invalid_key_set_is_an_outage_not_a_rejection() {
    let ec = keys("ec", EC);
    let brief = JwksTimes { within: Duration::from_millis(300), ..JwksTimes::default() };
    let redirect =
        Said { headers: vec![("Location", "http://127.0.0.1:1/".into())], ..Said::new(302, "") };
    for said in [
        Said::new(404, ""),
        Said::new(200, "<html>"),
        Said::new(200, json!({ "keys": [] })),
        Said::new(200, json!({ "keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "ec"}] })),
        Said::new(200, format!("{{\"keys\":[],\"x\":\"{}\"}}", "x".repeat(70_000))),
        Said { pause: Duration::from_secs(20), ..set(&[&ec]) },
        redirect,
    ] {
        let what = format!("{} {:.40}", said.status, said.body);
        let (_stub, tokens) = service(said, brief).await;
        assert!(unavailable(&user(&tokens, &ec, NOW).await), "{what}");
    }
    let unreachable = Jwks::new("http://127.0.0.1:1/jwks.json", brief).unwrap();
    let tokens = AccessTokens::published(unreachable, "issuer".into());
    assert!(unavailable(&user(&tokens, &ec, NOW).await));
    for url in ["http://login.example/jwks.json", "ftp://a", "jwks.json"] {
        assert!(Jwks::new(url, brief).is_err(), "{url}");
    }
}

/// Each key has one algorithm, whatever the token's header says; a public key is never used as a secret.
#[tokio::test]
async fn algorithms_cannot_be_confused() {
    let (ec, rsa) = (keys("ec", EC), keys("rsa", RSA));
    let (stub, tokens) = service(set(&[&ec, &rsa]), JwksTimes::default()).await;
    let claims = access_claims("issuer", NOW).to_string();
    let public = Key::hs256("rsa", &Secret::from(RSA_PUBLIC)).unwrap();
    let by_public = SigningKeys::new(vec![public]).unwrap().sign(claims.as_bytes()).unwrap();
    let swapped = keys("ec", RSA).sign(claims.as_bytes()).unwrap();
    let unsigned = |header: Value| {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
        let good = ec.sign(claims.as_bytes()).unwrap();
        let rest = good.split_once('.').unwrap().1;
        format!("{}.{rest}", B64.encode(header.to_string()))
    };
    for token in [
        by_public,
        swapped,
        unsigned(json!({"alg": "none"})),
        unsigned(json!({"alg": "nOnE", "kid": "ec"})),
        unsigned(json!({"alg": "ES256", "kid": "ec", "crit": ["x"], "x": 1})),
        unsigned(json!({"alg": "RS256", "kid": "ec"})),
        unsigned(json!({"alg": "ES384", "kid": "ec"})),
    ] {
        let answer = tokens.user(&token, NOW).await;
        assert!(matches!(answer, Err(LoginError::Refused(_))), "{token}: {answer:?}");
    }
    assert!(stub.asked().len() <= 1, "nothing is fetched for tokens that are rejected anyway");
}

#[tokio::test]
async fn a_project_may_use_its_secret_and_its_keys_concurrently() {
    let ec = keys("ec", EC);
    let stub = Stub::start(set(&[&ec])).await;
    let jwks = Jwks::new(&stub.url(PATH), JwksTimes::default()).unwrap();
    let tokens =
        AccessTokens::new(&Secret::from(SECRET), Some("issuer".into())).unwrap().or_by(jwks);
    let secret = |text: &str| {
        SigningKeys::new(vec![Key::hs256("any", &Secret::from(text)).unwrap()]).unwrap()
    };
    assert_eq!(user(&tokens, &secret(SECRET), NOW).await, Ok("user-1".into()));
    assert_eq!(stub.asked().len(), 0, "the secret needs no fetch");
    assert_eq!(user(&tokens, &ec, NOW).await, Ok("user-1".into()));
    let other = secret("another secret of 32 bytes or so");
    assert!(matches!(user(&tokens, &other, NOW).await, Err(LoginError::Refused(_))));
}

fn signaling_claims(now: u64) -> Claims {
    serde_json::from_value(json!({
        "sub": "phone", "pairId": "demo", "iat": now, "exp": now + 300, "iss": "site",
    }))
    .unwrap()
}

fn site_policy() -> Policy {
    Policy { issuer: Some("site".into()), audience: None }
}

#[tokio::test]
async fn signaling_tokens_of_another_site_are_verified_with_its_keys() {
    let (site, own) = (keys("site-1", EC), keys("own", RSA));
    let stub = Stub::start(set(&[&site])).await;
    let jwks = Jwks::new(&stub.url("/jwks.json"), JwksTimes::default()).unwrap();
    let verifier = Verifier::new(own.clone(), site_policy()).or_by(jwks.clone());
    let mint = |by: &SigningKeys, change: &dyn Fn(&mut Claims)| {
        let mut claims = signaling_claims(NOW);
        change(&mut claims);
        orion_peer::auth::jwt::mint(by, &claims).unwrap()
    };
    assert!(verifier.check(&mint(&own, &|_| {}), NOW).await.is_ok());
    assert_eq!(stub.asked().len(), 0, "its own keys need no fetch");
    assert!(verifier.check(&mint(&site, &|_| {}), NOW).await.is_ok());
    assert!(verifier.verify(&mint(&site, &|_| {}), NOW).is_err(), "with its own keys only");
    for (reason, change) in [
        ("life", &(|claims: &mut Claims| claims.exp = NOW + 301) as &dyn Fn(&mut Claims)),
        ("iss", &|claims| claims.iss = None),
        ("iat", &|claims| claims.iat = Some(NOW + 11)),
        ("exp", &|claims| (claims.iat, claims.exp) = (Some(NOW - 300), NOW - 10)),
        ("nbf", &|claims| claims.nbf = Some(NOW + 11)),
    ] {
        assert!(verifier.check(&mint(&site, change), NOW).await.is_err(), "{reason}");
    }
    let only_there = Verifier::new(SigningKeys::none(), site_policy()).or_by(jwks);
    assert!(only_there.check(&mint(&site, &|_| {}), NOW).await.is_ok());
    let cannot = only_there.mint("phone".into(), "demo".into(), NOW, 300);
    assert_eq!(cannot.unwrap_err(), TokenError::CannotSign);
    assert!(matches!(
        only_there.check(&mint(&own, &|_| {}), NOW).await,
        Err(TokenError::UnknownKey(_))
    ));
}

async fn serve(change: impl FnOnce(&mut ServerConfig)) -> RunningServer {
    let mut config = ServerConfig::dev().await.unwrap();
    change(&mut config);
    Server::start(config, TcpListener::bind("127.0.0.1:0").await.unwrap()).await.unwrap()
}

const UPGRADE: [&str; 4] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

#[tokio::test]
async fn unavailable_services_yield_503_and_invalid_tokens_401() {
    let ec = keys("ec", EC);
    let stub = Stub::start(Said::new(503, "")).await;
    let times = JwksTimes { retry_after: 0, refetch_after: 0, ..JwksTimes::default() };
    let jwks = Jwks::new(&stub.url("/jwks.json"), times).unwrap();
    let server = serve(|config| {
        config.login = Some(Arc::new(AccessTokens::published(jwks.clone(), "issuer".into())));
        config.verifier = Verifier::new(SigningKeys::none(), site_policy()).or_by(jwks);
    })
    .await;
    let now = unix_now();
    let login = ec.sign(access_claims("issuer", now).to_string().as_bytes()).unwrap();
    let token = orion_peer::auth::jwt::mint(&ec, &signaling_claims(now)).unwrap();
    let login = format!("Authorization: Bearer {login}");
    let socket = format!("Authorization: Bearer {token}");
    let addr = server.local_addr();
    let ask = async || {
        let (line, body) = (format!("POST {TOKEN_PATH}"), r#"{"deviceId":"phone"}"#);
        let tokens = request(addr, &line, &[&login], body).await;
        let headers = [&UPGRADE[..], &[&socket]].concat();
        (tokens, request(addr, "GET /api/signal", &headers, "").await)
    };
    let (tokens, socket_answer) = ask().await;
    for (answer, code) in [(tokens, "login-down"), (socket_answer, "keys-unavailable")] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.header("retry-after").is_some(), "{answer:?}");
        assert_eq!(answer.json()["code"], code);
        assert!(answer.header("www-authenticate").is_none());
    }
    stub.say(set(&[&keys("other", RSA)]));
    let (tokens, socket_answer) = ask().await;
    assert_eq!(
        (tokens.status, socket_answer.status),
        (401, 401),
        "the key is now known not to exist"
    );
    stub.say(set(&[&ec]));
    let (tokens, socket_answer) = ask().await;
    assert_eq!(socket_answer.status, 101);
    assert_eq!(tokens.status, 403, "the login is valid, but user-1 has no pair");
}

#[tokio::test]
async fn public_keys_are_published_and_secrets_are_not() {
    let all = SigningKeys::new(vec![
        Key::pem("ec", EC).unwrap(),
        Key::hs256("hush", &Secret::from(SECRET)).unwrap(),
        Key::pem("rsa", RSA_PUBLIC).unwrap(),
    ])
    .unwrap();
    let server = serve(|config| config.verifier = Verifier::new(all, site_policy())).await;
    let path = "/.well-known/jwks.json";
    let answer = request(server.local_addr(), &format!("GET {path}"), &[], "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("cache-control").unwrap().contains("max-age"));
    let published = answer.json();
    let kids: Vec<_> =
        published["keys"].as_array().unwrap().iter().map(|key| key["kid"].clone()).collect();
    assert_eq!(kids, ["ec", "rsa"]);
    for key in published["keys"].as_array().unwrap() {
        assert!(
            key.get("d").is_none() && key.get("k").is_none() && key.get("p").is_none(),
            "{key}"
        );
    }
    // One of our servers accepts the keys that another publishes.
    let url = format!("http://{}{path}", server.local_addr());
    let other = Verifier::new(SigningKeys::none(), site_policy())
        .or_by(Jwks::new(&url, JwksTimes::default()).unwrap());
    let now = unix_now();
    let (token, claims) = server.verifier().mint("phone".into(), "demo".into(), now, 300).unwrap();
    assert_eq!(other.check(&token, now).await, Ok(claims));
}
