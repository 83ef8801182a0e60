//! The pair store of `serve`: `--db` and its key.

use std::{sync::Arc, time::Duration};

use clap::Args;

use crate::{
    cli::{failure::Failure, secret::SecretText, units},
    pairs::{PairStore, StoreError, cache, open::Place, sqlite::SqlitePairs},
    types::Stage,
};

/// Flags for a pair store. A URL may contain a password, so it is treated as a secret.
#[derive(Debug, Clone, Default, Args)]
pub struct DbArgs {
    /// Pair store: a file, created if missing; `postgres://USER@HOST/DATABASE` (for a transaction-mode pooler: port
    /// 6543, or `?pgbouncer=true`); or `https://PROJECT.supabase.co`
    #[arg(long, value_name = "FILE|URL", value_parser = SecretText::parse)]
    db: Option<SecretText>,
    /// Database password, or Supabase service key; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET", value_parser = SecretText::parse)]
    db_key: Option<SecretText>,
}

/// Flags of `serve` for the pair store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    #[command(flatten)]
    at: DbArgs,
    /// How long an active pair from a database (not a file) is cached; at most 30s
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = units::duration)]
    db_cache: Duration,
}

impl DbArgs {
    /// The location of the store; `None` if none is given.
    pub(in crate::cli) fn place(&self) -> Result<Option<Place>, Failure> {
        self.db
            .as_ref()
            .map(|db| Place::parse(db.expose()).map_err(|error| usage(&error)))
            .transpose()
    }

    /// Opens the store at `place`; a database does not have to be reachable yet.
    pub(in crate::cli) async fn open(&self, place: &Place) -> Result<Arc<dyn PairStore>, Failure> {
        let key = self.key()?;
        if key.is_none() && matches!(place, Place::Rest(_)) {
            return Err(Failure::usage(
                "--db with a REST interface requires --db-key",
                "specify the service key with --db-key @FILE or ORION_DB_KEY",
            ));
        }
        place.open(key).await.map_err(|error| match place {
            Place::File(_) => failure(&error),
            Place::Postgres(_) | Place::Rest(_) => usage(&error),
        })
    }

    /// The key of `--db-key`, without control characters: it is sent in an HTTP header or as a password.
    pub(super) fn key(&self) -> Result<Option<&str>, Failure> {
        let key = self.db_key.as_ref().map(SecretText::expose);
        if key.is_some_and(|key| key.contains(char::is_control)) {
            let remedy = "use a file that contains only the key, on one line";
            return Err(Failure::usage("--db-key contains control characters", remedy));
        }
        Ok(key)
    }
}

impl StoreArgs {
    /// Whether a store is given.
    pub(super) fn has_place(&self) -> bool {
        self.at.db.is_some()
    }
}

/// Creates an in-memory store.
pub(super) async fn in_memory() -> Result<Arc<dyn PairStore>, Failure> {
    let store = SqlitePairs::in_memory().await.map_err(|error| {
        Failure::new(Stage::Server, error.to_string(), "check the free memory of this machine")
    })?;
    Ok(Arc::new(store))
}

/// Opens the store of a production server, with a cache if it is a database.
pub(super) async fn required(args: &StoreArgs) -> Result<Arc<dyn PairStore>, Failure> {
    if args.db_cache > cache::MAX_AGE {
        return Err(Failure::usage(
            "--db-cache must be at most 30 s, because revocations must take effect within that time",
            "omit --db-cache, or use a shorter time",
        ));
    }
    let Some(place) = args.at.place()? else {
        return Err(Failure::usage(
            "a server with a signing secret needs pairs, but there is no pair store",
            "use --db FILE or --db URL and add pairs with `orion-peer serve pairs add`, or specify temporary \
             pairs with --add-pair",
        ));
    };
    let store = args.at.open(&place).await?;
    Ok(match place {
        Place::File(_) => store,
        Place::Postgres(_) | Place::Rest(_) => Arc::new(cache::Cached::new(store, args.db_cache)),
    })
}

/// Opens the file of a dev server, if it has one.
pub(super) async fn dev_file(args: &StoreArgs) -> Result<Option<Arc<dyn PairStore>>, Failure> {
    match args.at.place()? {
        None => Ok(None),
        Some(file @ Place::File(_)) => args.at.open(&file).await.map(Some),
        Some(_) => Err(Failure::usage(
            "--db with a database requires a signing secret: a dev server accepts only a file",
            "set ORION_JWT_SECRET, or use --db FILE",
        )),
    }
}

fn usage(error: &StoreError) -> Failure {
    Failure::usage(error.to_string(), "correct or omit --db")
}

/// The failure of a store.
pub(in crate::cli) fn failure(error: &StoreError) -> Failure {
    let remedy = match error {
        StoreError::Open { .. } => "check the path and its permissions",
        StoreError::Query { .. } => "check --db and --db-key, and that the database is reachable",
        StoreError::Rule { .. } | StoreError::Value { .. } => {
            "use a different id or different devices"
        }
    };
    Failure::new(Stage::Server, error.to_string(), remedy)
}
