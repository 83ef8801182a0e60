//! TLS of `serve`, tested with openssl, curl and our own clients.

use std::{path::Path, process::Command, time::Duration};

use orion_peer::{
    server::{ServerConfig, tls::Tls},
    stun::stream::dial,
    tls::Trust,
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Client, ask, both, fetch, server};
use crate::{
    certificates::Certificates,
    raw_http::HANG,
    run::{Running, run, start},
};

/// Runs a system program to completion, and returns its output.
fn tool(program: &str, words: &[&str], dir: &Path) -> (bool, String) {
    let output = Command::new(program)
        .args(words)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn serve(dir: &Path, more: &[&str]) -> (Running, Value) {
    let words = ["serve", "--json", "--listen", "127.0.0.1:0", "--turn-listen", "127.0.0.1:0"];
    let server = start(dir, &[&words[..], more].concat());
    let listening = server.event("listening", 1);
    (server, listening)
}

const TURN_SECRET: &str = "turn-secret-0123456789";

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}")).to_owned()
}

fn pinned(fingerprint: &str) -> Trust {
    Trust::of(&[], &[fingerprint.parse().unwrap()])
}

/// Runs blocking work on a separate thread.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[test]
fn a_self_signed_certificate_is_trusted_by_its_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let (server, listening) = serve(dir.path(), &["--tls-self-signed"]);
    let (address, pin) = (text(&listening, "address"), text(&listening, "tlsSha256"));
    assert!(text(&listening, "signalUrl").starts_with("wss://127.0.0.1:"), "{listening}");
    let url = text(&listening, "tokenUrl");
    assert!(url.starts_with("https://127.0.0.1:"), "{listening}");
    assert!(server.says("TLS").contains(&pin), "the fingerprint is also printed");

    let fetch = |more: &[&str]| {
        let words = ["token", "fetch", "--json", "--access-token", "dev", "--token-url", &url];
        run(dir.path(), &[&words[..], more].concat())
    };
    assert_eq!(fetch(&["--tls-pin", &pin]).well()[0]["kind"], "token");
    let colons: Vec<&str> = (0..32).map(|at| &pin[2 * at..2 * at + 2]).collect();
    fetch(&["--tls-pin", &colons.join(":").to_uppercase()]).well();
    for more in [&[][..], &["--tls-pin", &"0".repeat(64)]] {
        let error = fetch(more).failed(1, "tls");
        assert!(
            text(&error, "message").contains(&pin),
            "the presented fingerprint is missing: {error}"
        );
        assert!(text(&error, "message").contains("localhost"), "{error}");
        assert!(text(&error, "remedy").contains("--tls-pin"), "{error}");
    }
    assert_eq!(fetch(&["--tls-pin", "12:34"]).code, Some(2));

    let words = ["s_client", "-connect", &address, "-alpn", "http/1.1", "-servername", "localhost"];
    let (_, seen) = tool("openssl", &words, dir.path());
    assert!(seen.contains("ALPN protocol: http/1.1"), "{seen}");
    assert!(seen.contains("TLSv1.3"), "{seen}");
    let (_, old) = tool("openssl", &[&words[..3], &["-tls1_1"]].concat(), dir.path());
    assert!(!old.contains("Cipher is ECDHE"), "TLS 1.1 is accepted: {old}");
}

