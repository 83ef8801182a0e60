//! Pair stores: one test suite for all of them, permissions in `PostgreSQL`, outages, and revocations that
//! reach live sockets.

mod at_once;
mod postgres;
mod postgrest;
mod sockets;

use std::{collections::HashSet, path::Path, sync::Arc};

use orion_peer::{
    pairs::{Pair, PairStore, Status, StoreError, open::Place, sqlite::SqlitePairs},
    types::PairId,
};

use crate::run::run;

/// Ids and users are UUIDs, as databases require.
fn uuid(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

fn pair(number: u32, ios: &str, mac: &str) -> Pair {
    Pair::active(uuid(number).as_str(), uuid(1000), ios, mac, 1_700_000_000 + u64::from(number))
}

/// The test suite for an empty, writable store.
async fn suite(store: &dyn PairStore) {
    store.ready().await.unwrap();
    assert_eq!(store.list().await.unwrap(), []);
    finding(store).await;
    rules(store).await;
    odd_names(store).await;
    unholdable_names(store).await;
    many(store).await;
}

async fn finding(store: &dyn PairStore) {
    let (first, user) = (pair(1, "phone", "mac"), uuid(1000));
    assert_eq!(store.active_pair(&first.id).await.unwrap(), None);
    store.add(&first).await.unwrap();
    let second = pair(2, "phone", "mac-2");
    store.add(&second).await.unwrap();
    store.add(&Pair { status: Status::Pending, ..pair(3, "phone", "mac-3") }).await.unwrap();
    assert_eq!(store.active_pair(&first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(store.active_pair(&uuid(3).as_str().into()).await.unwrap(), None, "pending");
    let of = async |user: &str, device: &str| store.pairs_of(user, &device.into()).await.unwrap();
    assert_eq!(of(&user, "phone").await, [first.clone(), second.clone()]);
    assert_eq!(of(&user, "mac").await, std::slice::from_ref(&first));
    assert_eq!(of(&user, "mac-3").await, [], "pending");
    assert_eq!(of(&uuid(1001), "phone").await, [], "another user");

    let ids = [&first.id, &second.id, &uuid(3).as_str().into(), &uuid(9).as_str().into()];
    let ids: Vec<PairId> = ids.into_iter().cloned().chain(["no-uuid".into()]).collect();
    let active = HashSet::from([first.id.clone(), second.id.clone()]);
    assert_eq!(store.still_active(&ids).await.unwrap(), active);
    assert_eq!(store.still_active(&[]).await.unwrap(), HashSet::new());

    assert!(store.revoke(&first.id, 1_800_000_000).await.unwrap());
    assert!(!store.revoke(&first.id, 1_800_000_001).await.unwrap(), "already revoked");
    assert!(!store.revoke(&uuid(9).as_str().into(), 1).await.unwrap(), "unknown");
    assert_eq!(store.active_pair(&first.id).await.unwrap(), None);
    assert_eq!(of(&user, "phone").await, std::slice::from_ref(&second));
    assert_eq!(store.still_active(&ids).await.unwrap(), HashSet::from([second.id]));
    let revoked =
        Pair { status: Status::Revoked, revoked_at: Some(1_800_000_000), ..first.clone() };
    let listed = store.list().await.unwrap();
    assert_eq!((listed.len(), &listed[0]), (3, &revoked));
    let again = Pair { id: uuid(4).as_str().into(), ..first };
    store.add(&again).await.expect("the devices may pair again after a revocation");
}

async fn rules(store: &dyn PairStore) {
    let there = pair(20, "r-phone", "r-mac");
    store.add(&there).await.unwrap();
    let wrong = [
        there.clone(),
        Pair { id: uuid(21).as_str().into(), ..there.clone() },
        pair(22, "one", "one"),
        pair(23, "", "m"),
        Pair { status: Status::Revoked, ..pair(24, "a", "b") },
        Pair { revoked_at: Some(1), ..pair(25, "a", "b") },
        Pair { id: "".into(), ..pair(26, "a", "b") },
    ];
    for pair in wrong {
        let refused = store.add(&pair).await;
        let Err(StoreError::Rule { id, rule }) = refused else { panic!("{pair:?}: {refused:?}") };
        assert_eq!(id, pair.id);
        assert!(!rule.is_empty());
    }
}

/// Names with characters that are special in SQL, `PostgREST` or URLs.
async fn odd_names(store: &dyn PairStore) {
    let names = [
        r#"a",mac_device_id.neq."b"#,
        "x' OR '1'='1",
        r"back\slash\",
        "a,b.c:(d)",
        "100% *&=+#?",
        "Gerät ☎",
        "$1 {} ;--",
    ];
    for (number, name) in (30..).zip(names) {
        let odd = pair(number, name, "odd-mac");
        store.add(&odd).await.unwrap();
        assert_eq!(store.pairs_of(&uuid(1000), &name.into()).await.unwrap(), [odd], "{name}");
        for id in [name, &format!("{}&status=neq.x", uuid(30))] {
            assert_eq!(store.active_pair(&id.into()).await.unwrap(), None, "{id}");
            assert!(!store.revoke(&id.into(), 1).await.unwrap(), "{id}");
            assert_eq!(store.pairs_of(id, &"mac".into()).await.unwrap(), [], "{id}");
        }
    }
    let upper = uuid(30).to_uppercase();
    let other_form = upper.replace("00000000-0000", "{00000000-0000");
    for id in [upper.as_str(), &other_form] {
        assert!(id == uuid(30) || store.active_pair(&id.into()).await.unwrap().is_none(), "{id}");
    }
}

/// Identifiers that no store can hold belong to no pair, and do not cause an outage.
async fn unholdable_names(store: &dyn PairStore) {
    let long = "x".repeat(257);
    for name in ["a\u{0}b", "\u{0}", "a\nb", "\u{85}", &long] {
        assert_eq!(store.pairs_of(&uuid(1000), &name.into()).await.unwrap(), [], "{name:?}");
        assert_eq!(store.active_pair(&name.into()).await.unwrap(), None, "{name:?}");
        assert!(!store.revoke(&name.into(), 1).await.unwrap(), "{name:?}");
        assert_eq!(store.still_active(&[name.into()]).await.unwrap(), HashSet::new(), "{name:?}");
        let wrong = [
            pair(40, name, "mac"),
            pair(40, "phone", name),
            Pair { id: name.into(), ..pair(40, "phone", "mac") },
            Pair { user_id: name.into(), ..pair(40, "phone", "mac") },
        ];
        for pair in wrong {
            for refused in [store.add(&pair).await, store.ensure(&pair).await.map(drop)] {
                assert!(matches!(refused, Err(StoreError::Rule { .. })), "{refused:?}");
            }
        }
    }
}

/// More live pairs than fit into one request.
async fn many(store: &dyn PairStore) {
    let mut ids: Vec<PairId> = (0x1000..0x1000 + 2500).map(|n| uuid(n).as_str().into()).collect();
    for number in [0x1000, 0x1500, 0x1000 + 2499] {
        store.add(&pair(number, &format!("many-{number}"), "mac")).await.unwrap();
    }
    let active = store.still_active(&ids).await.unwrap();
    assert_eq!(active.len(), 3);
    ids.retain(|id| active.contains(id));
    assert_eq!(ids.len(), 3, "only requested pairs are returned");
}

#[tokio::test]
async fn sqlite_in_memory_and_in_a_file() {
    suite(&SqlitePairs::in_memory().await.unwrap()).await;
    let dir = tempfile::tempdir().unwrap();
    suite(&SqlitePairs::open(&dir.path().join("pairs.db")).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_one_of_many_concurrent_operations_on_a_file_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.db");
    let opening = (0..8).map(|_| SqlitePairs::open(&path));
    let mut stores: Vec<Arc<dyn PairStore>> = Vec::new();
    for store in futures_util::future::join_all(opening).await {
        stores.push(Arc::new(store.unwrap()));
    }
    at_once::suite(&stores).await;
}

#[test]
fn servers_can_be_started_concurrently_on_a_new_file() {
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        at_once::servers(dir.path(), &["--db", "pairs.db"], round);
    }
}

/// Tests `serve pairs` on the store selected by the flags `db`.
fn command_line(dir: &Path, db: &[&str]) {
    let pairs = |words: &[&str]| {
        let words = [&["--json", "serve", "pairs"], words, db].concat();
        run(dir, &words)
    };
    let (id, user) = (uuid(77), uuid(1000));
    let new = ["add", "--phone", "cli-phone", "--mac", "cli-mac", "--user", &user, "--id", &id];
    let added = pairs(&new);
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    assert!(added.stdout[0].contains(&id), "{:?}", added.stdout);
    let twice = pairs(&new);
    assert_eq!(twice.code, Some(1), "{}", twice.stderr);
    assert!(twice.stderr.contains("cannot add pair"), "{}", twice.stderr);
    let listed = pairs(&["list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let line = listed.stdout.iter().find(|line| line.contains(&id)).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["status"], &line["phone"]), (&"active".into(), &"cli-phone".into()));
    assert_eq!(pairs(&["revoke", &id]).code, Some(0));
    let none = pairs(&["revoke", &id]);
    assert_eq!(none.code, Some(1), "{}", none.stderr);
    let table = run(dir, &[&["serve", "pairs", "list"], db].concat());
    let row = table.stdout.iter().find(|line| line.starts_with(&id)).unwrap();
    assert!(table.stdout[0].starts_with("PAIR "), "{:?}", table.stdout);
    assert_eq!(row.split_whitespace().nth(1), Some("revoked"), "{row}");
}

#[test]
fn the_command_line_stores_pairs_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    command_line(dir.path(), &["--db", "pairs.db"]);
    let config = "[serve]\ndb = 'pairs.db'\nlisten = '127.0.0.1:1'\ndb-cache = '1s'\n";
    std::fs::write(dir.path().join("orion-peer.toml"), config).unwrap();
    let listed = run(dir.path(), &["--json", "serve", "pairs", "list"]);
    assert_eq!((listed.code, listed.stdout.len()), (Some(0), 1), "{}", listed.stderr);
    std::fs::remove_file(dir.path().join("orion-peer.toml")).unwrap();
    let printed = run(dir.path(), &["serve", "pairs", "migrate"]);
    assert_eq!(printed.code, Some(0), "{}", printed.stderr);
    assert!(printed.stdout.iter().any(|line| line.contains("ENABLE ROW LEVEL SECURITY")));
    for (words, said) in [
        (&["list"][..], "--db is missing"),
        (&["migrate", "--apply", "--db", "pairs.db"], "--apply requires"),
        (&["list", "--db", "https://x.example"], "--db-key"),
        (&["list", "--db", "https://u:hush@x.example", "--db-key", "k"], "--db-key"),
        (&["list", "--db", "mysql://u:hush@h"], "postgres://"),
        (&["add", "--phone", "", "--mac", "m", "--user", "u", "--db", "pairs.db"], "--phone"),
        (&["add", "--phone", "a\nb", "--mac", "m", "--user", "u", "--db", "pairs.db"], "control"),
    ] {
        let ended = run(dir.path(), &[&["serve", "pairs"], words].concat());
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
    }
}

async fn open(url: &str, key: &str) -> std::sync::Arc<dyn PairStore> {
    Place::parse(url).unwrap().open(Some(key)).await.unwrap()
}
