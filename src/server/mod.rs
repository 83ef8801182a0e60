//! The server that `orion-peer serve` runs: signaling, token API, health, metrics.
//!
//! | route | answers |
//! |---|---|
//! | `GET /api/signal` | the WebSocket ([`crate::signaling::server`]) |
//! | `POST /api/auth/webrtc-token` | a signaling JWT and ICE servers ([`token_api`]) |
//! | `GET /healthz` | 200 while the server is alive |
//! | `GET /readyz` | 200 if new clients are accepted; 503 while draining, or if the pair store or the bus is down |
//! | `GET /metrics` | counters in the Prometheus text format ([`metrics`]), here or on a separate listener |
//! | `GET /.well-known/jwks.json` | public keys of signaling tokens (RFC 7517) |
//!
//! The caller binds the listener, so that a test can start a server on port 0 in one line.

mod hosts;
pub mod http;
pub mod listener;
pub mod metrics;
pub mod proxies;
mod readiness;
mod routes;
mod running;
mod smuggling_guard;
pub mod tls;
pub mod token_api;
mod traffic;
pub mod twilio;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};

pub use self::running::RunningServer;
use self::{listener::ListenerConfig, traffic::Traffic};
pub use crate::proto::token::PATH as TOKEN_PATH;
use crate::{
    auth::{
        jws::{Key, KeyError, SigningKeys},
        jwt::{Policy, Verifier},
        login::{DEV_USER, DevLogin, LoginCheck},
        secret::Secret,
        turn_rest::TurnSecrets,
        unix_now,
    },
    pairs::{InUse, Pair, PairStore, StoreError, sqlite::SqlitePairs},
    signaling::{
        bus::{self, BusError},
        server::limits::{Limits, Rate},
        server::{Origins, Signaling, SignalingConfig},
    },
    stun::uri::{ServerUri, Transport},
};

/// Path of the public keys of signaling tokens.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Pair of the dev server.
pub const DEV_PAIR: &str = "demo";

/// The phone of [`DEV_PAIR`].
pub const DEV_PHONE: &str = "phone";

/// The Mac of [`DEV_PAIR`].
pub const DEV_MAC: &str = "mac";

/// Minimum lifetime of tokens and TURN credentials: clients renew them after half of it.
pub const SHORTEST_TTL: Duration = Duration::from_secs(10);

/// Minimum lifetime of TURN credentials outside tests: they must outlast the token and long calls.
pub const MIN_TURN_TTL: Duration = Duration::from_hours(1);

/// Interval at which rate limiters forget idle clients.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// TURN servers in the token response: URLs, and the secret shared with the TURN server.
#[derive(Debug, Clone)]
pub struct TurnAdvert {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// Creates the credentials of each response.
    pub secret: Secret,
    /// Lifetime of credentials; below [`MIN_TURN_TTL`] only in tests.
    pub ttl: Duration,
    /// Whether usernames contain the pair. Only for a TURN server that knows these pairs: it ends the
    /// allocations of a revoked pair.
    pub names_pair: bool,
    /// Whether the host in `urls` is replaced with the address of this machine that the client connected to: for
    /// an embedded server that listens on all addresses. Clients whose address is unknown get `urls` unchanged.
    pub follows_client: bool,
}

impl TurnAdvert {
    /// STUN over UDP, and TURN over UDP and TCP, at one address; `host` is a name or an address, IPv6 in
    /// brackets.
    #[must_use]
    pub fn at(host: &str, port: u16, secret: Secret) -> Self {
        let urls = vec![
            format!("stun:{host}:{port}"),
            format!("turn:{host}:{port}?transport=udp"),
            format!("turn:{host}:{port}?transport=tcp"),
        ];
        let ttl = 2 * MIN_TURN_TTL;
        Self { urls, secret, ttl, names_pair: false, follows_client: false }
    }

    /// The URLs for a client that connected to the address `local` of this machine, if known.
    #[must_use]
    pub fn urls_at(&self, local: Option<IpAddr>) -> Vec<String> {
        let Some(local) = local.filter(|_| self.follows_client) else { return self.urls.clone() };
        let at_local = |url: &String| match url.parse::<ServerUri>() {
            // The certificate for `turns:` is for the name in the URL.
            Ok(uri) if uri.transport != Transport::Tls && is_of_family(&uri.host, local) => {
                ServerUri { host: local.to_string(), ..uri }.to_string()
            }
            _ => url.clone(),
        };
        self.urls.iter().map(at_local).collect()
    }