#[test]
fn curl_trusts_a_chain_up_to_its_ca_with_each_kind_of_key() {
    let dir = tempfile::tempdir().unwrap();
    let sh = |line: &str| {
        let (good, said) = tool("bash", &["-euo", "pipefail", "-c", line], dir.path());
        assert!(good, "{line}\n{said}");
    };
    sh("openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=CA -days 2");
    // An intermediate CA, so that the file contains a chain.
    sh("openssl req -newkey rsa:2048 -nodes -keyout mid.key -out mid.csr -subj /CN=Mid");
    sh(
        "openssl x509 -req -in mid.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out mid.pem \
        -extfile <(echo basicConstraints=critical,CA:TRUE)",
    );
    for (name, make, head) in [
        ("pkcs1", "openssl genrsa -traditional -out pkcs1.key 2048", "BEGIN RSA PRIVATE KEY"),
        ("pkcs8", "openssl genpkey -algorithm ed25519 -out pkcs8.key", "BEGIN PRIVATE KEY"),
        // With the parameter block that openssl writes before the key.
        ("sec1", "openssl ecparam -name prime256v1 -genkey -out sec1.key", "BEGIN EC PRIVATE KEY"),
    ] {
        sh(make);
        assert!(
            std::fs::read_to_string(dir.path().join(format!("{name}.key"))).unwrap().contains(head)
        );
        sh(&format!("openssl req -new -key {name}.key -subj /CN=server -out {name}.csr"));
        sh(&format!(
            "openssl x509 -req -in {name}.csr -CA mid.pem -CAkey mid.key -CAcreateserial -days 2 \
             -extfile <(echo subjectAltName=IP:127.0.0.1) >{name}.pem && cat mid.pem >>{name}.pem"
        ));
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let (_server, listening) =
            serve(dir.path(), &["--tls-cert", &certificate, "--tls-key", &key]);
        let url = format!("https://{}/healthz", text(&listening, "address"));
        let words = ["-sS", "--noproxy", "*", "--cacert", "ca.pem", &url];
        let (good, said) = tool("curl", &words, dir.path());
        assert!(good && said.contains(r#""status":"ok""#), "{name}: {said}");
        let (good, _) = tool("curl", &["-sS", "--noproxy", "*", &url], dir.path());
        assert!(!good, "{name}: trusted without the CA");
        let fetch = |more: &[&str]| {
            let url = text(&listening, "tokenUrl");
            let words = ["token", "fetch", "--access-token", "dev", "--token-url", &url];
            run(dir.path(), &[&words[..], more].concat())
        };
        assert_eq!(fetch(&["--cacert", "sec1.key", "--cacert", "ca.pem"]).code, Some(2));
        let ended = fetch(&["--cacert", "mid.pem", "--cacert", "ca.pem"]);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
    }
}

#[test]
fn plain_http_on_the_tls_port_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, listening) = serve(dir.path(), &["--tls-self-signed"]);
    let address = text(&listening, "address");
    let url = format!("http://{address}/healthz");
    let (good, said) = tool("curl", &["-sS", "-i", "--noproxy", "*", &url], dir.path());
    assert!(good && said.starts_with("HTTP/1.1 400"), "{said}");
    assert!(said.contains("tls-required") && said.contains("https://"), "{said}");
}

fn write_pair(dir: &Path, certificates: &Certificates) {
    std::fs::write(dir.join("cert.pem"), &certificates.server).unwrap();
    std::fs::write(dir.join("key.pem"), &certificates.key).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_reloaded_while_sockets_live() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) =
        (Certificates::for_names(&["127.0.0.1"]), Certificates::for_names(&["127.0.0.1"]));
    write_pair(dir.path(), &first);
    let path = dir.path().to_owned();
    let (served, listening) = aside(move || {
        serve(&path, &["--tls-cert", "cert.pem", "--tls-key", "key.pem", "--log-format", "text"])
    })
    .await;
    let address = text(&listening, "address").parse().unwrap();
    let (old, new) = (first.trust(), second.trust());
    let (mut phone, mut mac) = both(address, Some(&old)).await;

    write_pair(dir.path(), &second);
    served.signal(Signal::HUP);
    served.says("TLS certificate reloaded");
    fetch(address, Some(&new), "phone").await;
    assert!(
        dial(address, "127.0.0.1", Some(&old), None).await.is_err(),
        "the old certificate is presented"
    );
    phone.reaches(&mut mac).await;

    // A key that does not match the certificate is detected without a signal.
    std::fs::write(dir.path().join("key.pem"), &first.key).unwrap();
    let served = aside(move || {
        let said = served.says("cannot reload the TLS certificate; the previous one stays in use");
        assert!(said.contains("key.pem") && said.contains("not the key"), "{said}");
        served
    })
    .await;
    fetch(address, Some(&new), "phone").await;
    mac.reaches(&mut phone).await;
    drop(served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turn_uses_the_same_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (_served, listening) =
        aside(move || serve(&path, &["--tls-self-signed", "--turn-tls-port", "0"])).await;
    let trust = pinned(&text(&listening, "tlsSha256"));
    let turn = text(&listening, "turnTls").parse().unwrap();
    dial(turn, "127.0.0.1", Some(&trust), None).await.unwrap();
    let wrong = dial(turn, "127.0.0.1", Some(&pinned(&"0".repeat(64))), None).await.unwrap_err();
    assert_eq!(wrong.code(), "tls-pin", "{wrong}");
    let answer = fetch(text(&listening, "address").parse().unwrap(), Some(&trust), "phone").await;
    let urls = answer["iceServers"].to_string();
    assert!(urls.contains(&format!("turns:127.0.0.1:{}", turn.port())), "{urls}");
}

