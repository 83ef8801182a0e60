//! The servers shared by all cells of a simulated run: signaling on plain loopback, and STUN and TURN at a
//! separate address, because NATs with address-dependent behavior distinguish hosts.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rustls::{crypto::ring, pki_types::PrivateKeyDer};
use tokio::net::TcpListener;

use super::plan::Transports;
use crate::{
    auth::{login::DEV_USER, secret::Secret, turn_rest::TurnSecrets, unix_now},
    pairs::{Pair, PairStore},
    proto::token::IceServer,
    report::schema::FailureRecord,
    server::{RunningServer, Server, ServerConfig},
    tls::Trust,
    turn::{TlsListener, TurnConfig, TurnLimits, TurnServer},
    types::Stage,
};

/// Address of STUN and TURN. 127.0.0.1 is behind the NATs, 127.64.0.0/10 outside.
pub const TURN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 63, 0, 1));

/// Address of relayed candidates. A NAT with address-dependent filtering admits anything from an address it
/// has sent to: with a single address, a check through the relay could arrive first, and the pair would be
/// relayed needlessly.
const RELAY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 63, 0, 2));

/// Lifetime of TURN credentials: longer than any run.
const CREDENTIALS_FOR: Duration = Duration::from_hours(24);

/// The running servers.
pub(super) struct Servers {
    /// Signaling and token server.
    pub(super) signaling: RunningServer,
    turn: TurnServer,
    store: Arc<dyn PairStore>,
    secrets: TurnSecrets,
    /// Trusts the certificate of TURN over TLS.
    pub(super) trust: Trust,
}

impl Servers {
    /// Starts them on free ports.
    pub(super) async fn start() -> Result<Self, FailureRecord> {
        let secrets = TurnSecrets { current: Secret::random(), previous: None };
        let (trust, tls) = certificate().map_err(|error| {
            failure(
                "certificate",
                &format!("cannot create a certificate for TURN over TLS: {error}"),
                "",
            )
        })?;
        let any = SocketAddr::new(TURN_ADDRESS, 0);
        let config = TurnConfig {
            udp: Some(any),
            tcp: Some(any),
            tls: Some(TlsListener { address: any, server: tls }),
            relay_address: RELAY_ADDRESS,
            limits: TurnLimits {
                allocations: 10_000,
                allocations_per_user: 100,
                ..TurnLimits::for_one_machine()
            },
            ..TurnConfig::loopback(0, Arc::new(secrets.clone()))
        };
        let turn = TurnServer::start(config).await.map_err(|error| {
            let remedy = format!(
                "{}; on macOS, add the address to the loopback interface first: sudo ifconfig lo0 alias \
                 {TURN_ADDRESS}",
                error.remedy()
            );
            failure("no-turn-server", &error.to_string(), &remedy)
        })?;
        let cannot = |error: &dyn std::fmt::Display| {
            let remedy = "check that the loopback interface is up: `ip address show lo`";
            failure("no-server", &format!("cannot start the signaling server: {error}"), remedy)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.map_err(|error| cannot(&error))?;
        let config = ServerConfig::dev().await.map_err(|error| cannot(&error))?;
        let store = Arc::clone(&config.store);
        let signaling = Server::start(config, listener).await.map_err(|error| cannot(&error))?;
        Ok(Self { signaling, turn, store, secrets, trust })
    }

    /// Adds a pair of devices with this number.
    pub(super) async fn pair(&self, number: u64) -> Result<Pair, FailureRecord> {
        let (phone, mac) = (format!("lab-phone-{number}"), format!("lab-mac-{number}"));
        let pair = Pair::active(format!("lab-{number}"), DEV_USER, phone, mac, unix_now());
        let added = self.store.add(&pair).await;
        added.map_err(|error| failure("no-pair-stored", &error.to_string(), ""))?;
        Ok(pair)
    }

    /// STUN, and TURN over these transports, with credentials for this user.
    pub(super) fn ice_servers(&self, transports: Transports, user: &str) -> Vec<IceServer> {
        let url = |scheme: &str, address: Option<SocketAddr>, transport: &str| {
            address.map(|address| format!("{scheme}:{address}{transport}"))
        };
        let (udp, tcp, tls) =
            (self.turn.udp_address(), self.turn.tcp_address(), self.turn.tls_address());
        let relays: Vec<String> = [
            (transports.udp, url("turn", udp, "?transport=udp")),
            (transports.tcp, url("turn", tcp, "?transport=tcp")),
            (transports.tls, url("turns", tls, "?transport=tcp")),
        ]
        .into_iter()
        .filter_map(|(offered, url)| url.filter(|_| offered))
        .collect();
        let stun = url("stun", udp, "").into_iter().collect();
        let mut servers = vec![IceServer { urls: stun, username: None, credential: None }];
        if !relays.is_empty() {
            let expiry = unix_now() + CREDENTIALS_FOR.as_secs();
            let credentials = self.secrets.mint(user, expiry);
            servers.push(IceServer {
                urls: relays,
                username: Some(credentials.username),
                credential: Some(credentials.password),
            });
        }
        servers
    }

    /// Stops them.
    pub(super) async fn shutdown(self) {
        self.signaling.shutdown().await;
        self.turn.close().await;
    }
}

/// Creates a certificate for [`TURN_ADDRESS`] from a new CA, and trust in that CA.
fn certificate() -> Result<(Trust, Arc<rustls::ServerConfig>), Box<dyn std::error::Error>> {
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, rcgen::KeyPair::generate()?)?;
    let key = rcgen::KeyPair::generate()?;
    let names = vec![TURN_ADDRESS.to_string()];
    let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &authority)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((Trust::with(authority.pem().as_bytes())?, Arc::new(server)))
}

/// A failure of the lab itself, not of the measured pair.
pub(super) fn failure(code: &str, message: &str, remedy: &str) -> FailureRecord {
    FailureRecord {
        stage: Stage::Server,
        code: code.into(),
        message: message.into(),
        remedy: remedy.into(),
    }
}
