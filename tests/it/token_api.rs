//! The token API: every status of the contract, and the contents of a successful response.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use orion_peer::{
    auth::{secret::Secret, turn_rest::TurnSecrets, unix_now},
    pairs::{Pair, PairStore, sqlite::SqlitePairs},
    proto::token::{IceServer, TokenAnswer},
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH, TokenRates, TurnAdvert},
    signaling::{server::Origins, server::limits::Rate},
};
use tokio::net::TcpListener;

use crate::{
    raw_http::{Answer, HANG, request},
    slow_store::Slow,
};

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
async fn a_successful_response_contains_a_token_for_the_pair() {
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
    let duplicate = r#"{"deviceId":"phone","deviceId":"mac"}"#;
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"deviceId":7}"#,
        r#"{"deviceId":""}"#,
        r#"{"deviceId":"a\u0000b"}"#,
        r#"{"deviceId":"a\nb"}"#,
        r#"{"deviceId":"\ud800"}"#,
        r#"{"deviceId":"phone","pairId":"a\u0000b"}"#,
        r#"{"deviceId":"phone","pairId":""}"#,
        duplicate,
        &long,
        &huge,
        &"[".repeat(10_000),
    ] {
        assert_eq!(ask(&server, "dev", body).await.status, 400, "{body}");
    }
    assert_eq!(ask(&server, "dev", r#"{"deviceId":"phone"}"#).await.status, 200);
}

#[tokio::test]
async fn a_device_with_several_pairs_must_name_one() {
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
async fn pairs_of_others_are_403_like_unknown_ones() {
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
    assert_eq!(bodies.len(), 1, "the responses differ: {bodies:?}");
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
    // The last result is reused for a second.
    let noticed = async {
        while status("GET /readyz").await != 503 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(HANG, noticed).await.expect("it stays ready");
    assert_eq!(status("GET /healthz").await, 200, "still alive: a restart would not help");
    for body in [r#"{"deviceId":"phone","pairId":"demo"}"#, r#"{"deviceId":"phone"}"#] {
        let answer = ask(&server, "dev", body).await;
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
    }
}

#[tokio::test]
async fn turn_servers_have_credentials_that_outlast_the_token() {
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
    assert_eq!(secrets.verify(username, credential, later), Ok(()), "valid for an hour");
    assert!(username.ends_with(":phone"));
}

#[tokio::test]
async fn other_paths_and_methods_are_rejected_and_responses_are_counted() {
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

#[tokio::test]
async fn readiness_queries_are_not_concurrent() {
    // The server also queries it on startup.
    let slow = Slow::new(1000, 1).await;
    let server = server(|config| config.store = Arc::clone(&slow) as Arc<dyn PairStore>).await;
    assert_eq!(slow.ready.asked.load(Ordering::SeqCst), 1);
    let ask = async || request(server.local_addr(), "GET /readyz", &[], "").await.status;
    let many = futures_util::future::join_all((0..50).map(|_| ask()));
    let release = async {
        while slow.ready.asked.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // The other requests are waiting by now, or arrive later.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let in_flight = slow.ready.asked.load(Ordering::SeqCst);
        slow.ready.gate.add_permits(1000);
        in_flight
    };
    let (answers, in_flight) = tokio::join!(many, release);
    assert_eq!(in_flight, 2, "one query at a time");
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    let started = tokio::time::Instant::now();
    let before = slow.ready.asked.load(Ordering::SeqCst);
    for _ in 0..50 {
        assert_eq!(ask().await, 200);
    }
    // However slow this machine is: one query per second, and one at each end.
    let maximum = started.elapsed().as_secs() as usize + 2;
    let more = slow.ready.asked.load(Ordering::SeqCst) - before;
    assert!(more <= maximum, "{more} queries, at most {maximum} expected");
}

#[tokio::test]
async fn a_development_server_accepts_only_names_of_this_machine() {
    let dev = server(|_| {}).await;
    let addr = dev.local_addr();
    let token = dev.verifier().mint("phone".into(), "demo".into(), unix_now(), 60).unwrap().0;
    let bearer = format!("Authorization: Bearer {token}");
    let upgrade = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &bearer,
    ];
    let statuses = async |addr: SocketAddr, host: &str| {
        let host = format!("Host: {host}");
        let body = r#"{"deviceId":"phone"}"#;
        let post = format!("POST {TOKEN_PATH}");
        let login = ["Authorization: Bearer dev", host.as_str()];
        let mut seen = vec![request(addr, &post, &login, body).await];
        seen.push(request(addr, "GET /api/signal", &[&upgrade[..], &[&host]].concat(), "").await);
        for line in ["GET /metrics", "GET /readyz", "GET /nowhere"] {
            seen.push(request(addr, line, &[&host], "").await);
        }
        seen
    };
    let port = addr.port();
    for own in ["localhost", &format!("localhost:{port}"), &addr.to_string(), "[::1]:9000"] {
        let seen: Vec<u16> = statuses(addr, own).await.iter().map(|one| one.status).collect();
        assert_eq!(seen, [200, 101, 200, 200, 404], "{own}");
    }
    for foreign in [&format!("rebound.example:{port}"), "localhost.evil.example", "192.0.2.1", ""] {
        for answer in statuses(addr, foreign).await {
            assert_eq!(answer.status, 421, "{foreign}: {answer:?}");
            assert_eq!(answer.json()["code"], "wrong-host");
            assert!(!answer.body.contains("example"), "{answer:?}");
        }
    }
    // A server with real users accepts any host.
    let real = server(|config| config.listener.this_machine_only = false).await;
    let answers = statuses(real.local_addr(), "signal.example").await;
    assert_eq!(answers[0].status, 200);
}

/// A browser sends a preflight request before a page may send a login token, and lets the page read the response
/// only if the server allows it.
#[tokio::test]
async fn pages_that_may_open_a_socket_may_request_a_token() {
    let page = "https://app.example";
    let server = server(|config| {
        config.signaling.origins = Origins::Listed(vec![page.into()]);
    })
    .await;
    for (origin, allowed) in [(page, true), ("https://other.example", false), ("null", false)] {
        let origin_line = format!("Origin: {origin}");
        let asked = [
            origin_line.as_str(),
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,content-type",
        ];
        let line = format!("OPTIONS {TOKEN_PATH}");
        let answer = request(server.local_addr(), &line, &asked, "").await;
        assert_eq!(answer.status, 204, "{answer:?}");
        let named = allowed.then_some(origin);
        assert_eq!(answer.header("access-control-allow-origin"), named, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-methods"), allowed.then_some("POST"));
        let headers = answer.header("access-control-allow-headers");
        assert_eq!(headers, allowed.then_some("authorization, content-type"));
        assert_eq!(answer.header("vary"), Some("Origin"));
        for (login, status) in [("dev", 200), ("wrong", 401)] {
            let login = format!("Authorization: Bearer {login}");
            let headers = [origin_line.as_str(), &login, "Content-Type: application/json"];
            let line = format!("POST {TOKEN_PATH}");
            let body = r#"{"deviceId":"phone"}"#;
            let answer = request(server.local_addr(), &line, &headers, body).await;
            assert_eq!(answer.status, status, "{answer:?}");
            assert_eq!(answer.header("access-control-allow-origin"), named, "{answer:?}");
        }
    }
}
