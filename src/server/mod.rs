//! Everything `orion-peer serve` runs, put together: signaling, token API, health, metrics.
//!
//! | route | answers |
//! |---|---|
//! | `GET /api/signal` | the WebSocket ([`crate::signaling::server`]) |
//! | `POST /api/auth/webrtc-token` | a signaling JWT and ICE servers ([`token_api`]) |
//! | `GET /healthz` | 200: it is alive |
//! | `GET /readyz` | may it get new clients: 503 while it drains, or the pair store or the bus does not answer |
//! | `GET /metrics` | counters in the Prometheus text format ([`metrics`]), here or on a listener of its own |
//! | `GET /.well-known/jwks.json` | public keys of signaling tokens (RFC 7517) |
//!
//! The caller binds the listener, so a test has its server on port 0 in a line.

mod bus_metrics;
pub mod exposition;
pub mod front;
mod hosts;
pub mod http;
pub mod metrics;
pub mod proxies;
mod readiness;
mod routes;
mod running;
pub mod tls;
pub mod token_api;
mod traffic;
pub mod twilio;
mod wellformed;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, sync::watch};

pub use self::running::RunningServer;
use self::{front::Front, traffic::Traffic};
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

/// Path of the token API.
pub const TOKEN_PATH: &str = "/api/auth/webrtc-token";

/// Path of the public keys of signaling tokens.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Pair of the dev server.
pub const DEV_PAIR: &str = "demo";

/// The phone of [`DEV_PAIR`].
pub const DEV_PHONE: &str = "phone";

/// The Mac of [`DEV_PAIR`].
pub const DEV_MAC: &str = "mac";

/// Shortest life of tokens and TURN credentials: clients renew them at half of it.
pub const SHORTEST_TTL: Duration = Duration::from_secs(10);

/// Shortest life of TURN credentials outside tests: they must outlast the token, and long calls.
pub const MIN_TURN_TTL: Duration = Duration::from_hours(1);

/// Between looks for clients whose rates need not be remembered.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// TURN as the token answer names it: URLs, and the secret shared with the TURN server.
#[derive(Debug, Clone)]
pub struct TurnAdvert {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// Makes the credentials of each answer.
    pub secret: Secret,
    /// How long credentials are good; below [`MIN_TURN_TTL`] only in tests.
    pub ttl: Duration,
    /// Whether user names say which pair they are for. Only for a server that knows these pairs: it ends
    /// what belongs to one that is revoked.
    pub names_pair: bool,
    /// Whether `urls` are for the address that a client connected to, whichever of this machine's it is: for an
    /// embedded server on all of them. The host in `urls` then stands for clients of which that is not known.
    pub follows_client: bool,
}

impl TurnAdvert {
    /// STUN on UDP and TURN on UDP and TCP at one address; `host` is a name or an address, IPv6 in
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

