//! STUN and TURN of `serve`: the embedded server, or an external one announced in token responses.

mod limits;
mod metrics;
mod tls;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use clap::Args;

use super::{Mode, reachable};
use crate::{
    auth::{secret::Secret, turn_rest::TurnSecrets},
    cli::{failure::Failure, ice, secret::SecretSource},
    server::{self, ServerConfig, TurnAdvert},
    stun::uri::is_turn,
    turn::{TurnConfig, TurnError, TurnServer},
    types::Stage,
    units,
};

/// Default port of STUN and TURN (RFC 8656 §19).
const PORT: u16 = 3478;

/// Flags of `serve` for STUN and TURN.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
pub struct TurnArgs {
    /// Address of the embedded STUN and TURN server (UDP and TCP); default: port 3478 on the IP address of --listen
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub turn_listen: Option<SocketAddr>,
    /// Do not run the embedded STUN and TURN server
    #[arg(long)]
    pub no_turn: bool,
    /// IP address at which clients reach this machine, if different from --turn-listen
    #[arg(long, value_name = "IP")]
    pub public_address: Option<IpAddr>,
    /// Local IP address to relay on, if different from the one clients use
    #[arg(long, value_name = "IP")]
    pub turn_relay_address: Option<IpAddr>,
    /// Second STUN address, with another IP and port, for NAT behavior discovery
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub turn_alternate: Option<SocketAddr>,
    /// External STUN or TURN server to announce in token responses, instead of the embedded one; repeatable
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub turn_url: Vec<String>,
    /// Secret for TURN REST credentials, shared with an external server; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub turn_secret: Option<SecretSource>,
    /// Previous secret, whose credentials the embedded server still accepts
    #[arg(long, value_name = "SECRET")]
    pub turn_previous_secret: Option<SecretSource>,
    /// Limits of the embedded server.
    #[command(flatten)]
    pub limits: limits::TurnLimitArgs,
    /// TURN over TLS.
    #[command(flatten)]
    pub tls: tls::TurnTlsArgs,
}

impl TurnArgs {
    /// Maximum number of files the embedded server opens: one socket per connection and per allocation.
    ///
    /// # Errors
    /// A limit is not valid.
    pub fn open_files(&self, dev: bool) -> Result<u64, Failure> {
        if self.no_turn || !self.turn_url.is_empty() {
            return Ok(0);
        }
        let limits = self.limits.limits(dev)?;
        Ok((limits.tcp_connections as u64).saturating_add(limits.allocations as u64))
    }

    /// A given flag that only the embedded server supports. Address flags do not count: a configuration file may set
    /// them while the command line disables the server.
    fn embedded(&self) -> Option<&'static str> {
        let previous = self.turn_previous_secret.is_some().then_some("--turn-previous-secret");
        previous.or_else(|| self.limits.given()).or_else(|| self.tls.given())
    }
}

