//! Converts the flags of `serve` to a server configuration: reads secrets, adds pairs, rejects conflicting flags.
//! TURN is added later, by [`super::turn::start`].

use super::{DEV_ADDRESS, Mode, ServeArgs, lan::Access, login, store};
use crate::{
    auth::{
        jws::{Key, MIN_SECRET_BYTES, SigningKeys},
        jwt::{Policy, Verifier},
        login::{AccessTokens, DEV_USER},
        secret::Secret,
        unix_now,
    },
    cli::{failure::Failure, units},
    pairs::{Pair, PairStore, StoreError},
    server::{self, ServerConfig},
    signaling::server::Origins,
    types::Stage,
};

/// The configuration that the flags define.
pub(super) struct Configured {
    /// The configuration of the server.
    pub config: ServerConfig,
    /// The kind of server.
    pub mode: Mode,
    /// The credentials of a phone on the local network, with `--lan`.
    pub access: Option<Access>,
}

/// Converts the flags to a configuration.
pub(super) async fn configure(args: &ServeArgs) -> Result<Configured, Failure> {
    for (flag, name) in [("--issuer", &args.issuer), ("--audience", &args.audience)] {
        if name.as_ref().is_some_and(String::is_empty) {
            let remedy = format!("specify the value that tokens must have, or omit {flag}");
            return Err(Failure::usage(format!("{flag} is empty"), remedy));
        }
    }
    let secrets = login::Secrets::read(args)?;
    let policy = Policy { issuer: args.issuer.clone(), audience: args.audience.clone() };
    let verifier = login::verifier(args, secrets.signing, policy.clone())?;
    let access_tokens = login::access_tokens(args, secrets.login)?;
    login::warm_up(verifier.as_ref(), access_tokens.as_ref()).await;
    let access = args.lan.lan.then(Access::random);
    let mode = match (&access, &verifier) {
        (Some(_), _) => Mode::Lan,
        (None, Some(_)) => Mode::Production,
        (None, None) => Mode::Dev,
    };
    let mut config = match (verifier, &access) {
        (verifier, Some(access)) => lan_config(verifier, policy, access, access_tokens).await?,
        (Some(verifier), None) => {
            let login = login::login(access_tokens, &verifier)?;
            let store = if !args.store.has_place() && !args.add_pairs.is_empty() {
                store::in_memory().await?
            } else {
                store::required(&args.store).await?
            };
            let mut config = ServerConfig::new(verifier, store);
            config.login = login;
            config
        }
        (None, None) => dev_config(args, policy, access_tokens).await?,
    };
    config.signaling.origins = origins(&args.allow_origin, mode);
    config.signaling.allow_query_token = args.allow_query_token;
    config.signaling.connect_only = args.connect_only;
    config.listener.tls = args.tls.read(args.address(), args.turn.public_address)?;
    args.limits.apply(&mut config)?;
    args.operation.apply(args.address(), &mut config)?;
    config.signaling.bus = super::bus::configure(&args.bus)?;
    config.signaling.own_page = args.page || mode.is_development();
    config.page = config.signaling.own_page.then(|| page(mode));
    for pair in parse_pairs(&args.add_pairs, mode.is_development())? {
        add_once(config.store.as_ref(), &pair).await?;
    }
    Ok(Configured { config, mode, access })
}

/// A server for the local network: the dev server's pair in memory and its own login token, with production limits.
async fn lan_config(
    verifier: Option<Verifier>,
    policy: Policy,
    access: &Access,
    access_tokens: Option<AccessTokens>,
) -> Result<ServerConfig, Failure> {
    let verifier = match verifier {
        Some(verifier) => verifier,
        None => random_verifier(policy)?,
    };
    let store = store::in_memory().await?;
    add_once(store.as_ref(), &server::dev_pair()).await?;
    let mut config = ServerConfig::new(verifier, store);
    config.login = Some(login::lan_login(&access.login, access_tokens));
    config.signaling.timings.drain_jitter = std::time::Duration::ZERO;
    Ok(config)
}

/// Signs and verifies with a random secret.
fn random_verifier(policy: Policy) -> Result<Verifier, Failure> {
    let keys = Key::hs256("dev", &Secret::random()).and_then(|key| SigningKeys::new(vec![key]));
    let keys = keys.map_err(|error| {
        Failure::new(Stage::Server, error.to_string(), "check the free memory of this machine")
    })?;
    Ok(Verifier::new(keys, policy))
}

/// The data for the page at `/`; the pair of a dev server is not secret.
fn page(mode: Mode) -> serde_json::Value {
    let mut answer = serde_json::json!({
        "mode": "pair",
        "signal": crate::proto::signaling::PATH,
        "tokenUrl": server::TOKEN_PATH,
        "dev": mode == Mode::Dev,
        "version": env!("CARGO_PKG_VERSION"),
    });
    if mode.is_development() {
        answer["pair"] = server::DEV_PAIR.into();
        answer["devices"] = serde_json::json!({"phone": server::DEV_PHONE, "mac": server::DEV_MAC});
    }
    answer
}

