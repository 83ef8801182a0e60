//! Twilio's ICE servers in token responses: fetched in advance, renewed, and omitted when that fails.

use std::{process::Command, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use orion_peer::{
    auth::{
        secret::Secret,
        twilio::{MAX_TTL, Twilio, TwilioError},
        unix_now,
    },
    proto::token::TokenAnswer,
    server::{Server, ServerConfig, TOKEN_PATH, twilio::TwilioServers},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::stub::{Said, Stub};
use crate::raw_http::request;

const NOW: u64 = 1_700_000_000;
const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
const KEY: &str = "SK0123456789abcdef0123456789abcdef";

/// A response with the structure of a real one.
fn answer(user: &str, ttl: &str) -> Value {
    let turn = |url: &str| json!({"url": url, "urls": url, "username": user, "credential": format!("hush-{user}")});
    json!({
        "account_sid": ACCOUNT,
        "date_created": "Fri, 01 May 2026 01:42:57 +0000",
        "date_updated": "Fri, 01 May 2026 01:42:57 +0000",
        "ice_servers": [
            {"url": "stun:global.stun.twilio.com:3478", "urls": "stun:global.stun.twilio.com:3478"},
            turn("turn:global.turn.twilio.com:3478?transport=udp"),
            turn("turn:global.turn.twilio.com:3478?transport=tcp"),
            turn("turn:global.turn.twilio.com:443?transport=tcp"),
        ],
        "password": format!("hush-{user}"),
        "ttl": ttl,
        "username": user,
    })
}

fn refusal(status: u16, code: u64) -> Said {
    Said::new(
        status,
        json!({
            "code": code, "detail": "hush", "message": "hush", "status": status,
            "more_info": format!("https://www.twilio.com/docs/errors/{code}"),
        }),
    )
}

fn twilio(stub: &Stub) -> Twilio {
    Twilio::new(&stub.url(""), ACCOUNT, Some(KEY), Secret::from("hush"))
        .and_then(|twilio| twilio.within(Duration::from_millis(500)))
        .unwrap()
}

async fn service() -> (Stub, TwilioServers) {
    let stub = Stub::start(Said::new(201, answer("one", "86400"))).await;
    let servers = TwilioServers::new(twilio(&stub), MAX_TTL);
    (stub, servers)
}

#[tokio::test]
async fn request_and_response_match_twilios_api() {
    let (stub, _) = service().await;
    let lease = twilio(&stub).fetch(Duration::from_hours(2)).await.unwrap();
    assert_eq!(lease.ttl, MAX_TTL, "the lifetime in the response takes precedence");
    assert_eq!(lease.servers.len(), 4);
    assert_eq!(lease.servers[0].urls, ["stun:global.stun.twilio.com:3478"]);
    assert_eq!(lease.servers[0].username, None);
    assert_eq!(lease.servers[3].urls, ["turn:global.turn.twilio.com:443?transport=tcp"]);
    assert_eq!(lease.servers[3].username.as_deref(), Some("one"));
    assert_eq!(lease.servers[3].credential.as_deref(), Some("hush-one"));
    let asked = &stub.asked()[0];
    assert_eq!(asked.line, format!("POST /2010-04-01/Accounts/{ACCOUNT}/Tokens.json"));
    assert_eq!(asked.body, "Ttl=7200");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    let login = asked.headers["authorization"].to_str().unwrap();
    assert_eq!(login, format!("Basic {}", STANDARD.encode(format!("{KEY}:hush"))));
    let by_token = Twilio::new(&stub.url(""), ACCOUNT, None, Secret::from("hush")).unwrap();
    by_token.fetch(MAX_TTL).await.unwrap();
    let login = stub.asked()[1].headers["authorization"].to_str().unwrap().to_owned();
    assert_eq!(login, format!("Basic {}", STANDARD.encode(format!("{ACCOUNT}:hush"))));
}

#[tokio::test]
async fn other_forms_are_accepted_and_garbage_is_not() {
    let (stub, _) = service().await;
    for servers in [
        json!([{"url": "stun:s:1"}]),
        json!([{"urls": ["stun:s:1", "http://no.example"]}]),
        json!([{"urls": "stun:s:1"}, {"urls": "turn:t:1"}, {}]),
    ] {
        stub.say(Said::new(201, json!({"ttl": 3600, "ice_servers": servers})));
        let lease = twilio(&stub).fetch(MAX_TTL).await.unwrap();
        assert_eq!(lease.ttl, Duration::from_hours(1));
        assert_eq!(lease.servers.len(), 1);
        assert_eq!(lease.servers[0].urls, ["stun:s:1"]);
    }
    for body in [
        "<html>hush</html>".to_owned(),
        "{}".into(),
        json!({"ttl": "86400", "ice_servers": []}).to_string(),
        json!({"ttl": "86400", "ice_servers": [{"urls": "turn:t:1"}]}).to_string(),
        json!({"ttl": "86400", "ice_servers": [{"urls": 7, "credential": "hush"}]}).to_string(),
        answer("x", "soon").to_string(),
        answer("x", "0").to_string(),
        answer("x", "-1").to_string(),
        answer("x", "864000").to_string(),
        format!("{}{}", answer("x", "86400"), " ".repeat(70_000)),
    ] {
        stub.say(Said::new(201, &body));
        let error = twilio(&stub).fetch(MAX_TTL).await.unwrap_err();
        assert!(matches!(error, TwilioError::Answer(_)), "{body:.80}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
    }
}

#[tokio::test]
async fn failures_are_distinguished_and_show_no_secret() {
    let (stub, _) = service().await;
    let limited = Said { headers: vec![("Retry-After", "7".into())], ..refusal(429, 20429) };
    let slow = Said { pause: Duration::from_secs(20), ..Said::new(201, answer("one", "86400")) };
    for (said, error) in [
        (refusal(401, 20003), TwilioError::Refused { status: 401, code: Some(20003) }),
        (refusal(404, 20404), TwilioError::Refused { status: 404, code: Some(20404) }),
        (Said::new(403, "hush"), TwilioError::Refused { status: 403, code: None }),
        (limited, TwilioError::Limited(Duration::from_secs(7))),
        (refusal(429, 20429), TwilioError::Limited(Duration::from_mins(1))),
        (refusal(500, 20500), TwilioError::Failed { status: 500, code: Some(20500) }),
        (Said::new(503, "hush"), TwilioError::Failed { status: 503, code: None }),
        (Said::new(200, answer("one", "1")), TwilioError::Failed { status: 200, code: None }),
        (slow, TwilioError::Unreachable("request timed out".into())),
    ] {
        stub.say(said);
        let found = twilio(&stub).fetch(MAX_TTL).await.unwrap_err();
        assert_eq!(found, error);
        assert!(!format!("{found} {found:?} {:?}", twilio(&stub)).contains("hush"));
        assert!(!found.remedy().is_empty());
    }
    let unreachable = Twilio::new("http://127.0.0.1:1", ACCOUNT, None, Secret::from("s")).unwrap();
    assert!(matches!(unreachable.fetch(MAX_TTL).await, Err(TwilioError::Unreachable(_))));
    let new = |base: &str, account: &str| Twilio::new(base, account, None, Secret::from("s"));
    assert!(matches!(new("http://api.example", ACCOUNT), Err(TwilioError::Url(_))));
    for account in ["", KEY, "AC12", "AC0123456789abcdef0123456789abcdeg"] {
        assert!(matches!(new("https://a.example", account), Err(TwilioError::Account(_))));
    }
}

#[tokio::test]
async fn servers_are_renewed_after_half_their_lifetime_and_never_by_a_request() {
    let (stub, servers) = service().await;
    servers.renew_if_due(NOW).await.unwrap();
    for _ in 0..100 {
        assert_eq!(servers.servers(NOW + 10).len(), 4);
    }
    servers.renew_if_due(NOW + 43_199).await.unwrap();
    assert_eq!(stub.asked().len(), 1);
    stub.say(Said::new(201, answer("two", "86400")));
    servers.renew_if_due(NOW + 43_200).await.unwrap();
    assert_eq!(stub.asked().len(), 2);
    assert_eq!(servers.servers(NOW + 43_200)[1].username.as_deref(), Some("two"));
}

#[tokio::test]
async fn the_last_servers_are_used_until_shortly_before_they_expire() {
    let (stub, servers) = service().await;
    servers.renew_if_due(NOW).await.unwrap();
    stub.say(Said::new(500, ""));
    let mut now = NOW + 43_200;
    assert!(servers.renew_if_due(now).await.is_err());
    let asked = stub.asked().len();
    assert_eq!(servers.renew_if_due(now + 1).await, Ok(()), "not immediately");
    assert_eq!(stub.asked().len(), asked);
    for _ in 0..10 {
        now += 63;
        assert!(servers.renew_if_due(now).await.is_err(), "after a minute at most");
        assert_eq!(servers.servers(now)[1].username.as_deref(), Some("one"));
    }
    assert_eq!(servers.servers(NOW + 86_100).len(), 4, "until a token's lifetime before expiry");
    assert_eq!(servers.servers(NOW + 86_101).len(), 0);
    stub.say(Said::new(201, answer("two", "86400")));
    servers.renew_if_due(NOW + 90_000).await.unwrap();
    assert_eq!(servers.servers(NOW + 90_000)[1].username.as_deref(), Some("two"));
}

#[tokio::test]
async fn the_pause_requested_by_twilio_is_observed() {
    let (stub, servers) = service().await;
    stub.say(Said { headers: vec![("Retry-After", "120".into())], ..refusal(429, 20429) });
    assert!(servers.renew_if_due(NOW).await.is_err());
    assert_eq!(servers.renew_if_due(NOW + 119).await, Ok(()));
    assert_eq!(stub.asked().len(), 1);
    stub.say(refusal(401, 20003));
    assert!(servers.renew_if_due(NOW + 120).await.is_err());
    assert_eq!(servers.renew_if_due(NOW + 419).await, Ok(()));
    assert_eq!(stub.asked().len(), 2, "a rejected request is not repeated soon");
}

#[tokio::test]
async fn token_responses_contain_twilios_servers_or_omit_them() {
    let (stub, servers) = service().await;
    stub.say(refusal(500, 20500));
    let servers = Arc::new(servers);
    let mut config = ServerConfig::dev().await.unwrap();
    config.twilio = Some(Arc::clone(&servers));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(config, listener).await.unwrap();
    let ask = async || {
        let line = format!("POST {TOKEN_PATH}");
        let login = "Authorization: Bearer dev";
        let body = r#"{"deviceId":"phone"}"#;
        let answer = request(server.local_addr(), &line, &[login], body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer: TokenAnswer = serde_json::from_value(answer.json()).unwrap();
        answer.ice_servers
    };
    assert_eq!(ask().await.len(), 0, "no servers, but not a 500");
    stub.say(Said::new(201, answer("one", "86400")));
    for _ in 0..600 {
        if !servers.servers(unix_now()).is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let asked = stub.asked().len();
    for _ in 0..20 {
        assert_eq!(ask().await[1].credential.as_deref(), Some("hush-one"));
    }
    assert_eq!(stub.asked().len(), asked, "token requests cause no request to Twilio");
    let metrics = request(server.local_addr(), "GET /metrics", &[], "").await.body;
    for line in [
        "orion_twilio_fetches_total{result=\"ok\"} 1",
        "orion_twilio_fetches_total{result=\"refused\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
    let without = metrics.lines().find(|line| line.starts_with("orion_twilio_answers_without"));
    assert_ne!(without, Some("orion_twilio_answers_without_total 0"));
}

/// Runs a command with a clean environment in an empty directory.
async fn run(words: &[&str]) -> (Option<i32>, String) {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
            .env_clear()
            .env("ORION_TWILIO_SECRET", "hush")
            .current_dir(dir.path())
            .args(words)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn commands_report_what_is_wrong_with_the_account() {
    let (stub, _) = service().await;
    let url = stub.url("");
    stub.say(refusal(401, 20003));
    let account = ["--twilio-account", ACCOUNT, "--twilio-url", &url];
    let serve = [&["serve", "--listen", "127.0.0.1:0", "--no-turn"][..], &account].concat();
    let doctor = [&["doctor", "--no-signal", "--twilio"][..], &account].concat();
    for (words, code, said) in [
        (serve.clone(), 2, "--twilio-secret"),
        ([&serve[..], &["--twilio-ttl", "30m"]].concat(), 2, "--twilio-ttl"),
        (vec!["serve", "--twilio-account", "AC1"], 2, "not a valid Twilio account"),
        (vec!["serve", "--twilio-key", KEY, "--no-turn"], 2, "--twilio-account"),
        (doctor, 1, "HTTP 401, error 20003"),
        (
            vec!["doctor", "--no-signal", "--twilio", "--twilio-account", "x"],
            2,
            "not a valid Twilio",
        ),
        (vec!["recv", "--out", "x", "--twilio"], 2, "--twilio-account"),
    ] {
        let (status, text) = run(&words).await;
        assert_eq!(status, Some(code), "{words:?}: {text}");
        assert!(text.contains(said), "{words:?}: {text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

#[tokio::test]
async fn doctor_checks_the_servers_of_the_account() {
    let stun = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let there = format!("stun:{}", stun.local_addr().unwrap());
    let (stub, _) = service().await;
    let answer = json!({"ttl": "86400", "ice_servers": [{"url": there, "urls": there}]});
    stub.say(Said::new(201, answer));
    let url = stub.url("");
    let (_, text) = run(&[
        "--json",
        "doctor",
        "--no-signal",
        "--timeout",
        "1s",
        "--twilio",
        "--twilio-account",
        ACCOUNT,
        "--twilio-url",
        &url,
    ])
    .await;
    assert!(text.contains(&there), "{text}");
    assert_eq!(stub.asked()[0].body, "Ttl=86400");
}
