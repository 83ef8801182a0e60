//! Pairs in `PostgreSQL`, directly or through a pooler.
//!
//! A pooler in transaction mode (`PgBouncer`, Supabase's port 6543) may use a different server connection
//! for each transaction: statements are not kept prepared, each query is a separate transaction, and there
//! is no `LISTEN`.

mod listen;
mod target;

use std::{collections::HashSet, io, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Connection, Executor, PgConnection, PgPool, Row,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow, Postgres},
    query::Query,
};
use tokio::{sync::mpsc, time::timeout};

use super::{Hint, Pair, PairStore, Status, StoreError, is_uuid, require_uuids};
use crate::types::{DeviceId, PairId, check_id};

pub use self::target::Target;

/// The table, its roles and its trigger, as SQL.
pub const MIGRATION: &str = include_str!("postgres/device_pairs.sql");

/// Timeout of an operation, including the wait for a connection.
const WITHIN: Duration = Duration::from_secs(3);

/// Maximum number of connections; the queries of a signaling server are short and cached.
const CONNECTIONS: u32 = 8;

/// Maximum number of ids in one query.
const IDS_PER_QUERY: usize = 1000;

/// Serializes migrations; the number is `orion` in ASCII.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(478660882286)";

/// Timeout of the migration, which waits for queries that use the table.
const MIGRATION_WITHIN: Duration = Duration::from_secs(30);

/// Columns of a pair; the read-only role may read only these.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id::text AS id, user_id::text AS user_id, mac_device_id, ios_device_id, status, \
             extract(epoch FROM created_at)::bigint AS created_at, \
             extract(epoch FROM revoked_at)::bigint AS revoked_at FROM public.device_pairs ",
            $rest
        )
    };
}

/// Pairs in a `PostgreSQL` database.
#[derive(Clone)]
pub struct PostgresPairs {
    pool: PgPool,
    /// For the connection that listens; `None` behind a transaction-mode pooler.
    listening: Option<PgConnectOptions>,
}

impl std::fmt::Debug for PostgresPairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options contain the password.
        let connections = self.pool.size();
        f.debug_struct("PostgresPairs").field("connections", &connections).finish_non_exhaustive()
    }
}

type Prepared<'q> = Query<'q, Postgres, PgArguments>;

impl PostgresPairs {
    /// Uses the database at `target`; connects on the first query.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let Target { options, pooled } = target;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(WITHIN)
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if !pooled {
                        connection.execute("SET statement_timeout = 3000").await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options.clone());
        Self { pool, listening: (!pooled).then_some(options) }
    }

    /// Applies [`MIGRATION`] in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Query`]: the role lacks the permission, or the database does not respond.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let operation = "apply the migration";
        let apply = async {
            let mut transaction = self.pool.begin().await?;
            (&mut *transaction).execute("SET LOCAL statement_timeout = 30000").await?;
            // `IF NOT EXISTS` is not atomic: of several concurrent migrations, all but one would fail.
            (&mut *transaction).execute(MIGRATION_LOCK).await?;
            (&mut *transaction).execute(sqlx::raw_sql(MIGRATION)).await?;
            transaction.commit().await
        };
        match timeout(MIGRATION_WITHIN, apply).await {
            Ok(done) => done.map_err(|error| failed(operation, &error)),
            Err(_) => Err(StoreError::query(operation, late(MIGRATION_WITHIN))),
        }
    }

    /// Runs one query.
    async fn rows(
        &self,
        operation: &'static str,
        query: Prepared<'_>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.ask(query).await.map_err(|error| failed(operation, &error))
    }

    /// Runs one query within [`WITHIN`].
    async fn ask(&self, query: Prepared<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let asked = if self.listening.is_some() {
            timeout(WITHIN, query.fetch_all(&mut *connection)).await
        } else {
            timeout(WITHIN, in_transaction(&mut connection, query)).await
        };
        asked.unwrap_or_else(|_| {
            // Its response may still arrive, and no other query must receive it.
            connection.close_on_drop();
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        })
    }

    async fn pairs(
        &self,
        operation: &'static str,
        query: Prepared<'_>,
    ) -> Result<Vec<Pair>, StoreError> {
        let rows = self.rows(operation, query).await?;
        rows.iter().map(pair).collect::<Result<_, _>>().map_err(|error| failed(operation, &error))
    }
}

/// One query in a transaction, so that a pooler sends all its messages to one server connection.
async fn in_transaction(
    connection: &mut PgConnection,
    query: Prepared<'_>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut transaction =
        connection.begin_with("BEGIN; SET LOCAL statement_timeout = 3000").await?;
    let rows = query.persistent(false).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(rows)
}

fn late(within: Duration) -> String {
    format!("timed out after {} s", within.as_secs())
}

