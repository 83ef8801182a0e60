//! A real `PostgreSQL` and a real `PgBouncer`, started on loopback with temporary data.

mod daemon;

use std::{path::Path, sync::Arc, time::Duration};

use orion_peer::pairs::{Hint, PairStore, StoreError, cache::Cached};
use tokio::time::timeout;

use self::daemon::{PASSWORD, PgBouncer, Postgres};
use super::{at_once, command_line, open, pair, sockets::Rig, suite, uuid};
use crate::{
    certificates::Certificates,
    raw_http::HANG,
    run::{run, start},
};

/// No polling for revoked pairs during a test.
const NEVER: Duration = Duration::from_hours(1);

const OFTEN: Duration = Duration::from_millis(100);

/// A database with the migration, applied by the command line.
async fn migrated() -> Postgres {
    let postgres = Postgres::start();
    postgres
        .sql(
            "owner",
            "CREATE ROLE anon LOGIN PASSWORD 'pw'; CREATE ROLE authenticated LOGIN PASSWORD 'pw'",
        )
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pw"), PASSWORD).unwrap();
    let url = postgres.url("owner");
    let before = run(dir.path(), &["serve", "pairs", "list", "--db", &url, "--db-key", "@pw"]);
    assert_eq!(before.code, Some(1), "{}", before.stderr);
    assert!(before.stderr.contains("serve pairs migrate"), "{}", before.stderr);
    let apply = ["serve", "pairs", "migrate", "--apply", "--db", &url, "--db-key", "@pw"];
    for _ in 0..2 {
        let applied = run(dir.path(), &apply);
        assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    }
    postgres.sql("owner", "ALTER ROLE orion_signaling LOGIN PASSWORD 'pw'").await.unwrap();
    postgres
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_owner_has_all_permissions() {
    let postgres = migrated().await;
    let store = open(&postgres.url("owner"), PASSWORD).await;
    suite(&*store).await;
    reading_role(&postgres).await;
    row_level_security(&postgres).await;
    wrong_passwords(&postgres).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pw"), PASSWORD).unwrap();
    command_line(dir.path(), &["--db", &postgres.url("owner"), "--db-key", "@pw"]);
    served(dir.path(), postgres);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_the_database_rejects_do_not_affect_other_clients() {
    let postgres = migrated().await;
    let owner = open(&postgres.url("owner"), PASSWORD).await;
    owner.add(&pair(1, "phone", "mac")).await.unwrap();
    let reader = open(&postgres.url("orion_signaling"), "pw").await;
    let rig = Rig::start(Arc::new(Cached::new(reader, HANG)), NEVER, &uuid(1)).await;
    rig.other_clients_are_not_affected().await;
    // Other values are up to the database: one in Latin-1 cannot store a telephone symbol.
    let latin =
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    postgres.sql("owner", latin).await.unwrap();
    let url = postgres.url("owner");
    let url = format!("{}/latin", url.trim_end_matches("/postgres"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pw"), PASSWORD).unwrap();
    let apply = ["serve", "pairs", "migrate", "--apply", "--db", &url, "--db-key", "@pw"];
    let applied = run(dir.path(), &apply);
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    let latin = open(&url, PASSWORD).await;
    latin.add(&pair(1, "phone", "mac")).await.unwrap();
    let refused = latin.pairs_of(&uuid(1000), &"☎".into()).await;
    assert!(matches!(refused, Err(StoreError::Value { .. })), "{refused:?}");
    let rig = Rig::start(Arc::new(Cached::new(latin, HANG)), NEVER, &uuid(1)).await;
    for _ in 0..3 {
        assert_eq!(rig.ask_with(&serde_json::json!({"deviceId": "☎"})).await, 400);
        assert_eq!((rig.ask().await, rig.knock("tv").await), (200, 403), "immediately");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_many_concurrent_operations_succeeds_and_all_servers_start() {
    let postgres = Postgres::start();
    postgres.sql("owner", "CREATE ROLE anon; CREATE ROLE authenticated").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("pw"), PASSWORD).unwrap();
    let url = postgres.url("owner");
    let db = ["--db", url.as_str(), "--db-key", "@pw"];
    std::thread::scope(|scope| {
        let applying: Vec<_> = (0..4)
            .map(|_| {
                let words = [&["serve", "pairs", "migrate", "--apply"][..], &db].concat();
                let dir = dir.path();
                scope.spawn(move || run(dir, &words))
            })
            .collect();
        for applied in applying {
            let applied = applied.join().unwrap();
            assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        }
    });
    let mut stores = Vec::new();
    for _ in 0..8 {
        stores.push(open(&url, PASSWORD).await);
    }
    at_once::suite(&stores).await;
    for round in 0..3 {
        at_once::servers(dir.path(), &db, round);
    }
    // A read-only role finds the existing pair.
    postgres.sql("owner", "ALTER ROLE orion_signaling LOGIN PASSWORD 'pw'").await.unwrap();
    let reader = open(&postgres.url("orion_signaling"), "pw").await;
    let there = pair(0x40_0000, "together-0", "mac-0");
    assert!(matches!(reader.ensure(&there).await, Ok(false)));
    assert!(reader.ensure(&pair(0x50_0000, "new", "newer")).await.is_err());
}

/// The binary works with the read-only role, and does not start without a database.
fn served(dir: &Path, mut postgres: Postgres) {
    std::fs::write(dir.join("reader"), "pw\n").unwrap();
    std::fs::write(dir.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
    let url = postgres.url("orion_signaling");
    let words = ["--json", "serve", "--listen", "127.0.0.1:0", "--no-turn"];
    let words = [&words[..], &["--jwt-secret", "@secret", "--db", &url, "--db-key", "@reader"]];
    let words = words.concat();
    assert_eq!(start(dir, &words).event("listening", 1)["dev"], false);
    let new = format!("{}:p-1:m-1:{}", uuid(700), uuid(1000));
    let ended = run(dir, &[&words[..], &["--add-pair", &new]].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("lacks the permission"), "{}", ended.stderr);
    postgres.kill();
    let ended = run(dir, &words);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("no connection within"), "{}", ended.stderr);
}

/// The role of `serve` may read active pairs in the columns it needs, and nothing else.
async fn reading_role(postgres: &Postgres) {
    let store = open(&postgres.url("orion_signaling"), "pw").await;
    store.ready().await.unwrap();
    assert!(store.active_pair(&uuid(2).as_str().into()).await.unwrap().is_some());
    assert_eq!(store.pairs_of(&uuid(1000), &"phone".into()).await.unwrap().len(), 2);
    let seen = store.list().await.unwrap();
    assert!(seen.iter().all(|pair| pair.revoked_at.is_none()), "{seen:?}");
    for refused in [
        store.add(&pair(500, "a", "b")).await,
        store.revoke(&uuid(2).as_str().into(), 1).await.map(|_| ()),
    ] {
        let Err(StoreError::Query { cause, .. }) = refused else { panic!("{refused:?}") };
        assert!(cause.contains("lacks the permission"), "{cause}");
    }
    let owner = "ALTER TABLE device_pairs ADD COLUMN push_token text DEFAULT 'hush'";
    postgres.sql("owner", owner).await.unwrap();
    for sql in ["SELECT push_token FROM device_pairs", "SELECT * FROM device_pairs"] {
        let error = postgres.sql("orion_signaling", sql).await.unwrap_err();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    }
    store.ready().await.expect("another column does not matter");
}

/// Clients of Supabase may read their own pairs.
async fn row_level_security(postgres: &Postgres) {
    let own = format!("SET request.jwt.claims = '{{\"sub\":\"{}\"}}'", uuid(1000));
    let other = format!("SET request.jwt.claims = '{{\"sub\":\"{}\"}}'", uuid(1001));
    let count = "SELECT id::text FROM device_pairs";
    for (role, before, rows) in [
        ("authenticated", own.as_str(), Some(true)),
        ("authenticated", &other, Some(false)),
        ("authenticated", "SELECT 1", Some(false)),
        ("anon", &own, None),
    ] {
        let seen = postgres.sql_after(role, before, count).await;
        match rows {
            Some(some) => assert_eq!(seen.unwrap() > 0, some, "{role}, {before}"),
            None => assert!(seen.unwrap_err().contains("permission denied"), "{role}"),
        }
    }
    for sql in [
        "INSERT INTO device_pairs (user_id, mac_device_id, ios_device_id, status) \
         VALUES ('00000000-0000-4000-8000-0000000003e8', 'x', 'y', 'active')",
        "UPDATE device_pairs SET status = 'active', revoked_at = NULL",
        "DELETE FROM device_pairs",
        "TRUNCATE device_pairs",
    ] {
        for role in ["authenticated", "anon", "orion_signaling"] {
            let error = postgres.sql_after(role, &own, sql).await.unwrap_err();
            assert!(error.contains("permission denied"), "{role}, {sql}: {error}");
        }
    }
}

async fn wrong_passwords(postgres: &Postgres) {
    let error = open(&postgres.url("owner"), "hush").await.ready().await.unwrap_err().to_string();
    assert!(error.contains("--db-key") && !error.contains("hush"), "{error}");
    let url = postgres.url("owner").replace("owner@", "owner:hush-too@");
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &["-vvv", "serve", "pairs", "list", "--db", &url]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("password"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_certificate_of_the_database_is_verified() {
    let postgres = migrated().await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let ca = file("ca.pem", &certificates.ca);
    let other = file("other.pem", &Certificates::for_names(&["127.0.0.1"]).ca);
    postgres.only_tls(&certificates).await;
    let at = |query: &str| format!("{}?{query}", postgres.url("orion_signaling"));
    let ready = async |query: &str| open(&at(query), "pw").await.ready().await;
    let trusted = format!("sslmode=verify-full&sslrootcert={ca}");
    // The server reloads its files asynchronously.
    for _ in 0..100 {
        if ready(&trusted).await.is_ok() {
            break;
        }
        tokio::time::sleep(OFTEN).await;
    }
    ready(&trusted).await.unwrap();
    ready("sslmode=require").await.expect("TLS without verification");
    for (query, cause) in [
        (format!("sslmode=verify-full&sslrootcert={other}"), "sslrootcert=FILE"),
        ("sslmode=verify-full".to_owned(), "sslrootcert=FILE"),
        ("sslmode=disable".to_owned(), "no encryption"),
    ] {
        let error = ready(&query).await.unwrap_err().to_string();
        assert!(error.contains(cause), "{query}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_mode_pooler_works() {
    let postgres = migrated().await;
    let pooler = PgBouncer::start(&postgres);
    let url = format!("{}?pgbouncer=true", pooler.url("owner"));
    let store = open(&url, PASSWORD).await;
    suite(&*store).await;
    assert!(store.hints().is_none(), "there is no LISTEN through a pooler");
    // More clients than server connections: a query must not depend on the state of one of them.
    let other = open(&url, PASSWORD).await;
    let tasks = (0..16).map(|n| {
        let store = Arc::clone(if n % 2 == 0 { &store } else { &other });
        tokio::spawn(async move {
            for _ in 0..20 {
                assert!(store.active_pair(&uuid(2).as_str().into()).await.unwrap().is_some());
                assert_eq!(store.pairs_of(&uuid(1000), &"mac-2".into()).await.unwrap().len(), 1);
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let store = Arc::new(Cached::new(store, HANG));
    let rig = Rig::start(store, OFTEN, &uuid(600)).await;
    let own = open(&postgres.url("owner"), PASSWORD).await;
    own.add(&super::pair(600, "phone", "mac-600")).await.unwrap();
    let mut phone = rig.join("phone").await;
    own.revoke(&uuid(600).as_str().into(), 1_800_000_000).await.unwrap();
    phone.is_revoked().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_rejects_new_clients_and_keeps_existing_sockets() {
    let mut postgres = migrated().await;
    let owner = open(&postgres.url("owner"), PASSWORD).await;
    owner.add(&pair(1, "phone", "mac")).await.unwrap();
    let id = uuid(1);
    let reader = open(&postgres.url("orion_signaling"), "pw").await;
    let store = Arc::new(Cached::new(reader, HANG));
    let rig = Rig::start(store, OFTEN, &id).await;
    let (mut phone, mut mac) = rig.both().await;
    assert_eq!(rig.ask().await, 200);

    postgres.kill();
    // A third device, because those of the pair would replace the live sockets.
    rig.until(503, "tv").await;
    assert_eq!(rig.knock("phone").await, 503, "not from the cache, either");
    rig.reaches(&mut phone, &mut mac).await;
    postgres.restart();
    recovered(&rig).await;
    rig.reaches(&mut phone, &mut mac).await;

    postgres.freeze();
    rig.until(503, "tv").await;
    rig.reaches(&mut phone, &mut mac).await;
    postgres.thaw();
    recovered(&rig).await;
    rig.reaches(&mut phone, &mut mac).await;

    assert!(owner.revoke(&id.as_str().into(), 1_800_000_000).await.unwrap());
    phone.is_revoked().await;
    mac.is_revoked().await;
    assert_eq!(rig.knock("phone").await, 403);
}

/// Waits until a foreign device is rejected with 403 again instead of 503.
async fn recovered(rig: &Rig) {
    let see = async {
        while rig.knock("tv").await != 403 || rig.ask().await != 200 {
            tokio::time::sleep(OFTEN).await;
        }
    };
    timeout(3 * HANG, see).await.expect("the recovery is not detected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_notified_without_polling() {
    let mut postgres = migrated().await;
    let owner = open(&postgres.url("owner"), PASSWORD).await;
    for (number, device) in [(1, "phone"), (2, "phone-2"), (3, "phone-3")] {
        owner.add(&pair(number, device, "mac")).await.unwrap();
    }
    let reader = open(&postgres.url("orion_signaling"), "pw").await;
    let mut hints = reader.hints().unwrap();
    let mut next = async || timeout(HANG, hints.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, Hint::Any, "listening from now on");
    let store: Arc<dyn PairStore> = Arc::new(Cached::new(reader, HANG));
    let rig = Rig::start(store, NEVER, &uuid(1)).await;
    // The server must be listening as well, on a second connection.
    postgres.until_listening(2).await;
    let mut phone = rig.join("phone").await;
    assert!(owner.revoke(&uuid(1).as_str().into(), 1_800_000_000).await.unwrap());
    phone.is_revoked().await;
    assert_eq!(next().await, Hint::Pair(uuid(1).as_str().into()));
    assert_eq!(rig.knock("phone").await, 403, "the cache entry is invalidated, too");

    postgres.sql("owner", "UPDATE device_pairs SET created_at = now()").await.unwrap();
    postgres
        .sql("owner", &format!("DELETE FROM device_pairs WHERE id = '{}'", uuid(2)))
        .await
        .unwrap();
    assert_eq!(
        next().await,
        Hint::Pair(uuid(2).as_str().into()),
        "no notification of an unrelated change"
    );

    postgres.kill();
    postgres.restart();
    assert_eq!(next().await, Hint::Any, "listening again after the outage");
    postgres
        .sql("owner", &format!("DELETE FROM device_pairs WHERE id = '{}'", uuid(3)))
        .await
        .unwrap();
    assert_eq!(next().await, Hint::Pair(uuid(3).as_str().into()));
}
