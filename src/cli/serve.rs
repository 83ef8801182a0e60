//! `orion-peer serve`: signaling, token API, STUN/TURN.
//!
//! Without a signing secret it is a dev server, on loopback only.

mod bus;
pub(super) mod configure;
pub mod ice;
pub mod limits;
pub mod login;
pub(super) mod open_files;
pub mod operation;
mod pairs;
pub(super) mod store;
pub mod tls;

use std::{net::SocketAddr, sync::Arc};

use clap::{Args, Subcommand};
use tokio::net::TcpListener;

use self::{
    configure::configure, ice::IceArgs, limits::LimitArgs, login::LoginArgs,
    operation::OperationArgs, store::StoreArgs, tls::TlsArgs,
};
use super::{
    connect::{DEV_SIGNAL, SIGNAL_PATH},
    failure::Failure,
    output::Output,
    relay::{self, TurnArgs},
    stop, units,
};
use crate::{
    auth::login::DEV_TOKEN,
    pairs::Pair,
    server::{self, RunningServer, Server, ServerConfig, ServerError, tls::Tls},
    signaling::bus::BusError,
    turn::TurnServer,
    types::{Stage, os_error::listen_remedy},
};

/// Address of the dev server.
const DEV_ADDRESS: &str = "127.0.0.1:8787";

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// Address to listen on; without a signing secret a loopback address only
    #[arg(long, value_name = "ADDR", default_value = DEV_ADDRESS, value_parser = units::address)]
    pub listen: SocketAddr,
    /// Where the pairs are.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Pair to add at the start, as ID:PHONE:MAC:USER (a dev server fills in the user); repeatable
    #[arg(long = "add-pair", value_name = "PAIR", value_delimiter = ',')]
    pub add_pairs: Vec<String>,
    /// Secret that signs signaling tokens, or PEM key; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub jwt_secret: Option<String>,
    /// Secret used before, whose tokens are still good; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub jwt_previous_secret: Option<String>,
    /// Secret of the login tokens (HS256); `@FILE` reads it from a file. Without it and with a
    /// signing secret there is no token API
    #[arg(long, value_name = "SECRET")]
    pub login_secret: Option<String>,
    /// Issuer (`iss`) that signaling tokens must name
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Audience (`aud`) that signaling tokens must name
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// Web origin that may connect, such as `https://example.org`, or `*`; repeatable
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = configure::origin)]
    pub allow_origin: Vec<String>,
    /// Take the token from `?token=`, too
    #[arg(long)]
    pub allow_query_token: bool,
    /// Serve the page at / with which a browser joins as the phone or the Mac; a dev server does anyway
    #[arg(long)]
    pub page: bool,
    /// Let a live socket outlast its token
    #[arg(long)]
    pub connect_only: bool,
    /// Login and keys.
    #[command(flatten)]
    pub login: LoginArgs,
    /// ICE servers.
    #[command(flatten)]
    pub ice: IceArgs,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Operation.
    #[command(flatten)]
    pub operation: OperationArgs,
    /// TURN.
    #[command(flatten)]
    pub turn: TurnArgs,
    /// Several nodes.
    #[command(flatten)]
    pub bus: bus::BusArgs,
}

/// What to do instead of serving.
#[derive(Debug, Clone, Subcommand)]
enum ServeCommand {
    /// Add, list or revoke pairs of devices
    Pairs(pairs::PairsArgs),
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
        let store = Arc::clone(self.server.store());
        self.server.shutdown().await;
        // A file is then whole by itself, without its log beside it.
        store.close().await;
        if let Some(relay) = self.relay {
            relay.close().await;
        }
    }
}

/// Runs the server until Ctrl-C or SIGTERM, or the subcommand.
///
/// # Errors
/// Exit code 2 for flags that do not go together, 1 when the server cannot start.
pub async fn run(args: ServeArgs, output: Output) -> Result<(), Failure> {
    if let Some(ServeCommand::Pairs(pairs)) = args.command {
        return pairs::run(pairs, output).await;
    }
    let (mut config, dev) = configure(&args).await?;
    let sockets = config.max_connections as u64 + u64::from(config.signaling.limits.sockets);
    open_files::allow(sockets.saturating_add(args.turn.open_files(dev)?));
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        let remedy = listen_remedy(&error, "give another address with --listen");
        Failure::new(Stage::Server, format!("cannot listen on {}: {error}", args.listen), remedy)
    })?;
    let relay = relay::start(&args.turn, args.listen, dev, &mut config).await?;
    args.ice.apply(&mut config).await?;
    relay::end_with_pairs(relay.as_ref(), &mut config);
    let tls = config.front.tls.clone();
    let drain = config.signaling.timings.drain_jitter;
    let served = Served { server: start(config, listener).await?, relay };
    announce(&args, &served, tls.as_ref(), dev, output)?;
    tls::reload_on_hangup(tls);
    login::reload_on_hangup(&args, served.server.verifier());
    stop::draining(drain).await;
    tracing::info!("stopping");
    output.line("stopping: sockets are asked to reconnect elsewhere");
    served.shutdown().await;
    Ok(())
}

