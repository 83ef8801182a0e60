//! `samples/openapi.json` matches the server's actual responses: each status of each route is checked against
//! its schema and headers.

use std::{sync::Arc, time::Duration};

use orion_peer::{
    auth::secret::Secret,
    pairs::sqlite::SqlitePairs,
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH, TokenRates, TurnAdvert},
    signaling::server::limits::Rate,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::raw_http::{Answer, request};

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Resolves a `$ref`.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).expect(reference),
        None => value,
    }
}

fn assert_valid(document: &Value, schema: &Value, instance: &Value, what: &str) {
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let errors: Vec<String> =
        validator.iter_errors(instance).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{what}: {errors:?}");
}

/// Checks a response against its description in the document.
fn assert_described(path: &str, method: &str, answer: &Answer) {
    let document = document();
    let what = format!("{method} {path} {}", answer.status);
    let responses = &document["paths"][path][method]["responses"];
    let described = resolved(&document, &responses[answer.status.to_string()]);
    assert!(described.is_object(), "{what} is not described");
    for (name, header) in described["headers"].as_object().into_iter().flatten() {
        match answer.header(&name.to_ascii_lowercase()) {
            Some(value) => {
                let value = value.parse::<u64>().map_or_else(|_| json!(value), Value::from);
                assert_valid(&document, &header["schema"], &value, &what);
            }
            None => assert_ne!(header["required"], true, "{what} has no {name}"),
        }
    }
    let kind = answer.header("content-type").unwrap().split(';').next().unwrap();
    let content = &described["content"][kind]["schema"];
    assert!(content.is_object(), "{what}: {kind} is not described");
    let body = if kind == "application/json" { answer.json() } else { json!(answer.body) };
    assert_valid(&document, content, &body, &what);
}

async fn server(change: impl FnOnce(&mut ServerConfig)) -> RunningServer {
    let mut config = ServerConfig::dev().await.unwrap();
    config.turn = Some(TurnAdvert::at("192.0.2.7", 3478, Secret::from("shared")));
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(config, listener).await.unwrap()
}

async fn ask(server: &RunningServer, login: &str, body: &str) -> u16 {
    let headers = [format!("Authorization: Bearer {login}")];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let line = format!("POST {TOKEN_PATH}");
    let answer = request(server.local_addr(), &line, &headers, body).await;
    assert_described(TOKEN_PATH, "post", &answer);
    answer.status
}

#[tokio::test]
async fn responses_match_the_document() {
    let server = server(|_| {}).await;
    for (login, body, status) in [
        ("dev", r#"{"deviceId":"phone"}"#, 200),
        ("dev", r#"{"deviceId":"phone","pairId":null}"#, 200),
        ("dev", "{", 400),
        ("dev", r#"{"deviceId":""}"#, 400),
        ("wrong", r#"{"deviceId":"phone"}"#, 401),
        ("dev", r#"{"deviceId":"stranger"}"#, 403),
    ] {
        assert_eq!(ask(&server, login, body).await, status, "{body}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = request(server.local_addr(), &format!("GET {path}"), &[], "").await;
        assert_described(path, "get", &answer);
    }
}

#[tokio::test]
async fn temporary_rejections_match_the_document() {
    let once = Rate::new(1, Duration::from_hours(1));
    let rates = TokenRates { per_address: once, per_user: once };
    let busy = server(|config| config.token_rates = Some(rates)).await;
    assert_eq!(ask(&busy, "dev", r#"{"deviceId":"phone"}"#).await, 200);
    assert_eq!(ask(&busy, "dev", r#"{"deviceId":"phone"}"#).await, 429);
    let store = SqlitePairs::in_memory().await.unwrap();
    let down = server(|config| config.store = Arc::new(store.clone())).await;
    store.close().await;
    assert_eq!(ask(&down, "dev", r#"{"deviceId":"phone"}"#).await, 503);
    let health = request(down.local_addr(), "GET /healthz", &[], "").await;
    assert_eq!(health.status, 200);
    assert_described("/healthz", "get", &health);
    let health = request(down.local_addr(), "GET /readyz", &[], "").await;
    assert_eq!(health.status, 503);
    assert_described("/readyz", "get", &health);
}

#[test]
fn example_requests_match_the_document() {
    let document = document();
    let body = &document["paths"][TOKEN_PATH]["post"]["requestBody"]["content"]["application/json"];
    for (name, example) in body["examples"].as_object().unwrap() {
        assert_valid(&document, &body["schema"], &example["value"], name);
    }
}