    /// The URLs for a client that connected to the address `local` of this machine, where that is known.
    #[must_use]
    pub fn urls_at(&self, local: Option<IpAddr>) -> Vec<String> {
        let Some(local) = local.filter(|_| self.follows_client) else { return self.urls.clone() };
        let at_local = |url: &String| match url.parse::<ServerUri>() {
            // The certificate of `turns:` is for the name in it.
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

/// How often tokens may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenRates {
    /// By one address, whatever the login.
    pub per_address: Rate,
    /// By one user.
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

/// Appends metrics of parts the server does not know, in the Prometheus text format.
pub type ExtraMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// What a server needs to start.
#[derive(Clone)]
pub struct ServerConfig {
    /// How signaling behaves.
    pub signaling: SignalingConfig,
    /// Mints and checks signaling tokens.
    pub verifier: Verifier,
    /// The pairs.
    pub store: Arc<dyn PairStore>,
    /// Who is asking for a token; without it there is no token API.
    pub login: Option<Arc<dyn LoginCheck>>,
    /// ICE servers named in every token answer.
    pub ice_servers: Vec<crate::proto::token::IceServer>,
    /// TURN with credentials of its own for each answer.
    pub turn: Option<TurnAdvert>,
    /// Twilio's ICE servers, in every token answer.
    pub twilio: Option<Arc<twilio::TwilioServers>>,
    /// How long signaling tokens are good, seconds; the contract says 300, less is for tests of renewal.
    pub token_ttl_s: u64,
    /// How often tokens may be asked for; `None` is no limit.
    pub token_rates: Option<TokenRates>,
    /// How long a client may take for the header of a request (contract: 5 s).
    pub header_within: Duration,
    /// HTTP connections at once, sockets not counted.
    pub max_connections: usize,
    /// What stands between the network and the routes.
    pub front: Front,
    /// More metrics, such as those of an embedded TURN server.
    pub extra_metrics: Option<ExtraMetrics>,
    /// What ends with a pair besides its sockets, such as the relaying of an embedded TURN server.
    pub in_use: Option<Arc<dyn InUse>>,
    /// The page for browsers at `/`: what it is told of this server; `None`: there is none.
    pub page: Option<serde_json::Value>,
}

impl ServerConfig {
    /// A server with default behaviour and limits.
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
            front: Front::default(),
            extra_metrics: None,
            in_use: None,
            page: None,
        }
    }

    /// The dev server: a random signing secret, the pair [`DEV_PAIR`] in memory, the login token
    /// [`crate::auth::login::DEV_TOKEN`], no limits for one client, pages of this machine allowed.
    /// For loopback addresses only, and by names of this machine only.
    ///
    /// # Errors
    /// [`ServerError::Store`] when there is no memory for the pairs.
    pub async fn dev() -> Result<Self, ServerError> {
        let store = SqlitePairs::in_memory().await?;
        store.add(&dev_pair()).await?;
        let keys = SigningKeys::new(vec![Key::hs256("dev", &Secret::random())?])?;
        let mut config = Self::new(Verifier::new(keys, Policy::default()), Arc::new(store));
        config.login = Some(Arc::new(DevLogin::default()));
        config.token_rates = None;
        config.signaling.origins = Origins::Loopback(Vec::new());
        config.signaling.limits = Limits::for_one_machine();
        config.front.connections_per_address = None;
        config.front.this_machine_only = true;
        config.signaling.timings.drain_jitter = Duration::ZERO;
        Ok(config)
    }
}

/// The pair of the dev server, and of one for a local network.
#[must_use]
pub fn dev_pair() -> Pair {
    Pair::active(DEV_PAIR, DEV_USER, DEV_PHONE, DEV_MAC, unix_now())
}

/// A server that could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The listener has no address, or cannot be used.
    #[error("cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// The listener of `/metrics` cannot be used.
    #[error("cannot listen for /metrics on {address}: {source}")]
    Metrics {
        /// Where.
        address: SocketAddr,
        /// The cause.
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
    /// Starts serving on `listener`. Nothing is accepted before the pair store and the bus answer.
    ///
    /// # Errors
    /// When the listener, the pair store or the bus is not usable.
    pub async fn start(
        config: ServerConfig,
        listener: TcpListener,
    ) -> Result<RunningServer, ServerError> {
        let addr = listener.local_addr()?;
        config.store.ready().await?;
        let metrics = match config.front.metrics_listen {
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
        if let Some(tls) = parts.config.front.tls.clone().filter(tls::Tls::has_files) {
            tasks.push(tokio::spawn(tls.watch()));
        }
        tasks.push(tokio::spawn(watch_over(Arc::clone(&parts))));
        parts.signaling.await_bus().await;
        Ok(RunningServer { addr, metrics_addr, parts, stop, tasks, connections })
    }
}

/// Closes sockets of revoked pairs, and forgets clients that have gone quiet.
async fn watch_over(parts: Arc<Parts>) {
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

/// Starts a dev server with a store of its own: [`ServerConfig::dev`].
///
/// # Errors
/// As [`Server::start`].
pub async fn dev(listener: TcpListener) -> Result<RunningServer, ServerError> {
    Server::start(ServerConfig::dev().await?, listener).await
}

/// What the routes share.
struct Parts {
    config: ServerConfig,
    signaling: Signaling,
    tokens: token_api::TokenApi,
    traffic: Arc<Traffic>,
    readiness: readiness::Readiness,
    /// Seconds since 1970.
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
