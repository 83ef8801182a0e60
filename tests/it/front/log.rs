//! The log of `serve`: one event per line, and never a secret, SDP, candidate or token, at any log level.

use orion_peer::auth::{
    jws::{Key, SigningKeys},
    secret::Secret,
    unix_now,
};
use serde_json::{Value, json};

use super::{Client, ask};
use crate::run::{Running, start};

const JWT_SECRET: &str = "jwt-secret-0123456789abcdef0123456789";
const LOGIN_SECRET: &str = "login-secret-0123456789abcdef01234567";
const TURN_SECRET: &str = "turn-secret-0123456789abcdef";
const SDP: &str = "v=0 secret-sdp-ice-pwd";
const CANDIDATE: &str = "candidate:1 1 udp 1 192.0.2.77 50000 typ host";

fn serve(dir: &std::path::Path, more: &[&str]) -> Running {
    for (name, secret) in [("jwt", JWT_SECRET), ("login", LOGIN_SECRET), ("turn", TURN_SECRET)] {
        std::fs::write(dir.join(name), secret).unwrap();
    }
    let words = [
        "serve",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--turn-listen",
        "127.0.0.1:0",
        "--db",
        "pairs.db",
        "--add-pair",
        "demo:phone:mac:user-1",
        "--jwt-secret",
        "@jwt",
        "--login-secret",
        "@login",
        "--turn-secret",
        "@turn",
        "--allow-query-token",
        "--drain",
        "0s",
    ];
    start(dir, &[&words[..], more].concat())
}

fn login() -> String {
    let key = Key::hs256("login", &Secret::from(LOGIN_SECRET)).unwrap();
    let now = unix_now();
    let claims = json!({
        "sub": "user-1", "aud": "authenticated", "role": "authenticated", "iat": now,
        "exp": now + 3600,
    });
    SigningKeys::new(vec![key]).unwrap().sign(claims.to_string().as_bytes()).unwrap()
}

/// Sends valid and invalid requests to every route; returns everything that must not be logged.
async fn drive(address: std::net::SocketAddr) -> Vec<String> {
    let login = login();
    let mut secrets: Vec<String> =
        [JWT_SECRET, LOGIN_SECRET, TURN_SECRET, SDP, CANDIDATE, "wrong-login", "wrong-token"]
            .map(str::to_owned)
            .to_vec();
    secrets.push(login.clone());
    let mut tokens = Vec::new();
    for device in ["phone", "mac", "tv"] {
        for bearer in [login.as_str(), "wrong-login"] {
            let headers =
                [&*format!("Authorization: Bearer {bearer}"), "X-Request-Id: wrong-token"];
            let body = json!({"deviceId": device, "note": SDP}).to_string();
            let answer = ask(address, None, "POST /api/auth/webrtc-token", &headers, &body).await;
            if answer.status == 200 {
                let answer = answer.json();
                tokens.push(answer["token"].as_str().unwrap().to_owned());
                for server in answer["iceServers"].as_array().unwrap() {
                    secrets.extend(server["credential"].as_str().map(str::to_owned));
                }
            }
        }
    }
    assert_eq!(tokens.len(), 2);
    secrets.extend(tokens.iter().cloned());
    for line in [
        "GET /api/signal?token=wrong-token".to_owned(),
        format!("GET /api/signal?token={}", tokens[0]),
        format!("GET /{}", tokens[0]),
        "GET /healthz".to_owned(),
        "GET /readyz".to_owned(),
        "GET /metrics".to_owned(),
        "BREW /api/signal".to_owned(),
    ] {
        ask(address, None, &line, &["Authorization: Bearer wrong-token"], "").await;
    }
    let upgrade = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    for token in ["wrong-token", "a.b.c"] {
        let protocols = format!("Sec-WebSocket-Protocol: orion.v1, bearer.{token}");
        let headers = [&upgrade[..], &[&protocols]].concat();
        assert_eq!(ask(address, None, "GET /api/signal", &headers, "").await.status, 401);
    }
    talk(address, &tokens).await;
    secrets
}

/// Sends one message of each kind, then invalid ones.
async fn talk(address: std::net::SocketAddr, tokens: &[String]) {
    let mut phone = Client::join(address, None, &tokens[0]).await;
    let mut mac = Client::join(address, None, &tokens[1]).await;
    let candidate = json!({"candidate": CANDIDATE, "sdpMid": "0", "sdpMLineIndex": 0});
    for message in [
        json!({"t": "offer", "pairId": "demo", "sdp": SDP}),
        json!({"t": "ice", "pairId": "demo", "candidate": candidate}),
        json!({"t": SDP, "pairId": "demo"}),
        json!({"t": "offer", "pairId": "demo", "sdp": 7, "note": CANDIDATE}),
        json!({"t": "auth", "pairId": "demo", "token": tokens[0]}),
        json!({"t": "auth", "pairId": "demo", "token": "wrong-token"}),
    ] {
        phone.send(message).await;
    }
    assert_eq!(phone.close_code().await, 4500);
    mac.send(json!({"t": "answer", "pairId": SDP, "sdp": SDP})).await;
    assert_eq!(mac.close_code().await, 4501);
}

/// The log of a whole run, driven through every route.
async fn logged(more: &'static [&'static str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (server, listening) = tokio::task::spawn_blocking(move || {
        let server = serve(&path, more);
        let listening = server.event("listening", 1);
        (server, listening)
    })
    .await
    .unwrap();
    let secrets = drive(listening["address"].as_str().unwrap().parse().unwrap()).await;
    server.signal(rustix::process::Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || server.end()).await.unwrap();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let all = [ended.stderr.as_str(), &ended.stdout.join("\n")].concat();
    for secret in &secrets {
        // Also the parts of a token: its claims alone identify a user.
        let parts = secret.split('.').filter(|part| part.len() > 12 || !secret.contains("eyJ"));
        for part in parts.chain([secret.as_str()]).filter(|part| part.len() > 8) {
            assert!(!all.contains(part), "`{part}` is in the log:\n{all}");
        }
    }
    assert!(ended.stderr.contains("socket closed"), "{}", ended.stderr);
    ended.stderr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_lines_contain_no_secrets_and_link_a_socket_to_its_request() {
    let log = logged(&["--log-format", "json"]).await;
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for key in ["time", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
    let of = |message: &'static str| lines.iter().filter(move |line| line["message"] == message);
    let opened = of("socket opened").next().unwrap();
    let request = opened["request"].as_str().unwrap();
    let answered: Vec<&Value> = of("answered").filter(|line| line["request"] == request).collect();
    assert_eq!(answered.len(), 1, "{opened}");
    assert_eq!(
        (&answered[0]["route"], &answered[0]["status"], &answered[0]["client"]),
        (&json!("signal"), &json!(101), &json!("127.0.0.1"))
    );
    let other = of("answered").find(|line| line["method"] == "other").unwrap();
    assert_eq!(other["status"], 405, "{other}");
    let closed = of("socket closed").find(|line| line["conn"] == opened["conn"]).unwrap();
    assert_eq!(closed["code"], "4500", "{closed}");
    assert!(of("handshake rejected").all(|line| line["request"].is_string()));
    assert!(of("listening").next().is_some() && of("shutting down").next().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_verbose_log_contains_no_secrets() {
    let text = logged(&["--log-format", "text", "-vvvv"]).await;
    assert!(text.lines().any(|line| line.contains("DEBUG")), "everything is logged");
    let json = logged(&["--log-format", "json", "-vvvv"]).await;
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
}