async fn dev_config(
    args: &ServeArgs,
    policy: Policy,
    access_tokens: Option<AccessTokens>,
) -> Result<ServerConfig, Failure> {
    let listen = args.address();
    if !listen.ip().is_loopback() {
        return Err(Failure::usage(
            format!("cannot listen on {listen} without a signing secret: it is not loopback"),
            format!(
                "add --lan to serve phones on the local network, or set ORION_JWT_SECRET to at least \
                 {MIN_SECRET_BYTES} random bytes, or listen on {DEV_ADDRESS}"
            ),
        ));
    }
    let failed = |error: server::ServerError| {
        Failure::new(Stage::Server, error.to_string(), "check the free memory of this machine")
    };
    let mut config = ServerConfig::dev().await.map_err(failed)?;
    config.verifier = random_verifier(policy)?;
    config.login = Some(login::dev_login(access_tokens));
    if let Some(file) = store::dev_file(&args.store).await? {
        config.store = file;
        add_once(config.store.as_ref(), &server::dev_pair()).await?;
    }
    Ok(config)
}

/// Parses the pairs to add; only a dev server has a default user for them.
fn parse_pairs(given: &[String], development: bool) -> Result<Vec<Pair>, Failure> {
    let parse = |text: &String| {
        let parts: Vec<&str> = text.split(':').collect();
        let pair = match parts[..] {
            [id, ios, mac] if development => Some((id, ios, mac, DEV_USER)),
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
                    Failure::usage(format!("--add-pair: {error}"), "use ID:PHONE:MAC:USER")
                };
                pair.check().map(|()| pair).map_err(usage)
            }
            None => Err(Failure::usage(
                units::not_valid(text, "pair for --add-pair", "ID:PHONE:MAC:USER"),
                "use ID:PHONE:MAC:USER with two different devices (USER is optional for a dev server)",
            )),
        }
    };
    given.iter().map(parse).collect()
}

/// Adds a pair unless it already exists.
async fn add_once(store: &dyn PairStore, pair: &Pair) -> Result<(), Failure> {
    store.ensure(pair).await.map(drop).map_err(|error| store::failure(&error))
}

/// Validates an origin in the form that browsers send (RFC 6454 §6.2), or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text);
    let written = url.as_ref().map(|url| (url.origin(), url.origin().ascii_serialization()));
    let host_alone = text.split_once("://").is_some_and(|(_, host)| {
        !host.is_empty() && !host.contains(['/', '?', '#', '*', '@', ' '])
    });
    let as_browsers = match written {
        Ok((url::Origin::Tuple(..), written)) => written == text,
        // Origins of apps: `capacitor://localhost`.
        Ok((url::Origin::Opaque(_), _)) => text == text.to_lowercase(),
        Err(_) => false,
    };
    if text == "*" || (host_alone && as_browsers) {
        return Ok(text.to_owned());
    }
    Err(units::not_valid(
        text,
        "web origin",
        "scheme://host[:port] in lower case, without a default port and without a path",
    ))
}

