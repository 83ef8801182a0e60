//! Two real peers behind simulated NATs, and the gateway's sockets without WebRTC: the requirements of
//! RFC 4787, observed from outside.

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    nat::{Behaviour, LinkSettings, Path, Profile, expected, profile, theory::Relays},
    netsim::{Direction, Gateway, GatewayConfig, GatewaySocket, NetsimError},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    proto::token::IceServer,
    turn::{TurnConfig, TurnServer},
    types::CandidateType,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};
use webrtc::runtime::Transmit;

use crate::run::HANG;

fn profile(name: &str) -> Profile {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn gateway(name: &str) -> Arc<Gateway> {
    Gateway::new(GatewayConfig { profile: profile(name), ..GatewayConfig::default() }).unwrap()
}

/// A STUN and TURN server on 127.0.0.1, and its ICE server entries for a peer.
async fn turn() -> (TurnServer, Vec<IceServer>) {
    let secrets = TurnSecrets { current: "lab".into(), previous: None };
    let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 600;
    let minted = secrets.mint("lab", until);
    let mut config = TurnConfig::loopback(0, Arc::new(secrets));
    config.limits.allocations_per_user = 1000;
    let server = TurnServer::start(config).await.unwrap();
    let address = server.udp_address().unwrap();
    let ice = vec![
        IceServer { urls: vec![format!("stun:{address}")], username: None, credential: None },
        IceServer {
            urls: vec![format!("turn:{address}")],
            username: Some(minted.username),
            credential: Some(minted.password),
        },
    ];
    (server, ice)
}

/// Forwards candidates to the remote peer; the receiver reports when the control channel is open.
fn pump(mut events: mpsc::Receiver<PeerEvent>, other: Arc<Peer>) -> mpsc::Receiver<()> {
    let (open, opened) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                PeerEvent::LocalCandidate(candidate) => other.add_candidate(candidate).await,
                PeerEvent::ControlOpen => drop(open.try_send(())),
                _ => {}
            }
        }
    });
    opened
}

/// Long enough to find a direct path on a busy machine.
const RELAY_WAIT: Duration = Duration::from_secs(4);

/// Connects a peer behind each gateway. Returns the path, considering both ends.
async fn connect(a: Arc<Gateway>, b: Arc<Gateway>, ice: &[IceServer]) -> Path {
    let config = |role, gateway| PeerConfig {
        ice_servers: ice.to_vec(),
        gateway: Some(gateway),
        relay_wait: RELAY_WAIT,
        ..PeerConfig::new(role)
    };
    let (sender, sender_events) = Peer::new(config(PeerRole::Sender, a)).await.unwrap();
    let (receiver, receiver_events) = Peer::new(config(PeerRole::Receiver, b)).await.unwrap();
    let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
    let offer = sender.create_offer().await.unwrap();
    let mut sender_open = pump(sender_events, Arc::clone(&receiver));
    let answer = receiver.accept_offer(offer).await.unwrap();
    let mut receiver_open = pump(receiver_events, Arc::clone(&sender));
    sender.accept_answer(answer).await.unwrap();
    let both = async { tokio::join!(sender_open.recv(), receiver_open.recv()) };
    let path = if timeout(HANG, both).await.is_ok() {
        let mut types = Vec::new();
        for peer in [&sender, &receiver] {
            let pair = peer.stats().await.pair.expect("a connected peer has a pair");
            types.extend([pair.local, pair.remote]);
        }
        if types.contains(&CandidateType::Relay) { Path::Relay } else { Path::Direct }
    } else {
        Path::None
    };
    sender.close().await;
    receiver.close().await;
    path
}

