//! STUN and TURN of `serve`: the embedded relay, or an external one named in token answers.

mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use clap::Args;

use super::{failure::Failure, serve::configure::read_secret};
use crate::{
    auth::{secret::Secret, turn_rest::TurnSecrets},
    peer::config::local_addresses,
    server::{
        self, ServerConfig, TurnAdvert,
        metrics::{counter, gauge},
    },
    turn::{IpNet, Limits, PeerFilter, TurnConfig, TurnError, TurnServer, TurnStats},
    types::Stage,
};

/// Port of STUN and TURN (RFC 8656 §19).
const PORT: u16 = 3478;

/// Flags of `serve` for STUN and TURN.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
pub struct TurnArgs {
    /// Address of the embedded STUN and TURN server, UDP and TCP; default: port 3478 beside --listen
    #[arg(long, value_name = "ADDR")]
    pub turn_listen: Option<SocketAddr>,
    /// No embedded STUN and TURN server
    #[arg(long)]
    pub no_turn: bool,
    /// IP address that clients reach this machine by, when it is not --turn-listen's
    #[arg(long, value_name = "IP")]
    pub public_address: Option<IpAddr>,
    /// IP address of this machine to relay on, when it is not the one clients reach it by
    #[arg(long, value_name = "IP")]
    pub turn_relay_address: Option<IpAddr>,
    /// Second address to answer STUN on, another IP and port: shows clients how their NAT behaves
    #[arg(long, value_name = "ADDR")]
    pub turn_alternate: Option<SocketAddr>,
    /// Networks that may be relayed to although they are private, such as 192.168.0.0/16; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub turn_allow: Vec<IpNet>,
    /// Allocations one device may hold at a time; default 30
    #[arg(long, value_name = "N")]
    pub turn_quota: Option<usize>,
    /// External STUN or TURN server to name in token answers, instead of the embedded one; repeatable
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub turn_url: Vec<String>,
    /// Secret for TURN REST credentials, shared with an external server; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET")]
    pub turn_secret: Option<String>,
    /// TLS.
    #[command(flatten)]
    pub tls: tls::TurnTlsArgs,
}