/// A dev server with its relay on a free port, on the listener's address, and with more pairs than
/// its own.
///
/// # Errors
/// When it cannot start.
pub async fn dev(listener: TcpListener, pairs: &[Pair]) -> Result<Served, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        let remedy = "check the memory and the addresses of this machine";
        Failure::new(Stage::Server, error.to_string(), remedy)
    };
    let address = listener.local_addr().map_err(|error| cannot(&error))?;
    let mut config = ServerConfig::dev().await.map_err(|error| cannot(&error))?;
    for pair in pairs {
        config.store.add(pair).await.map_err(|error| cannot(&error))?;
    }
    let args =
        TurnArgs { turn_listen: Some(SocketAddr::new(address.ip(), 0)), ..TurnArgs::default() };
    let relay = relay::start(&args, address, true, &mut config).await?;
    relay::end_with_pairs(relay.as_ref(), &mut config);
    Ok(Served { server: start(config, listener).await?, relay })
}

async fn start(config: ServerConfig, listener: TcpListener) -> Result<RunningServer, Failure> {
    Server::start(config, listener).await.map_err(|error| {
        let remedy = match &error {
            ServerError::Metrics { source, .. } => {
                listen_remedy(source, "give another address with --metrics-listen")
            }
            ServerError::Bus(BusError::Connect { login: true, .. }) => {
                "check the user in --bus, and --bus-password @FILE or ORION_BUS_PASSWORD".into()
            }
            ServerError::Bus(_) => "check --bus, and that Redis runs there".into(),
            _ => "check --db and the signing secret".into(),
        };
        Failure::new(Stage::Server, error.to_string(), remedy)
    })
}

fn announce(
    args: &ServeArgs,
    served: &Served,
    certificate: Option<&Tls>,
    dev: bool,
    output: Output,
) -> Result<(), Failure> {
    let server = &served.server;
    let relay = served.relay.as_ref().and_then(TurnServer::udp_address);
    let tls = served.relay.as_ref().and_then(TurnServer::tls_address);
    let token_api = login::has_token_api(args, dev);
    let off = || "off: no --login-jwks or --login-secret".into();
    let token_url = if token_api { server.token_url() } else { off() };
    output.line(format!("listening on {}", server.local_addr()));
    output.line(format!("  signaling  {}", server.signal_url()));
    output.line(format!("  token API  {token_url}"));
    output.line(match relay {
        Some(address) => {
            let tls = tls.map(|tls| format!("; TLS on port {}", tls.port())).unwrap_or_default();
            format!("  STUN/TURN  {address}, UDP and TCP{tls}")
        }
        None if args.turn.turn_url.is_empty() => "  STUN/TURN  off".to_owned(),
        None => format!("  STUN/TURN  {}", args.turn.turn_url.join(", ")),
    });
    if dev || args.page {
        let page = server.token_url().replace(server::TOKEN_PATH, "/");
        output.line(format!("  page       {page}"));
    }
    if let Some(certificate) = certificate {
        output.line(format!("  TLS        SHA-256 {}", certificate.fingerprint()));
    }
    if let Some(address) = server.metrics_addr() {
        output.line(format!("  metrics    http://{address}/metrics"));
    }
    tracing::info!(
        address = %server.local_addr(),
        signal = server.signal_url(),
        tls_sha256 = certificate.map(|certificate| certificate.fingerprint().to_string()),
        version = env!("CARGO_PKG_VERSION"),
        dev,
        "listening"
    );
    if dev {
        output.line(format!(
            "dev server: pair `{}`, devices `{}` and `{}`, login token `{DEV_TOKEN}`",
            server::DEV_PAIR,
            server::DEV_PHONE,
            server::DEV_MAC
        ));
        let own = server.signal_url();
        let mut at = String::new();
        if own != format!("{DEV_SIGNAL}{SIGNAL_PATH}") {
            at.push_str(" --signal ");
            at.push_str(&own);
        }
        if let Some(certificate) = certificate {
            at.push_str(" --tls-pin ");
            at.push_str(&certificate.fingerprint().to_string());
        }
        output.line(format!(
            "connect with `orion-peer recv --out frames/{at}` and `orion-peer send --source pattern{at}`"
        ));
    }
    output.event(&serde_json::json!({
        "event": "listening",
        "address": server.local_addr().to_string(),
        "signalUrl": server.signal_url(),
        "tokenUrl": token_api.then(|| server.token_url()),
        "turn": relay.map(|address| address.to_string()),
        "turnTls": tls.map(|address| address.to_string()),
        "tlsSha256": certificate.map(|certificate| certificate.fingerprint().to_string()),
        "metrics": server.metrics_addr().map(|address| address.to_string()),
        "dev": dev,
    }))
}
