//! A cache in front of a store on the network, and a circuit breaker for when it is down.
//!
//! Active pairs are cached for at most [`MAX_AGE`]; missing ones for a shorter time, because a client may be
//! waiting for them. Failures of the store are not masked: from its first failure until its first response,
//! the cache is not used, and the store is queried once per [`PAUSE`] instead of by every client.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::{Expiry, future::Cache};
use tokio::sync::mpsc;

use super::{Hint, Pair, PairStore, StoreError};
use crate::{
    lock::locked,
    types::{DeviceId, PairId},
};

/// Maximum time for which an active pair may be cached (contract: a revocation takes effect within 30 s).
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// Default time for which an active pair is cached: together with polling for revoked pairs every 10 s, a
/// socket that was accepted from the cache still ends within 30 s.
pub const AGE: Duration = Duration::from_secs(15);

/// Maximum time for which a missing pair is cached.
const AGE_OF_NONE: Duration = Duration::from_secs(2);

/// Interval between queries to a store that is down.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of cached results of each kind.
const ENTRIES: u64 = 100_000;

/// Cache times of a pair or a list of pairs.
#[derive(Debug, Clone, Copy)]
struct Ages {
    some: Duration,
    none: Duration,
}

impl Ages {
    fn of(self, found: bool) -> Duration {
        if found { self.some } else { self.none }
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

/// Failure of the last query.
#[derive(Debug)]
struct Outage {
    error: StoreError,
    /// When the store may be queried again.
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
    /// A cache in front of `store` whose entries are valid for `age`, at most [`MAX_AGE`].
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
        locked(&self.outage)
    }

    fn is_down(&self) -> bool {
        self.outage().is_some()
    }

    /// Records whether the store responded.
    fn recorded<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        let mut outage = self.outage();
        match &answer {
            Err(error) if error.is_outage() => {
                *outage = Some(Outage { error: error.clone(), again: Instant::now() + PAUSE });
            }
            // A store that rejects one value is responding.
            _ => {
                if outage.take().is_some() {
                    self.pairs.invalidate_all();
                    self.devices.invalidate_all();
                }
            }
        }
        answer
    }

    /// Queries the store, unless it has just failed.
    async fn query<T>(
        &self,
        query: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(outage) = self.outage().as_mut() {
            let now = Instant::now();
            if now < outage.again {
                return Err(outage.error.clone());
            }
            // This query is made on behalf of all concurrent ones.
            outage.again = now + PAUSE;
        }
        let answer = query.await;
        self.recorded(answer)
    }
}

#[async_trait]
impl PairStore for Cached {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        let query = self.query(self.store.active_pair(id));
        if self.is_down() {
            return query.await;
        }
        self.pairs.try_get_with_by_ref(id, query).await.map_err(|error| (*error).clone())
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        let query = self.query(self.store.pairs_of(user_id, device));
        if self.is_down() {
            return query.await;
        }
        let whose = (user_id.to_owned(), device.clone());
        self.devices.try_get_with(whose, query).await.map_err(|error| (*error).clone())
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        let active = self.recorded(self.store.still_active(ids).await)?;
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
        // If it was not added, another process may have just added it.
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
        self.recorded(self.store.ready().await)
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        self.store.hints()
    }
}

#[cfg(test)]
mod tests;