/// The error, with a remedy if the error code is known (`PostgreSQL`'s appendix A).
fn failed(operation: &'static str, error: &sqlx::Error) -> StoreError {
    let cause = match error {
        // A refused connection is retried until the timeout.
        sqlx::Error::PoolTimedOut => format!(
            "no connection within {} s: check the address in --db, and that the database is running",
            WITHIN.as_secs()
        ),
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => late(WITHIN),
        sqlx::Error::Database(error) => {
            let remedy = match error.code().as_deref() {
                Some("42501") => "; this role lacks the permission: use the table's owner",
                Some("42P01") => "; run `orion-peer serve pairs migrate`",
                Some("28P01" | "28000") => "; check the user of --db and the password of --db-key",
                Some("26000" | "42P05" | "08P01") => {
                    "; a transaction-mode pooler needs `?pgbouncer=true` at the end of --db"
                }
                _ => "",
            };
            format!("{}{remedy}", error.message())
        }
        sqlx::Error::Tls(error) => no_tls(error),
        sqlx::Error::Io(error) if is_tls(error) => no_tls(error),
        error => error.to_string(),
    };
    if is_of_a_value(error) {
        return StoreError::value(operation, cause);
    }
    StoreError::query(operation, cause)
}

/// Whether the database works, but rejected a value: classes 22 (data exception) and 23 (integrity
/// constraint violation) of `PostgreSQL`'s appendix A.
fn is_of_a_value(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// Whether TLS is what broke a connection.
fn is_tls(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some()
}

fn no_tls(error: &dyn std::fmt::Display) -> String {
    format!(
        "TLS: {error}; append `?sslmode=verify-full&sslrootcert=FILE` to --db to trust a CA, or \
         `?sslmode=disable` to disable TLS"
    )
}

fn pair(row: &PgRow) -> Result<Pair, sqlx::Error> {
    let status: String = row.try_get("status")?;
    let status = Status::parse(&status)
        .ok_or_else(|| sqlx::Error::Decode(format!("unknown status `{status}`").into()))?;
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

#[async_trait]
impl PairStore for PostgresPairs {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        if !is_uuid(id.as_str()) {
            return Ok(None);
        }
        let query = sqlx::query(select!("WHERE id = $1::uuid AND status = 'active'"));
        let pairs = self.pairs("look up a pair", query.bind(id.as_str())).await?;
        Ok(pairs.into_iter().next())
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        if !is_uuid(user_id) || check_id(device.as_str()).is_err() {
            return Ok(Vec::new());
        }
        let query = sqlx::query(select!(
            "WHERE user_id = $1::uuid AND status = 'active' \
             AND (mac_device_id = $2 OR ios_device_id = $2) ORDER BY device_pairs.created_at, id"
        ));
        let query = query.bind(user_id).bind(device.as_str());
        self.pairs("look up the pairs of a device", query).await
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        let operation = "check live pairs";
        let ids: Vec<&str> = ids.iter().map(PairId::as_str).filter(|id| is_uuid(id)).collect();
        let mut active = HashSet::new();
        for some in ids.chunks(IDS_PER_QUERY) {
            let query = sqlx::query(
                "SELECT id::text FROM public.device_pairs \
                 WHERE id = ANY($1::uuid[]) AND status = 'active'",
            );
            for row in self.rows(operation, query.bind(some)).await? {
                let id = row.try_get(0).map_err(|error| failed(operation, &error))?;
                active.insert(PairId(id));
            }
        }
        Ok(active)
    }

    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError> {
        require_uuids(pair)?;
        let query = sqlx::query(
            "INSERT INTO public.device_pairs \
             (id, user_id, mac_device_id, ios_device_id, status, created_at, revoked_at) \
             VALUES ($1::uuid, $2::uuid, $3, $4, $5, to_timestamp($6), to_timestamp($7)) \
             ON CONFLICT DO NOTHING RETURNING 1",
        );
        let query = query
            .bind(pair.id.as_str())
            .bind(&pair.user_id)
            .bind(pair.mac.as_str())
            .bind(pair.ios.as_str())
            .bind(pair.status.as_str())
            .bind(pair.created_at as f64)
            .bind(pair.revoked_at.map(|at| at as f64));
        match self.ask(query).await {
            Ok(rows) => Ok(!rows.is_empty()),
            Err(sqlx::Error::Database(error)) if error.is_check_violation() => {
                Err(StoreError::Rule { id: pair.id.clone(), rule: error.message().to_owned() })
            }
            Err(error) => Err(failed("add a pair", &error)),
        }
    }

    async fn list(&self) -> Result<Vec<Pair>, StoreError> {
        let query = sqlx::query(select!("ORDER BY device_pairs.created_at, id"));
        self.pairs("list the pairs", query).await
    }

    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError> {
        if !is_uuid(id.as_str()) {
            return Ok(false);
        }
        let query = sqlx::query(
            "UPDATE public.device_pairs SET status = 'revoked', revoked_at = to_timestamp($2) \
             WHERE id = $1::uuid AND status <> 'revoked' RETURNING 1",
        );
        let query = query.bind(id.as_str()).bind(now as f64);
        self.rows("revoke a pair", query).await.map(|rows| !rows.is_empty())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let query = sqlx::query("SELECT id FROM public.device_pairs LIMIT 1");
        self.rows("read the table", query).await.map(|_| ())
    }

    fn hints(&self) -> Option<mpsc::Receiver<Hint>> {
        let options = self.listening.clone()?;
        let (hints, receiver) = mpsc::channel(1024);
        tokio::spawn(listen::listen(options, hints));
        Some(receiver)
    }
}