fn origins(listed: &[String], mode: Mode) -> Origins {
    if listed.iter().any(|origin| origin == "*") {
        Origins::Any
    } else if mode == Mode::Dev {
        Origins::Loopback(listed.to_vec())
    } else {
        Origins::Listed(listed.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::lan, *};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    async fn configured(flags: &[&str]) -> Result<(ServerConfig, Mode), Failure> {
        let line = ["serve"].iter().chain(flags);
        let args = lan::resolve(Line::try_parse_from(line).unwrap().args)?;
        configure(&args).await.map(|configured| (configured.config, configured.mode))
    }

    async fn failure(flags: &[&str]) -> Failure {
        match configured(flags).await {
            Ok(_) => panic!("{flags:?} was accepted"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn the_default_is_a_dev_server_with_the_demo_pair() {
        let (config, mode) = configured(&[]).await.unwrap();
        assert_eq!(mode, Mode::Dev);
        let pair = config.store.active_pair(&"demo".into()).await.unwrap().unwrap();
        assert_eq!((pair.ios.as_str(), pair.mac.as_str()), ("phone", "mac"));
    }

    #[tokio::test]
    async fn conflicting_flags_are_usage_errors() {
        for (flags, words) in [
            (&["--listen", "0.0.0.0:8787"][..], "not loopback"),
            (&["--listen", "192.0.2.1:1"], "not loopback"),
            (&["--listen", "[::]:1"], "not loopback"),
            (&["--jwt-secret", "short", "--db", "x"], "too short"),
            (&["--jwt-secret", SECRET], "no pair store"),
            (&["--db", "postgres://h/d"], "signing secret"),
            (&["--jwt-secret", SECRET, "--db", "mysql://h"], "postgres://"),
            (&["--jwt-secret", SECRET, "--db", "http://h.example"], "plain text"),
            (&["--jwt-secret", SECRET, "--db", "https://h.example"], "--db-key"),
            (
                &["--jwt-secret", SECRET, "--db", "postgres://u:hush@h/d?sslmode=no"],
                "not a valid URL",
            ),
            (&["--jwt-secret", SECRET, "--db", "x", "--db-cache", "31s"], "30 s"),
            (&["--jwt-secret", "@/nonexistent/secret"], "cannot read"),
            (&["--jwt-secret", ""], "empty"),
            (&["--login-secret", "short"], "too short"),
            (&["--login-issuer", "x"], "requires the keys"),
            (&["--login-jwks", "http://login.example/x"], "this machine only"),
            (&["--login-jwks", "http://127.0.0.1:1/keys"], "unknown"),
            (&["--jwt-previous-secret", SECRET], "requires a current"),
            (&["--jwt-keys", "/nonexistent/keys"], "cannot read"),
            (&["--jwt-jwks", "http://127.0.0.1:1/j", "--login-secret", SECRET], "no key to sign"),
            (&["--add-pair", "only-an-id"], "not a valid pair"),
            (&["--add-pair", "p:one:one"], "not a valid pair"),
            (&["--add-pair", "p::mac"], "not a valid pair"),
            (&["--issuer", ""], "--issuer is empty"),
            (&["--audience", ""], "--audience is empty"),
            (&["--jwt-secret", SECRET, "--login-secret", SECRET], "the same as --jwt-secret"),
            (&["--lan", "--listen", "127.0.0.1:8787"], "other machines"),
            (&["--lan", "--db", "x"], "in memory"),
            (&["--lan", "--login-jwks", "https://h.example/j"], "--login-jwks"),
            (&["--lan", "--jwt-jwks", "https://h.example/j"], "--jwt-jwks"),
            (&["--lan", "--bus", "redis://h"], "single node"),
            (&["--lan", "--no-tls", "--tls-self-signed"], "--no-tls"),
            (&["--no-tls"], "requires --lan"),
            (&["--qr"], "requires --lan"),
        ] {
            let failure = failure(flags).await;
            assert_eq!(failure.exit, 2, "{flags:?}: {failure}");
            assert!(failure.message.contains(words), "{flags:?}: {failure}");
            assert!(!failure.remedy.is_empty(), "{flags:?}: {failure}");
        }
    }

    /// A pipe, such as `<(command)`, can be read only once.
    #[cfg(unix)]
    #[tokio::test]
    async fn each_secret_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = |name: &str, secret: &'static str| {
            let path = dir.path().join(name);
            let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(status.success());
            let given = format!("@{}", path.display());
            std::thread::spawn(move || {
                for text in [secret, ""] {
                    std::fs::write(&path, text).unwrap();
                }
            });
            given
        };
        let login = pipe("login", "another-secret-of-32-characters!");
        let flags = ["--jwt-secret", &pipe("jwt", SECRET), "--login-secret", &login];
        let (config, _) =
            configured(&[&flags[..], &["--add-pair", "p:i:m:u"]].concat()).await.unwrap();
        assert!(config.login.is_some());
    }

    #[tokio::test]
    async fn added_pairs_are_kept_in_memory_without_a_store() {
        let flags = ["--jwt-secret", SECRET, "--add-pair", "p:i:m:u"];
        let (config, mode) = configured(&flags).await.unwrap();
        assert_eq!(mode, Mode::Production);
        let pairs = config.store.list().await.unwrap();
        assert_eq!((pairs.len(), pairs[0].id.as_str()), (1, "p"));
        assert!(config.login.is_none(), "production servers have no default login");
    }

    #[tokio::test]
    async fn a_server_for_the_local_network_has_its_own_secrets() {
        let (config, mode) = configured(&["--lan"]).await.unwrap();
        assert_eq!(mode, Mode::Lan);
        assert!(config.listener.tls.is_some() && config.page.is_some());
        assert!(
            !config.listener.this_machine_only,
            "its certificate and its login are for other machines, too"
        );
        assert!(config.token_rates.is_some(), "login attempts are limited");
        assert!(!config.signaling.origins.allow("http://localhost:8787"), "only its own page");
        let login = config.login.unwrap();
        assert!(login.user("dev", unix_now()).await.is_err(), "the dev server's token is public");
        let pairs = config.store.list().await.unwrap();
        assert_eq!((pairs.len(), pairs[0].id.as_str()), (1, "demo"));
        let (plain, _) = configured(&["--lan", "--no-tls", "--add-pair", "p:a:b"]).await.unwrap();
        assert!(plain.listener.tls.is_none());
        assert_eq!(plain.store.list().await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_secret_and_a_file_make_a_production_server() {
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
            let (config, mode) = configured(&flags).await.unwrap();
            assert_eq!(mode, Mode::Production);
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
        config
            .verifier
            .verify(&token, unix_now())
            .expect("the line break is not part of the secret");
    }
}
