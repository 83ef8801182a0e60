//! Login and keys of `serve`: who may request a signaling token, and the keys that sign and verify them.

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use super::{Mode, ServeArgs};
use crate::{
    auth::{
        jwks::{Jwks, JwksTimes},
        jws::SigningKeys,
        jwt::{Policy, Verifier},
        key_source::{self, KeyOrigin, KeySourceError},
        login::{AccessTokens, DevLogin, LoginCheck},
        secret::Secret,
        unix_now,
    },
    cli::{failure::Failure, secret::SecretSource},
};

/// Path of a published key set under its issuer (Supabase: under `/auth/v1`).
const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Flags of `serve` for login tokens and signing keys.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Login and keys")]
pub struct LoginArgs {
    /// Key file, or directory of *.pem and *.key files, for signaling tokens, as [KID=]PATH; reloaded on SIGHUP;
    /// repeatable. Tokens are signed with the first key that can sign (in a directory, the last by name) and verified with
    /// all keys
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub jwt_keys: Vec<String>,
    /// Public keys (JWKS) that verify signaling tokens signed by another service
    #[arg(long, value_name = "URL")]
    pub jwt_jwks: Option<String>,
    /// Public keys (JWKS) that verify login tokens, in addition to or instead of --login-secret; for Supabase:
    /// `https://PROJECT.supabase.co/auth/v1` followed by /.well-known/jwks.json
    #[arg(long, value_name = "URL")]
    pub login_jwks: Option<String>,
    /// Required issuer (iss) of login tokens; default: --login-jwks without /.well-known/jwks.json
    #[arg(long, value_name = "URL")]
    pub login_issuer: Option<String>,
}

/// The secrets given by flags, each read only once, because it may come from a pipe.
pub(super) struct Secrets {
    /// The current and the previous secret that sign signaling tokens.
    pub signing: [Option<Secret>; 2],
    /// The secret that signs login tokens.
    pub login: Option<Secret>,
}

impl Secrets {
    /// Reads the secrets. A holder of the login secret can log in as any user, and a holder of the signing secret can
    /// join any room: if they were the same, every service that verifies logins could join rooms.
    ///
    /// # Errors
    /// Exit code 2 if a secret cannot be read, or if `--login-secret` also signs signaling tokens.
    pub(super) fn read(args: &ServeArgs) -> Result<Self, Failure> {
        let signing = signing_secrets(args)?;
        let login = SecretSource::read("--login-secret", args.login_secret.as_ref())?;
        for (flag, secret) in ["--jwt-secret", "--jwt-previous-secret"].into_iter().zip(&signing) {
            if secret
                .as_ref()
                .zip(login.as_ref())
                .is_some_and(|(one, other)| one.is(other.expose()))
            {
                return Err(Failure::usage(
                    format!("--login-secret is the same as {flag}"),
                    "use a different secret for each, for example from `openssl rand -hex 32`",
                ));
            }
        }
        Ok(Self { signing, login })
    }
}

fn signing_secrets(args: &ServeArgs) -> Result<[Option<Secret>; 2], Failure> {
    Ok([
        SecretSource::read("--jwt-secret", args.jwt_secret.as_ref())?,
        SecretSource::read("--jwt-previous-secret", args.jwt_previous_secret.as_ref())?,
    ])
}

/// The verifier and issuer of signaling tokens; `None` without keys, as for the dev server.
pub(super) fn verifier(
    args: &ServeArgs,
    secrets: [Option<Secret>; 2],
    policy: Policy,
) -> Result<Option<Verifier>, Failure> {
    let origins = origins(args, secrets)?;
    let elsewhere = jwks("--jwt-jwks", args.login.jwt_jwks.as_deref())?;
    let keys = match (origins.is_empty(), &elsewhere) {
        (true, None) => return Ok(None),
        (true, Some(_)) => SigningKeys::none(),
        (false, _) => key_source::read(&origins).map_err(|error| refused(&error))?,
    };
    let verifier = Verifier::new(keys, policy);
    Ok(Some(match elsewhere {
        Some(elsewhere) => verifier.or_by(elsewhere),
        None => verifier,
    }))
}

fn refused(error: &KeySourceError) -> Failure {
    Failure::usage(
        format!("the signing key is not valid: {error}"),
        "check --jwt-secret, --jwt-previous-secret and --jwt-keys; create a secret with `openssl rand \
         -hex 32`, or a key with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
    )
}

/// The origins of the keys; the signing key comes first.
fn origins(
    args: &ServeArgs,
    [current, previous]: [Option<Secret>; 2],
) -> Result<Vec<KeyOrigin>, Failure> {
    let mut origins = Vec::new();
    origins.extend(current.map(KeyOrigin::Text));
    origins.extend(args.login.jwt_keys.iter().map(|given| match given.split_once('=') {
        Some((kid, path)) if !kid.is_empty() && !kid.contains('/') => {
            KeyOrigin::Path { kid: Some(kid.to_owned()), path: PathBuf::from(path) }
        }
        _ => KeyOrigin::Path { kid: None, path: PathBuf::from(given) },
    }));
    if previous.is_some() && origins.is_empty() {
        return Err(Failure::usage(
            "--jwt-previous-secret requires a current key",
            "add --jwt-secret or --jwt-keys",
        ));
    }
    origins.extend(previous.map(KeyOrigin::Text));
    Ok(origins)
}

