//! `token mint`: a signaling token by the server's own secret, or a login token by the login service's, for tests
//! and for servers in trouble.

use std::time::Duration;

use serde::Serialize;

use super::{PolicyArgs, token_failure};
use crate::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::{Verifier, mint},
        login::{DEV_USER, LoginClaims},
        secret::Secret,
        unix_now,
    },
    cli::{failure::Failure, output::Output, secret::SecretText, units},
    proto::claims::MAX_LIFETIME_S,
};

/// Lifetime of a login token when none is given: what Supabase gives.
const LOGIN_LIFETIME: Duration = Duration::from_hours(1);

/// Longest lifetime of a login token.
const MAX_LOGIN_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// Flags of `token mint`.
#[derive(Debug, clap::Args)]
pub struct MintArgs {
    /// Device to mint for (sub); not with --login
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Pair whose room the token opens (pairId); not with --login
    #[arg(long, value_name = "ID")]
    pair: Option<String>,
    /// How long the token is good for: a signaling token 300s, which is the maximum, a login token 1h
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    lifetime: Option<Duration>,
    /// Mint a login token, with which the token API of a server with --login-secret gives signaling tokens
    #[arg(long)]
    login: bool,
    /// User of the login token (sub), to whom the pairs belong; default dev-user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// The server's --login-secret, to sign the login token with (HS256)
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    login_secret: Option<SecretText>,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Minted<'t> {
    kind: &'static str,
    token: &'t str,
    device: &'t str,
    pair_id: &'t str,
    exp: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MintedLogin<'t> {
    kind: &'static str,
    token: &'t str,
    user: &'t str,
    exp: u64,
}

/// Mints the token and writes it to stdout.
///
/// # Errors
/// No secret, one that is no key, or a lifetime that a server would refuse.
pub fn run(args: &MintArgs, output: Output) -> Result<(), Failure> {
    if args.login { login(args, output) } else { signaling(args, output) }
}

fn lifetime(given: Option<Duration>, default: Duration, most: Duration) -> Result<u64, Failure> {
    let lifetime = given.unwrap_or(default);
    if lifetime.as_secs() == 0 || lifetime > most {
        let (seconds, most) = (lifetime.as_secs_f64(), most.as_secs());
        return Err(Failure::usage(
            format!("--lifetime of {seconds} s: servers accept 1 to {most} s"),
            format!("leave --lifetime out, or make it {most}s or less"),
        ));
    }
    Ok(lifetime.as_secs())
}

fn named<'a>(flag: &str, value: Option<&'a str>) -> Result<&'a str, Failure> {
    match value {
        Some(value) if !value.trim().is_empty() => Ok(value),
        _ => {
            let what = if value.is_some() { "is empty" } else { "is missing" };
            Err(Failure::usage(format!("{flag} {what}"), format!("name one: {flag} ID")))
        }
    }
}

fn signaling(args: &MintArgs, output: Output) -> Result<(), Failure> {
    if args.user.is_some() {
        return Err(Failure::usage(
            "--user without --login: a signaling token is for a device of a pair",
            "leave it out, or mint a login token with --login",
        ));
    }
    let most = Duration::from_secs(MAX_LIFETIME_S);
    let lifetime = lifetime(args.lifetime, most, most)?;
    let device = named("--device", args.device.as_deref())?;
    let pair = named("--pair", args.pair.as_deref())?;
    let keys = args.policy.keys(None)?.ok_or_else(|| {
        Failure::usage(
            "no secret to sign the token with",
            "give --secret @FILE or ORION_JWT_SECRET",
        )
    })?;
    let (token, claims) = Verifier::new(keys, args.policy.policy())
        .mint(device.into(), pair.into(), unix_now(), lifetime)
        .map_err(|error| {
            token_failure(
                format!("cannot mint a token for device `{device}` of pair `{pair}`: {error}"),
                "give a private key, not a public one, with --secret @FILE",
            )
        })?;
    output.event(&Minted {
        kind: "token",
        token: &token,
        device,
        pair_id: pair,
        exp: claims.exp,
    })?;
    output.result(&token)
}

/// A login token as [`AccessTokens`](crate::auth::login::AccessTokens) takes it: `sub` is the user, `aud` is
/// `authenticated`, and `iss` is --issuer where the server has a --login-issuer.
fn login(args: &MintArgs, output: Output) -> Result<(), Failure> {
    let lifetime = lifetime(args.lifetime, LOGIN_LIFETIME, MAX_LOGIN_LIFETIME)?;
    let user = match args.user.as_deref() {
        None => DEV_USER,
        given => named("--user", given)?,
    };
    let secret = args.login_secret.as_ref().ok_or_else(|| {
        Failure::usage(
            "no secret to sign the login token with",
            "give --login-secret @FILE or ORION_LOGIN_SECRET, as the server has it",
        )
    })?;
    let keys = Key::hs256("login", &Secret::from(secret.expose()))
        .and_then(|key| SigningKeys::new(vec![key]))
        .map_err(|error| {
            let remedy = "give the secret that the server has as --login-secret";
            Failure::usage(format!("--login-secret: {error}"), remedy)
        })?;
    let claims = LoginClaims::new(user, args.policy.issuer.as_deref(), unix_now(), lifetime);
    let token = mint(&keys, &claims).map_err(|error| {
        token_failure(format!("cannot mint a login token for `{user}`: {error}"), "")
    })?;
    output.event(&MintedLogin { kind: "login-token", token: &token, user, exp: claims.exp })?;
    output.result(&token)
}
