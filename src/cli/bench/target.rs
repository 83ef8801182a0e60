//! The peers to measure: pairs on a server in this process, or one pair on a remote server.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::args::BenchArgs;
use crate::{
    auth::{login::DEV_USER, unix_now},
    bench::{Slot, embedded},
    cli::{
        call,
        connect::ConnectConfig,
        failure::Failure,
        network::{self, SimulatedNetworks},
        serve::{self, Served},
    },
    pairs::Pair,
    peer::{self, PeerRole, local_network::local_addresses},
    types::Stage,
};

/// Default connection timeout.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The peers to measure and the server they use.
pub struct BenchTarget {
    /// One slot per pair; each measures one connection at a time.
    pub slots: Vec<Slot>,
    /// Connection timeout.
    pub timeout: Duration,
    /// The validated connection flags.
    pub connect: ConnectConfig,
    /// The simulated networks of the peers in this process.
    pub networks: Option<SimulatedNetworks>,
    /// The server in this process, if it is not remote.
    pub served: Option<Served>,
}

/// Starts a server in this process, or prepares to use the remote one.
///
/// # Errors
/// Conflicting flags (exit code 2); the server cannot be started.
pub async fn target(args: &BenchArgs) -> Result<BenchTarget, Failure> {
    let role = PeerRole::from(args.load.role);
    let default_device = match role {
        PeerRole::Sender => "phone",
        PeerRole::Receiver => "mac",
    };
    let embedded = args.connect.endpoint.signal.is_none();
    if embedded {
        check_embedded(args)?;
    }
    let connect = args.connect.resolve(default_device, SystemTime::now())?.with_twilio().await?;
    let timeout = connect.timeout.unwrap_or(TIMEOUT);
    let rate = args.load.link_rate();
    if embedded {
        let networks = args.network.for_both_peers(rate)?;
        let (slots, served) = start(args, &connect, networks.as_ref()).await?;
        return Ok(BenchTarget { slots, timeout, connect, networks, served: Some(served) });
    }
    if args.load.parallel > 1 {
        return Err(Failure::usage(
            "--parallel needs one device pair per connection, but --signal uses a single pair",
            "omit --parallel, or omit --signal to measure within this process",
        ));
    }
    let mut measuring = call::call_config(&connect, role)?;
    let networks = args.network.for_single_peer(rate)?;
    measuring.peer.control_life_time = args.load.control_life_time();
    measuring.peer.pace = args.load.pace;
    measuring.peer.repair = !args.load.no_repair;
    measuring.peer.phone_bitrate = args.load.phone_bitrate;
    network::attach(networks.as_ref(), &mut measuring.peer, 0, 0)?;
    let slots = vec![Slot { measuring, local_peer: None }];
    Ok(BenchTarget { slots, timeout, connect, networks, served: None })
}

fn check_embedded(args: &BenchArgs) -> Result<(), Failure> {
    let endpoint = &args.connect.endpoint;
    let given = [
        ("--token-url", endpoint.token_url.is_some()),
        ("--access-token", endpoint.access_token.is_some()),
        ("--token", args.connect.token.is_some()),
        ("--device", endpoint.device.is_some()),
        ("--pair", endpoint.pair.is_some()),
        ("--role recv", PeerRole::from(args.load.role) == PeerRole::Receiver),
        ("--respond", args.load.respond),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::usage(
            format!("{flag} requires --signal: without it, server and peers run in this process"),
            "add --signal ws://HOST:PORT",
        )),
        None => Ok(()),
    }
}