fn jwks(flag: &str, url: Option<&str>) -> Result<Option<Jwks>, Failure> {
    url.map(|url| Jwks::new(url, JwksTimes::default())).transpose().map_err(|error| {
        Failure::usage(format!("{flag}: {error}"), format!("use {flag} https://HOST/…{JWKS_PATH}"))
    })
}

/// The login token verification that the flags configure.
pub(super) fn access_tokens(
    args: &ServeArgs,
    secret: Option<Secret>,
) -> Result<Option<AccessTokens>, Failure> {
    let published = jwks("--login-jwks", args.login.login_jwks.as_deref())?;
    let issuer = issuer(&args.login, published.as_ref());
    let weak = |error| {
        let remedy = "use the JWT secret of the login service";
        Failure::usage(format!("--login-secret: {error}"), remedy)
    };
    match (secret, published, issuer) {
        (None, None, None) => Ok(None),
        (None, None, Some(_)) => Err(Failure::usage(
            "--login-issuer requires the keys of its tokens",
            "add --login-jwks URL or --login-secret @FILE",
        )),
        (_, Some(published), None) => Err(Failure::usage(
            format!("the issuer of tokens signed by {} is unknown", published.url()),
            "specify the `iss` of the login tokens with --login-issuer",
        )),
        (Some(secret), None, issuer) => AccessTokens::new(&secret, issuer).map(Some).map_err(weak),
        (Some(secret), Some(published), issuer) => AccessTokens::new(&secret, issuer)
            .map(|tokens| Some(tokens.or_by(published)))
            .map_err(weak),
        (None, Some(published), Some(issuer)) => {
            Ok(Some(AccessTokens::published(published, issuer)))
        }
    }
}

fn issuer(args: &LoginArgs, published: Option<&Jwks>) -> Option<String> {
    let derived = || published?.url().as_str().strip_suffix(JWKS_PATH).map(str::to_owned);
    args.login_issuer.clone().filter(|issuer| !issuer.is_empty()).or_else(derived)
}

/// The login check of a production server; `None` means no token API.
pub(super) fn login(
    tokens: Option<AccessTokens>,
    verifier: &Verifier,
) -> Result<Option<Arc<dyn LoginCheck>>, Failure> {
    match tokens {
        Some(_) if !verifier.keys().can_sign() => Err(Failure::usage(
            "login tokens are accepted, but there is no key to sign signaling tokens with",
            "add --jwt-secret @FILE or --jwt-keys PATH with a private key, or omit --login-secret \
             and --login-jwks",
        )),
        tokens => Ok(tokens.map(|tokens| Arc::new(tokens) as Arc<dyn LoginCheck>)),
    }
}

/// The login check of the dev server.
pub(super) fn dev_login(access_tokens: Option<AccessTokens>) -> Arc<dyn LoginCheck> {
    Arc::new(DevLogin { access_tokens, ..DevLogin::default() })
}

/// The login check of a server for the local network: its own random token.
pub(super) fn lan_login(token: &str, access_tokens: Option<AccessTokens>) -> Arc<dyn LoginCheck> {
    Arc::new(DevLogin { token: token.into(), access_tokens })
}

/// Whether there is a token API.
pub(super) fn has_token_api(args: &ServeArgs, mode: Mode) -> bool {
    mode.is_development() || args.login_secret.is_some() || args.login.login_jwks.is_some()
}

/// Reloads the signing keys on each SIGHUP.
#[cfg(unix)]
pub(super) fn reload_on_hangup(args: &ServeArgs, verifier: &Verifier) {
    use tokio::signal::unix::{SignalKind, signal};
    if args.jwt_secret.is_none() && args.login.jwt_keys.is_empty() {
        return; // SIGHUP terminates the dev server, like any other program on a terminal.
    }
    let (args, verifier) = (args.clone(), verifier.clone());
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::warn!("cannot handle SIGHUP: keys will not be reloaded");
        return;
    };
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            reload(&args, &verifier);
        }
    });
}

/// Without SIGHUP, keys are read only at startup.
#[cfg(not(unix))]
pub(super) fn reload_on_hangup(_: &ServeArgs, _: &Verifier) {}

/// Reloads the signing keys; if one is invalid, the old ones stay in use.
fn reload(args: &ServeArgs, verifier: &Verifier) {
    let origins = signing_secrets(args).and_then(|secrets| origins(args, secrets));
    let read = origins.and_then(|origins| {
        if origins.is_empty() {
            return Ok(None);
        }
        let keys = key_source::read(&origins).map_err(|error| refused(&error))?;
        if verifier.keys().can_sign() && !keys.can_sign() {
            return Err(Failure::usage("none of the keys can sign", "restore a private key"));
        }
        Ok(Some(keys))
    });
    match read {
        Ok(None) => {}
        Ok(Some(keys)) => {
            let kids: Vec<String> = keys.keys().iter().map(|key| key.kid().to_owned()).collect();
            verifier.replace_keys(keys);
            tracing::info!(?kids, "signing keys reloaded");
        }
        Err(failure) => {
            tracing::error!(
                cause = failure.message,
                "cannot reload the signing keys; keeping the old ones"
            );
        }
    }
}

/// Fetches the published keys before the first request needs them.
pub(super) async fn warm_up(verifier: Option<&Verifier>, tokens: Option<&AccessTokens>) {
    let published =
        [verifier.and_then(Verifier::external), tokens.and_then(AccessTokens::published_keys)];
    for keys in published.into_iter().flatten() {
        if let Err(error) = keys.keys(None, unix_now()).await {
            tracing::warn!(%error, "cannot fetch published keys; their tokens cannot be verified until this succeeds");
        }
    }
}
