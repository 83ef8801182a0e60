//! The token API: every status of the contract, and what a good answer holds.

use std::{sync::Arc, time::Duration};

use orion_peer::{
    auth::{secret::Secret, turn_rest::TurnSecrets, unix_now},
    pairs::{Pair, sqlite::SqlitePairs},
    proto::token::{IceServer, TokenAnswer},
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH, TokenRates, TurnAdvert},
    signaling::limits::Rate,
};
use tokio::net::TcpListener;

use crate::raw_http::{Answer, request};

async fn server(change: impl FnOnce(&mut ServerConfig)) -> RunningServer {
    let mut config = ServerConfig::dev().await.unwrap();
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(config, listener).await.unwrap()
}

async fn ask(server: &RunningServer, login: &str, body: &str) -> Answer {
    let line = format!("POST {TOKEN_PATH}");
    let login = format!("Authorization: Bearer {login}");
    let headers = [login.as_str(), "Content-Type: application/json"];
    let answer = request(server.local_addr(), &line, &headers, body).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    if answer.status != 200 {
        assert!(answer.json()["code"].is_string(), "{answer:?}");
        assert!(answer.json()["message"].is_string(), "{answer:?}");
    }
    answer
}

#[tokio::test]
async fn a_good_answer_has_a_token_for_the_pair() {
    let server = server(|_| {}).await;
    for body in [r#"{"deviceId":"phone","pairId":"demo"}"#, r#"{"deviceId":"phone"}"#] {
        let before = unix_now();
        let answer = ask(&server, "dev", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        assert_eq!(json["expiresIn"], 300);
        let answer: TokenAnswer = serde_json::from_value(json).unwrap();
        assert_eq!(answer.pair_id.as_str(), "demo");
        let claims = server.verifier().verify(&answer.token, unix_now()).unwrap();
        assert_eq!((claims.sub.as_str(), claims.pair_id.as_str()), ("phone", "demo"));
        assert_eq!(claims.exp, claims.iat.unwrap() + 300);
        assert!(claims.exp >= before + 300);
        let expires: jiff::Timestamp = answer.expires_at.parse().unwrap();
        assert_eq!(expires.as_second() as u64, claims.exp);
    }
}

#[tokio::test]
async fn malformed_requests_are_400() {
    let server = server(|_| {}).await;
    let long = format!(r#"{{"deviceId":"{}"}}"#, "x".repeat(300));
    let huge = format!(r#"{{"deviceId":"phone","more":"{}"}}"#, "x".repeat(20_000));
    for body in ["", "{", "[]", "{}", r#"{"deviceId":7}"#, r#"{"deviceId":""}"#, &long, &huge] {
        assert_eq!(ask(&server, "dev", body).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn several_pairs_of_one_device_must_be_told_apart() {
    let server = server(|_| {}).await;
    let pair = Pair::active("second", "dev-user", "phone", "mac-2", 1);
    server.store().add(&pair).await.unwrap();
    assert_eq!(ask(&server, "dev", r#"{"deviceId":"phone"}"#).await.status, 400);
    let named = ask(&server, "dev", r#"{"deviceId":"phone","pairId":"second"}"#).await;
    assert_eq!(named.status, 200);
    assert_eq!(ask(&server, "dev", r#"{"deviceId":"mac"}"#).await.json()["pairId"], "demo");
}

#[tokio::test]
async fn no_login_is_401() {
    let server = server(|_| {}).await;
    let body = r#"{"deviceId":"phone"}"#;
    let refused = ask(&server, "wrong", body).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let line = format!("POST {TOKEN_PATH}");
    for headers in [&[][..], &["Authorization: Basic ZGV2"], &["Authorization: dev"]] {
        let answer = request(server.local_addr(), &line, headers, body).await;
        assert_eq!(answer.status, 401, "{headers:?}");
    }
}

#[tokio::test]
async fn pairs_of_others_are_403_and_look_like_none() {
    let server = server(|_| {}).await;
    let theirs = Pair::active("theirs", "other-user", "phone", "their-mac", 1);
    server.store().add(&theirs).await.unwrap();
    server.store().add(&Pair::active("old", "dev-user", "phone", "old-mac", 1)).await.unwrap();
    server.store().revoke(&"old".into(), 2).await.unwrap();
    let mut bodies = Vec::new();
    for body in [
        r#"{"deviceId":"phone","pairId":"theirs"}"#,
        r#"{"deviceId":"phone","pairId":"nothing"}"#,
        r#"{"deviceId":"phone","pairId":"old"}"#,
        r#"{"deviceId":"tv","pairId":"demo"}"#,
        r#"{"deviceId":"tv"}"#,
        r#"{"deviceId":"their-mac"}"#,
    ] {
        let answer = ask(&server, "dev", body).await;
        assert_eq!(answer.status, 403, "{body}");
        bodies.push(answer.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the answers can be told apart: {bodies:?}");
}

#[tokio::test]
async fn too_many_requests_are_429_by_user_and_by_address() {
    let rare = Rate::new(2, Duration::from_hours(1));
    let often = Rate::new(1000, Duration::from_millis(1));
    for (rates, logins) in [
        (TokenRates { per_user: rare, per_address: often }, ["dev", "dev"]),
        (TokenRates { per_user: often, per_address: rare }, ["wrong", "wrong"]),
    ] {
        let server = server(|config| config.token_rates = Some(rates)).await;
        for login in logins {
            assert_ne!(ask(&server, login, r#"{"deviceId":"phone"}"#).await.status, 429);
        }
        let refused = ask(&server, "dev", r#"{"deviceId":"phone"}"#).await;
        assert_eq!(refused.status, 429);
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=3600).contains(&wait), "{wait}");
    }
}

#[tokio::test]
async fn a_store_that_is_down_is_503() {
    let store = SqlitePairs::in_memory().await.unwrap();
    let server = server(|config| config.store = Arc::new(store.clone())).await;
    let status = async |line| request(server.local_addr(), line, &[], "").await.status;
    assert_eq!(status("GET /readyz").await, 200);
    store.close().await;
    assert_eq!(status("GET /readyz").await, 503);
    assert_eq!(status("GET /healthz").await, 200, "alive all the same: a restart would not help");
    for body in [r#"{"deviceId":"phone","pairId":"demo"}"#, r#"{"deviceId":"phone"}"#] {
        let answer = ask(&server, "dev", body).await;
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn turn_comes_with_credentials_that_outlast_the_token() {
    let listed = IceServer { urls: vec!["stun:s:1".into()], username: None, credential: None };
    let turn = TurnAdvert::at("[::1]", 3478, Secret::from("shared"));
    let server = server(|config| {
        config.ice_servers = vec![listed.clone()];
        config.turn = Some(turn);
        config.token_ttl_s = 20;
    })
    .await;
    let answer = ask(&server, "dev", r#"{"deviceId":"phone"}"#).await.json();
    let answer: TokenAnswer = serde_json::from_value(answer).unwrap();
    assert_eq!(answer.expires_in, 20);
    let [first, stun, turn] = answer.ice_servers.as_slice() else { panic!("{answer:?}") };
    assert_eq!(*first, listed);
    assert_eq!((&stun.urls[..], &stun.username), (&["stun:[::1]:3478".to_owned()][..], &None));
    assert_eq!(turn.urls, ["turn:[::1]:3478?transport=udp", "turn:[::1]:3478?transport=tcp"]);
    let secrets = TurnSecrets { current: Secret::from("shared"), previous: None };
    let (username, credential) =
        (turn.username.as_ref().unwrap(), turn.credential.as_ref().unwrap());
    let later = unix_now() + 3500;
    assert_eq!(secrets.verify(username, credential, later), Ok(()), "good for an hour");
    assert!(username.ends_with(":phone"));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_and_metrics_count() {
    let server = server(|config| {
        config.extra_metrics = Some(Arc::new(|text: &mut String| text.push_str("extra 1\n")));
    })
    .await;
    let addr = server.local_addr();
    assert_eq!(request(addr, "GET /nothing", &[], "").await.status, 404);
    assert_eq!(request(addr, &format!("GET {TOKEN_PATH}"), &[], "").await.status, 405);
    ask(&server, "dev", r#"{"deviceId":"phone"}"#).await;
    ask(&server, "wrong", r#"{"deviceId":"phone"}"#).await;
    let metrics = request(addr, "GET /metrics", &[], "").await;
    assert!(metrics.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for line in [
        "orion_token_answers_total{status=\"200\"} 1",
        "orion_token_answers_total{status=\"401\"} 1",
        "orion_signaling_sockets 0",
        "extra 1",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line}\n{}", metrics.body);
    }
}

#[tokio::test]
async fn without_a_login_check_there_is_no_token_api() {
    let server = server(|config| config.login = None).await;
    let line = format!("POST {TOKEN_PATH}");
    assert_eq!(request(server.local_addr(), &line, &[], "{}").await.status, 404);
}
