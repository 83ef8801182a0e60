//! `serve pairs`: manage the pairs in a store.

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

/// Subcommands of `serve pairs`.
#[derive(Debug, Clone, Subcommand)]
enum PairsCommand {
    /// Add a pair of a phone and a Mac
    Add(AddArgs),
    /// List all pairs, oldest first
    List(ListArgs),
    /// Revoke a pair permanently and close its sockets
    Revoke(RevokeArgs),
    /// Print or apply the SQL migration of a database
    Migrate(MigrateArgs),
}

#[derive(Debug, Clone, Args)]
struct AddArgs {
    /// Device ID of the phone
    #[arg(long, value_name = "ID")]
    phone: String,
    /// Device ID of the Mac
    #[arg(long, value_name = "ID")]
    mac: String,
    /// User that owns both devices; a UUID if the store is a database
    #[arg(long, value_name = "ID")]
    user: String,
    /// ID of the pair; default: a new UUID
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
    /// ID of the pair
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    db: DbArgs,
}

#[derive(Debug, Clone, Args)]
struct MigrateArgs {
    /// Apply the migration to the database of --db, as its owner
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    db: DbArgs,
}

/// A pair as a JSON line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PairLine<'p> {
    kind: &'static str,
    pair_id: &'p str,
    user_id: &'p str,
    phone: &'p str,
    mac: &'p str,
    status: &'static str,
    created_at: String,
    revoked_at: Option<String>,
}

impl<'p> PairLine<'p> {
    fn new(pair: &'p Pair) -> Self {
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

/// Formats a Unix time as RFC 3339, or as a number if it is out of range.
fn time(seconds: u64) -> String {
    let instant = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    instant.map_or_else(|| seconds.to_string(), |instant| instant.to_string())
}

/// Runs the command.
///
/// # Errors
/// Exit code 2 for invalid flags, 1 if the store fails.
pub async fn run(args: PairsArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        PairsCommand::Add(args) => add(args, output).await,
        PairsCommand::List(args) => list(args, output).await,
        PairsCommand::Revoke(args) => revoke(args, output).await,
        PairsCommand::Migrate(args) => migrate(args, output).await,
    }
}

fn required_place(db: &DbArgs) -> Result<Place, Failure> {
    db.place()?.ok_or_else(|| {
        Failure::usage(
            "--db is missing",
            "specify the pair store with --db FILE, --db URL or ORION_DB",
        )
    })
}

/// The given store; a file must exist, because a new one would be empty.
fn existing_place(db: &DbArgs) -> Result<Place, Failure> {
    let place = required_place(db)?;
    match &place {
        Place::File(path) if !path.exists() => Err(Failure::new(
            Stage::Server,
            format!("pair store `{}` does not exist", path.display()),
            "check --db, or create a new store with `orion-peer serve pairs add`",
        )),
        _ => Ok(place),
    }
}

async fn add(args: AddArgs, output: Output) -> Result<(), Failure> {
    let given = [("--phone", &args.phone), ("--mac", &args.mac), ("--user", &args.user)];
    let empty = given.into_iter().chain(args.id.as_ref().map(|id| ("--id", id)));
    for (flag, value) in empty {
        if value.trim() != value || value.is_empty() {
            let message = format!("{flag} is empty or has leading or trailing spaces");
            return Err(Failure::usage(message, format!("specify an id: {flag} ID")));
        }
    }
    let place = required_place(&args.db)?;
    let id = args.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let pair = Pair::active(id, args.user, args.phone, args.mac, unix_now());
    pair.check().map_err(|error| {
        let remedy = "use ids of 1 to 256 bytes without control characters";
        Failure::usage(error.to_string(), remedy)
    })?;
    let store = args.db.open(&place).await?;
    store.add(&pair).await.map_err(|error| failure(&error))?;
    output.line(format!("added pair {}: phone {}, Mac {}", pair.id, pair.ios, pair.mac));
    output.event(&PairLine::new(&pair))?;
    output.result(pair.id.as_str())
}

async fn list(args: ListArgs, output: Output) -> Result<(), Failure> {
    let store = args.db.open(&existing_place(&args.db)?).await?;
    let pairs = store.list().await.map_err(|error| failure(&error))?;
    for pair in &pairs {
        output.event(&PairLine::new(pair))?;
    }
    if pairs.is_empty() {
        output.line("no pairs visible to this key or role");
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
    let store = args.db.open(&existing_place(&args.db)?).await?;
    let id = PairId(args.id);
    let revoked = store.revoke(&id, unix_now()).await.map_err(|error| failure(&error))?;
    if !revoked {
        return Err(Failure::new(
            Stage::Server,
            format!("no active pair `{id}`"),
            "see `orion-peer serve pairs list` for all pairs and their status",
        ));
    }
    output.line(format!("revoked pair {id}"));
    output.event(&serde_json::json!({"kind": "revoked", "pairId": id}))
}

async fn migrate(args: MigrateArgs, output: Output) -> Result<(), Failure> {
    let place = args.db.place()?;
    if !args.apply {
        // The SQL is printed as is, even with --json.
        return output.raw(MIGRATION.as_bytes());
    }
    let Some(Place::Postgres(url)) = place else {
        return Err(Failure::usage(
            "--apply requires a PostgreSQL database: --db postgres://…",
            "use --db postgres://…; a file needs no migration; for Supabase's REST interface, paste the SQL \
             printed without --apply into its SQL editor",
        ));
    };
    let target = Target::parse(&url, args.db.key()?).map_err(|error| failure(&error))?;
    PostgresPairs::new(target).migrate().await.map_err(|error| failure(&error))?;
    output.line("the table device_pairs, its roles and its trigger are set up");
    output.event(&serde_json::json!({"kind": "migrated"}))
}
