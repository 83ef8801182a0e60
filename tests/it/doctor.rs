//! `doctor` as a user runs it, against the embedded server and coturn on 127.0.0.x, and against servers
//! that reject requests, do not respond or do not exist. Tests behind NATs are in `doctor_in_lab`.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    nat::Behaviour,
    stun::discovery::driver::{binding_lifetime, discover},
    stun::discovery::lifetime::Lives,
    stun::message::{Builder, Class, method},
    turn::{PeerFilter, TlsListener, TurnConfig, TurnServer},
};
use rustix::process::Signal;
use serde_json::Value;

use crate::certificates::Certificates;
use crate::run::{Ended, HANG, Rig, reserved_port, run, start};

const SECRET: &str = "north";

/// The embedded server, with or without an alternate address, on free ports.
async fn server(alternate: bool) -> TurnServer {
    TurnServer::start(config(alternate)).await.unwrap()
}

fn config(alternate: bool) -> TurnConfig {
    let secrets = TurnSecrets { current: SECRET.into(), previous: None };
    TurnConfig {
        alternate: alternate.then(|| SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))),
        ..TurnConfig::loopback(0, Arc::new(secrets))
    }
}

/// Runs `doctor --json --no-signal` on another thread, so that the servers on this thread keep running.
async fn doctor(words: &[&str]) -> Ended {
    let words: Vec<String> =
        ["doctor", "--json", "--no-signal"].iter().chain(words).map(|w| (*w).to_owned()).collect();
    tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    })
    .await
    .unwrap()
}