/// Starts the relay that the flags ask for, and has token answers and metrics tell of it.
///
/// # Errors
/// Exit code 2 for flags that do not go together, 1 when the address cannot be used.
pub async fn start(
    args: &TurnArgs,
    listen: SocketAddr,
    dev: bool,
    config: &mut ServerConfig,
) -> Result<Option<TurnServer>, Failure> {
    let secret = read_secret("--turn-secret", args.turn_secret.as_deref())?;
    if let (Some(flag), true) = (args.tls.given(), args.no_turn || !args.turn_url.is_empty()) {
        return Err(Failure::usage(
            format!(
                "{flag} is for the embedded TURN server, which --no-turn and --turn-url leave out"
            ),
            "leave one of them out",
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
    let address = relay_address(args, wanted.ip())?;
    let host = match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let tls = args.tls.read(wanted, &host, config.front.tls.as_ref())?;
    let turn_config = TurnConfig {
        tls: tls.as_ref().map(|tls| tls.listener.clone()),
        ..plain_config(args, wanted, address, dev, &secret)?
    };
    let relay = match TurnServer::start(turn_config.clone()).await {
        // The usual port is taken, by a coturn perhaps: a dev server takes a free one.
        Err(TurnError::Listen { .. }) if dev && args.turn_listen.is_none() => {
            let free = Some(SocketAddr::new(wanted.ip(), 0));
            TurnServer::start(TurnConfig { udp: free, tcp: free, ..turn_config }).await
        }
        started => started,
    }
    .map_err(|error| Failure::new(Stage::Server, error.to_string(), error.remedy()))?;
    let port = relay.udp_address().map_or(wanted.port(), |bound| bound.port());
    let mut advert = TurnAdvert::at(&host, port, secret);
    if let (Some(tls), Some(bound)) = (tls, relay.tls_address()) {
        advert.urls.push(tls.url(bound.port()));
    }
    config.turn = Some(advert);
    let read = relay.stats_reader();
    config.extra_metrics = Some(Arc::new(move |text| metrics(text, &read())));
    Ok(Some(relay))
}

/// The embedded server over UDP and TCP.
fn plain_config(
    args: &TurnArgs,
    wanted: SocketAddr,
    address: IpAddr,
    dev: bool,
    secret: &Secret,
) -> Result<TurnConfig, Failure> {
    let secrets = TurnSecrets { current: secret.clone(), previous: None };
    Ok(TurnConfig {
        relay_address: args.turn_relay_address.unwrap_or(address),
        relay_bind: (args.turn_relay_address.is_none() && address != wanted.ip())
            .then_some(wanted.ip()),
        udp: Some(wanted),
        tcp: Some(wanted),
        alternate: args.turn_alternate,
        peers: PeerFilter {
            allow_loopback: dev,
            allow: allowed(args, dev)?,
            ..PeerFilter::default()
        },
        limits: Limits {
            allocations_per_user: args.turn_quota.unwrap_or(Limits::default().allocations_per_user),
            ..Limits::default()
        },
        ..TurnConfig::loopback(wanted.port(), Arc::new(secrets))
    })
}

/// Networks relayed to although they are private; a dev server relays to this machine's addresses.
fn allowed(args: &TurnArgs, dev: bool) -> Result<Vec<IpNet>, Failure> {
    let mut allowed = args.turn_allow.clone();
    if dev {
        for address in local_addresses(None, true, true, true) {
            let host = address.to_string().parse::<IpNet>().map_err(|error| {
                Failure::new(Stage::Server, error.to_string(), "give --no-turn")
            })?;
            allowed.push(host);
        }
    }
    Ok(allowed)
}

/// The address clients are told to relay on; it cannot be a wildcard.
fn relay_address(args: &TurnArgs, listen: IpAddr) -> Result<IpAddr, Failure> {
    match args.public_address {
        Some(address) if address.is_unspecified() => Err(Failure::usage(
            format!("--public-address {address} is no address that clients can reach"),
            "give the address that clients reach this machine by",
        )),
        Some(address) => Ok(address),
        None if listen.is_unspecified() => Err(Failure::usage(
            format!("the relay would tell clients to reach it at {listen}"),
            "give --public-address IP, or --turn-listen with an address of this machine, or --no-turn",
        )),
        None => Ok(listen),
    }
}

/// What token answers say about an external server.
fn external(urls: &[String], secret: Option<Secret>) -> Result<TurnAdvert, Failure> {
    let known =
        |url: &String| ["stun:", "stuns:", "turn:", "turns:"].iter().any(|s| url.starts_with(s));
    if let Some(wrong) = urls.iter().find(|url| !known(url)) {
        return Err(Failure::usage(
            format!("--turn-url {wrong} is not understood"),
            "write stun:HOST:PORT, turn:HOST:PORT?transport=udp or turns:HOST:PORT",
        ));
    }
    let secret = match secret {
        Some(secret) => secret,
        None if urls.iter().all(|url| url.starts_with("stun")) => Secret::random(),
        None => {
            return Err(Failure::usage(
                "a TURN URL needs the secret that is shared with the TURN server",
                "set ORION_TURN_SECRET",
            ));
        }
    };
    Ok(TurnAdvert { urls: urls.to_vec(), secret, ttl: server::MIN_TURN_TTL * 2 })
}

fn metrics(text: &mut String, stats: &TurnStats) {
    let now = usize::try_from(stats.allocations_active).unwrap_or(usize::MAX);
    gauge(text, "orion_turn_allocations", "TURN allocations now", now);
    let totals = [
        ("allocations", stats.allocations_total),
        ("bindings", stats.bindings),
        ("bytes_to_peers", stats.bytes_to_peers),
        ("bytes_to_clients", stats.bytes_to_clients),
        ("packets_to_peers", stats.packets_to_peers),
        ("packets_to_clients", stats.packets_to_clients),
        ("dropped_packets", stats.dropped),
    ];
    for (name, value) in totals {
        let help = format!("TURN {} since the start", name.replace('_', " "));
        counter(text, &format!("orion_turn_{name}_total"), "", &help, [("", value)]);
    }
    let refused: Vec<(String, u64)> =
        stats.refused.iter().map(|(reason, count)| (reason.code().0.to_string(), *count)).collect();
    counter(
        text,
        "orion_turn_refused_total",
        "code",
        "TURN requests refused, by STUN error code",
        refused.iter().map(|(code, count)| (code.as_str(), *count)),
    );
}
#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(args: TurnArgs, listen: &str) -> Failure {
        let mut config = ServerConfig::dev().await.unwrap();
        match start(&args, listen.parse().unwrap(), false, &mut config).await {
            Ok(_) => panic!("{args:?} was taken"),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn flags_that_do_not_go_together_are_usage_errors() {
        let urls = |url: &str| TurnArgs { turn_url: vec![url.into()], ..TurnArgs::default() };
        for (args, listen, words) in [
            (urls("http://h"), "127.0.0.1:0", "not understood"),
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
        ] {
            let failure = refused(args, listen).await;
            assert_eq!(failure.exit, 2, "{failure}");
            assert!(failure.message.contains(words), "{failure}");
        }
    }

    #[tokio::test]
    async fn the_embedded_relay_is_told_of_in_token_answers() {
        let mut config = ServerConfig::dev().await.unwrap();
        let here: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let args = TurnArgs { turn_listen: Some(here), turn_quota: Some(3), ..TurnArgs::default() };
        let relay = start(&args, here, true, &mut config).await.unwrap().unwrap();
        let port = relay.udp_address().unwrap().port();
        assert_eq!(relay.tcp_address().unwrap().port(), port);
        let urls = config.turn.unwrap().urls;
        assert!(urls.contains(&format!("turn:127.0.0.1:{port}?transport=tcp")), "{urls:?}");
        let mut text = String::new();
        config.extra_metrics.unwrap()(&mut text);
        assert!(text.contains("orion_turn_allocations"), "{text}");
        relay.close().await;
    }
}