/// Each cell has its own gateways; a few run at a time, because they share two cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_profiles_connects_as_theory_predicts() {
    const AT_ONCE: usize = 10;
    let (server, ice) = turn().await;
    let names = profile::MATRIX.into_iter().filter(|name| profile(name).passes_udp());
    let names: Vec<_> = names.collect();
    let mut cells: Vec<_> =
        names.iter().flat_map(|&a| names.iter().map(move |&b| (a, b))).collect();
    assert_eq!(cells.len(), 64);
    let mut running = JoinSet::new();
    let theory = |a, b| expected(&profile(a), &profile(b), Relays { udp: true, stream: false });
    let mut unlike = Vec::new();
    let mut done = 0;
    while done < 64 {
        while running.len() < AT_ONCE
            && let Some((a, b)) = cells.pop()
        {
            let ice = ice.clone();
            running.spawn(async move { (a, b, connect(gateway(a), gateway(b), &ice).await) });
        }
        let (a, b, measured) = running.join_next().await.unwrap().unwrap();
        done += 1;
        if measured != theory(a, b) {
            unlike.push((a, b));
        }
    }
    // On a busy machine a direct pair may be found too late: measure these once more, one at a time.
    let mut wrong = Vec::new();
    for (a, b) in unlike {
        let measured = connect(gateway(a), gateway(b), &ice).await;
        if measured != theory(a, b) {
            wrong.push(format!("{a} and {b}: {} expected, {measured} measured", theory(a, b)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.close().await;
}

/// RFC 4787 §6: neighbors have separate LANs here, so only their external addresses connect them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbors_need_hairpinning() {
    let (server, ice) = turn().await;
    for (name, path) in [("port", Path::Relay), ("port:hairpin", Path::Direct)] {
        let shared = gateway(name);
        let measured = connect(Arc::clone(&shared), Arc::clone(&shared), &ice).await;
        assert_eq!(measured, path, "{name}");
        let hairpinned = shared.stats().hairpinned;
        assert_eq!(hairpinned > 0, path == Path::Direct, "{name}: {hairpinned}");
    }
    server.close().await;
}

/// Two homes behind one carrier reach each other only through its NAT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn customers_of_one_carrier_need_it_to_hairpin() {
    let (server, ice) = turn().await;
    for (name, path) in [("port", Path::Relay), ("port:hairpin", Path::Direct)] {
        let carrier = gateway(name);
        let home = || {
            let config = GatewayConfig { profile: profile("port"), ..GatewayConfig::default() };
            Gateway::behind(&carrier, config).unwrap()
        };
        let (a, b) = (home(), home());
        assert_ne!(a.outside(), b.outside());
        assert_eq!(connect(a, b, &ice).await, path, "{name}");
        assert!(carrier.stats().up.passed > 0);
    }
    server.close().await;
}

/// A socket outside, on a separate address.
async fn outsider(ip: &str) -> UdpSocket {
    UdpSocket::bind((ip, 0)).await.unwrap()
}

/// The next datagram and its source.
async fn next(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = timeout(HANG, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    (buffer[..length].to_vec(), from)
}

async fn next_inside(socket: &GatewaySocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, from) = timeout(HANG, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    (buffer[..length].to_vec(), from)
}

/// The address of `socket` as seen by `outside`.
async fn seen(socket: &GatewaySocket, outside: &UdpSocket) -> SocketAddr {
    socket.send_to(b"who am I", outside.local_addr().unwrap()).await.unwrap();
    next(outside).await.1
}

/// One address with two ports, and another address (RFC 5780 §4.3 and §4.4).
async fn observers() -> [UdpSocket; 3] {
    [outsider("127.0.0.1").await, outsider("127.0.0.1").await, outsider("127.0.0.2").await]
}

#[tokio::test]
async fn each_mapping_and_filtering_is_visible_from_outside() {
    for mapping in Behaviour::ALL {
        for filtering in Behaviour::ALL {
            let name = format!("{}m-{}f", mapping.initials(), filtering.initials());
            let [first, port, address] = observers().await;
            let gateway = gateway(&name);
            let socket = gateway.bind().unwrap();
            let at = seen(&socket, &first).await;
            assert_eq!(at.ip(), gateway.outside());
            // Strangers send first: loopback keeps the order, so their datagrams would arrive first.
            address.send_to(b"other address", at).await.unwrap();
            port.send_to(b"other port", at).await.unwrap();
            first.send_to(b"answer", at).await.unwrap();
            let mut came = Vec::new();
            while came.last().is_none_or(|(words, _)| words != b"answer") {
                came.push(next_inside(&socket).await);
            }
            let strangers = match filtering {
                Behaviour::EndpointIndependent => 2,
                Behaviour::AddressDependent => 1,
                Behaviour::AddressAndPortDependent => 0,
            };
            assert_eq!(came.len(), strangers + 1, "{name}: {came:?}");
            assert_eq!(came.last().unwrap().1, first.local_addr().unwrap());
            assert_eq!(gateway.stats().down.filtered, 2 - strangers as u64, "{name}");
            let same = [seen(&socket, &port).await == at, seen(&socket, &address).await == at];
            let expected = match mapping {
                Behaviour::EndpointIndependent => [true, true],
                Behaviour::AddressDependent => [true, false],
                Behaviour::AddressAndPortDependent => [false, false],
            };
            assert_eq!(same, expected, "{name}");
        }
    }
}

#[tokio::test]
async fn the_private_address_cannot_be_reached() {
    let outside = outsider("127.0.0.1").await;
    let socket = gateway("fullcone").bind().unwrap();
    let at = seen(&socket, &outside).await;
    assert_ne!(at, socket.local_addr());
    outside.send_to(b"past the NAT", socket.local_addr()).await.unwrap();
    outside.send_to(b"through it", at).await.unwrap();
    assert_eq!(next_inside(&socket).await.0, b"through it");
}

#[tokio::test]
async fn without_translation_the_internal_address_is_reachable_and_filtered() {
    for (name, strangers) in [("none", true), ("firewall", false)] {
        let (friend, stranger) = (outsider("127.0.0.1").await, outsider("127.0.0.2").await);
        let gateway = gateway(name);
        let socket = gateway.bind().unwrap();
        assert_eq!(socket.local_addr().ip(), gateway.outside(), "{name}");
        assert_eq!(seen(&socket, &friend).await, socket.local_addr(), "{name}");
        stranger.send_to(b"stranger", socket.local_addr()).await.unwrap();
        friend.send_to(b"friend", socket.local_addr()).await.unwrap();
        let first = next_inside(&socket).await.0;
        assert_eq!(first == b"stranger", strangers, "{name}");
    }
}

#[tokio::test]
async fn udp_blocked_sends_nothing() {
    let outside = outsider("127.0.0.1").await;
    let (blocked, open) = (gateway("udp-blocked"), gateway("port"));
    let socket = blocked.bind().unwrap();
    socket.send_to(b"blocked", outside.local_addr().unwrap()).await.unwrap();
    seen(&open.bind().unwrap(), &outside).await;
    let stats = blocked.stats();
    assert_eq!((stats.up.filtered, stats.up.passed), (1, 0));
}

/// REQ-5: an expired mapping's port is free for others.
#[tokio::test]
async fn an_expired_mapping_closes_its_socket() {
    let outside = outsider("127.0.0.1").await;
    let gateway = gateway("port:timeout=30ms");
    let (first, second) = (gateway.bind().unwrap(), gateway.bind().unwrap());
    let at = seen(&first, &outside).await;
    assert!(std::net::UdpSocket::bind(at).is_err(), "the mapping is a real socket");
    tokio::time::sleep(Duration::from_millis(40)).await;
    let other = seen(&second, &outside).await;
    assert_ne!(at, other);
    assert_eq!(gateway.stats().mappings, 1);
    std::net::UdpSocket::bind(at).expect("its socket is closed");
    // The mappings of a dropped socket are removed.
    drop(second);
    assert_eq!(gateway.stats().mappings, 0);
    std::net::UdpSocket::bind(other).expect("its socket is closed");
}

/// Sends `count` numbers through a lossy link; returns those that arrive, and the external port.
async fn arrivals(seed: u64, count: u32) -> (Vec<u32>, u16) {
    let outside = outsider("127.0.0.1").await;
    let link = LinkSettings { loss: 0.2, ..LinkSettings::default() };
    let config = GatewayConfig { profile: profile("sym"), link, seed, ..GatewayConfig::default() };
    let gateway = Gateway::new(config).unwrap();
    let socket = gateway.bind().unwrap();
    let to = outside.local_addr().unwrap();
    for number in 0..count {
        socket.send_to(&number.to_be_bytes(), to).await.unwrap();
    }
    let stats = gateway.stats().up;
    let mut came = Vec::new();
    for _ in 0..stats.passed {
        let (data, from) = next(&outside).await;
        assert_eq!(from.ip(), gateway.outside());
        came.push(u32::from_be_bytes(data.try_into().unwrap()));
    }
    assert_eq!(stats.passed + stats.lost, u64::from(count));
    let port = seen_port(&socket, &outside).await;
    (came, port)
}

/// Like [`seen`], but through a lossy link.
async fn seen_port(socket: &GatewaySocket, outside: &UdpSocket) -> u16 {
    loop {
        let before = socket.gateway().stats().up.passed;
        socket.send_to(b"who am I", outside.local_addr().unwrap()).await.unwrap();
        if socket.gateway().stats().up.passed > before {
            return next(outside).await.1.port();
        }
    }
}

#[tokio::test]
async fn one_seed_loses_the_same_packets_and_takes_the_same_port() {
    let (first, first_port) = arrivals(42, 200).await;
    let (again, again_port) = arrivals(42, 200).await;
    let (other, _) = arrivals(43, 200).await;
    assert_eq!(first, again);
    assert_eq!(first_port, again_port);
    assert_ne!(first, other);
}

#[tokio::test]
async fn delayed_packets_arrive_in_order_and_not_too_early() {
    let outside = outsider("127.0.0.1").await;
    let delay = Duration::from_millis(20);
    let link = LinkSettings { delay, ..LinkSettings::default() };
    let config = GatewayConfig { profile: profile("port"), link, ..GatewayConfig::default() };
    let gateway = Gateway::new(config).unwrap();
    let socket = gateway.bind().unwrap();
    let started = Instant::now();
    for number in 0..50_u8 {
        socket.send_to(&[number], outside.local_addr().unwrap()).await.unwrap();
    }
    for number in 0..50_u8 {
        let (data, from) = next(&outside).await;
        assert_eq!(data, [number]);
        outside.send_to(&data, from).await.unwrap();
    }
    assert!(started.elapsed() >= delay);
    for number in 0..50_u8 {
        assert_eq!(next_inside(&socket).await.0, [number]);
    }
    assert!(started.elapsed() >= 2 * delay);
    assert_eq!((gateway.stats().up.passed, gateway.stats().down.passed), (50, 50));
}

/// A goodbye is delivered even when the peer has closed its socket in the meantime.
#[tokio::test]
async fn datagrams_in_transit_outlive_their_socket() {
    let outside = outsider("127.0.0.1").await;
    for carrier in [false, true] {
        let link = LinkSettings { delay: Duration::from_millis(10), ..LinkSettings::default() };
        let config = GatewayConfig { profile: profile("port"), link, ..GatewayConfig::default() };
        let outer = gateway("port");
        let gateway = if carrier {
            Gateway::behind(&outer, config).unwrap()
        } else {
            Gateway::new(config).unwrap()
        };
        let socket = gateway.bind().unwrap();
        socket.send_to(b"bye", outside.local_addr().unwrap()).await.unwrap();
        drop(socket);
        assert_eq!(next(&outside).await.0, b"bye");
    }
}

#[tokio::test]
async fn a_stream_is_delayed_in_order() {
    let delay = Duration::from_millis(20);
    let link = LinkSettings { delay, jitter: delay, loss: 0.5, ..LinkSettings::default() };
    let gateway = Gateway::new(GatewayConfig { link, ..GatewayConfig::default() }).unwrap();
    let mut stream = gateway.stream_link(Direction::Up);
    let started = Instant::now();
    let dues: Vec<_> = (0..20).map(|_| stream.send(100)).collect();
    let mut last = Duration::ZERO;
    for due in dues {
        assert!(due.at() >= last, "later bytes arrived first");
        last = due.at();
        due.wait().await;
        assert!(started.elapsed() >= delay);
    }
}

/// Each waiting task is woken, and segments of one send (GSO) are separate datagrams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_tasks_can_receive_and_segments_are_split() {
    let outside = outsider("127.0.0.1").await;
    let socket = Arc::new(gateway("fullcone").bind().unwrap());
    let at = seen(&socket, &outside).await;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let socket = Arc::clone(&socket);
        readers.spawn(async move { next_inside(&socket).await.0 });
    }
    for number in 0..4_u8 {
        outside.send_to(&[number], at).await.unwrap();
    }
    let mut came = readers.join_all().await.concat();
    came.sort_unstable();
    assert_eq!(came, [0, 1, 2, 3]);

    let transmit = Transmit {
        destination: outside.local_addr().unwrap(),
        ecn: None,
        contents: &[7; 250],
        segment_size: Some(100),
        src_ip: None,
    };
    let wrapped: &dyn webrtc::runtime::AsyncUdpSocket = socket.as_ref();
    assert_eq!(poll_fn(|cx| wrapped.poll_send(cx, &transmit)).await.unwrap(), 250);
    for length in [100, 100, 50] {
        assert_eq!(next(&outside).await.0.len(), length);
    }
}

#[tokio::test]
async fn invalid_gateways_are_rejected_with_a_remedy() {
    let missing: IpAddr = "198.51.100.7".parse().unwrap();
    let config = GatewayConfig { outside: Some(missing), ..GatewayConfig::default() };
    let error = Gateway::new(config).unwrap_err();
    assert!(matches!(error, NetsimError::Outside { .. }), "{error}");
    assert!(error.remedy().contains("address of this machine"));
    let none = gateway("none");
    let error = Gateway::behind(&none, GatewayConfig::default()).unwrap_err();
    assert!(error.to_string().contains("`none` does not translate"), "{error}");
    let nat = gateway("port");
    let error = nat.wrap(std::net::UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap_err();
    assert!(error.to_string().contains("gather on 127.0.0.1"), "{error}");
    if let Ok(socket) = std::net::UdpSocket::bind("[::1]:0") {
        let error = nat.wrap(socket).unwrap_err();
        assert!(error.to_string().contains("translates IPv4 only"), "{error}");
    }
}
