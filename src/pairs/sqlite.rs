//! Pairs in `SQLite`: a file, or memory for the dev server and tests.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Row, Sqlite, SqliteConnection, SqlitePool,
    migrate::MigrateError,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    },
};

use tokio::time::sleep;

use super::{Pair, PairStore, Status, StoreError};
use crate::types::{DeviceId, PairId};

/// How long a query waits for another process's write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval between attempts to open a busy database.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How long a query waits for a connection before the store counts as down.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// Pairs in an `SQLite` database.
#[derive(Debug, Clone)]
pub struct SqlitePairs {
    pool: SqlitePool,
    /// Keeps a database in memory alive.
    _keeper: Option<Arc<Mutex<SqliteConnection>>>,
}

impl SqlitePairs {
    /// Opens the database file, creating it and its table if they do not exist.
    ///
    /// # Errors
    /// [`StoreError::Open`] when the file cannot be opened or migrated.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .busy_timeout(BUSY_TIMEOUT);
        Self::connect(options, 4, &path.display().to_string()).await
    }

    /// A database in memory, which is deleted when the last clone is dropped.
    ///
    /// # Errors
    /// [`StoreError::Open`] when it cannot be created.
    pub async fn in_memory() -> Result<Self, StoreError> {
        let open = |error: sqlx::Error| StoreError::Open {
            subject: "in memory".to_owned(),
            cause: error.to_string(),
        };
        // All connections with this URL share one database, which lives as long as any of them. The
        // pool may lose its own: a request that is canceled during a query closes it.
        let options: SqliteConnectOptions = "sqlite::memory:".parse().map_err(open)?;
        let keeper = options.connect().await.map_err(open)?;
        let store = Self::connect(options, 1, "in memory").await?;
        Ok(Self { _keeper: Some(Arc::new(Mutex::new(keeper))), ..store })
    }

    async fn connect(
        options: SqliteConnectOptions,
        connections: u32,
        subject: &str,
    ) -> Result<Self, StoreError> {
        let open = |cause: String| StoreError::Open { subject: subject.to_owned(), cause };
        let pool = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(connections)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        let opened = patiently(|| pool.clone().connect_with(options.clone())).await;
        let pool = opened.map_err(|error| open(error.to_string()))?;
        if patiently(|| migrate(pool.clone())).await.is_err() {
            // Another process may have created the table concurrently: now it exists.
            let migrated = patiently(|| migrate(pool.clone())).await;
            migrated.map_err(|error| open(error.to_string()))?;
        }
        Ok(Self { pool, _keeper: None })
    }

    /// Closes the database; every later operation fails.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Adds pairs in one transaction: thousands of them in less than a second.
    ///
    /// # Errors
    /// As [`PairStore::add`]; then none is added.
    pub async fn add_all(&self, pairs: &[Pair]) -> Result<(), StoreError> {
        let failed = query("add pairs");
        let mut transaction = self.pool.begin().await.map_err(&failed)?;
        for pair in pairs {
            pair.check()?;
            let added = insert(pair).execute(&mut *transaction).await;
            if added.map_err(|error| rejected(pair, error))?.rows_affected() == 0 {
                return Err(StoreError::taken(pair));
            }
        }
        transaction.commit().await.map_err(failed)
    }
}

async fn migrate(pool: SqlitePool) -> Result<(), sqlx::Error> {
    sqlx::migrate!("src/pairs/migrations").run(&pool).await.map_err(|error| match error {
        MigrateError::Execute(error) => error,
        error => sqlx::Error::Migrate(Box::new(error)),
    })
}

