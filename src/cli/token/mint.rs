//! `token mint`: a signaling token by the server's own secret, for tests and for servers in trouble.

use std::time::Duration;

use serde::Serialize;

use super::{PolicyArgs, token_failure};
use crate::{
    auth::{jwt::Verifier, unix_now},
    cli::{failure::Failure, output::Output, units},
    proto::claims::MAX_LIFETIME_S,
};

/// Flags of `token mint`.
#[derive(Debug, clap::Args)]
pub struct MintArgs {
    /// Device to mint for (sub)
    #[arg(long, value_name = "ID")]
    device: String,
    /// Pair whose room the token opens (pairId)
    #[arg(long, value_name = "ID")]
    pair: String,
    /// How long the token is good for; over 300s it would be refused
    #[arg(long, value_name = "TIME", default_value = "300s", value_parser = units::duration)]
    lifetime: Duration,
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

/// Mints the token and writes it to stdout.
///
/// # Errors
/// No secret, one that is no key, or a lifetime that a server would refuse.
pub fn run(args: &MintArgs, output: Output) -> Result<(), Failure> {
    let lifetime = args.lifetime.as_secs();
    if lifetime == 0 || args.lifetime > Duration::from_secs(MAX_LIFETIME_S) {
        return Err(Failure::usage(
            format!(
                "--lifetime of {} s: servers accept 1 to {MAX_LIFETIME_S} s",
                args.lifetime.as_secs_f64()
            ),
            "leave --lifetime out, or make it 300s or less",
        ));
    }
    for (flag, value) in [("--device", &args.device), ("--pair", &args.pair)] {
        if value.trim().is_empty() {
            return Err(Failure::usage(format!("{flag} is empty"), format!("name one: {flag} ID")));
        }
    }
    let keys = args.policy.keys(None)?.ok_or_else(|| {
        Failure::usage(
            "no secret to sign the token with",
            "give --secret @FILE or ORION_JWT_SECRET",
        )
    })?;
    let (device, pair) = (args.device.as_str(), args.pair.as_str());
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
