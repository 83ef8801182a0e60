//! The `device_pairs` store: which phone and which Mac may meet, and whose they are.
//!
//! | store | where | told of revocations |
//! |---|---|---|
//! | [`sqlite`] | a file, or memory | by looking |
//! | [`postgres`] | a `PostgreSQL` server, directly or through a pooler | at once, by `LISTEN`; by looking through a transaction-mode pooler |
//! | [`postgrest`] | Supabase's REST interface | by looking |
//!
//! [`cache`] goes before those that are over a network; [`open`] chooses by URL.

pub mod cache;
pub mod open;
pub mod postgres;
pub mod postgrest;
pub mod sqlite;

use std::collections::HashSet;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::types::{DeviceId, PairId, check_id};

/// Which of the two devices of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The phone: it sends, offers, and is impolite in W3C perfect negotiation.
    Ios,
    /// The Mac: it receives, answers, and is polite.
    Mac,
}

impl Role {
    /// The role of the other device.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Ios => Self::Mac,
            Self::Mac => Self::Ios,
        }
    }
}

/// State of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Offered by one device, not yet confirmed by the other.
    Pending,
    /// The devices may meet.
    Active,
    /// Ended for good.
    Revoked,
}

impl Status {
    /// As in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    /// From the table; none when it is none of the three.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Revoked].into_iter().find(|one| one.as_str() == text)
    }
}

/// One row of `device_pairs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its id: the JWT claim `pairId`.
    pub id: PairId,
    /// The user both devices belong to.
    pub user_id: String,
    /// The Mac.
    pub mac: DeviceId,
    /// The phone.
    pub ios: DeviceId,
    /// State.
    pub status: Status,
    /// Seconds since 1970.
    pub created_at: u64,
    /// Seconds since 1970; there when and only when revoked.
    pub revoked_at: Option<u64>,
}

impl Pair {
    /// A new active pair.
    #[must_use]
    pub fn active(
        id: impl Into<PairId>,
        user_id: impl Into<String>,
        ios: impl Into<DeviceId>,
        mac: impl Into<DeviceId>,
        created_at: u64,
    ) -> Self {
        Self {
            id: id.into(),
            user_id: user_id.into(),
            mac: mac.into(),
            ios: ios.into(),
            status: Status::Active,
            created_at,
            revoked_at: None,
        }
    }

    /// Whether `other` is the same pair, whenever it was made.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        *self == Self { created_at: self.created_at, ..other.clone() }
    }

    /// Refuses a pair that not every store could hold.
    ///
    /// # Errors
    /// [`StoreError::Rule`]
    pub fn check(&self) -> Result<(), StoreError> {
        let ids = [
            ("id", self.id.as_str()),
            ("user", &self.user_id),
            ("phone", self.ios.as_str()),
            ("Mac", self.mac.as_str()),
        ];
        for (what, id) in ids {
            check_id(id).map_err(|error| {
                let rule = format!("its {what} is not a valid id: {error}");
                StoreError::Rule { id: self.id.clone(), rule }
            })?;
        }
        Ok(())
    }

    /// The role of `device` in this pair; none when it is a third device.
    #[must_use]
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        if *device == self.ios {
            Some(Role::Ios)
        } else if *device == self.mac {
            Some(Role::Mac)
        } else {
            None
        }
    }
}

/// An operation of the store that failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be opened.
    #[error("cannot open the pair store {subject}: {cause}")]
    Open {
        /// File or URL.
        subject: String,
        /// What the driver said.
        cause: String,
    },
    /// The store answered that it cannot take what it was given: the fault of one question, not of the
    /// store (SQLSTATE classes 22 and 23, HTTP 4xx).
    #[error("cannot {operation} in the pair store, which does not take the value: {cause}")]
    Value {
        /// What was to be done.
        operation: &'static str,
        /// What the store said.
        cause: String,
    },
    /// A query failed: the store is down, refuses everything, or answers what is not understood.
    #[error("cannot {operation} in the pair store: {cause}")]
    Query {
        /// What was to be done.
        operation: &'static str,
        /// What the driver said.
        cause: String,
    },
    /// A pair that breaks a rule of the table.
    #[error("pair `{id}` cannot be added: {rule}")]
    Rule {
        /// The pair.
        id: PairId,
        /// The rule.
        rule: String,
    },
}

