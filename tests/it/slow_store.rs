//! A pair store that answers only when a test permits it.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use orion_peer::{
    pairs::{Pair, PairStore, StoreError, sqlite::SqlitePairs},
    types::{DeviceId, PairId},
};
use tokio::sync::Semaphore;

/// One kind of query: the number of queries so far, and the permits for answers.
pub struct Question {
    pub asked: AtomicUsize,
    pub gate: Semaphore,
}

impl Question {
    fn new(answers: usize) -> Self {
        Self { asked: AtomicUsize::new(0), gate: Semaphore::new(answers) }
    }

    async fn wait(&self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
    }
}

pub struct Slow {
    store: SqlitePairs,
    /// Lookups of a pair by handshakes.
    pub pair: Question,
    /// Readiness checks by `/readyz`.
    pub ready: Question,
}

impl Slow {
    /// Creates a store with these numbers of initial permits.
    pub async fn new(pair: usize, ready: usize) -> Arc<Self> {
        let store = SqlitePairs::in_memory().await.unwrap();
        Arc::new(Self { store, pair: Question::new(pair), ready: Question::new(ready) })
    }
}

#[async_trait::async_trait]
impl PairStore for Slow {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        self.pair.wait().await;
        self.store.active_pair(id).await
    }

    async fn pairs_of(&self, user: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        self.store.pairs_of(user, device).await
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
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
        self.ready.wait().await;
        self.store.ready().await
    }
}
