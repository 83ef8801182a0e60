//! Our peers with TURN over UDP, TCP and TLS, relay only, through the embedded server and coturn; and their
//! errors when the server, its certificate or the login is wrong.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    peer::{
        GatherOutcome, IcePolicy, Peer, PeerConfig, PeerEvent, PeerRole,
        assembler::BrokenAccessUnit, event::ReceivedAccessUnit,
    },
    proto::token::IceServer,
    stun::stream::DialError,
    tls::Trust,
    turn::{TlsListener, TurnConfig, TurnServer},
    types::{ConnectionType, RelayTransport},
};
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    process::{Child, Command},
    sync::mpsc,
    time::timeout,
};

use crate::{
    certificates::Certificates,
    peer::{End, keyframe, pair_of},
    run::{HANG, reserved_port, run, serve, start},
};

const SECRET: &str = "north";

/// Ports of a server.
#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
}

impl Ports {
    fn url(self, transport: RelayTransport) -> String {
        match transport {
            RelayTransport::Udp => format!("turn:127.0.0.1:{}?transport=udp", self.plain),
            RelayTransport::Tcp => format!("turn:127.0.0.1:{}?transport=tcp", self.plain),
            RelayTransport::Tls => format!("turns:127.0.0.1:{}", self.tls),
        }
    }
}

async fn embedded(certificates: &Certificates) -> (TurnServer, Ports) {
    let credentials = TurnSecrets { current: SECRET.into(), previous: None };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tls = TlsListener { address, server: Arc::clone(&certificates.config) };
    let config = TurnConfig { tls: Some(tls), ..TurnConfig::loopback(0, Arc::new(credentials)) };
    let server = TurnServer::start(config).await.unwrap();
    let plain = server.tcp_address().unwrap().port();
    let ports = Ports { plain, tls: server.tls_address().unwrap().port() };
    (server, ports)
}

/// A coturn on 127.0.0.1; dropping it kills it.
struct Coturn {
    _process: Child,
    _files: tempfile::TempDir,
    ports: Ports,
}

