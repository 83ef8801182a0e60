//! `orion-peer serve`: signaling, token API, STUN/TURN.
//!
//! Without a signing secret it is a dev server, on loopback only, or with `--lan` one for a local network.

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
use super::{failure::Failure, output::Output, stop, units};
use crate::{
    pairs::Pair,
    server::{RunningServer, Server, ServerConfig, ServerError},
    signaling::bus::BusError,
    turn::TurnServer,
    types::{Stage, os_error::listen_remedy},
};

/// Address of the dev server.
const DEV_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ServeArgs {
    #[command(subcommand)]
    command: Option<ServeCommand>,
    /// Address to listen on; without a signing secret a loopback address only; default 127.0.0.1:8787, with --lan
    /// 0.0.0.0:8787
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub listen: Option<SocketAddr>,
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
    // Flags after it without a heading of their own would stand under its heading.
    /// Local network.
    #[command(flatten)]
    pub lan: lan::LanArgs,
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

impl ServeArgs {
    /// Where to listen.
    pub(super) fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(DEV_ADDRESS)
    }

    /// Whether it is said how many connections there may be; a server for development has a handful otherwise.
    fn asks_for_many(&self) -> bool {
        let Self { limits, turn, .. } = self;
        limits.max_sockets.or(limits.max_connections).is_some()
            || turn.limits.turn_max_allocations.is_some()
    }
}

/// What kind of server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For this machine only, with a login that everybody knows.
    Dev,
    /// For development in a local network: `--lan`.
    Lan,
    /// With the signing secret and the pairs it was given.
    Production,
}

impl Mode {
    /// Whether somebody watches it on a terminal, and it brings its own pair and login.
    #[must_use]
    pub fn is_development(self) -> bool {
        self != Self::Production
    }
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
    let args = lan::resolve(args)?;
    let Configured { mut config, mode, access } = configure(&args).await?;
    let sockets = config.max_connections as u64 + u64::from(config.signaling.limits.sockets);
    let files = sockets.saturating_add(args.turn.open_files(mode == Mode::Dev)?);
    open_files::allow(files, mode.is_development() && !args.asks_for_many());
    let listen = args.address();
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        let remedy = listen_remedy(&error, "give another address with --listen");
        Failure::new(Stage::Server, format!("cannot listen on {listen}: {error}"), remedy)
    })?;
    let relay_listen = if mode == Mode::Lan { lan::relay_listen(listen) } else { listen };
    let relay = turn::start(&args.turn, relay_listen, mode, &mut config).await?;
    if mode.is_development() && args.operation.log_format.is_none() {
        config.signaling.tap = visits::shown(output);
    }
    args.ice.apply(&mut config).await?;
    turn::end_with_pairs(relay.as_ref(), &mut config);
    let tls = config.front.tls.clone();
    let drain = config.signaling.timings.drain_jitter;
    let served = Served { server: start(config, listener).await?, relay };
    Announcement::new(&args, &served, tls.as_ref(), mode, access).show(output)?;
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
    let relay = turn::start(&args, address, Mode::Dev, &mut config).await?;
    turn::end_with_pairs(relay.as_ref(), &mut config);
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
