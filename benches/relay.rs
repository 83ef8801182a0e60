//! The overhead of TURN in a round trip, over UDP, TCP and TLS: relayed pings of `bench` compared with the sum of
//! the two legs between peers and relay, which STUN Binding requests measure in the same run over the same
//! transport. Each leg is delayed, because loopback alone would only measure the peers' own processing.
//!
//! `cargo bench --bench relay [-- ROUNDS PINGS DELAY_MS]`; the delay is that of one leg in one direction. Prints
//! medians and their ratio; asserts nothing.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use orion_peer::{
    auth::{
        login::{DEV_TOKEN, DEV_USER},
        turn_rest::TurnSecrets,
        unix_now,
    },
    bench::{self, BenchConfig, Slot, plan::BenchPlan},
    media::source::SourceSpec,
    pairs::Pair,
    peer::{IcePolicy, PeerConfig, PeerRole},
    proto::token::IceServer,
    server::{Server, ServerConfig},
    session::{CallConfig, capture::CaptureConfig},
    signaling::{client::ClientConfig, client::token_client::TokenClient},
    stats::Histogram,
    stun::{
        message::{Builder, Class, method},
        stream::dial,
        uri::Transport,
    },
    tls::Trust,
    turn::{TlsListener, TurnConfig, TurnServer},
};
use rustls::{ServerConfig as TlsConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::mpsc,
    time::sleep_until,
};

const PACE: Duration = Duration::from_millis(20);
const SECRET: &str = "bench";

/// Forwards each chunk after `delay`, in order.
fn delayed(delay: Duration) -> (mpsc::UnboundedSender<Vec<u8>>, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (entry, mut waiting) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    let (sender, mut given) = mpsc::unbounded_channel();
    let (out, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(part) = given.recv().await {
            let _ = entry.send((tokio::time::Instant::now() + delay, part));
        }
    });
    tokio::spawn(async move {
        while let Some((due, part)) = waiting.recv().await {
            sleep_until(due).await;
            let _ = out.send(part);
        }
    });
    (sender, receiver)
}

/// A leg over TCP: delayed forwarding to `to` and back.
async fn delay_tcp(to: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.expect("relay");
            near.set_nodelay(true).expect("option");
            far.set_nodelay(true).expect("option");
            let (near, far) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
                let (sender, mut receiver) = delayed(delay);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65536];
                    while let Ok(length @ 1..) = from.read(&mut buffer).await {
                        let _ = sender.send(buffer[..length].to_vec());
                    }
                });
                tokio::spawn(async move {
                    while let Some(part) = receiver.recv().await {
                        let _ = to.write_all(&part).await;
                    }
                });
            }
        }
    });
    address
}

/// A leg over UDP.
async fn delay_udp(to: SocketAddr, delay: Duration) -> SocketAddr {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("socket"));
    let address = near.local_addr().expect("address");
    tokio::spawn(async move {
        let mut clients: HashMap<SocketAddr, mpsc::UnboundedSender<Vec<u8>>> = HashMap::new();
        let mut buffer = vec![0; 65536];
        while let Ok((length, client)) = near.recv_from(&mut buffer).await {
            let out = match clients.entry(client) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(udp_client(&near, client, to, delay).await),
            };
            let _ = out.send(buffer[..length].to_vec());
        }
    });
    address
}

/// A separate socket for each client, as in a NAT.
async fn udp_client(
    near: &Arc<UdpSocket>,
    client: SocketAddr,
    to: SocketAddr,
    delay: Duration,
) -> mpsc::UnboundedSender<Vec<u8>> {
    let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("socket"));
    far.connect(to).await.expect("connected");
    let (out, mut out_due) = delayed(delay);
    let (back, mut back_due) = delayed(delay);
    let (sending, near) = (Arc::clone(&far), Arc::clone(near));
    tokio::spawn(async move {
        while let Some(packet) = out_due.recv().await {
            let _ = sending.send(&packet).await;
        }
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; 65536];
        while let Ok(length) = far.recv(&mut buffer).await {
            let _ = back.send(buffer[..length].to_vec());
        }
    });
    tokio::spawn(async move {
        while let Some(packet) = back_due.recv().await {
            let _ = near.send_to(&packet, client).await;
        }
    });
    out
}

/// Round trips of Binding requests to the server.
async fn leg(at: SocketAddr, transport: Transport, trust: &Trust, pings: usize) -> Histogram {
    let request = Builder::new(Class::Request, method::BINDING, [7; 12]).finish();
    let mut rtt = Histogram::new();
    let mut pace = tokio::time::interval(PACE);
    if transport == Transport::Udp {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
        for _ in 0..pings {
            pace.tick().await;
            let started = Instant::now();
            socket.send_to(&request, at).await.expect("sent");
            socket.recv_from(&mut [0; 512]).await.expect("answered");
            rtt.record(started.elapsed().as_secs_f64() * 1e3);
        }
        return rtt;
    }
    let tls = (transport == Transport::Tls).then_some(trust);
    let stream = dial(at, "127.0.0.1", tls, None).await.expect("connected");
    let (mut reader, mut writer) = stream.into_split();
    for _ in 0..pings {
        pace.tick().await;
        let started = Instant::now();
        writer.send(&request).await.expect("sent");
        reader.next().await.expect("read").expect("answered");
        rtt.record(started.elapsed().as_secs_f64() * 1e3);
    }
    rtt
}