    fn secrets(&self) -> TurnSecrets {
        TurnSecrets { current: self.secret.clone(), previous: None }
    }
}

/// Whether `host` is an address of the same family as `ip`: the relay listens on one family.
fn is_of_family(host: &str, ip: IpAddr) -> bool {
    host.parse::<IpAddr>().is_ok_and(|host| host.is_ipv4() == ip.is_ipv4())
}

/// Rate limits of token requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRates {
    /// Per address, whatever the login.
    pub per_address: Rate,
    /// Per user.
    pub per_user: Rate,
}

impl Default for TokenRates {
    fn default() -> Self {
        Self {
            per_address: Rate::new(60, Duration::from_millis(500)),
            per_user: Rate::new(20, Duration::from_secs(2)),
        }
    }
}

/// Appends metrics of components that the server does not know, in the Prometheus text format.
pub type ExtraMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// Configuration of a server.
#[derive(Clone)]
pub struct ServerConfig {
    /// Settings of the signaling server.
    pub signaling: SignalingConfig,
    /// Mints and verifies signaling tokens.
    pub verifier: Verifier,
    /// Store of the pairs.
    pub store: Arc<dyn PairStore>,
    /// Identifies the user who requests a token; without it there is no token API.
    pub login: Option<Arc<dyn LoginCheck>>,
    /// ICE servers in every token response.
    pub ice_servers: Vec<crate::proto::token::IceServer>,
    /// TURN servers, with separate credentials for each token response.
    pub turn: Option<TurnAdvert>,
    /// Twilio's ICE servers, in every token response.
    pub twilio: Option<Arc<twilio::TwilioServers>>,
    /// Lifetime of signaling tokens, seconds: 300 by the contract, less to test renewal.
    pub token_ttl_s: u64,
    /// Rate limits of token requests; `None` means no limit.
    pub token_rates: Option<TokenRates>,
    /// Timeout of a request's header (contract: 5 s).
    pub header_within: Duration,
    /// Maximum number of concurrent HTTP connections, not counting sockets.
    pub max_connections: usize,
    /// Settings of the HTTP listener.
    pub listener: ListenerConfig,
    /// More metrics, such as those of an embedded TURN server.
    pub extra_metrics: Option<ExtraMetrics>,
    /// Resources other than sockets that end with a pair, such as allocations of an embedded TURN server.
    pub in_use: Option<Arc<dyn InUse>>,
    /// Response of `/mode` to the page for browsers at `/`; `None` disables the page.
    pub page: Option<serde_json::Value>,
}

impl ServerConfig {
    /// A server with default settings and limits.
    #[must_use]
    pub fn new(verifier: Verifier, store: Arc<dyn PairStore>) -> Self {
        Self {
            signaling: SignalingConfig::default(),
            verifier,
            store,
            login: None,
            ice_servers: Vec::new(),
            turn: None,
            twilio: None,
            token_ttl_s: crate::proto::claims::MAX_LIFETIME_S,
            token_rates: Some(TokenRates::default()),
            header_within: Duration::from_secs(5),
            max_connections: 4096,
            listener: ListenerConfig::default(),
            extra_metrics: None,
            in_use: None,
            page: None,
        }
    }

    /// The dev server: a random signing secret, the pair [`DEV_PAIR`] in memory, the login token
    /// [`crate::auth::login::DEV_TOKEN`], no limits per client, and access for pages from this machine.
    /// For loopback addresses and names of this machine only.
    ///
    /// # Errors
    /// [`ServerError::Store`] when the store in memory cannot be created.
    pub async fn dev() -> Result<Self, ServerError> {
        let store = SqlitePairs::in_memory().await?;
        store.add(&dev_pair()).await?;
        let keys = SigningKeys::new(vec![Key::hs256("dev", &Secret::random())?])?;
        let mut config = Self::new(Verifier::new(keys, Policy::default()), Arc::new(store));
        config.login = Some(Arc::new(DevLogin::default()));
        config.token_rates = None;
        config.signaling.origins = Origins::Loopback(Vec::new());
        config.signaling.limits = Limits::for_one_machine();
        config.listener.connections_per_address = None;
        config.listener.this_machine_only = true;
        config.signaling.timings.drain_jitter = Duration::ZERO;
        Ok(config)
    }
}

