//! From the flags of `serve` to a server configuration: secrets read, pairs added, what does not go
//! together refused.
//!
//! [`turn_advert`] is the one place where TURN comes in.

use super::{DEV_ADDRESS, ServeArgs, login, store};
use crate::{
    auth::{
        jws::{Key, MIN_SECRET_BYTES, SigningKeys},
        jwt::{Policy, Verifier},
        login::{AccessTokens, DEV_USER},
        secret::Secret,
        unix_now,
    },
    cli::failure::Failure,
    pairs::{Pair, PairStore, StoreError},
    server::{self, ServerConfig},
    signaling::server::Origins,
    types::Stage,
};

/// Turns flags into a configuration; true when it is the dev server's.
pub(super) async fn configure(args: &ServeArgs) -> Result<(ServerConfig, bool), Failure> {
    for (flag, name) in [("--issuer", &args.issuer), ("--audience", &args.audience)] {
        if name.as_ref().is_some_and(String::is_empty) {
            let remedy = format!("name what tokens must name, or leave {flag} out");
            return Err(Failure::usage(format!("{flag} is empty"), remedy));
        }
    }
    let policy = Policy { issuer: args.issuer.clone(), audience: args.audience.clone() };
    let verifier = login::verifier(args, policy.clone())?;
    let access_tokens = login::access_tokens(args)?;
    login::warm_up(verifier.as_ref(), access_tokens.as_ref()).await;
    let dev = verifier.is_none();
    let mut config = match verifier {
        Some(verifier) => {
            let login = login::login(access_tokens, &verifier)?;
            let mut config = ServerConfig::new(verifier, store::required(&args.store).await?);
            config.login = login;
            config
        }
        None => dev_config(args, policy, access_tokens).await?,
    };
    config.signaling.origins = origins(&args.allow_origin, dev);
    config.signaling.allow_query_token = args.allow_query_token;
    config.signaling.connect_only = args.connect_only;
    config.front.tls = args.tls.read(args.listen)?;
    args.limits.apply(&mut config)?;
    args.operation.apply(args.listen, &mut config)?;
    config.signaling.bus = super::bus::configure(&args.bus)?;
    config.page = (dev || args.page).then(|| page(dev));
    for pair in parse_pairs(&args.add_pairs, dev)? {
        add_once(config.store.as_ref(), &pair).await?;
    }
    Ok((config, dev))
}

/// What the page at `/` is told; the pair of the dev server is no secret.
fn page(dev: bool) -> serde_json::Value {
    let mut mode = serde_json::json!({
        "mode": "pair",
        "signal": crate::proto::signaling::PATH,
        "tokenUrl": server::TOKEN_PATH,
        "dev": dev,
        "version": env!("CARGO_PKG_VERSION"),
    });
    if dev {
        mode["pair"] = server::DEV_PAIR.into();
        mode["devices"] = serde_json::json!({"phone": server::DEV_PHONE, "mac": server::DEV_MAC});
    }
    mode
}

async fn dev_config(
    args: &ServeArgs,
    policy: Policy,
    access_tokens: Option<AccessTokens>,
) -> Result<ServerConfig, Failure> {
    if !args.listen.ip().is_loopback() {
        return Err(Failure::usage(
            format!("without a signing secret {} is refused: it is not loopback", args.listen),
            format!(
                "set ORION_JWT_SECRET to at least {MIN_SECRET_BYTES} random bytes, \
                 or listen on {DEV_ADDRESS}"
            ),
        ));
    }
    let failed = |error: server::ServerError| {
        Failure::new(Stage::Server, error.to_string(), "check the memory of this machine")
    };
    let mut config = ServerConfig::dev().await.map_err(failed)?;
    let keys = Key::hs256("dev", &Secret::random())
        .and_then(|key| SigningKeys::new(vec![key]))
        .map_err(|error| failed(error.into()))?;
    config.verifier = Verifier::new(keys, policy);
    config.login = Some(login::dev_login(access_tokens));
    if let Some(file) = store::dev_file(&args.store).await? {
        config.store = file;
        add_once(config.store.as_ref(), &server::dev_pair()).await?;
    }
    Ok(config)
}

/// Reads a secret given as text or as `@FILE`; a final line end of the file is not part of it.
pub(in crate::cli) fn read_secret(
    flag: &str,
    given: Option<&str>,
) -> Result<Option<Secret>, Failure> {
    let Some(given) = given else { return Ok(None) };
    let text = match given.strip_prefix('@') {
        None => given.to_owned(),
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(
                format!("cannot read the file of {flag}, {path}: {error}"),
                "check the path and its permissions",
            )
        })?,
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Failure::usage(format!("{flag} is empty"), "give a secret, or leave it out"));
    }
    Ok(Some(Secret::from(text)))
}

/// Reads the pairs to add; only the dev server has a user of its own to add them for.
fn parse_pairs(given: &[String], dev: bool) -> Result<Vec<Pair>, Failure> {
    let parse = |text: &String| {
        let parts: Vec<&str> = text.split(':').collect();
        let pair = match parts[..] {
            [id, ios, mac] if dev => Some((id, ios, mac, DEV_USER)),
            [id, ios, mac, user] => Some((id, ios, mac, user)),
            _ => None,
        };
        let filled = |(id, ios, mac, user): &(&str, &str, &str, &str)| {
            ios != mac && [id, ios, mac, user].iter().all(|part| !part.is_empty())
        };
        match pair.filter(filled) {
            Some((id, ios, mac, user)) => {
                let pair = Pair::active(id, user, ios, mac, unix_now());
                let usage = |error: StoreError| {
                    Failure::usage(format!("--add-pair: {error}"), "write ID:PHONE:MAC:USER")
                };
                pair.check().map(|()| pair).map_err(usage)
            }
            None => Err(Failure::usage(
                format!("--add-pair {text} is not understood"),
                "write ID:PHONE:MAC:USER with two devices (a dev server fills in the user)",
            )),
        }
    };
    given.iter().map(parse).collect()
}