/// Round trips between two peers that may only use these servers; with an empty list, over a direct path.
async fn pings(
    ice_servers: Vec<IceServer>,
    trust: &Trust,
    pings: usize,
) -> orion_peer::stats::Spread {
    let config = ServerConfig::dev().await.expect("server");
    let pair = Pair::active("p", DEV_USER, "a", "b", unix_now());
    config.store.add(&pair).await.expect("pair");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let server = Server::start(config, listener).await.expect("server");
    let link = |device: &str, role| {
        let signaling = ClientConfig::new(
            server.signal_url(),
            Arc::new(
                TokenClient::new(
                    &server.token_url(),
                    DEV_TOKEN,
                    device.into(),
                    Some(pair.id.clone()),
                )
                .expect("token client"),
            ),
        );
        let peer = PeerConfig {
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ice_policy: if ice_servers.is_empty() { IcePolicy::All } else { IcePolicy::Relay },
            ice_servers: ice_servers.clone(),
            trust: trust.clone(),
            ..PeerConfig::new(role)
        };
        CallConfig::new(signaling, peer)
    };
    let config = BenchConfig {
        plan: BenchPlan {
            connections: 1,
            warmup: 0,
            rate: None,
            pings: pings as u64,
            ping_interval: PACE,
            ping_bytes: 64,
            ping_life_time: Some(Duration::from_millis(100)),
            keyframes: 0,
            interval: Duration::from_secs(1),
            duration: None,
        },
        slots: vec![Slot {
            measuring: link("a", PeerRole::Sender),
            local_peer: Some(link("b", PeerRole::Receiver)),
        }],
        capture: CaptureConfig {
            source: SourceSpec::Pattern { width: 64, height: 64 },
            size: None,
            max_bytes: 100_000,
        },
        timeout: Duration::from_secs(20),
        stats_interval: Duration::from_secs(2),
        one_way: false,
    };
    let measured = bench::run(config, std::future::pending(), &mut |_| {}).await;
    server.shutdown().await;
    assert_eq!(measured.connections.succeeded, 1, "{:?}", measured.connections.failures);
    measured.rtt.spread
}

/// A certificate for 127.0.0.1 that exactly one client trusts.
fn certificate() -> (Arc<TlsConfig>, Trust) {
    let key = rcgen::KeyPair::generate().expect("key");
    let made = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .expect("certificate");
    let server = TlsConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![made.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("key"),
        )
        .expect("certificate");
    (Arc::new(server), Trust::with(made.pem().as_bytes()).expect("certificate"))
}

async fn round(count: usize, delay: Duration) -> Vec<(Transport, f64)> {
    let (server, trust) = certificate();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let secrets = TurnSecrets { current: SECRET.into(), previous: None };
    let login = secrets.mint("bench", unix_now() + 3600);
    let relay = TurnServer::start(TurnConfig {
        tls: Some(TlsListener { address, server }),
        ..TurnConfig::loopback(0, Arc::new(secrets))
    })
    .await
    .expect("relay");
    let direct = pings(Vec::new(), &trust, count).await.p50.expect("pings");
    println!("  direct, without delay: p50 {direct:.3}");
    let mut ratios = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let at = match transport {
            Transport::Udp => delay_udp(relay.udp_address().expect("udp"), delay).await,
            Transport::Tcp => delay_tcp(relay.tcp_address().expect("tcp"), delay).await,
            Transport::Tls => delay_tcp(relay.tls_address().expect("tls"), delay).await,
        };
        let url = match transport {
            Transport::Tls => format!("turns:{at}"),
            plain => format!("turn:{at}?transport={plain}"),
        };
        let servers = vec![IceServer {
            urls: vec![url],
            username: Some(login.username.clone()),
            credential: Some(login.password.clone()),
        }];
        let leg = leg(at, transport, &trust, count).await.spread().p50.expect("answers");
        let relayed = pings(servers, &trust, count).await;
        let p50 = relayed.p50.expect("pings");
        println!(
            "  {transport}: leg p50 {leg:.3}   relayed p50 {p50:.3} p99 {:.3}   ratio to two legs {:.2}",
            relayed.p99.unwrap_or_default(),
            p50 / (2.0 * leg)
        );
        ratios.push((transport, p50 / (2.0 * leg)));
    }
    relay.close().await;
    ratios
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(3);
    let pings = numbers.get(1).copied().unwrap_or(200);
    let delay = Duration::from_millis(numbers.get(2).copied().unwrap_or(5) as u64);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    println!("round trips, one every {PACE:?}, {pings} per round, each leg {delay:?} one way; ms");
    let mut all = Vec::new();
    for at in 1..=rounds {
        println!("{at}:");
        all.extend(runtime.block_on(round(pings, delay)));
    }
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let mut ratios: Vec<f64> =
            all.iter().filter(|(of, _)| *of == transport).map(|(_, ratio)| *ratio).collect();
        ratios.sort_by(f64::total_cmp);
        println!("{transport}: median of relayed / two legs {:.2}", ratios[ratios.len() / 2]);
    }
}