impl StoreError {
    /// A query that failed.
    #[must_use]
    pub fn query(operation: &'static str, cause: impl Into<String>) -> Self {
        Self::Query { operation, cause: cause.into() }
    }

    /// A value that the store does not take.
    #[must_use]
    pub fn value(operation: &'static str, cause: impl Into<String>) -> Self {
        Self::Value { operation, cause: cause.into() }
    }

    /// Whether the next question will fare no better, whatever it is. Where it is not, what one client
    /// sent must not keep the others out.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Query { .. })
    }

    /// A pair that cannot be added because of what is there already.
    fn taken(pair: &Pair) -> Self {
        let rule = "its id, or its two devices, belong to another pair".to_owned();
        Self::Rule { id: pair.id.clone(), rule }
    }
}

/// That something may have happened to pairs; the table tells what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// To this pair.
    Pair(PairId),
    /// To any: the store could not be heard for a while.
    Any,
}

/// What is in use on behalf of pairs and ends with them, besides their sockets: the relaying of an embedded
/// TURN server.
pub trait InUse: Send + Sync {
    /// The pairs it is in use for now.
    fn pairs(&self) -> Vec<PairId>;

    /// Ends what is in use for a pair that was revoked, and lets nothing of it begin again.
    fn revoke(&self, pair: &PairId);
}

/// Where pairs are kept. Reads see the newest state, but for those of [`cache::Cached`].
#[async_trait]
pub trait PairStore: Send + Sync {
    /// The pair, if it is active.
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError>;

    /// The active pairs of a user that `device` belongs to, oldest first.
    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError>;

    /// Those of `ids` whose pairs are still active: never from a cache.
    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError>;

    /// Adds a pair unless its id, or its two devices, are taken; false when they are. One statement: of
    /// all who try at once, in any number of processes, one adds it.
    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError>;

    /// Adds a pair.
    ///
    /// [`StoreError::Rule`] when its id, or its two devices, are taken.
    async fn add(&self, pair: &Pair) -> Result<(), StoreError> {
        if self.insert(pair).await? { Ok(()) } else { Err(StoreError::taken(pair)) }
    }

    /// Adds a pair unless the same one is there, active, whenever it was made; true when it was added.
    ///
    /// It is tried first and looked for afterwards: what was looked for first may come meanwhile. A
    /// role that may only read finds it, too.
    async fn ensure(&self, pair: &Pair) -> Result<bool, StoreError> {
        let inserted = self.insert(pair).await;
        if matches!(inserted, Ok(true)) {
            return Ok(true);
        }
        let there = self.active_pair(&pair.id).await?;
        if there.is_some_and(|there| there.is_same(pair)) {
            return Ok(false);
        }
        inserted.and(Err(StoreError::taken(pair)))
    }

    /// All pairs, oldest first.
    async fn list(&self) -> Result<Vec<Pair>, StoreError>;

    /// Revokes a pair at the time `now`; false when there was none to revoke.
    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError>;

    /// Closes the store, as far as it is of this process; every later operation may fail.
    async fn close(&self) {}

    /// Whether the store answers.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Hints at pairs that ended, for as long as the receiver lives; none when this store gives
    /// none.
    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        None
    }
}

/// Whether `id` is a UUID in the one form that databases write it (RFC 9562 §4: hexadecimal, lower
/// case, hyphens). Another form of the same UUID would be another room.
#[must_use]
pub fn is_uuid(id: &str) -> bool {
    uuid::Uuid::parse_str(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id)
}

/// Refuses a pair whose id or user is no UUID, or that could not be held.
fn require_uuids(pair: &Pair) -> Result<(), StoreError> {
    pair.check()?;
    for (what, id) in [("id", pair.id.as_str()), ("user", &pair.user_id)] {
        if !is_uuid(id) {
            let rule = format!("in this store its {what} must be a UUID in lower case, not `{id}`");
            return Err(StoreError::Rule { id: pair.id.clone(), rule });
        }
    }
    Ok(())
}