/// Retries while another process is opening or closing the database: `SQLite` itself waits only for writes.
async fn patiently<T>(attempt: impl AsyncFn() -> Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
    let started = Instant::now();
    loop {
        match attempt().await {
            Err(error) if is_busy(&error) && started.elapsed() < BUSY_TIMEOUT => {
                sleep(BUSY_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Primary result codes of errors that concern one value: `SQLITE_TOOBIG`, `SQLITE_CONSTRAINT`,
/// `SQLITE_MISMATCH`.
const VALUE_CODES: [i32; 3] = [18, 19, 20];

/// The primary result code, the low byte of the extended one.
fn code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff)
}

/// `SQLITE_BUSY`.
fn is_busy(error: &sqlx::Error) -> bool {
    code(error) == Some(5)
}

fn query(operation: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| match code(&error) {
        Some(code) if VALUE_CODES.contains(&code) => {
            StoreError::value(operation, error.to_string())
        }
        _ => StoreError::query(operation, error.to_string()),
    }
}

fn pair(row: &SqliteRow) -> Result<Pair, sqlx::Error> {
    let status = Status::parse(row.try_get("status")?).unwrap_or(Status::Revoked);
    Ok(Pair {
        id: PairId(row.try_get("id")?),
        user_id: row.try_get("user_id")?,
        mac: DeviceId(row.try_get("mac_device_id")?),
        ios: DeviceId(row.try_get("ios_device_id")?),
        status,
        created_at: row.try_get::<i64, _>("created_at")?.max(0) as u64,
        revoked_at: row.try_get::<Option<i64>, _>("revoked_at")?.map(|at| at.max(0) as u64),
    })
}

fn insert(pair: &Pair) -> Query<'_, Sqlite, SqliteArguments> {
    sqlx::query("INSERT INTO device_pairs VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(pair.id.as_str())
        .bind(&pair.user_id)
        .bind(pair.mac.as_str())
        .bind(pair.ios.as_str())
        .bind(pair.status.as_str())
        .bind(pair.created_at as i64)
        .bind(pair.revoked_at.map(|at| at as i64))
}

/// Why a pair was not added.
fn rejected(pair: &Pair, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(error) if error.is_check_violation() => {
            StoreError::Rule { id: pair.id.clone(), rule: error.message().to_owned() }
        }
        error => query("add a pair")(error),
    }
}

#[async_trait]
impl PairStore for SqlitePairs {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        let failed = query("look up a pair");
        sqlx::query("SELECT * FROM device_pairs WHERE id = ? AND status = 'active'")
            .bind(id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(&failed)?
            .as_ref()
            .map(pair)
            .transpose()
            .map_err(failed)
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        let failed = query("look up the pairs of a device");
        sqlx::query(
            "SELECT * FROM device_pairs WHERE user_id = ?1 AND status = 'active' \
             AND (mac_device_id = ?2 OR ios_device_id = ?2) ORDER BY created_at, id",
        )
        .bind(user_id)
        .bind(device.as_str())
        .fetch_all(&self.pool)
        .await
        .map_err(&failed)?
        .iter()
        .map(pair)
        .collect::<Result<_, _>>()
        .map_err(failed)
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        let failed = query("check live pairs");
        let ids = serde_json::to_string(ids).map_err(|error| {
            StoreError::query("check live pairs", format!("cannot serialize the ids: {error}"))
        })?;
        sqlx::query(
            "SELECT id FROM device_pairs WHERE status = 'active' \
             AND id IN (SELECT value FROM json_each(?))",
        )
        .bind(ids)
        .fetch_all(&self.pool)
        .await
        .map_err(&failed)?
        .iter()
        .map(|row| row.try_get("id").map(PairId))
        .collect::<Result<_, _>>()
        .map_err(failed)
    }

    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError> {
        pair.check()?;
        let added = insert(pair).execute(&self.pool).await;
        added.map(|done| done.rows_affected() == 1).map_err(|error| rejected(pair, error))
    }

    async fn list(&self) -> Result<Vec<Pair>, StoreError> {
        let failed = query("list the pairs");
        sqlx::query("SELECT * FROM device_pairs ORDER BY created_at, id")
            .fetch_all(&self.pool)
            .await
            .map_err(&failed)?
            .iter()
            .map(pair)
            .collect::<Result<_, _>>()
            .map_err(failed)
    }

    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError> {
        sqlx::query(
            "UPDATE device_pairs SET status = 'revoked', revoked_at = ? \
             WHERE id = ? AND status <> 'revoked'",
        )
        .bind(now as i64)
        .bind(id.as_str())
        .execute(&self.pool)
        .await
        .map(|done| done.rows_affected() == 1)
        .map_err(query("revoke a pair"))
    }

    async fn close(&self) {
        self.pool.close().await;
    }

    async fn ready(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM device_pairs LIMIT 1")
            .fetch_optional(&self.pool)
            .await
            .map(|_| ())
            .map_err(query("read the table"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demo() -> Pair {
        Pair::active("demo", "user", "phone", "mac", 7)
    }

    #[tokio::test]
    async fn a_pair_lives_until_it_is_revoked() {
        let store = SqlitePairs::in_memory().await.unwrap();
        let id = PairId::from("demo");
        assert_eq!(store.active_pair(&id).await.unwrap(), None);
        store.add(&demo()).await.unwrap();
        assert_eq!(store.active_pair(&id).await.unwrap(), Some(demo()));
        assert_eq!(store.pairs_of("user", &"mac".into()).await.unwrap(), [demo()]);
        assert_eq!(store.pairs_of("user", &"tv".into()).await.unwrap(), []);
        assert_eq!(store.pairs_of("other", &"mac".into()).await.unwrap(), []);
        assert!(store.revoke(&id, 9).await.unwrap());
        assert!(!store.revoke(&id, 10).await.unwrap());
        assert_eq!(store.active_pair(&id).await.unwrap(), None);
        assert_eq!(store.pairs_of("user", &"mac".into()).await.unwrap(), []);
        let revoked = Pair { status: Status::Revoked, revoked_at: Some(9), ..demo() };
        assert_eq!(store.list().await.unwrap(), [revoked]);
    }

    #[tokio::test]
    async fn a_canceled_query_loses_no_pair_in_memory() {
        let store = SqlitePairs::in_memory().await.unwrap();
        store.add(&demo()).await.unwrap();
        for steps in 0..200 {
            // Dropped after this many polls, like a handler whose client disconnects.
            let mut query = std::pin::pin!(store.list());
            for _ in 0..steps % 8 {
                if futures_util::poll!(query.as_mut()).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(store.list().await.unwrap(), [demo()]);
    }

    /// A server that starts while the previous one stops, with commands running concurrently.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_can_be_opened_while_others_open_and_close_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.db");
        // The last to close checkpoints and removes the log, which interferes with the next to open.
        let path = &path;
        let others = (0..3_u32).map(|other| async move {
            for number in 0..40 {
                let store = SqlitePairs::open(path).await.unwrap();
                let id = format!("{other}-{number}");
                let pair = Pair::active(id.as_str(), "user", id.as_str(), "mac", 7);
                store.add(&pair).await.unwrap();
                store.close().await;
            }
        });
        futures_util::future::join_all(others).await;
        assert_eq!(SqlitePairs::open(path).await.unwrap().list().await.unwrap().len(), 120);
    }

    #[tokio::test]
    async fn the_constraints_of_the_table_are_enforced() {
        let store = SqlitePairs::in_memory().await.unwrap();
        store.add(&demo()).await.unwrap();
        let wrong = [
            demo(),
            Pair { id: "same-devices".into(), ..demo() },
            Pair { id: "one-device".into(), mac: "phone".into(), ..demo() },
            Pair { id: "revoked".into(), mac: "m2".into(), status: Status::Revoked, ..demo() },
            Pair { id: "not-revoked".into(), mac: "m3".into(), revoked_at: Some(1), ..demo() },
            Pair { id: "".into(), mac: "m4".into(), ..demo() },
        ];
        for pair in wrong {
            let refused = store.add(&pair).await;
            assert!(matches!(refused, Err(StoreError::Rule { .. })), "{pair:?}: {refused:?}");
        }
        store.revoke(&"demo".into(), 8).await.unwrap();
        let again = Pair { id: "again".into(), ..demo() };
        store.add(&again).await.expect("the devices may pair again after a revocation");
    }

    #[tokio::test]
    async fn a_file_persists_and_a_closed_store_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.db");
        let store = SqlitePairs::open(&path).await.unwrap();
        store.add(&demo()).await.unwrap();
        store.ready().await.unwrap();
        store.close().await;
        assert!(store.ready().await.is_err());
        let again = SqlitePairs::open(&path).await.unwrap();
        assert_eq!(again.list().await.unwrap(), [demo()]);
    }

    #[tokio::test]
    async fn a_directory_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let error = SqlitePairs::open(dir.path()).await.unwrap_err();
        assert!(matches!(error, StoreError::Open { .. }));
    }
}
