//! `token mint`: sign a signaling token with the server's secret, or a login token with the login secret, for tests and
//! troubleshooting.

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

/// Default lifetime of a login token, same as Supabase's.
const LOGIN_LIFETIME: Duration = Duration::from_hours(1);

/// Maximum lifetime of a login token.
const MAX_LOGIN_LIFETIME: Duration = Duration::from_hours(365 * 24);

/// Flags of `token mint`.
#[derive(Debug, clap::Args)]
pub struct MintArgs {
    /// Device ID (sub); not with --login
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Pair whose room the token grants access to (pairId); not with --login
    #[arg(long, value_name = "ID")]
    pair: Option<String>,
    /// Token lifetime; default: 300s for a signaling token (also the maximum), 1h for a login token
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    lifetime: Option<Duration>,
    /// Mint a login token, for the token API of a server with --login-secret
    #[arg(long)]
    login: bool,
    /// User of the login token (sub), who owns the pairs; default: dev-user
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// The server's --login-secret, which signs the login token (HS256)
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
/// There is no secret, it is not a valid key, or a server would reject the lifetime.
pub fn run(args: &MintArgs, output: Output) -> Result<(), Failure> {
    if args.login { login(args, output) } else { signaling(args, output) }
}

fn lifetime(given: Option<Duration>, default: Duration, maximum: Duration) -> Result<u64, Failure> {
    let lifetime = given.unwrap_or(default);
    if lifetime.as_secs() == 0 || lifetime > maximum {
        let (seconds, maximum) = (lifetime.as_secs_f64(), maximum.as_secs());
        return Err(Failure::usage(
            format!("--lifetime of {seconds} s is out of range: servers accept 1 to {maximum} s"),
            format!("omit --lifetime, or use at most {maximum}s"),
        ));
    }
    Ok(lifetime.as_secs())
}

fn named<'a>(flag: &str, value: Option<&'a str>) -> Result<&'a str, Failure> {
    match value {
        Some(value) if !value.trim().is_empty() => Ok(value),
        _ => {
            let what = if value.is_some() { "is empty" } else { "is missing" };
            Err(Failure::usage(format!("{flag} {what}"), format!("specify an id: {flag} ID")))
        }
    }
}

fn signaling(args: &MintArgs, output: Output) -> Result<(), Failure> {
    if args.user.is_some() {
        return Err(Failure::usage(
            "--user requires --login: signaling tokens are for a device of a pair",
            "omit --user, or add --login to mint a login token",
        ));
    }
    let maximum = Duration::from_secs(MAX_LIFETIME_S);
    let lifetime = lifetime(args.lifetime, maximum, maximum)?;
    let device = named("--device", args.device.as_deref())?;
    let pair = named("--pair", args.pair.as_deref())?;
    let keys = args.policy.keys(None)?.ok_or_else(|| {
        Failure::usage(
            "no secret to sign the token with",
            "add --secret @FILE or set ORION_JWT_SECRET",
        )
    })?;
    let (token, claims) = Verifier::new(keys, args.policy.policy())
        .mint(device.into(), pair.into(), unix_now(), lifetime)
        .map_err(|error| {
            token_failure(
                format!("cannot mint a token for device `{device}` of pair `{pair}`: {error}"),
                "pass a private key, not a public one, with --secret @FILE",
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

/// Mints a login token for [`AccessTokens`](crate::auth::login::AccessTokens): `sub` is the user, `aud` is
/// `authenticated`, and `iss` is `--issuer`, for servers with a `--login-issuer`.
fn login(args: &MintArgs, output: Output) -> Result<(), Failure> {
    let lifetime = lifetime(args.lifetime, LOGIN_LIFETIME, MAX_LOGIN_LIFETIME)?;
    let user = match args.user.as_deref() {
        None => DEV_USER,
        given => named("--user", given)?,
    };
    let secret = args.login_secret.as_ref().ok_or_else(|| {
        Failure::usage(
            "no secret to sign the login token with",
            "pass the server's secret with --login-secret @FILE or ORION_LOGIN_SECRET",
        )
    })?;
    let keys = Key::hs256("login", &Secret::from(secret.expose()))
        .and_then(|key| SigningKeys::new(vec![key]))
        .map_err(|error| {
            let remedy = "use the server's --login-secret";
            Failure::usage(format!("--login-secret: {error}"), remedy)
        })?;
    let claims = LoginClaims::new(user, args.policy.issuer.as_deref(), unix_now(), lifetime);
    let token = mint(&keys, &claims).map_err(|error| {
        token_failure(format!("cannot mint a login token for `{user}`: {error}"), "")
    })?;
    output.event(&MintedLogin { kind: "login-token", token: &token, user, exp: claims.exp })?;
    output.result(&token)
}
