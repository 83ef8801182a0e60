//! Keys of `serve`: who may ask for a signaling token, and what signs and checks those.

use std::{path::PathBuf, sync::Arc};

use clap::Args;

use super::{Mode, ServeArgs, configure::read_secret};
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
    cli::failure::Failure,
};

/// Path of a published key set under its issuer (Supabase: below `/auth/v1`).
const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Flags of `serve` for login tokens and signing keys.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Login and keys")]
pub struct LoginArgs {
    /// Key file of signaling tokens, or directory of files *.pem and *.key, as [KID=]PATH; read again on
    /// SIGHUP; repeatable. The first that can sign signs, of a directory the last by name; all verify
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub jwt_keys: Vec<String>,
    /// Public keys (JWKS) of signaling tokens that are signed elsewhere
    #[arg(long, value_name = "URL")]
    pub jwt_jwks: Option<String>,
    /// Public keys (JWKS) of the login tokens, beside --login-secret or instead; those of Supabase are at
    /// `https://PROJECT.supabase.co/auth/v1` and then /.well-known/jwks.json
    #[arg(long, value_name = "URL")]
    pub login_jwks: Option<String>,
    /// Issuer (`iss`) of the login tokens; default: --login-jwks without /.well-known/jwks.json
    #[arg(long, value_name = "URL")]
    pub login_issuer: Option<String>,
}

/// The secrets of the flags, each read once: one may come from a pipe.
pub(super) struct Secrets {
    /// What signs signaling tokens, and what did before.
    pub signing: [Option<Secret>; 2],
    /// What login tokens are signed with.
    pub login: Option<Secret>,
}

impl Secrets {
    /// Who has the login secret may log in as anybody; who has the signing secret may join any room. One secret for
    /// both would make everybody who checks logins, such as another service, one who can join.
    ///
    /// # Errors
    /// Exit code 2 when one cannot be read, or `--login-secret` is a secret that signaling tokens are signed with.
    pub(super) fn read(args: &ServeArgs) -> Result<Self, Failure> {
        let signing = signing_secrets(args)?;
        let login = read_secret("--login-secret", args.login_secret.as_deref())?;
        for (flag, secret) in ["--jwt-secret", "--jwt-previous-secret"].into_iter().zip(&signing) {
            if secret
                .as_ref()
                .zip(login.as_ref())
                .is_some_and(|(one, other)| one.is(other.expose()))
            {
                return Err(Failure::usage(
                    format!("--login-secret is the same as {flag}"),
                    "give each its own secret: `openssl rand -hex 32` makes one",
                ));
            }
        }
        Ok(Self { signing, login })
    }
}

fn signing_secrets(args: &ServeArgs) -> Result<[Option<Secret>; 2], Failure> {
    Ok([
        read_secret("--jwt-secret", args.jwt_secret.as_deref())?,
        read_secret("--jwt-previous-secret", args.jwt_previous_secret.as_deref())?,
    ])
}

/// What checks and mints signaling tokens; none when nothing says so, as with the dev server.
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
        format!("the signing key is refused: {error}"),
        "check --jwt-secret, --jwt-previous-secret and --jwt-keys; make a secret with `openssl rand \
         -hex 32`, or a key with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
    )
}

/// Where signing keys come from, the signing one first.
fn origins(
    args: &ServeArgs,
    [present, previous]: [Option<Secret>; 2],
) -> Result<Vec<KeyOrigin>, Failure> {
    let mut origins = Vec::new();
    origins.extend(present.map(KeyOrigin::Text));
    origins.extend(args.login.jwt_keys.iter().map(|given| match given.split_once('=') {
        Some((kid, path)) if !kid.is_empty() && !kid.contains('/') => {
            KeyOrigin::Path { kid: Some(kid.to_owned()), path: PathBuf::from(path) }
        }
        _ => KeyOrigin::Path { kid: None, path: PathBuf::from(given) },
    }));
    if previous.is_some() && origins.is_empty() {
        return Err(Failure::usage(
            "--jwt-previous-secret without a present one",
            "give --jwt-secret or --jwt-keys, too",
        ));
    }
    origins.extend(previous.map(KeyOrigin::Text));
    Ok(origins)
}

fn jwks(flag: &str, url: Option<&str>) -> Result<Option<Jwks>, Failure> {
    url.map(|url| Jwks::new(url, JwksTimes::default())).transpose().map_err(|error| {
        Failure::usage(
            format!("{flag}: {error}"),
            format!("write {flag} https://HOST/…{JWKS_PATH}"),
        )
    })
}

