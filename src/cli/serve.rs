//! `orion-peer serve`: signaling, token API and STUN/TURN server.
//!
//! Without a signing secret it is a dev server on loopback, or with `--lan` a server for the local network.

mod announce;
mod bus;
pub(super) mod configure;
pub mod ice;
pub mod lan;
pub mod limits;
pub mod login;
pub(super) mod open_files;
pub mod operation;
mod pairs;
pub(super) mod reachable;
pub(super) mod store;
pub mod tls;
mod turn;
mod visits;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use clap::{Args, Subcommand};
use tokio::net::TcpListener;

use self::{
    announce::Announcement,
    configure::{Configured, configure},
    ice::IceArgs,
    limits::LimitArgs,
    login::LoginArgs,
    operation::OperationArgs,
    store::StoreArgs,
    tls::TlsArgs,
    turn::TurnArgs,
};
use super::{failure::Failure, output::Output, secret::SecretSource, stop, units};
use crate::{
    pairs::Pair,
    server::{RunningServer, Server, ServerConfig, ServerError},
    signaling::bus::BusError,
    turn::TurnServer,
    types::{Stage, os_error::listen_remedy},
};

/// Default address of the dev server.
const DEV_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// Address to listen on; must be loopback without a signing secret; default: 127.0.0.1:8787; with --lan: 0.0.0.0:8787
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub listen: Option<SocketAddr>,
    /// The pair store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Pair to add at startup, as ID:PHONE:MAC:USER (USER is optional for a dev server); repeatable
    #[arg(long = "add-pair", value_name = "PAIR", value_delimiter = ',')]
    pub add_pairs: Vec<String>,
    /// Secret or PEM key that signs signaling tokens; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub jwt_secret: Option<SecretSource>,
    /// Previous signing secret, whose tokens remain valid; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub jwt_previous_secret: Option<SecretSource>,
    /// Secret that verifies login tokens (HS256); `@FILE` reads it from a file; a server with a signing secret needs this
    /// or --login-jwks for its token API
    #[arg(long, value_name = "SECRET")]
    pub login_secret: Option<SecretSource>,
    /// Required issuer (iss) of signaling tokens
    #[arg(long, value_name = "NAME")]
    pub issuer: Option<String>,
    /// Required audience (aud) of signaling tokens
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// Web origin allowed to connect, such as `https://example.org`, or `*`; repeatable
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = configure::origin)]
    pub allow_origin: Vec<String>,
    /// Also accept the token in the query (`?token=`)
    #[arg(long)]
    pub allow_query_token: bool,
    /// Serve a web page at / to join from a browser as phone or Mac; always on for a dev server
    #[arg(long)]
    pub page: bool,
    /// Keep sockets open after their token expires
    #[arg(long)]
    pub connect_only: bool,
    // Must follow the flags without a heading, which would otherwise appear under its heading.
    /// Server for the local network.
    #[command(flatten)]
    pub lan: lan::LanArgs,
    /// Login tokens and signing keys.
    #[command(flatten)]
    pub login: LoginArgs,
    /// ICE servers in token responses.
    #[command(flatten)]
    pub ice: IceArgs,
    /// Certificate and key.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Timeouts, sizes, rates and counts.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Proxies, logging, metrics and shutdown.
    #[command(flatten)]
    pub operation: OperationArgs,
    /// The STUN and TURN server.
    #[command(flatten)]
    pub turn: TurnArgs,
    /// The bus between several nodes.
    #[command(flatten)]
    pub bus: bus::BusArgs,
}

impl ServeArgs {
    /// The address to listen on.
    pub(super) fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(DEV_ADDRESS)
    }

    /// Whether a maximum number of connections is given; without one, a dev server expects just a few.
    fn has_connection_limits(&self) -> bool {
        let Self { limits, turn, .. } = self;
        limits.max_sockets.or(limits.max_connections).is_some()
            || turn.limits.turn_max_allocations.is_some()
    }
}

/// The kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For this machine only, with a well-known login token.
    Dev,
    /// For development on the local network: `--lan`.
    Lan,
    /// With a given signing secret and pair store.
    Production,
}

impl Mode {
    /// Whether it is a dev server, of this machine or of the local network: it runs on a terminal and has its own pair and
    /// login.
    #[must_use]
    pub fn is_development(self) -> bool {
        self != Self::Production
    }
}

