//! `orion-peer serve`: signaling, token API, STUN/TURN.
//!
//! Without a signing secret it is a dev server, on loopback only.

mod configure;

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use tokio::net::TcpListener;

use self::configure::configure;
use super::failure::Failure;
use crate::{
    auth::login::DEV_TOKEN,
    server::{self, RunningServer, Server},
    types::Stage,
};

/// Address of the dev server.
const DEV_ADDRESS: &str = "127.0.0.1:8787";

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address to listen on; without a signing secret a loopback address only
    #[arg(long, value_name = "ADDR", env = "ORION_LISTEN", default_value = DEV_ADDRESS)]
    pub listen: SocketAddr,
    /// Database file with the pairs, made when it is not there; needed with a signing secret
    #[arg(long, value_name = "FILE", env = "ORION_DB")]
    pub db: Option<PathBuf>,
    /// Pair to add at the start, as ID:PHONE:MAC:USER (a dev server fills in the user); repeatable
    #[arg(long = "add-pair", value_name = "PAIR", env = "ORION_ADD_PAIR", value_delimiter = ',')]
    pub add_pairs: Vec<String>,
    /// Secret that signs signaling tokens, or PEM key; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET", env = "ORION_JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<String>,
    /// Secret used before, whose tokens are still good; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET", env = "ORION_JWT_PREVIOUS_SECRET", hide_env_values = true)]
    pub jwt_previous_secret: Option<String>,
    /// Secret of the login tokens (HS256); `@FILE` reads it from a file. Without it and with a
    /// signing secret there is no token API
    #[arg(long, value_name = "SECRET", env = "ORION_LOGIN_SECRET", hide_env_values = true)]
    pub login_secret: Option<String>,
    /// Issuer (`iss`) that signaling tokens must name
    #[arg(long, value_name = "NAME", env = "ORION_ISSUER")]
    pub issuer: Option<String>,
    /// Audience (`aud`) that signaling tokens must name
    #[arg(long, value_name = "NAME", env = "ORION_AUDIENCE")]
    pub audience: Option<String>,
    /// Web origin that may connect, such as `https://example.org`, or `*`; repeatable
    #[arg(long, value_name = "ORIGIN", env = "ORION_ALLOW_ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<String>,
    /// Take the token from `?token=`, too
    #[arg(long, env = "ORION_ALLOW_QUERY_TOKEN")]
    pub allow_query_token: bool,
    /// Let a live socket outlast its token
    #[arg(long, env = "ORION_CONNECT_ONLY")]
    pub connect_only: bool,
    /// TURN.
    #[command(flatten)]
    pub turn: TurnArgs,
}

/// A server with its relay.
pub struct Served {
    /// Signaling, token API, health, metrics.
    pub server: RunningServer,
    relay: Option<TurnServer>,
}

impl Served {
    /// Asks sockets to go, and stops everything.
    pub async fn shutdown(self) {
        self.server.shutdown().await;
        if let Some(relay) = self.relay {
            relay.shutdown().await;
        }
    }
}

/// Runs the server until Ctrl-C or SIGTERM.
///
/// # Errors
/// Exit code 2 for flags that do not go together, 1 when the server cannot start.
pub async fn run(args: ServeArgs, json: bool) -> Result<(), Failure> {
    let (mut config, dev) = configure(&args).await?;
    let relay = relay::start(&args.turn, args.listen, dev, &mut config).await?;
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::new(
            Stage::Server,
            format!("cannot listen on {}: {error}", args.listen),
            "stop the other server there, or give another address with --listen",
        )
    })?;
    let served = Served { server: start(config, listener).await?, relay };
    announce(&args, &served, dev, json);
    stop::asked().await;
    eprintln!("stopping: sockets are asked to reconnect elsewhere");
    served.shutdown().await;
    Ok(())
}

fn announce(args: &ServeArgs, server: &RunningServer, dev: bool, json: bool) {
    let token_api = dev || args.login_secret.is_some();
    let token_url = if token_api { server.token_url() } else { "off: no --login-secret".into() };
    eprintln!("listening on {}", server.local_addr());
    eprintln!("  signaling  {}", server.signal_url());
    eprintln!("  token API  {token_url}");
    match relay {
        Some(address) => eprintln!("  STUN/TURN  {address}, UDP and TCP"),
        None => eprintln!("  STUN/TURN  off"),
    }
    if dev {
        eprintln!(
            "dev server: pair `{}`, devices `{}` and `{}`, login token `{DEV_TOKEN}`",
            server::DEV_PAIR,
            server::DEV_PHONE,
            server::DEV_MAC
        );
        eprintln!("connect with `orion-peer recv --out frames/` and `orion-peer send`");
    }
    if json {
        let line = serde_json::json!({
            "event": "listening",
            "address": server.local_addr().to_string(),
            "signalUrl": server.signal_url(),
            "tokenUrl": token_api.then(|| server.token_url()),
            "turn": relay.map(|address| address.to_string()),
            "dev": dev,
        });
        println!("{line}");
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn stop_asked() -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(Stage::Server, format!("cannot wait for signals: {error}"), "")
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            asked = tokio::signal::ctrl_c() => asked.map_err(failed),
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map_err(failed)
}
