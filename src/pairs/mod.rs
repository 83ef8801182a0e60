//! The `device_pairs` store: which phone and which Mac may connect, and to whom they belong.
//!
//! | store | where | how it learns of revocations |
//! |---|---|---|
//! | [`sqlite`] | a file, or memory | by polling |
//! | [`postgres`] | a `PostgreSQL` server, directly or through a pooler | immediately, by `LISTEN`; by polling through a transaction-mode pooler |
//! | [`postgrest`] | Supabase's REST interface | by polling |
//!
//! [`cache`] is put in front of stores on the network; [`open`] selects the store by URL.

pub mod cache;
pub mod open;
pub mod postgres;
pub mod postgrest;
mod redacted;
pub mod sqlite;

use std::collections::HashSet;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::types::{DeviceId, PairId, check_id};

/// Which of the two devices of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The phone: it sends, offers, and is impolite in W3C perfect negotiation.
    Phone,
    /// The Mac: it receives, answers, and is polite.
    Mac,
}

impl Role {
    /// The role of the other device.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Phone => Self::Mac,
            Self::Mac => Self::Phone,
        }
    }
}

/// State of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Offered by one device, not yet confirmed by the other.
    Pending,
    /// The devices may connect.
    Active,
    /// Permanently ended.
    Revoked,
}

impl Status {
    /// The value in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    /// Parses the value in the table; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Revoked].into_iter().find(|one| one.as_str() == text)
    }
}

/// One row of `device_pairs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Its id, the JWT claim `pairId`.
    pub id: PairId,
    /// The user both devices belong to.
    pub user_id: String,
    /// The Mac.
    pub mac: DeviceId,
    /// The phone.
    pub ios: DeviceId,
    /// State of the pair.
    pub status: Status,
    /// Time of creation, seconds since 1970.
    pub created_at: u64,
    /// Time of revocation, seconds since 1970; present if and only if revoked.
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

    /// Whether `other` is the same pair, regardless of its time of creation.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        *self == Self { created_at: self.created_at, ..other.clone() }
    }

    /// Rejects a pair that some store could not hold.
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

    /// The role of `device` in this pair; `None` for a third device.
    #[must_use]
    pub fn role(&self, device: &DeviceId) -> Option<Role> {
        if *device == self.ios {
            Some(Role::Phone)
        } else if *device == self.mac {
            Some(Role::Mac)
        } else {
            None
        }
    }
}

/// Why an operation of the store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store could not be opened.
    #[error("cannot open the pair store {subject}: {cause}")]
    Open {
        /// File or URL.
        subject: String,
        /// Error of the driver.
        cause: String,
    },
    /// The store rejected a value: the fault of one query, not of the store (SQLSTATE classes 22 and 23,
    /// HTTP 4xx).
    #[error("cannot {operation} in the pair store, which rejected the value: {cause}")]
    Value {
        /// The operation, as an infinitive.
        operation: &'static str,
        /// Error of the store.
        cause: String,
    },
    /// A query failed: the store is down, rejects everything, or its response cannot be parsed.
    #[error("cannot {operation} in the pair store: {cause}")]
    Query {
        /// The operation, as an infinitive.
        operation: &'static str,
        /// Error of the driver.
        cause: String,
    },
    /// A pair that violates a constraint of the table.
    #[error("cannot add pair `{id}`: {rule}")]
    Rule {
        /// The pair.
        id: PairId,
        /// The violated constraint.
        rule: String,
    },
}

impl StoreError {
    /// A query that failed.
    #[must_use]
    pub fn query(operation: &'static str, cause: impl Into<String>) -> Self {
        Self::Query { operation, cause: cause.into() }
    }

    /// A value that the store rejected.
    #[must_use]
    pub fn value(operation: &'static str, cause: impl Into<String>) -> Self {
        Self::Value { operation, cause: cause.into() }
    }

    /// Whether every further query is expected to fail, too. Otherwise, the input of one client must not
    /// affect the others.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Query { .. })
    }

    /// A pair that conflicts with an existing one.
    fn taken(pair: &Pair) -> Self {
        let rule = "its id, or its two devices, belong to another pair".to_owned();
        Self::Rule { id: pair.id.clone(), rule }
    }
}

/// A hint that pairs may have ended; the table has the details.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// This pair may have ended.
    Pair(PairId),
    /// Any pair may have ended: notifications were interrupted.
    Any,
}

/// Resources other than sockets that are used on behalf of pairs and end with them: allocations of an
/// embedded TURN server.
pub trait InUse: Send + Sync {
    /// The pairs that currently use them.
    fn pairs(&self) -> Vec<PairId>;

    /// Ends the use by a revoked pair, and prevents further use.
    fn revoke(&self, pair: &PairId);
}

/// A store of pairs. Reads return the latest state, except those of [`cache::Cached`].
#[async_trait]
pub trait PairStore: Send + Sync {
    /// The pair, if it is active.
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError>;

    /// The active pairs of a user that `device` belongs to, oldest first.
    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError>;

    /// The subset of `ids` whose pairs are still active; never from a cache.
    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError>;

    /// Adds a pair; false when its id, or its two devices, belong to another. A single statement: of
    /// concurrent attempts, in any number of processes, exactly one succeeds.
    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError>;

    /// Adds a pair.
    ///
    /// [`StoreError::Rule`] when its id, or its two devices, are taken.
    async fn add(&self, pair: &Pair) -> Result<(), StoreError> {
        if self.insert(pair).await? { Ok(()) } else { Err(StoreError::taken(pair)) }
    }

    /// Adds a pair unless the same one already exists and is active; true when it was added.
    ///
    /// Inserts first and looks up afterward, so that a concurrent insert is not missed. A read-only role
    /// finds an existing pair, too.
    async fn ensure(&self, pair: &Pair) -> Result<bool, StoreError> {
        let inserted = self.insert(pair).await;
        if matches!(inserted, Ok(true)) {
            return Ok(true);
        }
        let existing = self.active_pair(&pair.id).await?;
        if existing.is_some_and(|existing| existing.is_same(pair)) {
            return Ok(false);
        }
        inserted.and(Err(StoreError::taken(pair)))
    }

    /// All pairs, oldest first.
    async fn list(&self) -> Result<Vec<Pair>, StoreError>;

    /// Revokes a pair at the time `now`; false when there was none to revoke.
    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError>;

    /// Closes this process's side of the store; every later operation may fail.
    async fn close(&self) {}

    /// Whether the store responds.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Hints at ended pairs, for as long as the receiver lives; `None` when this store sends none.
    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        None
    }
}

/// Whether `id` is a UUID in the canonical form that databases write (RFC 9562 §4: hexadecimal, lower
/// case, hyphens). Another form of the same UUID would be a different room.
#[must_use]
pub fn is_uuid(id: &str) -> bool {
    uuid::Uuid::parse_str(id).is_ok_and(|uuid| uuid.hyphenated().to_string() == id)
}

/// Rejects a pair whose id or user is not a UUID, or that no store could hold.
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