/// The check of login tokens that the flags ask for.
pub(super) fn access_tokens(
    args: &ServeArgs,
    secret: Option<Secret>,
) -> Result<Option<AccessTokens>, Failure> {
    let published = jwks("--login-jwks", args.login.login_jwks.as_deref())?;
    let issuer = issuer(&args.login, published.as_ref());
    let weak = |error| {
        let remedy = "give the JWT secret of the login service";
        Failure::usage(format!("--login-secret: {error}"), remedy)
    };
    match (secret, published, issuer) {
        (None, None, None) => Ok(None),
        (None, None, Some(_)) => Err(Failure::usage(
            "--login-issuer without keys of its tokens",
            "give --login-jwks URL or --login-secret @FILE, too",
        )),
        (_, Some(published), None) => Err(Failure::usage(
            format!("the issuer of the tokens by {} is not known", published.url()),
            "give it with --login-issuer, as login tokens name it in `iss`",
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

/// The login of a server that is not the dev server; none means no token API.
pub(super) fn login(
    tokens: Option<AccessTokens>,
    verifier: &Verifier,
) -> Result<Option<Arc<dyn LoginCheck>>, Failure> {
    match tokens {
        Some(_) if !verifier.keys().can_sign() => Err(Failure::usage(
            "login tokens are checked, but there is no key to sign signaling tokens with",
            "give --jwt-secret @FILE or --jwt-keys PATH with a private key, or leave --login-secret \
             and --login-jwks out",
        )),
        tokens => Ok(tokens.map(|tokens| Arc::new(tokens) as Arc<dyn LoginCheck>)),
    }
}

/// The login of the dev server.
pub(super) fn dev_login(access_tokens: Option<AccessTokens>) -> Arc<dyn LoginCheck> {
    Arc::new(DevLogin { access_tokens, ..DevLogin::default() })
}

/// The login of a server for a local network: its own random token.
pub(super) fn lan_login(token: &str, access_tokens: Option<AccessTokens>) -> Arc<dyn LoginCheck> {
    Arc::new(DevLogin { token: token.into(), access_tokens })
}

/// Whether there is a token API.
pub(super) fn has_token_api(args: &ServeArgs, mode: Mode) -> bool {
    mode.is_development() || args.login_secret.is_some() || args.login.login_jwks.is_some()
}

/// Reads the signing keys again at each SIGHUP; bad ones change nothing.
#[cfg(unix)]
pub(super) fn reload_on_hangup(args: &ServeArgs, verifier: &Verifier) {
    use tokio::signal::unix::{SignalKind, signal};
    if args.jwt_secret.is_none() && args.login.jwt_keys.is_empty() {
        return; // SIGHUP ends the dev server, as it ends any other program of a terminal.
    }
    let (args, verifier) = (args.clone(), verifier.clone());
    let Ok(mut hangups) = signal(SignalKind::hangup()) else {
        tracing::warn!("SIGHUP cannot be listened to: keys are not read again");
        return;
    };
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            reload(&args, &verifier);
        }
    });
}

/// Without SIGHUP keys are read at the start only.
#[cfg(not(unix))]
pub(super) fn reload_on_hangup(_: &ServeArgs, _: &Verifier) {}

/// Reads the signing keys again; when one is bad, the old ones stay.
fn reload(args: &ServeArgs, verifier: &Verifier) {
    let origins = signing_secrets(args).and_then(|secrets| origins(args, secrets));
    let read = origins.and_then(|origins| {
        if origins.is_empty() {
            return Ok(None);
        }
        let keys = key_source::read(&origins).map_err(|error| refused(&error))?;
        if verifier.keys().can_sign() && !keys.can_sign() {
            return Err(Failure::usage("no key can sign any more", "put a private key back"));
        }
        Ok(Some(keys))
    });
    match read {
        Ok(None) => {}
        Ok(Some(keys)) => {
            let kids: Vec<String> = keys.keys().iter().map(|key| key.kid().to_owned()).collect();
            verifier.replace_keys(keys);
            tracing::info!(?kids, "signing keys read again");
        }
        Err(failure) => {
            tracing::error!(cause = failure.message, "the signing keys are as before");
        }
    }
}

/// Fetches the published keys before the first request needs them.
pub(super) async fn warm_up(verifier: Option<&Verifier>, tokens: Option<&AccessTokens>) {
    let published =
        [verifier.and_then(Verifier::elsewhere), tokens.and_then(AccessTokens::elsewhere)];
    for keys in published.into_iter().flatten() {
        if let Err(error) = keys.keys(None, unix_now()).await {
            tracing::warn!(%error, "their tokens cannot be checked until that goes well");
        }
    }
}