/// The report, which must be the only line of output, and the exit code.
fn report_and_code(ended: &Ended) -> (Value, i32) {
    let [report] = &ended.json()[..] else { panic!("{:?} {}", ended.stdout, ended.stderr) };
    assert_eq!(report["schema"], "orion-peer/doctor/1");
    let schema = serde_json::from_str(orion_peer::doctor::JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(report).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "does not match schema.json: {wrong:?}");
    assert_eq!(report["verdict"]["exit"].as_i64(), ended.code.map(i64::from), "{report}");
    for problem in report["problems"].as_array().unwrap() {
        for key in ["code", "message", "remedy"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
    (report.clone(), ended.code.unwrap())
}

fn codes(report: &Value) -> Vec<&str> {
    report["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect()
}

/// A port on which nothing listens, neither UDP nor TCP.
fn closed_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_reveals_that_there_is_no_nat() {
    let server = server(true).await;
    let udp = server.udp_address().unwrap();
    let other = server.alternate_address().unwrap();
    assert!(other.ip() != udp.ip() && other.port() != udp.port());
    let found = discover(udp.ip(), &[udp], Duration::from_secs(10)).await.unwrap();
    assert_eq!(found.translated, Some(false));
    assert_eq!(found.filtering.exact(), Some(Behaviour::EndpointIndependent));
    assert_eq!(found.filtering_test.other, Some((udp, other)));
    let lives = binding_lifetime(udp.ip(), udp, Duration::from_millis(400)).await.unwrap();
    assert_eq!(lives, Lives::AtLeast(Duration::from_millis(400)));
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_is_measured() {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &certificates.ca).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let tls = TlsListener { address, server: Arc::clone(&certificates.config) };
    let server = TurnServer::start(TurnConfig { tls: Some(tls), ..config(true) }).await.unwrap();
    let at = server.udp_address().unwrap();
    let urls = [
        format!("stun:{at}"),
        format!("turn:{at}"),
        format!("turn:{at}?transport=tcp"),
        format!("turns:{}", server.tls_address().unwrap()),
    ];
    let mut words = vec!["--turn-secret", SECRET, "--ca", ca.to_str().unwrap()];
    words.extend(urls.iter().flat_map(|url| ["--ice-server", url]));
    let ended = doctor(&words).await;
    let (report, exit) = report_and_code(&ended);
    assert_eq!((exit, report["verdict"]["class"].as_str()), (0, Some("all")), "{report}");
    assert_eq!(report["verdict"]["relays"], serde_json::json!(["udp", "tcp", "tls"]));
    assert_eq!(report["nat"]["profile"], "none");
    assert_eq!(report["nat"]["seenFrom"], "this-machine");
    let servers = report["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 4);
    assert!(servers[0]["answerMs"].is_number(), "{report}");
    for turn in &servers[1..] {
        assert_eq!((&turn["authenticated"], &turn["reachable"]), (&true.into(), &true.into()));
        assert_eq!(turn["lifetimeS"], 600);
        assert_eq!(turn["rttMs"]["sent"], 10);
        assert!(turn["rttMs"]["p50"].as_f64().unwrap() > 0.0, "{turn}");
        assert_eq!(turn["burst"]["sent"], 85);
        assert!(turn["throughput"]["bitsPerSecond"].as_f64().unwrap() > 0.0, "{turn}");
        assert!(turn["credentialExpiresInS"].as_i64().unwrap() > 80_000, "{turn}");
    }
    assert_eq!(server.stats().allocations_active, 0, "allocations are released");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn measured_throughput_respects_the_limit_of_the_relay() {
    const BYTES_PER_SECOND: u64 = 250_000;
    let mut config = config(true);
    config.limits.bytes_per_second = Some(BYTES_PER_SECOND);
    let server = TurnServer::start(config).await.unwrap();
    let udp = format!("turn:{}", server.udp_address().unwrap());
    let ended = doctor(&["--ice-server", &udp, "--turn-secret", SECRET]).await;
    let (report, _) = report_and_code(&ended);
    let throughput = &report["servers"][0]["throughput"];
    let measured = throughput["bitsPerSecond"].as_f64().unwrap();
    // Headers count toward the limit, but not as throughput.
    assert!(measured > 0.0 && measured < 8.0 * BYTES_PER_SECOND as f64, "{report}");
    let (sent, received) = (throughput["sent"].as_u64().unwrap(), throughput["received"].as_u64());
    assert!(received.unwrap() > 0 && received.unwrap() < sent, "{report}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_alternate_address_a_turn_server_is_used() {
    let server = server(false).await;
    let udp = format!("turn:{}", server.udp_address().unwrap());
    let ended = doctor(&["--ice-server", &udp, "--turn-secret", SECRET]).await;
    let (report, exit) = report_and_code(&ended);
    // A single IP address cannot distinguish endpoint-independent from address-dependent filtering.
    assert_eq!(report["nat"]["filtering"]["atMost"], "address-dependent", "{report}");
    assert_eq!(report["nat"]["translated"], false);
    assert!(report["nat"]["filteringUnknown"].as_str().unwrap().contains("RFC 5780"));
    assert_eq!(exit, 3, "peers without UDP need TCP: {report}");
    assert_eq!(codes(&report), ["no-relay-over-tcp"]);
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_relay_to_this_machine_is_used_anyway() {
    let secrets = TurnSecrets { current: SECRET.into(), previous: None };
    let config =
        TurnConfig { peers: PeerFilter::default(), ..TurnConfig::loopback(0, Arc::new(secrets)) };
    let server = TurnServer::start(config).await.unwrap();
    let tcp = format!("turn:{}?transport=tcp", server.tcp_address().unwrap());
    let (report, exit) =
        report_and_code(&doctor(&["--ice-server", &tcp, "--turn-secret", SECRET]).await);
    assert_eq!((exit, report["nat"]["udp"].is_null()), (0, true), "{report}");
    assert!(report["servers"][0]["notMeasured"].as_str().unwrap().contains("403"), "{report}");
    server.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_reported_with_their_cause() {
    let server = server(false).await;
    let at = server.udp_address().unwrap();
    let closed = closed_port();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let expiry = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 120;
    let expired = TurnSecrets { current: SECRET.into(), previous: None }.mint("me", expiry);
    let turn = format!("turn:{at}");
    for (words, code, in_remedy) in [
        (vec!["--ice-server", &turn, "--turn-secret", "south"], "turn-401", "secret"),
        (
            vec![
                "--ice-server",
                &turn,
                "--turn-username",
                &expired.username,
                "--turn-credential",
                &expired.password,
            ],
            "turn-401",
            "expired",
        ),
        (vec!["--ice-server", &format!("stun:127.0.0.1:{closed}")], "stun-closed", "running"),
        (vec!["--ice-server", &format!("stun:127.0.0.1:{silent_port}")], "stun-silent", "firewall"),
        (
            vec![
                "--ice-server",
                &format!("turn:127.0.0.1:{closed}?transport=tcp"),
                "--turn-secret",
                SECRET,
            ],
            "tcp-refused",
            "running",
        ),
        (vec!["--ice-server", &format!("turns:{at}"), "--turn-secret", SECRET], "tls-", "TLS"),
        (vec!["--ice-server", "stun:no-such-host.invalid"], "stun-unresolved", "name server"),
    ] {
        let (report, exit) = report_and_code(&doctor(&words).await);
        assert_eq!(exit, 1, "{words:?}: {report}");
        assert!(codes(&report).iter().any(|one| one.starts_with(code)), "{words:?}: {report}");
        let problems = report["problems"].as_array().unwrap();
        let problem = problems.iter().find(|p| p["code"].as_str().unwrap().starts_with(code));
        let remedy = problem.unwrap()["remedy"].as_str().unwrap();
        assert!(remedy.contains(in_remedy), "{words:?}: {remedy}");
        let words = ended_text(&words).await;
        assert!(!words.contains(SECRET) && !words.contains(&expired.password), "{words}");
    }
    server.close().await;
}

/// The human-readable output.
async fn ended_text(words: &[&str]) -> String {
    let words: Vec<String> =
        ["doctor", "--no-signal"].iter().chain(words).map(|w| (*w).to_owned()).collect();
    let ended = tokio::task::spawn_blocking(move || {
        let dir = tempfile::tempdir().unwrap();
        run(dir.path(), &words.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let ended = ended.await.unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let text = ended.stdout.join("\n");
    for word in ["network", "ICE servers", "✗", "to do", "try: ", "verdict"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(!text.contains('\x1b'), "no colors without a terminal: {text}");
    text
}

#[test]
fn with_the_dev_server_every_peer_can_be_reached() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let ended = run(rig.dir.path(), &["doctor", "--json", "--signal", &rig.signal]);
    let (report, exit) = report_and_code(&ended);
    assert_eq!(exit, 0, "{report}");
    assert_eq!((&report["token"]["ok"], &report["signaling"]["ok"]), (&true.into(), &true.into()));
    assert!(report["signaling"]["upgradeMs"].is_number());
    assert_eq!(report["signaling"]["joined"], false);
    assert_eq!(report["servers"].as_array().unwrap().len(), 3, "{report}");
    assert!(report["verdict"]["text"].as_str().unwrap().contains("every peer can be reached"));
    let joined = ["doctor", "--json", "--signal", &rig.signal, "--join"];
    let (report, _) = report_and_code(&run(rig.dir.path(), &joined));
    assert_eq!(report["signaling"]["joined"], true);
    drop(recv);
}

#[test]
fn a_dev_server_that_is_not_running_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let signal = format!("ws://127.0.0.1:{}", closed_port());
    let (report, exit) =
        report_and_code(&run(dir.path(), &["doctor", "--json", "--signal", &signal]));
    assert_eq!((exit, report["verdict"]["class"].as_str()), (1, Some("none")));
    assert!(codes(&report).contains(&"tcp-refused"), "{report}");
    assert!(report["problems"][0]["remedy"].as_str().unwrap().contains("orion-peer serve"));
}

#[test]
fn conflicting_flags_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["--no-signal"][..],
        &["--binding-lifetime", "0", "--no-signal", "--ice-server", "stun:s"],
        &["--binding-lifetime", "1h", "--no-signal", "--ice-server", "stun:s"],
        &["--ice-server", "stun://s"],
        &["--ice-server", "turn:t"],
    ] {
        let words = [&["doctor", "--json"], words].concat();
        run(dir.path(), &words).failed(2, "config");
    }
}

#[test]
fn an_interrupt_is_reported_in_a_single_line() {
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = format!("stun:{}", silent.local_addr().unwrap());
    let running = start(dir.path(), &["doctor", "--json", "--no-signal", "--ice-server", &server]);
    // Its first request shows that it has started.
    silent.set_read_timeout(Some(HANG)).unwrap();
    silent.recv_from(&mut [0; 100]).unwrap();
    running.signal(Signal::INT);
    running.end().failed(130, "interrupted");
}

/// A coturn process for this test, on two addresses; killed on drop.
struct Coturn(Child);

impl Coturn {
    fn start(dir: &Path, port: u16) -> Self {
        let child = Command::new("turnserver")
            .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--log-file=stdout"])
            .args(["-L", "127.0.0.1", "-L", "127.0.0.2", "-E", "127.0.0.1"])
            .args(["-p", &port.to_string(), "-r", "orion", "--allow-loopback-peers"])
            .args(["--use-auth-secret", "--static-auth-secret", SECRET])
            .args(["--pidfile", &dir.join("pid").display().to_string()])
            .args(["--userdb", &dir.join("db").display().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("coturn is installed");
        let coturn = Self(child);
        // coturn accepts connections before it responds, so wait for a response.
        let limit = Instant::now() + HANG;
        let client = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let binding = Builder::new(Class::Request, method::BINDING, [7; 12]).finish();
        let answers = || {
            client.send_to(&binding, ("127.0.0.1", port)).is_ok()
                && client.recv(&mut [0; 1500]).is_ok()
        };
        while !answers() || std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < limit, "coturn does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        coturn
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coturn_is_diagnosed() {
    let dir = tempfile::tempdir().unwrap();
    let port = reserved_port();
    let _coturn = Coturn::start(dir.path(), port);
    let (udp, tcp) =
        (format!("turn:127.0.0.1:{port}"), format!("turn:127.0.0.1:{port}?transport=tcp"));
    let (report, exit) = report_and_code(
        &doctor(&["--ice-server", &udp, "--ice-server", &tcp, "--turn-secret", SECRET]).await,
    );
    assert_eq!(exit, 0, "{report}");
    assert_eq!(report["nat"]["profile"], "none", "{report}");
    assert_eq!(report["nat"]["filteringBy"], "rfc5780");
    for turn in report["servers"].as_array().unwrap() {
        assert_eq!(turn["rttMs"]["lost"], 0, "{turn}");
        assert!(turn["burst"]["received"].as_u64().unwrap() > 0, "{turn}");
    }
}