async fn coturn(certificates: &Certificates) -> Coturn {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("cert.pem"), &certificates.server).unwrap();
    std::fs::write(path("key.pem"), &certificates.key).unwrap();
    let ports = Ports { plain: reserved_port(), tls: reserved_port() };
    let process = Command::new("turnserver")
        .args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--realm=orion"])
        .args([
            "--allow-loopback-peers",
            "--cli-password=x",
            "--no-cli",
            "--no-dtls",
            "--fingerprint",
        ])
        .args(["--use-auth-secret", &format!("--static-auth-secret={SECRET}")])
        .args([&format!("--listening-port={}", ports.plain)])
        .args([&format!("--tls-listening-port={}", ports.tls)])
        .args([&format!("--cert={}", path("cert.pem")), &format!("--pkey={}", path("key.pem"))])
        .args([&format!("--pidfile={}", path("pid")), &format!("--userdb={}", path("db"))])
        .args(["--log-file=stdout", "--simple-log"])
        .current_dir(files.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("coturn's turnserver is needed");
    let up = async {
        for port in [ports.plain, ports.tls] {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(HANG, up).await.expect("coturn does not listen");
    Coturn { _process: process, _files: files, ports }
}

/// An ICE server entry for these URLs, with credentials made with `secret`.
fn login(secret: &str, urls: &[String]) -> IceServer {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let made = TurnSecrets { current: secret.into(), previous: None }.mint("phone", now + 600);
    let (username, credential) = (Some(made.username), Some(made.password));
    IceServer { urls: urls.to_vec(), username, credential }
}

fn config(role: PeerRole, server: IceServer, trust: Trust) -> PeerConfig {
    PeerConfig {
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ice_servers: vec![server],
        ice_policy: IcePolicy::Relay,
        trust,
        ..PeerConfig::new(role)
    }
}

/// Two peers that may use only this server.
async fn relayed_pair(urls: &[String], certificates: &Certificates) -> (End, End) {
    let config = |role| config(role, login(SECRET, urls), certificates.trust());
    pair_of(config(PeerRole::Sender), config(PeerRole::Receiver)).await
}

async fn type_of(end: &End) -> ConnectionType {
    end.peer.stats().await.pair.expect("a selected pair").connection
}

/// The next keyframe, complete or broken.
async fn whole(receiver: &mut End) -> Result<ReceivedAccessUnit, BrokenAccessUnit> {
    receiver
        .event(|event| match event {
            PeerEvent::AccessUnit(came) => Some(Ok(came)),
            PeerEvent::Broken(broken) => Some(Err(broken)),
            _ => None,
        })
        .await
}

/// Connects through one server, sends bursts with these numbers of keyframes, and checks connection types,
/// gathering results and statistics.
async fn relays(
    ports: Ports,
    transport: RelayTransport,
    certificates: &Certificates,
    bursts: &[usize],
) {
    let url = ports.url(transport);
    let (sender, mut receiver) = relayed_pair(std::slice::from_ref(&url), certificates).await;
    for &at_once in bursts {
        let sent = keyframe(100_000);
        let mut packets = 0;
        for _ in 0..at_once {
            packets += sender.peer.send_access_unit(&sent).await.unwrap().packets;
        }
        for _ in 0..at_once {
            let came = whole(&mut receiver).await.unwrap();
            assert!(came.unit.data == sent.data, "the received bytes differ");
            packets -= came.unit.packets;
        }
        assert_eq!(packets, 0);
    }
    for end in [&sender, &receiver] {
        assert_eq!(type_of(end).await, ConnectionType::Relay(Some(transport)));
        let results = end.peer.gathering();
        assert_eq!(results[0].url, url);
        assert!(matches!(results[0].outcome, GatherOutcome::Allocated { .. }), "{results:?}");
        assert!(results[0].took.is_some());
        let report = serde_json::to_string(&end.peer.stats().await.report).unwrap();
        for made_up in [".invalid", "240.0.0."] {
            assert!(!report.contains(made_up), "{report}");
        }
        let report = end.peer.stats().await.report;
        let relay = report
            .values()
            .find(|entry| {
                entry["type"] == json!("local-candidate")
                    && entry["candidateType"] == json!("relay")
            })
            .expect("a relayed candidate");
        assert_eq!(relay["relayProtocol"], json!(transport));
        assert!(
            relay["url"].as_str().unwrap().starts_with(url.split('?').next().unwrap()),
            "{relay}"
        );
    }
    sender.peer.close().await;
    receiver.peer.close().await;
}

async fn relays_by_ours(transport: RelayTransport) {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    // One keyframe, then several together: neither queue nor relay may drop a packet.
    relays(ports, transport, &certificates, &[1, 5]).await;
    let released = async {
        while server.stats().allocations_active > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(HANG, released).await.expect("a closed peer keeps its allocation");
    server.close().await;
}

async fn relays_by_coturn(transport: RelayTransport) {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let server = coturn(&certificates).await;
    // Its sockets have buffers of 64 KB, which overflow when the machine is busy.
    relays(server.ports, transport, &certificates, &[1, 1, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server_relays_over_udp() {
    relays_by_ours(RelayTransport::Udp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server_relays_over_tcp() {
    relays_by_ours(RelayTransport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_server_relays_over_tls() {
    relays_by_ours(RelayTransport::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coturn_relays_over_udp() {
    relays_by_coturn(RelayTransport::Udp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coturn_relays_over_tcp() {
    relays_by_coturn(RelayTransport::Tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coturn_relays_over_tls() {
    relays_by_coturn(RelayTransport::Tls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_all_transports_work_udp_is_used() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    let urls = [RelayTransport::Tls, RelayTransport::Tcp, RelayTransport::Udp]
        .map(|transport| ports.url(transport));
    let (sender, receiver) = relayed_pair(&urls, &certificates).await;
    for end in [&sender, &receiver] {
        assert_eq!(type_of(end).await, ConnectionType::Relay(Some(RelayTransport::Udp)));
    }
    sender.peer.close().await;
    receiver.peer.close().await;
    server.close().await;
}

/// A peer that only gathers candidates.
struct Gathering {
    peer: Peer,
    events: mpsc::Receiver<PeerEvent>,
}

impl Gathering {
    async fn start(server: IceServer, trust: Trust) -> Self {
        let (peer, events) = Peer::new(config(PeerRole::Sender, server, trust)).await.unwrap();
        peer.create_offer().await.unwrap();
        Self { peer, events }
    }

    async fn event<T>(&mut self, mut found: impl FnMut(PeerEvent) -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(found) = found(self.events.recv().await.expect("the peer has stopped"))
                {
                    return found;
                }
            }
        };
        timeout(HANG, wait).await.expect("the event did not occur")
    }

    /// Waits for the failure of the server and for the end of candidates.
    async fn failure(mut self) -> (String, u16, GatherOutcome) {
        let (mut failure, mut ended) = (None, false);
        let (failed, number, text) = self
            .event(|event| {
                match event {
                    PeerEvent::CandidateError { url, code, text } => {
                        failure = Some((url, code, text));
                    }
                    PeerEvent::LocalCandidate(None) => ended = true,
                    _ => {}
                }
                if ended { failure.take() } else { None }
            })
            .await;
        assert!(!text.is_empty() && !text.contains(".invalid"), "{text}");
        let result = self.peer.gathering().remove(0);
        assert!(!result.remedy(SystemTime::now(), None).is_empty());
        self.peer.close().await;
        (failed, number, result.outcome)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_is_refused_over_each_transport() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    for transport in [RelayTransport::Udp, RelayTransport::Tcp, RelayTransport::Tls] {
        let url = ports.url(transport);
        let server = login("south", std::slice::from_ref(&url));
        let (failed, code, outcome) =
            Gathering::start(server, certificates.trust()).await.failure().await;
        assert_eq!((failed, code), (url, 401));
        assert!(matches!(outcome, GatherOutcome::Refused { code: 401, .. }), "{outcome:?}");
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_certificate_is_reported() {
    let certificates = Certificates::for_names(&["relay.example"]);
    let (server, ports) = embedded(&certificates).await;
    let url = ports.url(RelayTransport::Tls);
    for (trust, expected) in [(certificates.trust(), "tls-name"), (Trust::web(), "tls-unknown-ca")]
    {
        let server = login(SECRET, std::slice::from_ref(&url));
        let (failed, code, outcome) = Gathering::start(server, trust).await.failure().await;
        assert_eq!((&failed, code), (&url, 701));
        let GatherOutcome::NotConnected(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code(), expected);
    }
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_and_a_silent_one_are_distinguished() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(accepted) = listener.accept().await {
            open.push(accepted);
        }
    });
    let closed = SocketAddr::from((Ipv4Addr::LOCALHOST, reserved_port()));
    let silent_tcp = format!("turn:{silent}?transport=tcp");
    let silent_tls = format!("turns:{silent}");
    let [closed, silent_tcp, silent_tls] =
        [format!("turn:{closed}?transport=tcp"), silent_tcp, silent_tls].map(|url| async move {
            let server = login(SECRET, std::slice::from_ref(&url));
            let (failed, code, outcome) =
                Gathering::start(server, Trust::web()).await.failure().await;
            assert_eq!((failed, code), (url, 701));
            outcome
        });
    let (closed, silent_tcp, silent_tls) = tokio::join!(closed, silent_tcp, silent_tls);
    assert!(matches!(closed, GatherOutcome::NotConnected(DialError::Refused(_))), "{closed:?}");
    assert!(matches!(silent_tcp, GatherOutcome::Silent { .. }), "{silent_tcp:?}");
    let GatherOutcome::NotConnected(late) = silent_tls else { panic!("{silent_tls:?}") };
    assert_eq!(late.code(), "tls-timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_server_is_reported() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    let url = ports.url(RelayTransport::Tls);
    let (mut sender, receiver) = relayed_pair(std::slice::from_ref(&url), &certificates).await;
    server.close().await;
    let (failed, text) = sender
        .event(|event| match event {
            PeerEvent::CandidateError { url, text, .. } => Some((url, text)),
            _ => None,
        })
        .await;
    assert_eq!(failed, url);
    assert!(text.contains("its relayed address is lost"), "{text}");
    sender.peer.close().await;
    receiver.peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_udp_is_blocked_gathering_ends_and_tcp_relays() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    // Behaves like a firewall that drops UDP.
    let hole = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp = format!("turn:{}", hole.local_addr().unwrap());
    let tcp = ports.url(RelayTransport::Tcp);
    let server_urls = login(SECRET, &[udp.clone(), tcp]);
    let (sender, receiver) = relayed_pair(&server_urls.urls, &certificates).await;
    assert_eq!(type_of(&sender).await, ConnectionType::Relay(Some(RelayTransport::Tcp)));
    sender.peer.close().await;
    receiver.peer.close().await;
    let (failed, code, outcome) = Gathering::start(server_urls, Trust::web()).await.failure().await;
    assert_eq!((failed, code), (udp, 701));
    assert!(matches!(outcome, GatherOutcome::Silent { .. }), "{outcome:?}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bench_relays_over_tcp_and_tls() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let (server, ports) = embedded(&certificates).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), &certificates.ca).unwrap();
    for (transport, kind) in
        [(RelayTransport::Tcp, "relay/tcp"), (RelayTransport::Tls, "relay/tls")]
    {
        let (url, path) = (ports.url(transport), dir.path().to_owned());
        let ended = tokio::task::spawn_blocking(move || {
            let load = ["bench", "--json", "--connections", "2", "--warmup", "0", "--pings", "4"];
            let more = ["--keyframes", "2", "--interval", "50ms", "--ca", "ca.pem"];
            let relay = ["--ice-server", &url, "--turn-secret", SECRET, "--ice-policy", "relay"];
            run(&path, &[&load[..], &more, &relay, &["--require-type", kind]].concat())
        })
        .await
        .unwrap();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let result: serde_json::Value = serde_json::from_str(&ended.stdout.join("\n")).unwrap();
        assert_eq!(result["connections"]["byType"], json!({kind: 2}));
        assert_eq!(result["keyframes"]["intact"], 2, "{}", result["keyframes"]);
        let servers = &result["connections"]["records"][0]["iceServers"];
        assert_eq!(servers[0]["url"], json!(ports.url(transport)));
        assert_eq!(servers[0]["result"], "allocated");
    }
    server.close().await;
}

#[test]
fn serve_listens_for_tls_and_token_answers_list_it() {
    let certificates = Certificates::for_names(&["127.0.0.1", "relay.example"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cert.pem"), &certificates.server).unwrap();
    std::fs::write(dir.path().join("key.pem"), &certificates.key).unwrap();
    let files = ["--turn-tls-cert", "cert.pem", "--turn-tls-key", "key.pem"];
    let more = ["--turn-tls-port", "0", "--turn-tls-name", "relay.example", "--json"];
    let words = ["serve", "--listen", "127.0.0.1:0", "--turn-listen", "127.0.0.1:0"];
    let server = start(dir.path(), &[&words[..], &files, &more].concat());
    let listening = server.event("listening", 1);
    let tls: SocketAddr = listening["turnTls"].as_str().unwrap().parse().unwrap();
    let token_url = listening["tokenUrl"].as_str().unwrap();
    let fetched = run(
        dir.path(),
        &["token", "fetch", "--json", "--access-token", "dev", "--token-url", token_url],
    );
    assert_eq!(fetched.code, Some(0), "{}", fetched.stderr);
    let url = format!("turns:relay.example:{}?transport=tcp", tls.port());
    assert!(fetched.stdout.join("").contains(&url), "{:?}", fetched.stdout);
    // The user name contains the pair, so that its allocations end with it.
    assert!(fetched.stdout.join("").contains(":phone;pair=demo"), "{:?}", fetched.stdout);
    server.kill();
}

/// An allocation ends with its credentials; a call uses newer ones before that.
#[test]
fn a_relayed_call_uses_newer_credentials_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let short = ["--turn-ttl", "12s", "--token-ttl", "12s"];
    let (_server, address, _) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &short);
    let signal = format!("ws://{address}");
    let relayed = ["--json", "--signal", &signal, "--ice-policy", "relay"];
    let recv = start(dir.path(), &[&["recv", "--out", "frames"][..], &relayed].concat());
    let source = ["send", "--source", "pattern:320x240", "--interval", "0.2s"];
    let send = start(dir.path(), &[&source[..], &relayed].concat());
    send.says("the TURN credentials of this call expire soon");
    send.says("connected to the receiver again");
    let before = recv.events("keyframe").len();
    recv.event("keyframe", before + 5);
    for running in [send, recv] {
        running.signal(Signal::INT);
        let ended = running.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let summary = ended.summary();
        assert_eq!(summary["connectionsLost"]["count"], 0, "{summary}");
        assert_eq!(summary["connectionType"], "relay/udp", "{summary}");
    }
}