/// Adds a pair unless the same one is there already.
async fn add_once(store: &dyn PairStore, pair: &Pair) -> Result<(), Failure> {
    store.ensure(pair).await.map(drop).map_err(|error| store::failure(&error))
}

/// An origin as browsers write it (RFC 6454 §6.2), or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text);
    let written = url.as_ref().map(|url| (url.origin(), url.origin().ascii_serialization()));
    let host_alone = text.split_once("://").is_some_and(|(_, host)| {
        !host.is_empty() && !host.contains(['/', '?', '#', '*', '@', ' '])
    });
    let as_browsers = match written {
        Ok((url::Origin::Tuple(..), written)) => written == text,
        // Of apps: `capacitor://localhost`.
        Ok((url::Origin::Opaque(_), _)) => text == text.to_lowercase(),
        Err(_) => false,
    };
    if text == "*" || (host_alone && as_browsers) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "`{text}` is no origin as browsers write it: scheme://host, in lower case, with a port other than \
         the usual one and nothing after it"
    ))
}

fn origins(listed: &[String], dev: bool) -> Origins {
    if listed.iter().any(|origin| origin == "*") {
        Origins::Any
    } else if dev {
        Origins::Loopback(listed.to_vec())
    } else {
        Origins::Listed(listed.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    async fn configured(flags: &[&str]) -> Result<(ServerConfig, bool), Failure> {
        let line = ["serve"].iter().chain(flags);
        configure(&Line::try_parse_from(line).unwrap().args).await
    }

    async fn failure(flags: &[&str]) -> Failure {
        match configured(flags).await {
            Ok(_) => panic!("{flags:?} was taken"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn nothing_configured_is_a_dev_server_with_the_demo_pair() {
        let (config, dev) = configured(&[]).await.unwrap();
        assert!(dev);
        let pair = config.store.active_pair(&"demo".into()).await.unwrap().unwrap();
        assert_eq!((pair.ios.as_str(), pair.mac.as_str()), ("phone", "mac"));
    }

    #[tokio::test]
    async fn flags_that_do_not_go_together_are_usage_errors() {
        for (flags, words) in [
            (&["--listen", "0.0.0.0:8787"][..], "not loopback"),
            (&["--listen", "192.0.2.1:1"], "not loopback"),
            (&["--listen", "[::]:1"], "not loopback"),
            (&["--jwt-secret", "short", "--db", "x"], "too short"),
            (&["--jwt-secret", SECRET], "nowhere to find pairs"),
            (&["--db", "postgres://h/d"], "signing secret"),
            (&["--jwt-secret", SECRET, "--db", "mysql://h"], "postgres://"),
            (&["--jwt-secret", SECRET, "--db", "http://h.example"], "plain text"),
            (&["--jwt-secret", SECRET, "--db", "https://h.example"], "--db-key"),
            (&["--jwt-secret", SECRET, "--db", "postgres://u:hush@h/d?sslmode=no"], "no URL"),
            (&["--jwt-secret", SECRET, "--db", "x", "--db-cache", "31s"], "30 s"),
            (&["--jwt-secret", "@/nonexistent/secret"], "cannot read"),
            (&["--jwt-secret", ""], "empty"),
            (&["--login-secret", "short"], "too short"),
            (&["--login-issuer", "x"], "without keys"),
            (&["--login-jwks", "http://login.example/x"], "this machine only"),
            (&["--login-jwks", "http://127.0.0.1:1/keys"], "not known"),
            (&["--jwt-previous-secret", SECRET], "without a present one"),
            (&["--jwt-keys", "/nonexistent/keys"], "cannot be read"),
            (&["--jwt-jwks", "http://127.0.0.1:1/j", "--login-secret", SECRET], "no key to sign"),
            (&["--add-pair", "only-an-id"], "not understood"),
            (&["--add-pair", "p:one:one"], "not understood"),
            (&["--add-pair", "p::mac"], "not understood"),
            (&["--issuer", ""], "--issuer is empty"),
            (&["--audience", ""], "--audience is empty"),
        ] {
            let failure = failure(flags).await;
            assert_eq!(failure.exit, 2, "{flags:?}: {failure}");
            assert!(failure.message.contains(words), "{flags:?}: {failure}");
            assert!(!failure.remedy.is_empty(), "{flags:?}: {failure}");
        }
    }

    #[tokio::test]
    async fn a_real_secret_and_a_file_make_a_real_server() {
        let dir = tempfile::tempdir().unwrap();
        let (db, secret) = (dir.path().join("pairs.db"), dir.path().join("secret"));
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        let secret = format!("@{}", secret.display());
        let flags = [
            "--listen",
            "0.0.0.0:8787",
            "--jwt-secret",
            &secret,
            "--db",
            db.to_str().unwrap(),
            "--add-pair",
            "p:i:m:u",
        ];
        for _ in 0..2 {
            let (config, dev) = configured(&flags).await.unwrap();
            assert!(!dev);
            assert!(config.login.is_none());
            assert_eq!(config.store.list().await.unwrap().len(), 1, "added once");
        }
        let (token, _) = {
            let key = Key::from_secret_or_pem(&Secret::from(SECRET)).unwrap();
            let keys = SigningKeys::new(vec![key]).unwrap();
            let now = unix_now();
            Verifier::new(keys, Policy::default()).mint("i".into(), "p".into(), now, 60).unwrap()
        };
        let (config, _) = configured(&flags).await.unwrap();
        config.verifier.verify(&token, unix_now()).expect("the line end is not part of the secret");
    }
}