/// Starts the configured relay and adds it to token responses and metrics.
///
/// # Errors
/// Exit code 2 for conflicting flags, 1 if the address is not usable.
pub async fn start(
    args: &TurnArgs,
    listen: SocketAddr,
    mode: Mode,
    config: &mut ServerConfig,
) -> Result<Option<TurnServer>, Failure> {
    let secret = SecretSource::read("--turn-secret", args.turn_secret.as_ref())?;
    if let (Some(flag), true) = (args.embedded(), args.no_turn || !args.turn_url.is_empty()) {
        return Err(Failure::usage(
            format!(
                "{flag} requires the embedded TURN server, which --no-turn and --turn-url disable"
            ),
            format!("omit {flag}, or --no-turn and --turn-url"),
        ));
    }
    if args.no_turn && (secret.is_some() || !args.turn_url.is_empty()) {
        let flag = if secret.is_some() { "--turn-secret" } else { "--turn-url" };
        return Err(Failure::usage(
            format!("{flag} cannot be used with --no-turn"),
            format!("omit --no-turn or {flag}"),
        ));
    }
    if args.turn_previous_secret.is_some() && secret.is_none() {
        return Err(Failure::usage(
            "--turn-previous-secret requires a current secret",
            "add --turn-secret",
        ));
    }
    if !args.turn_url.is_empty() {
        config.turn = Some(external(&args.turn_url, secret)?);
        return Ok(None);
    }
    if args.no_turn {
        return Ok(None);
    }
    let secret = secret.unwrap_or_else(Secret::random);
    let wanted = args.turn_listen.unwrap_or_else(|| SocketAddr::new(listen.ip(), PORT));
    let address = relay_address(args, wanted.ip(), mode)?;
    let host = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let tls = args.tls.read(wanted, &host, config.listener.tls.as_ref())?;
    let turn_config = TurnConfig {
        tls: tls.as_ref().map(|tls| tls.listener.clone()),
        ..plain_config(args, wanted, address, mode, &secret)?
    };
    let relay = match TurnServer::start(turn_config.clone()).await {
        // The default port is in use, perhaps by coturn: a dev server picks a free port.
        Err(TurnError::Listen { .. }) if mode.is_development() && args.turn_listen.is_none() => {
            let free = Some(SocketAddr::new(wanted.ip(), 0));
            TurnServer::start(TurnConfig { udp: free, tcp: free, ..turn_config }).await
        }
        started => started,
    }
    .map_err(|error| Failure::new(Stage::Server, error.to_string(), error.remedy()))?;
    let port = relay.udp_address().map_or(wanted.port(), |bound| bound.port());
    let follows_client =
        mode == Mode::Lan && args.public_address.is_none() && wanted.ip().is_unspecified();
    let mut advert =
        TurnAdvert { names_pair: true, follows_client, ..TurnAdvert::at(&host, port, secret) };
    if let (Some(tls), Some(bound)) = (tls, relay.tls_address()) {
        advert.urls.push(tls.url(bound.port()));
    }
    config.turn = Some(advert);
    let read = relay.stats_reader();
    config.extra_metrics = Some(Arc::new(move |text| metrics::append(text, &read())));
    Ok(Some(relay))
}

/// Ends relaying for a pair when it is revoked. Call this after the lifetime of credentials is known.
pub fn end_with_pairs(relay: Option<&TurnServer>, config: &mut ServerConfig) {
    let ttl = config.turn.as_ref().map_or(server::MIN_TURN_TTL, |turn| turn.ttl);
    config.in_use = relay.map(|relay| relay.in_use(ttl));
}

/// The configuration of the embedded server over UDP and TCP.
fn plain_config(
    args: &TurnArgs,
    wanted: SocketAddr,
    address: IpAddr,
    mode: Mode,
    secret: &Secret,
) -> Result<TurnConfig, Failure> {
    let previous =
        SecretSource::read("--turn-previous-secret", args.turn_previous_secret.as_ref())?;
    let secrets = TurnSecrets { current: secret.clone(), previous };
    let relay_address = args.turn_relay_address.unwrap_or(address);
    let default = TurnConfig::loopback(wanted.port(), Arc::new(secrets));
    let dev = mode == Mode::Dev;
    let mut peers = args.limits.peers(dev, &[relay_address, address])?;
    if mode == Mode::Lan {
        // The peers are on the local network, which is private.
        peers.allow.extend(reachable::networks());
    }
    Ok(TurnConfig {
        relay_address,
        relay_bind: (args.turn_relay_address.is_none() && address != wanted.ip())
            .then_some(wanted.ip()),
        udp: Some(wanted),
        tcp: Some(wanted),
        alternate: args.turn_alternate,
        relay_ports: args.limits.turn_ports.clone().unwrap_or(default.relay_ports.clone()),
        peers,
        limits: args.limits.limits(dev)?,
        ..default
    })
}

/// The relay address announced to clients; cannot be a wildcard.
fn relay_address(args: &TurnArgs, listen: IpAddr, mode: Mode) -> Result<IpAddr, Failure> {
    match args.public_address {
        Some(address) if address.is_unspecified() => Err(Failure::usage(
            format!("--public-address {address} is not an address that clients can reach"),
            "specify the IP address at which clients reach this machine",
        )),
        Some(address) => Ok(address),
        None if listen.is_unspecified() && mode == Mode::Lan => {
            Ok(reachable::addresses(Ipv4Addr::UNSPECIFIED.into(), None)[0])
        }
        None if listen.is_unspecified() => Err(Failure::usage(
            format!("the relay cannot announce {listen} as its address"),
            "add --public-address IP, --turn-listen with an address of this machine, or --no-turn",
        )),
        None => Ok(listen),
    }
}

