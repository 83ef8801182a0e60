//! Concurrent identical operations: on a store exactly one succeeds, and every `serve` starts.

use std::{path::Path, sync::Arc};

use orion_peer::pairs::{Pair, PairStore, StoreError};

use super::{pair, uuid};
use crate::run::start;

/// Number of repetitions.
const ROUNDS: u32 = 40;

/// Runs the same operation on all stores concurrently, and counts the successes.
async fn all<F, R>(stores: &[Arc<dyn PairStore>], what: F) -> usize
where
    F: Fn(usize, Arc<dyn PairStore>) -> R,
    R: Future<Output = Result<bool, StoreError>> + Send + 'static,
{
    let running: Vec<_> = stores
        .iter()
        .enumerate()
        .map(|(at, store)| tokio::spawn(what(at, Arc::clone(store))))
        .collect();
    let mut done = 0;
    for one in running {
        done += usize::from(one.await.unwrap().unwrap());
    }
    done
}

/// Tests stores with separate connections to the same database.
pub async fn suite(stores: &[Arc<dyn PairStore>]) {
    for round in 0..ROUNDS {
        let (phone, mac) = (format!("phone-{round}"), format!("mac-{round}"));
        let same = pair(0x10_0000 + round, &phone, &mac);
        let ensured = all(stores, |at, store| {
            // Each with a different time of creation.
            let same = Pair { created_at: same.created_at + at as u64, ..same.clone() };
            async move { store.ensure(&same).await }
        });
        assert_eq!(ensured.await, 1, "round {round}: one store adds the pair, the others find it");
        let revoked = all(stores, |_, store| {
            let id = same.id.clone();
            async move { store.revoke(&id, 1_800_000_000).await }
        });
        assert_eq!(revoked.await, 1, "round {round}: one store revokes it");
        // The same two devices with as many ids.
        let inserted = all(stores, |at, store| {
            let number = 0x20_0000 + 0x100 * round + at as u32;
            let other = pair(number, &phone, &mac);
            async move { store.insert(&other).await }
        });
        assert_eq!(inserted.await, 1, "round {round}: two devices have one active pair");
    }
    let first = &stores[0];
    let taken = pair(0x30_0000, "phone-0", "mac-0");
    for refused in [first.ensure(&taken).await.map(drop), first.add(&taken).await] {
        let Err(StoreError::Rule { id, rule }) = refused else { panic!("{refused:?}") };
        assert_eq!((id, rule.contains("another pair")), (taken.id.clone(), true), "{rule}");
    }
    let revoked = pair(0x10_0000, "phone-0", "mac-0");
    assert!(first.ensure(&revoked).await.is_err(), "a revoked id cannot be used again");
}

/// Starts four servers concurrently with the same `--add-pair`; `db` are the flags of the store.
pub fn servers(dir: &Path, db: &[&str], round: u32) {
    std::fs::write(dir.join("secret"), "0123456789abcdef0123456789abcdef").unwrap();
    let (id, user) = (uuid(0x40_0000 + round), uuid(1000));
    let new = format!("{id}:together-{round}:mac-{round}:{user}");
    let words = ["--json", "serve", "--listen", "127.0.0.1:0", "--no-turn"];
    let words = [&words[..], &["--jwt-secret", "@secret", "--add-pair", &new], db].concat();
    let servers: Vec<_> = (0..4).map(|_| start(dir, &words)).collect();
    for server in &servers {
        assert_eq!(server.event("listening", 1)["dev"], false);
    }
}
