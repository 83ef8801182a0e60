//! The cache in front of a store that counts queries and fails on demand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::pairs::sqlite::SqlitePairs;

struct Counted {
    store: SqlitePairs,
    queries: AtomicUsize,
    down: AtomicBool,
    /// Whether it rejects the value of every query.
    refusing: AtomicBool,
}

impl Counted {
    async fn new() -> Arc<Self> {
        let store = SqlitePairs::in_memory().await.unwrap();
        store.add(&demo()).await.unwrap();
        let (down, refusing) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { store, queries: AtomicUsize::new(0), down, refusing })
    }

    fn count_query(&self) -> Result<(), StoreError> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::query("read the table", "down"));
        }
        if self.refusing.load(Ordering::SeqCst) {
            return Err(StoreError::value("read the table", "invalid byte sequence"));
        }
        Ok(())
    }

    fn take_count(&self) -> usize {
        self.queries.swap(0, Ordering::SeqCst)
    }
}

#[async_trait]
impl PairStore for Counted {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        self.count_query()?;
        // Concurrent queries wait for this result.
        tokio::task::yield_now().await;
        self.store.active_pair(id).await
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        self.count_query()?;
        self.store.pairs_of(user_id, device).await
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        self.count_query()?;
        self.store.still_active(ids).await
    }

    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError> {
        self.store.insert(pair).await
    }

    async fn list(&self) -> Result<Vec<Pair>, StoreError> {
        self.store.list().await
    }

    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError> {
        self.store.revoke(id, now).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.count_query()
    }
}

fn demo() -> Pair {
    Pair::active("demo", "user", "phone", "mac", 7)
}

fn id() -> PairId {
    "demo".into()
}

#[tokio::test]
async fn a_pair_is_queried_once() {
    let store = Counted::new().await;
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, MAX_AGE);
    let id = id();
    let answers = futures_util::future::join_all((0..50).map(|_| cached.active_pair(&id))).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap() == Some(demo())));
    for _ in 0..50 {
        assert_eq!(cached.pairs_of("user", &"mac".into()).await.unwrap(), [demo()]);
    }
    assert_eq!(store.take_count(), 2);
}

#[tokio::test]
async fn polling_removes_externally_revoked_pairs_from_the_cache() {
    let store = Counted::new().await;
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, MAX_AGE);
    assert!(cached.active_pair(&id()).await.unwrap().is_some());
    assert_eq!(cached.pairs_of("user", &"mac".into()).await.unwrap().len(), 1);
    store.store.revoke(&id(), 9).await.unwrap();
    assert!(cached.active_pair(&id()).await.unwrap().is_some(), "it is a cache");
    assert!(cached.still_active(&[id()]).await.unwrap().is_empty());
    assert_eq!(cached.active_pair(&id()).await.unwrap(), None);
    assert_eq!(cached.pairs_of("user", &"mac".into()).await.unwrap(), []);
}

#[tokio::test]
async fn own_changes_take_effect_immediately() {
    let store = Counted::new().await;
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, MAX_AGE);
    assert!(cached.active_pair(&id()).await.unwrap().is_some());
    assert!(cached.revoke(&id(), 9).await.unwrap());
    assert_eq!(cached.active_pair(&id()).await.unwrap(), None);
    let second = Pair { id: "second".into(), ..demo() };
    assert_eq!(cached.active_pair(&second.id).await.unwrap(), None);
    cached.add(&second).await.unwrap();
    assert_eq!(cached.active_pair(&second.id).await.unwrap(), Some(second));
}

#[tokio::test]
async fn entries_expire_in_time() {
    let store = Counted::new().await;
    let age = Duration::from_millis(20);
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, age);
    assert!(cached.active_pair(&id()).await.unwrap().is_some());
    store.store.revoke(&id(), 9).await.unwrap();
    while cached.active_pair(&id()).await.unwrap().is_some() {
        tokio::time::sleep(age).await;
    }
}

#[tokio::test]
async fn an_outage_is_reported_and_the_store_is_not_flooded() {
    let store = Counted::new().await;
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, MAX_AGE);
    assert!(cached.active_pair(&id()).await.unwrap().is_some());
    store.down.store(true, Ordering::SeqCst);
    assert!(cached.still_active(&[id()]).await.is_err());
    store.take_count();
    for _ in 0..100 {
        assert!(cached.active_pair(&id()).await.is_err(), "not from the cache");
        assert!(cached.pairs_of("user", &"mac".into()).await.is_err());
    }
    assert!(store.take_count() < 10, "most fail without a query");
    store.down.store(false, Ordering::SeqCst);
    while cached.active_pair(&id()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cached.pairs_of("user", &"mac".into()).await.unwrap(), [demo()]);
}

#[tokio::test]
async fn a_rejected_value_is_not_an_outage() {
    let store = Counted::new().await;
    let cached = Cached::new(Arc::clone(&store) as Arc<dyn PairStore>, MAX_AGE);
    assert!(cached.active_pair(&id()).await.unwrap().is_some());
    store.refusing.store(true, Ordering::SeqCst);
    let refused = cached.pairs_of("user", &"a\u{0}b".into()).await;
    assert!(matches!(refused, Err(StoreError::Value { .. })), "{refused:?}");
    assert!(cached.active_pair(&id()).await.unwrap().is_some(), "cached pairs are still used");
    store.refusing.store(false, Ordering::SeqCst);
    assert_eq!(
        cached.pairs_of("user", &"mac".into()).await.unwrap(),
        [demo()],
        "other queries succeed"
    );
    // A rejected value shows that the store responds again.
    store.down.store(true, Ordering::SeqCst);
    assert!(cached.ready().await.is_err());
    store.down.store(false, Ordering::SeqCst);
    store.refusing.store(true, Ordering::SeqCst);
    assert!(cached.still_active(&[id()]).await.is_err());
    assert!(cached.active_pair(&id()).await.is_err_and(|error| !error.is_outage()));
}