async fn start(
    args: &BenchArgs,
    connect: &ConnectConfig,
    networks: Option<&SimulatedNetworks>,
) -> Result<(Vec<Slot>, Served), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| {
        Failure::new(
            Stage::Server,
            format!("cannot listen on 127.0.0.1: {error}"),
            "check that the loopback interface is up: `ip address show lo`",
        )
    })?;
    let now = unix_now();
    let pairs: Vec<Pair> = (1..=args.load.parallel.min(args.load.connections))
        .map(|n| {
            let (phone, mac) = (format!("bench-phone-{n}"), format!("bench-mac-{n}"));
            Pair::active(format!("bench-{n}"), DEV_USER, phone, mac, now)
        })
        .collect();
    let served = serve::dev(listener, &pairs).await?;
    let mut slots = Vec::new();
    for pair in &pairs {
        let peers =
            [peer_config(connect, PeerRole::Sender)?, peer_config(connect, PeerRole::Receiver)?];
        let mut slot = embedded::slot(&served.server, pair, peers)
            .map_err(|error| Failure::new(error.stage(), error.to_string(), error.remedy()))?;
        slot.measuring.peer.control_life_time = args.load.control_life_time();
        slot.measuring.peer.pace = args.load.pace;
        slot.measuring.peer.repair = !args.load.no_repair;
        let nth = slots.len() as u64;
        network::attach(networks, &mut slot.measuring.peer, 0, nth)?;
        if let Some(local_peer) = &mut slot.local_peer {
            local_peer.peer.control_life_time = args.load.control_life_time();
            local_peer.peer.repair = !args.load.no_repair;
            local_peer.peer.phone_bitrate = args.load.phone_bitrate;
            network::attach(networks, &mut local_peer.peer, 1, nth)?;
        }
        slots.push(slot);
    }
    Ok((slots, served))
}

/// Both peers are in this process, so loopback is enough unless an interface or ICE servers are given.
fn peer_config(connect: &ConnectConfig, role: PeerRole) -> Result<peer::PeerConfig, Failure> {
    let mut config = call::call_config(connect, role)?.peer;
    config.network = None;
    if connect.interface.is_none() && connect.ice_servers.is_empty() {
        let all = std::mem::take(&mut config.addresses);
        let (v4, v6) = (all.iter().any(IpAddr::is_ipv4), all.iter().any(IpAddr::is_ipv6));
        config.addresses = local_addresses(None, v4, v6, true);
        config.addresses.retain(IpAddr::is_loopback);
        if config.addresses.is_empty() {
            config.addresses = all;
        }
    }
    Ok(config)
}

/// The configuration of the run as recorded in the result, without secrets.
#[must_use]
pub fn described(
    args: &BenchArgs,
    connect: &ConnectConfig,
    networks: Option<&SimulatedNetworks>,
) -> Map<String, Value> {
    let load = &args.load;
    let ms = |time: Duration| match time.as_secs_f64() * 1e3 {
        whole if whole.fract() == 0.0 => json!(whole as u64),
        ms => json!(ms),
    };
    // Defaults are omitted.
    let candidates = !args.connect.candidates.is_empty();
    let network = !args.connect.network.is_empty();
    let embedded = args.connect.endpoint.signal.is_none();
    let urls: Vec<&String> = connect.ice_servers.iter().flat_map(|server| &server.urls).collect();
    let all = json!({
        "mode": if embedded { "embedded" } else { "signal" },
        "signal": (!embedded).then(|| without_query(&connect.signal)),
        "role": if PeerRole::from(load.role) == PeerRole::Sender { "send" } else { "recv" },
        "connections": load.connections,
        "parallel": load.parallel,
        "ratePerS": load.connection_rate(),
        "warmup": load.warmup,
        "pings": (load.duration.is_none() || load.pings == 0).then_some(load.pings),
        "pingIntervalMs": ms(load.ping_interval),
        "pingBytes": load.ping_size,
        "pingLifetimeMs": ms(load.ping_lifetime),
        "keyframes": (load.duration.is_none() || load.keyframes == 0).then_some(load.keyframes),
        "intervalMs": ms(load.interval),
        "durationMs": load.duration.map(ms),
        "source": load.source.to_string(),
        "size": load.size.map(|size| format!("{}x{}", size.width, size.height)),
        "maxBytes": load.max_bytes,
        "pace": load.pace.to_string(),
        "phoneBitrate": load.phone_bitrate.to_string(),
        "repair": load.no_repair.then_some(false),
        "icePolicy": format!("{:?}", connect.ice_policy).to_lowercase(),
        "candidates": candidates.then(|| {
            connect.candidates.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()
        }),
        "network": network
            .then(|| connect.network.iter().map(ToString::to_string).collect::<Vec<_>>()),
        "interface": connect.interface,
        "iceServers": (!urls.is_empty()).then_some(urls),
        "timeoutMs": ms(connect.timeout.unwrap_or(TIMEOUT)),
        "simulated": networks.map(|networks| networks.described(embedded)),
    });
    let Value::Object(mut all) = all else { return Map::new() };
    all.retain(|_, value| !value.is_null());
    all
}

fn without_query(url: &url::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}
