//! `serve pairs`: the pairs of a store, whichever it is.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::store::{DbArgs, failure};
use crate::{
    auth::unix_now,
    cli::{failure::Failure, output::Output},
    pairs::{
        Pair, Status,
        open::Place,
        postgres::{MIGRATION, PostgresPairs, Target},
    },
    report::layout::{Align, columns},
    types::{PairId, Stage},
};

/// Flags of `serve pairs`.
#[derive(Debug, Clone, Args)]
pub struct PairsArgs {
    #[command(subcommand)]
    command: PairsCommand,
}

/// What to do with pairs.
#[derive(Debug, Clone, Subcommand)]
enum PairsCommand {
    /// Add a phone and a Mac that may meet
    Add(AddArgs),
    /// List all pairs, oldest first
    List(ListArgs),
    /// End a pair for good; live sockets of it are closed
    Revoke(RevokeArgs),
    /// Print the SQL that prepares a database, or apply it
    Migrate(MigrateArgs),
}

#[derive(Debug, Clone, Args)]
struct AddArgs {
    /// Device id of the phone
    #[arg(long, value_name = "ID")]
    phone: String,
    /// Device id of the Mac
    #[arg(long, value_name = "ID")]
    mac: String,
    /// User both belong to; a UUID where the store is a database
    #[arg(long, value_name = "ID")]
    user: String,
    /// Id of the pair; default: a new UUID
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    #[command(flatten)]
    db: DbArgs,
}

#[derive(Debug, Clone, Args)]
struct ListArgs {
    #[command(flatten)]
    db: DbArgs,
}

#[derive(Debug, Clone, Args)]
struct RevokeArgs {
    /// Id of the pair
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    db: DbArgs,
}

#[derive(Debug, Clone, Args)]
struct MigrateArgs {
    /// Apply it to the database of --db, as its owner
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    db: DbArgs,
}

/// A pair as a JSON line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'p> {
    kind: &'static str,
    pair_id: &'p str,
    user_id: &'p str,
    phone: &'p str,
    mac: &'p str,
    status: &'static str,
    created_at: String,
    revoked_at: Option<String>,
}

impl<'p> Line<'p> {
    fn of(pair: &'p Pair) -> Self {
        Self {
            kind: "pair",
            pair_id: pair.id.as_str(),
            user_id: &pair.user_id,
            phone: pair.ios.as_str(),
            mac: pair.mac.as_str(),
            status: pair.status.as_str(),
            created_at: time(pair.created_at),
            revoked_at: pair.revoked_at.map(time),
        }
    }
}

/// RFC 3339, or the seconds where that ends.
fn time(seconds: u64) -> String {
    let instant = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    instant.map_or_else(|| seconds.to_string(), |instant| instant.to_string())
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 for flags that are not understood, 1 when the store does not do it.
pub async fn run(args: PairsArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        PairsCommand::Add(args) => add(args, output).await,
        PairsCommand::List(args) => list(args, output).await,
        PairsCommand::Revoke(args) => revoke(args, output).await,
        PairsCommand::Migrate(args) => migrate(args, output).await,
    }
}

fn named(db: &DbArgs) -> Result<Place, Failure> {
    db.place()?.ok_or_else(|| {
        Failure::usage("--db is missing", "name the store with --db FILE, --db URL or ORION_DB")
    })
}

/// The store that is named; a file must be there, for there is nothing in one that is made now.
fn there(db: &DbArgs) -> Result<Place, Failure> {
    let place = named(db)?;
    match &place {
        Place::File(path) if !path.exists() => Err(Failure::new(
            Stage::Server,
            format!("there is no pair store {}", path.display()),
            "check --db; `orion-peer serve pairs add` makes a new one",
        )),
        _ => Ok(place),
    }
}

async fn add(args: AddArgs, output: Output) -> Result<(), Failure> {
    let given = [("--phone", &args.phone), ("--mac", &args.mac), ("--user", &args.user)];
    let empty = given.into_iter().chain(args.id.as_ref().map(|id| ("--id", id)));
    for (flag, value) in empty {
        if value.trim() != value || value.is_empty() {
            let message = format!("{flag} is empty or has spaces around it");
            return Err(Failure::usage(message, format!("name one: {flag} ID")));
        }
    }
    let place = named(&args.db)?;
    let id = args.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let pair = Pair::active(id, args.user, args.phone, args.mac, unix_now());
    pair.check().map_err(|error| {
        let remedy = "ids have 1 to 256 bytes and no control characters";
        Failure::usage(error.to_string(), remedy)
    })?;
    let store = args.db.open(&place).await?;
    store.add(&pair).await.map_err(|error| failure(&error))?;
    output.line(format!("added pair {}: phone {}, Mac {}", pair.id, pair.ios, pair.mac));
    output.event(&Line::of(&pair))?;
    output.result(pair.id.as_str())
}

async fn list(args: ListArgs, output: Output) -> Result<(), Failure> {
    let store = args.db.open(&there(&args.db)?).await?;
    let pairs = store.list().await.map_err(|error| failure(&error))?;
    for pair in &pairs {
        output.event(&Line::of(pair))?;
    }
    if pairs.is_empty() {
        output.line("there are no pairs that this key or role may see");
        return Ok(());
    }
    output.page(table(&pairs))
}

fn table(pairs: &[Pair]) -> String {
    let head = ["PAIR", "STATUS", "PHONE", "MAC", "USER", "SINCE"].map(str::to_owned);
    let row = |pair: &Pair| {
        let since = if pair.status == Status::Revoked { pair.revoked_at } else { None };
        [
            pair.id.to_string(),
            pair.status.as_str().to_owned(),
            pair.ios.to_string(),
            pair.mac.to_string(),
            pair.user_id.clone(),
            time(since.unwrap_or(pair.created_at)),
        ]
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(head).chain(pairs.iter().map(row)).map(Vec::from).collect();
    columns(&[(Align::Left, 0); 6], &rows).join("\n")
}

async fn revoke(args: RevokeArgs, output: Output) -> Result<(), Failure> {
    let store = args.db.open(&there(&args.db)?).await?;
    let id = PairId(args.id);
    let revoked = store.revoke(&id, unix_now()).await.map_err(|error| failure(&error))?;
    if !revoked {
        return Err(Failure::new(
            Stage::Server,
            format!("there is no pair `{id}` that could be revoked"),
            "`orion-peer serve pairs list` shows the pairs and which are revoked already",
        ));
    }
    output.line(format!("revoked pair {id}"));
    output.event(&serde_json::json!({"kind": "revoked", "pairId": id}))
}

async fn migrate(args: MigrateArgs, output: Output) -> Result<(), Failure> {
    let place = args.db.place()?;
    if !args.apply {
        // The SQL is what was asked for, whatever form the answer has.
        return output.raw(MIGRATION.as_bytes());
    }
    let Some(Place::Postgres(url)) = place else {
        return Err(Failure::usage(
            "--apply needs a --db that is postgres://…: only there is something to apply",
            "a file needs nothing; for Supabase's REST interface run the SQL without --apply in \
             its SQL editor",
        ));
    };
    let target = Target::parse(&url, args.db.key()?).map_err(|error| failure(&error))?;
    PostgresPairs::new(target).migrate().await.map_err(|error| failure(&error))?;
    output.line("the table device_pairs, its roles and its trigger are there");
    output.event(&serde_json::json!({"kind": "migrated"}))
}