/// The pair of the dev server, and of a server for a local network.
#[must_use]
pub fn dev_pair() -> Pair {
    Pair::active(DEV_PAIR, DEV_USER, DEV_PHONE, DEV_MAC, unix_now())
}

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener has no address, or is not usable.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// The listener for `/metrics` is not usable.
    #[error("cannot listen for /metrics on {address}: {source}")]
    Metrics {
        /// Address of the listener.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The pair store is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signing key is not usable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The bus between the nodes is not usable.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// Starts servers.
#[derive(Debug, Clone, Copy)]
pub struct Server;

impl Server {
    /// Starts serving on `listener`. No connection is accepted before the pair store and the bus respond.
    ///
    /// # Errors
    /// When the listener, the pair store or the bus is not usable.
    pub async fn start(
        config: ServerConfig,
        listener: TcpListener,
    ) -> Result<RunningServer, ServerError> {
        let addr = listener.local_addr()?;
        config.store.ready().await?;
        let metrics = match config.listener.metrics_listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                Some(bound.map_err(|source| ServerError::Metrics { address, source })?)
            }
            None => None,
        };
        let metrics_addr = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
        if let Some(bus) = &config.signaling.bus {
            bus::check(bus).await?;
        }
        let parts = Parts::new(config);
        let stop = watch::Sender::new(false);
        let options = http::Options::of_all_routes(&parts);
        let connections = Arc::clone(&options.connections);
        let router = routes::all(&parts, metrics_addr.is_none(), addr.ip());
        let mut tasks =
            vec![tokio::spawn(http::accept(listener, router, options, stop.subscribe()))];
        if let Some(listener) = metrics {
            let options = http::Options::of_metrics(&parts);
            let router = routes::metrics_only(&parts, metrics_addr.map(|addr| addr.ip()));
            tasks.push(tokio::spawn(http::accept(listener, router, options, stop.subscribe())));
        }
        if let Some(tls) = parts.config.listener.tls.clone().filter(tls::Tls::has_files) {
            tasks.push(tokio::spawn(tls.watch()));
        }
        tasks.push(tokio::spawn(run_background_tasks(Arc::clone(&parts))));
        parts.signaling.await_bus().await;
        Ok(RunningServer { addr, metrics_addr, parts, stop, tasks, connections })
    }
}

/// Closes sockets of revoked pairs, forgets idle clients, and renews Twilio's ICE servers.
async fn run_background_tasks(parts: Arc<Parts>) {
    let forgetting = async {
        loop {
            tokio::time::sleep(FORGET_EVERY).await;
            parts.tokens.forget_idle();
            parts.signaling.forget_idle();
        }
    };
    let renewing = async {
        if let Some(twilio) = &parts.config.twilio {
            twilio.keep_renewed().await;
        }
    };
    let signaling = &parts.signaling;
    let revocations = signaling.clone().watch_revocations(parts.config.in_use.clone());
    tokio::join!(revocations, signaling.clone().run_bus(), forgetting, renewing);
}

/// Starts a dev server with its own store: [`ServerConfig::dev`].
///
/// # Errors
/// As [`Server::start`].
pub async fn dev(listener: TcpListener) -> Result<RunningServer, ServerError> {
    Server::start(ServerConfig::dev().await?, listener).await
}

/// State shared by the routes.
struct Parts {
    config: ServerConfig,
    signaling: Signaling,
    tokens: token_api::TokenApi,
    traffic: Arc<Traffic>,
    readiness: readiness::Readiness,
    /// Start of the server, seconds since 1970.
    started: u64,
}

impl Parts {
    fn new(config: ServerConfig) -> Arc<Self> {
        let signaling = Signaling::new(
            config.signaling.clone(),
            Arc::new(config.verifier.clone()),
            Arc::clone(&config.store),
        );
        let tokens = token_api::TokenApi::new(config.token_rates);
        let traffic = Arc::default();
        let readiness = readiness::Readiness::default();
        Arc::new(Self { config, signaling, tokens, traffic, readiness, started: unix_now() })
    }
}