/// The announcement of an external server in token responses.
fn external(urls: &[String], secret: Option<Secret>) -> Result<TurnAdvert, Failure> {
    for url in urls {
        ice::check_url("--turn-url", url)?;
    }
    let secret = match secret {
        Some(secret) => secret,
        None if !urls.iter().any(|url| is_turn(url)) => Secret::random(),
        None => {
            return Err(Failure::usage(
                "a TURN URL requires the secret shared with the TURN server",
                "add --turn-secret @FILE or set ORION_TURN_SECRET",
            ));
        }
    };
    Ok(TurnAdvert {
        urls: urls.to_vec(),
        secret,
        ttl: server::MIN_TURN_TTL * 2,
        names_pair: false,
        follows_client: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn rejected(args: TurnArgs, listen: &str) -> Failure {
        let mut config = ServerConfig::dev().await.unwrap();
        match start(&args, listen.parse().unwrap(), Mode::Production, &mut config).await {
            Ok(_) => panic!("{args:?} was accepted"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn conflicting_flags_are_usage_errors() {
        let urls = |url: &str| TurnArgs { turn_url: vec![url.into()], ..TurnArgs::default() };
        for (args, listen, words) in [
            (urls("http://h"), "127.0.0.1:0", "unknown scheme"),
            (urls("turn://h:1"), "127.0.0.1:0", "slashes"),
            (urls("stuns:h"), "127.0.0.1:0", "not supported"),
            (urls("turns:h?transport=udp"), "127.0.0.1:0", "DTLS"),
            (urls("turn:h/path"), "127.0.0.1:0", "path"),
            (urls("TURN:h:1"), "127.0.0.1:0", "secret"),
            (urls("turn:h:1"), "127.0.0.1:0", "secret"),
            (TurnArgs::default(), "0.0.0.0:0", "0.0.0.0"),
            (
                TurnArgs { public_address: "::".parse().ok(), ..TurnArgs::default() },
                "127.0.0.1:0",
                "--public-address",
            ),
            (
                TurnArgs {
                    no_turn: true,
                    tls: tls::TurnTlsArgs { turn_tls_port: Some(1), ..tls::TurnTlsArgs::default() },
                    ..TurnArgs::default()
                },
                "127.0.0.1:0",
                "--turn-tls-port",
            ),
            (
                TurnArgs { turn_secret: Some("s".into()), no_turn: true, ..TurnArgs::default() },
                "127.0.0.1:0",
                "--turn-secret",
            ),
            (
                TurnArgs { turn_previous_secret: Some("s".into()), ..TurnArgs::default() },
                "127.0.0.1:0",
                "requires a current secret",
            ),
            (
                TurnArgs {
                    limits: limits::TurnLimitArgs {
                        turn_quota: Some(1),
                        ..limits::TurnLimitArgs::default()
                    },
                    ..urls("stun:h:1")
                },
                "127.0.0.1:0",
                "--turn-quota",
            ),
        ] {
            let failure = rejected(args, listen).await;
            assert_eq!(failure.exit, 2, "{failure}");
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[tokio::test]
    async fn token_responses_include_the_embedded_relay() {
        let mut config = ServerConfig::dev().await.unwrap();
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let args = TurnArgs { turn_listen: Some(here), ..TurnArgs::default() };
        let relay = start(&args, here, Mode::Dev, &mut config).await.unwrap().unwrap();
        let port = relay.udp_address().unwrap().port();
        assert_eq!(relay.tcp_address().unwrap().port(), port);
        end_with_pairs(Some(&relay), &mut config);
        assert_eq!(config.in_use.as_ref().map(|in_use| in_use.pairs()), Some(Vec::new()));
        let advert = config.turn.unwrap();
        assert!(advert.names_pair, "this server knows the pairs");
        let urls = advert.urls;
        assert!(urls.contains(&format!("turn:127.0.0.1:{port}?transport=tcp")), "{urls:?}");
        let mut text = String::new();
        config.extra_metrics.unwrap()(&mut text);
        assert!(text.contains("orion_turn_allocations"), "{text}");
        relay.close().await;
    }
}
