//! Where the pairs of `serve` are: `--db`, and the secret that opens it.

use std::{sync::Arc, time::Duration};

use clap::Args;

use crate::{
    cli::{failure::Failure, secret::SecretText, units},
    pairs::{PairStore, StoreError, cache, open::Place, sqlite::SqlitePairs},
    types::Stage,
};

/// Flags that name a store. A URL may hold a password, so it is kept like a secret.
#[derive(Debug, Clone, Default, Args)]
pub struct DbArgs {
    /// Pairs: a file, made when it is not there; `postgres://USER@HOST/DATABASE` (a transaction-mode
    /// pooler: port 6543, or `?pgbouncer=true`); or `https://PROJECT.supabase.co`
    #[arg(long, value_name = "FILE|URL", value_parser = SecretText::parse)]
    db: Option<SecretText>,
    /// Password of the database, or service key of Supabase; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET", value_parser = SecretText::parse)]
    db_key: Option<SecretText>,
}

/// Flags of `serve` that name a store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    #[command(flatten)]
    at: DbArgs,
    /// How long a pair of a database (not of a file) is believed to be active; 30s at most
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = units::duration)]
    db_cache: Duration,
}

impl DbArgs {
    /// Where the store is; none when none is named.
    pub(in crate::cli) fn place(&self) -> Result<Option<Place>, Failure> {
        self.db
            .as_ref()
            .map(|db| Place::parse(db.expose()).map_err(|error| usage(&error)))
            .transpose()
    }

    /// Opens the store at `place`; nothing need answer there yet.
    pub(in crate::cli) async fn open(&self, place: &Place) -> Result<Arc<dyn PairStore>, Failure> {
        let key = self.key()?;
        if key.is_none() && matches!(place, Place::Rest(_)) {
            return Err(Failure::usage(
                "--db is a REST interface, and there is no --db-key",
                "give the service key by --db-key @FILE or ORION_DB_KEY",
            ));
        }
        place.open(key).await.map_err(|error| match place {
            Place::File(_) => failure(&error),
            Place::Postgres(_) | Place::Rest(_) => usage(&error),
        })
    }

    /// The secret, as long as it is one that a header and a password prompt would take.
    pub(super) fn key(&self) -> Result<Option<&str>, Failure> {
        let key = self.db_key.as_ref().map(SecretText::expose);
        if key.is_some_and(|key| key.contains(char::is_control)) {
            let remedy = "give a file that holds the key in one line, and nothing else";
            return Err(Failure::usage("--db-key has control characters in it", remedy));
        }
        Ok(key)
    }
}

impl StoreArgs {
    /// Whether a store is named.
    pub(super) fn has_place(&self) -> bool {
        self.at.db.is_some()
    }
}

/// A store in memory.
pub(super) async fn in_memory() -> Result<Arc<dyn PairStore>, Failure> {
    let store = SqlitePairs::in_memory().await.map_err(|error| {
        Failure::new(Stage::Server, error.to_string(), "check the memory of this machine")
    })?;
    Ok(Arc::new(store))
}

/// Opens the store of a real server, behind a cache when it is over a network.
pub(super) async fn required(args: &StoreArgs) -> Result<Arc<dyn PairStore>, Failure> {
    if args.db_cache > cache::MAX_AGE {
        return Err(Failure::usage(
            "--db-cache is over 30 s, and a revocation must be noticed by then",
            "leave --db-cache out, or make it shorter",
        ));
    }
    let Some(place) = args.at.place()? else {
        return Err(Failure::usage(
            "with a signing secret there must be pairs, and there is nowhere to find pairs",
            "give --db FILE or --db URL, and add pairs with `orion-peer serve pairs add`; or give pairs for \
             this run with --add-pair",
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
            "--db is a database, and without a signing secret this is a dev server",
            "set ORION_JWT_SECRET, or give a file with --db",
        )),
    }
}

fn usage(error: &StoreError) -> Failure {
    Failure::usage(error.to_string(), "correct --db, or leave it out")
}

/// A store that could not do it.
pub(in crate::cli) fn failure(error: &StoreError) -> Failure {
    let remedy = match error {
        StoreError::Open { .. } => "check the path and its permissions",
        StoreError::Query { .. } => "check --db and --db-key, and that the database answers",
        StoreError::Rule { .. } | StoreError::Value { .. } => {
            "give the pair another id or other devices"
        }
    };
    Failure::new(Stage::Server, error.to_string(), remedy)
}
