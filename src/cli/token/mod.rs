//! `token`: fetch, mint or inspect a signaling JWT.

use clap::Subcommand;

use super::{failure::Failure, output::Output, secret::SecretText};
use crate::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::Policy,
        secret::Secret,
    },
    types::Stage,
};

pub mod fetch;
pub mod inspect;
pub mod mint;

/// Flags of `token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

/// Subcommands of `token`.
#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Fetch a signaling token from the token API
    Fetch(fetch::FetchArgs),
    /// Sign a signaling token, or with --login a login token, with the server's secret
    Mint(mint::MintArgs),
    /// Show a signaling token and any reasons to reject it
    Inspect(inspect::InspectArgs),
}

/// Runs the command.
///
/// # Errors
/// See the commands.
pub async fn run(args: TokenArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        TokenCommand::Fetch(args) => fetch::run(&args, output).await,
        TokenCommand::Mint(args) => mint::run(&args, output),
        TokenCommand::Inspect(args) => inspect::run(&args, output),
    }
}

/// Flags that define which tokens a server accepts.
#[derive(Debug, Clone, clap::Args)]
pub struct PolicyArgs {
    /// The server's signing secret (variable `ORION_JWT_SECRET`): at least 32 bytes for HS256, or a PEM key for ES256 or
    /// RS256
    #[arg(
        long,
        alias = "jwt-secret",
        env = "ORION_JWT_SECRET",
        value_name = "TEXT|@FILE",
        value_parser = SecretText::parse
    )]
    secret: Option<SecretText>,
    /// Key ID (kid); default: derived from the secret when minting, the token's own when inspecting
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Issuer of the server's tokens (iss)
    #[arg(long, alias = "jwt-issuer", value_name = "TEXT")]
    issuer: Option<String>,
    /// Audience of the server's tokens (aud)
    #[arg(long, alias = "jwt-audience", value_name = "TEXT")]
    audience: Option<String>,
}

impl PolicyArgs {
    fn policy(&self) -> Policy {
        Policy { issuer: self.issuer.clone(), audience: self.audience.clone() }
    }

    /// The server's key; `None` without a secret. Without `--kid`, its id is `default_kid` or, failing that, derived
    /// from the secret.
    fn keys(&self, default_kid: Option<&str>) -> Result<Option<SigningKeys>, Failure> {
        let Some(secret) = &self.secret else { return Ok(None) };
        let secret = Secret::from(secret.expose());
        let pem = secret.expose().starts_with(b"-----BEGIN");
        let key = match (self.kid.as_deref().or(default_kid), pem) {
            (Some(kid), true) => Key::pem(kid, secret.expose()),
            (Some(kid), false) => Key::hs256(kid, &secret),
            (None, _) => Key::from_secret_or_pem(&secret),
        };
        key.and_then(|key| SigningKeys::new(vec![key])).map(Some).map_err(|error| {
            Failure::usage(
                format!("--secret: {error}"),
                "pass the signing secret of the signaling server with --secret @FILE or \
                 ORION_JWT_SECRET",
            )
        })
    }
}

fn token_failure(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::new(Stage::Token, message, remedy)
}