/// Subcommands of `serve`.
#[derive(Debug, Clone, Subcommand)]
enum ServeCommand {
    /// Manage device pairs
    Pairs(pairs::PairsArgs),
}

/// A running server with its TURN relay.
pub struct Served {
    /// Signaling, token API, health, metrics.
    pub server: RunningServer,
    relay: Option<TurnServer>,
}

impl Served {
    /// Asks clients to disconnect, and stops the server.
    pub async fn shutdown(self) {
        let store = Arc::clone(self.server.store());
        self.server.shutdown().await;
        // Closing a file store merges its write-ahead log.
        store.close().await;
        if let Some(relay) = self.relay {
            relay.close().await;
        }
    }
}

/// Runs the server until Ctrl-C or SIGTERM, or runs the subcommand.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 if the server cannot start.
pub async fn run(args: ServeArgs, output: Output) -> Result<(), Failure> {
    if let Some(ServeCommand::Pairs(pairs)) = args.command {
        return pairs::run(pairs, output).await;
    }
    let args = lan::resolve(args)?;
    let Configured { mut config, mode, access } = configure(&args).await?;
    let sockets = config.max_connections as u64 + u64::from(config.signaling.limits.sockets);
    let files = sockets.saturating_add(args.turn.open_files(mode == Mode::Dev)?);
    open_files::allow(files, mode.is_development() && !args.has_connection_limits());
    let listen = args.address();
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        let remedy = listen_remedy(&error, "use another address with --listen");
        Failure::new(Stage::Server, format!("cannot listen on {listen}: {error}"), remedy)
    })?;
    let relay_listen = if mode == Mode::Lan { lan::relay_listen(listen) } else { listen };
    let relay = turn::start(&args.turn, relay_listen, mode, &mut config).await?;
    if mode.is_development() && args.operation.log_format.is_none() {
        config.signaling.tap = visits::shown(output);
    }
    args.ice.apply(&mut config).await?;
    turn::end_with_pairs(relay.as_ref(), &mut config);
    let tls = config.listener.tls.clone();
    let drain = config.signaling.timings.drain_jitter;
    let served = Served { server: start(config, listener).await?, relay };
    Announcement::new(&args, &served, tls.as_ref(), mode, access).show(output)?;
    tls::reload_on_hangup(tls);
    login::reload_on_hangup(&args, served.server.verifier());
    stop::shutdown_signal_with_drain(drain).await;
    tracing::info!("shutting down");
    output.line("shutting down: asking clients to reconnect");
    served.shutdown().await;
    Ok(())
}

/// Starts a dev server with additional pairs and a relay on a free port of the listener's address.
///
/// # Errors
/// The server cannot start.
pub async fn dev(listener: TcpListener, pairs: &[Pair]) -> Result<Served, Failure> {
    let cannot = |error: &dyn std::fmt::Display| {
        let remedy = "check the free memory and the addresses of this machine";
        Failure::new(Stage::Server, error.to_string(), remedy)
    };
    let address = listener.local_addr().map_err(|error| cannot(&error))?;
    let mut config = ServerConfig::dev().await.map_err(|error| cannot(&error))?;
    for pair in pairs {
        config.store.add(pair).await.map_err(|error| cannot(&error))?;
    }
    let args =
        TurnArgs { turn_listen: Some(SocketAddr::new(address.ip(), 0)), ..TurnArgs::default() };
    let relay = turn::start(&args, address, Mode::Dev, &mut config).await?;
    turn::end_with_pairs(relay.as_ref(), &mut config);
    Ok(Served { server: start(config, listener).await?, relay })
}

async fn start(config: ServerConfig, listener: TcpListener) -> Result<RunningServer, Failure> {
    Server::start(config, listener).await.map_err(|error| {
        let remedy = match &error {
            ServerError::Metrics { source, .. } => {
                listen_remedy(source, "use another address with --metrics-listen")
            }
            ServerError::Bus(BusError::Connect { login: true, .. }) => {
                "check the user in --bus, and --bus-password @FILE or ORION_BUS_PASSWORD".into()
            }
            ServerError::Bus(_) => "check --bus and that Redis is running there".into(),
            _ => "check --db and the signing secret".into(),
        };
        Failure::new(Stage::Server, error.to_string(), remedy)
    })
}
