//! A cache before a store that is over a network, and a fuse for when it is down.
//!
//! What is active is believed for at most [`MAX_AGE`], what is not for a shorter time, for somebody
//! may be waiting for it. A store that fails is not covered up: from its first failure until its
//! first answer nothing is taken from the cache, and it is asked once a [`PAUSE`] rather than by
//! everybody at once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::{Expiry, future::Cache};
use tokio::sync::mpsc;

use super::{Hint, Pair, PairStore, StoreError};
use crate::types::{DeviceId, PairId};

/// Longest time a pair may be believed to be active (contract: a revocation takes 30 s at most).
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// How long a pair is believed to be active unless said otherwise: with the look for revoked pairs
/// every 10 s after it, a socket that comes by the cache still ends within 30 s.
pub const AGE: Duration = Duration::from_secs(15);

/// How long a pair is believed not to be active, at most.
const AGE_OF_NONE: Duration = Duration::from_secs(2);

/// Between attempts to ask a store that is down.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Answers kept, of each kind.
const ENTRIES: u64 = 100_000;

/// When a pair, or a list of pairs, is to be asked for again.
#[derive(Debug, Clone, Copy)]
struct Ages {
    some: Duration,
    none: Duration,
}

impl Ages {
    fn of(self, there: bool) -> Duration {
        if there { self.some } else { self.none }
    }
}

impl Expiry<PairId, Option<Pair>> for Ages {
    fn expire_after_create(&self, _: &PairId, pair: &Option<Pair>, _: Instant) -> Option<Duration> {
        Some(self.of(pair.is_some()))
    }

    fn expire_after_update(
        &self,
        _: &PairId,
        pair: &Option<Pair>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.of(pair.is_some()))
    }
}

/// A user and a device.
type Whose = (String, DeviceId);

impl Expiry<Whose, Vec<Pair>> for Ages {
    fn expire_after_create(&self, _: &Whose, pairs: &Vec<Pair>, _: Instant) -> Option<Duration> {
        Some(self.of(!pairs.is_empty()))
    }

    fn expire_after_update(
        &self,
        _: &Whose,
        pairs: &Vec<Pair>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(self.of(!pairs.is_empty()))
    }
}

/// A store that failed when it was asked last.
#[derive(Debug)]
struct Outage {
    error: StoreError,
    /// When it may be asked again.
    again: Instant,
}

/// A store behind a cache.
pub struct Cached {
    store: Arc<dyn PairStore>,
    pairs: Cache<PairId, Option<Pair>>,
    devices: Cache<Whose, Vec<Pair>>,
    outage: Mutex<Option<Outage>>,
}

impl std::fmt::Debug for Cached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cached").field("pairs", &self.pairs.entry_count()).finish_non_exhaustive()
    }
}

impl Cached {
    /// A cache before `store` whose answers are good for `age`, and never for longer than
    /// [`MAX_AGE`].
    #[must_use]
    pub fn new(store: Arc<dyn PairStore>, age: Duration) -> Self {
        let age = age.min(MAX_AGE);
        let ages = Ages { some: age, none: age.min(AGE_OF_NONE) };
        Self {
            store,
            pairs: Cache::builder().max_capacity(ENTRIES).expire_after(ages).build(),
            devices: Cache::builder().max_capacity(ENTRIES).expire_after(ages).build(),
            outage: Mutex::default(),
        }
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_down(&self) -> bool {
        self.outage().is_some()
    }

    /// Takes note of how the store answered.
    fn noted<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut outage = self.outage();
        match &answer {
            Err(error) if error.is_outage() => {
                *outage = Some(Outage { error: error.clone(), again: Instant::now() + PAUSE });
            }
            // A store that refuses one value answers.
            _ => {
                if outage.take().is_some() {
                    self.pairs.invalidate_all();
                    self.devices.invalidate_all();
                }
            }
        }
        answer
    }

    /// Asks the store, unless it failed just now.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(outage) = self.outage().as_mut() {
            let now = Instant::now();
            if now < outage.again {
                return Err(outage.error.clone());
            }
            // This one asks for all that come meanwhile.
            outage.again = now + PAUSE;
        }
        let answer = question.await;
        self.noted(answer)
    }
}

#[async_trait]
impl PairStore for Cached {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        let question = self.ask(self.store.active_pair(id));
        if self.is_down() {
            return question.await;
        }
        self.pairs.try_get_with_by_ref(id, question).await.map_err(|error| (*error).clone())
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        let question = self.ask(self.store.pairs_of(user_id, device));
        if self.is_down() {
            return question.await;
        }
        let whose = (user_id.to_owned(), device.clone());
        self.devices.try_get_with(whose, question).await.map_err(|error| (*error).clone())
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        let active = self.noted(self.store.still_active(ids).await)?;
        if active.len() < ids.len() {
            self.devices.invalidate_all();
        }
        for id in ids {
            if !active.contains(id) {
                self.pairs.invalidate(id).await;
            }
        }
        Ok(active)
    }

    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError> {
        let added = self.store.insert(pair).await?;
        // When it was not, another process may just have added it.
        self.pairs.invalidate(&pair.id).await;
        self.devices.invalidate_all();
        Ok(added)
    }

    async fn list(&self) -> Result<Vec<Pair>, StoreError> {
        self.store.list().await
    }

    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError> {
        let revoked = self.store.revoke(id, now).await?;
        self.pairs.invalidate(id).await;
        self.devices.invalidate_all();
        Ok(revoked)
    }

    async fn close(&self) {
        self.store.close().await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.noted(self.store.ready().await)
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        self.store.hints()
    }
}

#[cfg(test)]
mod tests;