#[test]
fn peers_connect_over_wss_and_turns_by_one_fingerprint() {
    let dir = tempfile::tempdir().unwrap();
    let secret = ["--turn-secret", TURN_SECRET];
    let (_served, listening) =
        serve(dir.path(), &[&["--tls-self-signed", "--turn-tls-port", "0"], &secret[..]].concat());
    let (signal, pin) = (text(&listening, "signalUrl"), text(&listening, "tlsSha256"));
    let turns = format!("turns:{}", text(&listening, "turnTls"));
    let connect = ["--json", "--signal", &signal, "--tls-pin", &pin];
    let _other = start(dir.path(), &[&["bench", "--respond"], &connect[..]].concat());
    let words = ["--connections", "1", "--warmup", "0", "--keyframes", "1", "--pings", "1"];
    let relayed = ["--ice-policy", "relay", "--require-type", "relay/tls", "--ice-server", &turns];
    let ended = run(dir.path(), &[&["bench"], &connect[..], &words, &relayed, &secret].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);

    let looked = run(dir.path(), &[&["doctor"], &connect[..]].concat());
    let seen = looked.stdout.join("\n");
    assert!(seen.contains(&turns), "{seen}\n{}", looked.stderr);
    assert!(!seen.contains("tls-pin") && !seen.contains("tls-failed"), "{seen}");
    let wrong = ["doctor", "--json", "--signal", &signal, "--tls-pin", &"0".repeat(64)];
    let wrong = run(dir.path(), &wrong);
    assert_ne!(wrong.code, Some(0));
    assert!(
        wrong.stdout.join("\n").contains("none of the pinned fingerprints"),
        "{:?}",
        wrong.stdout
    );
}

fn secured(config: &mut ServerConfig) -> Trust {
    let tls = Tls::self_signed(&["127.0.0.1".to_owned()]).unwrap();
    let trust = Trust::of(&[], &[tls.fingerprint()]);
    config.listener.tls = Some(tls);
    trust
}

#[tokio::test]
async fn slow_handshakes_and_headers_time_out() {
    let mut trust = None;
    let server = server(|config| {
        trust = Some(secured(config));
        config.listener.tls_within = Duration::from_millis(200);
        config.header_within = Duration::from_millis(200);
    })
    .await;
    let address = server.local_addr();
    // Nothing, the start of a ClientHello, and half a record header.
    for part in [&[][..], &[0x16, 3, 1, 0, 200, 1, 0, 0], &[0x16, 3]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(part).await.unwrap();
        let mut rest = Vec::new();
        let ended = timeout(HANG, stream.read_to_end(&mut rest)).await.expect("it stays open");
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    let mut stream = dial(address, "127.0.0.1", trust.as_ref(), None).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.unwrap();
    let mut rest = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut rest)).await.expect("it stays open");
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    let metrics = ask(address, trust.as_ref(), "GET /metrics", &[], "").await;
    assert!(
        metrics.text.contains("orion_tls_handshakes_total{result=\"timeout\"} 3"),
        "{metrics:?}"
    );
}

#[tokio::test]
async fn ten_thousand_half_open_connections_are_limited_and_others_succeed() {
    let limit = 100;
    let mut trust = None;
    let server = server(|config| {
        trust = Some(secured(config));
        config.listener.connections_per_address = Some(limit);
        // No handshake times out during the test.
        config.listener.tls_within = Duration::from_hours(1);
    })
    .await;
    let address = server.local_addr();
    let mut held = Vec::new();
    for attempt in 0..10_000_u32 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let stream = socket.connect(address).await.unwrap();
        if attempt < limit {
            held.push(stream);
        }
    }
    let metric = async |line: &str| {
        let answer = ask(address, trust.as_ref(), "GET /metrics", &[], "").await;
        let found = answer.text.lines().find_map(|found| found.strip_prefix(line));
        found.unwrap_or_else(|| panic!("no {line}")).trim().parse::<u32>().unwrap()
    };
    // These requests come from another address.
    while metric("orion_http_connections_refused_total{limit=\"address\"}").await < 10_000 - limit {
        tokio::task::yield_now().await;
    }
    assert_eq!(metric("orion_http_connections ").await, limit + 1);
    let (mut phone, mut mac) = both(address, trust.as_ref()).await;
    phone.reaches(&mut mac).await;
    drop(held);
    while metric("orion_http_connections ").await > 1 {
        tokio::task::yield_now().await;
    }
    let again = super::token(&server, "phone");
    Client::join(address, trust.as_ref(), &again).await;
}
