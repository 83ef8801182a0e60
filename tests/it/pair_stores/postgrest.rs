//! Supabase's REST interface and its failures, with a stub that interprets `PostgREST`'s filters.

mod stub;

use std::{sync::Arc, time::Duration};

use orion_peer::pairs::{StoreError, cache::Cached};

use self::stub::{Mode, READER_KEY, SERVICE_KEY, Stub};
use super::{at_once, command_line, open, pair, sockets::Rig, suite, uuid};
use crate::raw_http::HANG;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supabase() {
    let stub = Stub::start().await;
    suite(&*open(&stub.url, SERVICE_KEY).await).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), SERVICE_KEY).unwrap();
    let url = stub.url.clone();
    let done = tokio::task::spawn_blocking(move || {
        command_line(dir.path(), &["--db", &url, "--db-key", "@key"]);
    });
    done.await.unwrap();
}

#[tokio::test]
async fn a_read_only_key_gets_an_error_for_writes() {
    let stub = Stub::start().await;
    let (service, reader) = (open(&stub.url, SERVICE_KEY).await, open(&stub.url, READER_KEY).await);
    service.add(&pair(1, "phone", "mac")).await.unwrap();
    assert!(reader.active_pair(&uuid(1).as_str().into()).await.unwrap().is_some());
    for refused in [
        reader.add(&pair(2, "phone", "mac-2")).await,
        reader.revoke(&uuid(1).as_str().into(), 1).await.map(|_| ()),
    ] {
        let Err(StoreError::Query { cause, .. }) = refused else { panic!("{refused:?}") };
        assert!(cause.contains("use the service key"), "{cause}");
    }
}

#[tokio::test]
async fn failures_are_reported_without_the_key() {
    let stub = Stub::start().await;
    let store = open(&stub.url, SERVICE_KEY).await;
    store.add(&pair(1, "phone", "mac")).await.unwrap();
    let missing = r#"{"code":"PGRST205","message":"no such table","details":null,"hint":null}"#;
    for (mode, words) in [
        (Mode::Answer(401, r#"{"message":"Invalid API key"}"#), "check --db-key"),
        (Mode::Answer(404, missing), "serve pairs migrate"),
        (Mode::Answer(404, "<html>"), "check --db"),
        (Mode::Answer(500, "oh"), "HTTP 500"),
        (Mode::Answer(503, r#"{"code":"PGRST002","message":"no database"}"#), "no database"),
        (Mode::Answer(429, ""), "too many"),
        (Mode::Answer(200, "<html>hello"), "not a list of rows"),
        (Mode::Answer(200, r#"{"id":1}"#), "not a list of rows"),
        (Mode::Answer(200, r#"[{"id":"x"}]"#), "not a list of rows"),
        (Mode::Answer(200, ""), "not a list of rows"),
        (Mode::Redirect, "redirects are not followed"),
        (Mode::Huge, "the response is larger than"),
        (Mode::Cut, "the connection broke"),
        (Mode::Slow, "timed out after"),
    ] {
        let name = format!("{mode:?}");
        stub.set(mode);
        let error = store.active_pair(&uuid(1).as_str().into()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{name}: {error}");
        assert!(!error.contains(SERVICE_KEY) && !error.contains(&uuid(1)), "{name}: {error}");
        assert!(store.ready().await.is_err() || name.contains(r#"\"x\""#), "{name}");
    }
    assert_eq!(stub.redirected(), 0, "the key was sent along a redirect");
    stub.set(Mode::Rows);
    assert!(store.active_pair(&uuid(1).as_str().into()).await.unwrap().is_some());
    let error = open(&stub.url, "sb_secret_other").await.ready().await.unwrap_err().to_string();
    assert!(error.contains("check --db-key") && !error.contains("sb_secret"), "{error}");
}

/// Errors about a value affect one request only: those of `PostgREST` with a code of the database, and a 4xx
/// from any proxy in front of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_value_of_one_client_is_not_an_outage_for_others() {
    let stub = Stub::start().await;
    let store = open(&stub.url, SERVICE_KEY).await;
    store.add(&pair(1, "phone", "mac")).await.unwrap();
    let rig = Rig::start(Arc::new(Cached::new(store, HANG)), HANG, &uuid(1)).await;
    rig.other_clients_are_not_affected().await;
    let nul = r#"{"code":"22021","message":"invalid byte sequence for encoding","details":null}"#;
    let filter = r#"{"code":"PGRST100","message":"failed to parse filter"}"#;
    for (number, mode) in [
        Mode::Answer(400, nul),
        Mode::Answer(500, nul),
        Mode::Answer(409, r#"{"code":"23503","message":"violates"}"#),
        Mode::Answer(400, filter),
        Mode::Answer(400, "<html>nginx"),
        Mode::Answer(414, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{mode:?}");
        stub.set(mode);
        let odd = serde_json::json!({"deviceId": format!("odd-{number}")});
        assert_eq!(rig.ask_with(&odd).await, 400, "{name}");
        stub.set(Mode::Rows);
        // Immediately, without a pause.
        assert_eq!((rig.ask().await, rig.knock("tv").await), (200, 403), "{name}");
    }
    let column = r#"{"code":"42703","message":"column does not exist"}"#;
    for mode in [Mode::Answer(400, column), Mode::Answer(401, ""), Mode::Answer(429, "")] {
        let name = format!("{mode:?}");
        stub.set(mode);
        let asked = serde_json::json!({"deviceId": "another"});
        assert_eq!(rig.ask_with(&asked).await, 503, "{name}: for every request");
        stub.set(Mode::Rows);
        while rig.ask().await != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_many_concurrent_operations_succeeds() {
    let stub = Stub::start().await;
    let mut stores = Vec::new();
    for _ in 0..4 {
        stores.push(open(&stub.url, SERVICE_KEY).await);
    }
    at_once::suite(&stores).await;
}

/// A response to another query must not open a room.
#[tokio::test]
async fn another_pair_in_the_response_is_rejected() {
    let stub = Stub::start().await;
    let store = open(&stub.url, SERVICE_KEY).await;
    let row = |id: &str, status: &str| {
        format!(
            r#"[{{"id":"{id}","user_id":"u","mac_device_id":"m","ios_device_id":"i",
            "status":"{status}","created_at":"2024-01-01T00:00:00+00:00","revoked_at":null}}]"#
        )
    };
    for body in [row(&uuid(2), "active"), row(&uuid(1), "revoked"), row(&uuid(1), "odd")] {
        stub.set(Mode::Answer(200, String::leak(body.clone())));
        assert!(store.active_pair(&uuid(1).as_str().into()).await.is_err(), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_and_a_revocation_on_live_sockets() {
    let stub = Stub::start().await;
    let store = open(&stub.url, SERVICE_KEY).await;
    store.add(&pair(1, "phone", "mac")).await.unwrap();
    let cached = Arc::new(Cached::new(Arc::clone(&store), HANG));
    let rig = Rig::start(cached, Duration::from_millis(100), &uuid(1)).await;
    let (mut phone, mut mac) = rig.both().await;
    for mode in [Mode::Answer(500, ""), Mode::Slow] {
        stub.set(mode);
        rig.until(503, "tv").await;
        rig.reaches(&mut phone, &mut mac).await;
        stub.set(Mode::Rows);
        while rig.knock("tv").await != 403 || rig.ask().await != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        rig.reaches(&mut phone, &mut mac).await;
    }
    assert!(store.revoke(&uuid(1).as_str().into(), 1_800_000_000).await.unwrap());
    phone.is_revoked().await;
    mac.is_revoked().await;
    assert_eq!(rig.knock("phone").await, 403);
}
