//! Limits of the server, the proxies it trusts, and its drain.

use std::time::Duration;

use orion_peer::{
    server::proxies::{Proxies, ProxyHeader},
    signaling::server::limits::Rate,
};
use rustix::process::Signal;
use serde_json::json;

use super::{ask, both, knock, server};
use crate::{
    raw_http::HANG,
    run::{run, serve},
};

const RARE: Rate = Rate::new(2, Duration::from_hours(1));

#[tokio::test]
async fn handshakes_are_limited_by_pair_and_by_user() {
    for what in ["pair", "user"] {
        let server = server(|config| {
            let limits = &mut config.signaling.limits;
            if what == "pair" {
                limits.pair_handshakes = Some(RARE);
            } else {
                limits.user_handshakes = Some(RARE);
            }
        })
        .await;
        for device in ["phone", "mac"] {
            assert_eq!(knock(&server, device, &[]).await.status, 101);
        }
        let refused = knock(&server, "phone", &[]).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "rate-limited"), "{what}");
        assert!(refused.text.to_lowercase().contains("\r\nretry-after: "), "{refused:?}");
    }
}

#[tokio::test]
async fn sockets_are_limited_by_address_and_by_user_and_slots_are_released() {
    for what in ["address", "user"] {
        let server = server(|config| {
            let limits = &mut config.signaling.limits;
            if what == "address" {
                limits.sockets_per_address = Some(2);
            } else {
                limits.sockets_per_user = Some(2);
            }
        })
        .await;
        let address = server.local_addr();
        let (phone, mac) = both(address, None).await;
        let refused = knock(&server, "phone", &[]).await;
        assert_eq!((refused.status, refused.code().as_str()), (429, "too-many-sockets"), "{what}");
        drop(phone);
        while server.signaling().sockets() > 1 {
            tokio::task::yield_now().await;
        }
        // The slot is released shortly after the socket is no longer counted.
        while knock(&server, "phone", &[]).await.status != 101 {
            tokio::task::yield_now().await;
        }
        drop(mac);
        assert_eq!(server.signaling().counters().refused.get("other"), 0);
    }
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_distinguished() {
    let server = server(|config| {
        config.signaling.limits.handshakes = Some(RARE);
        config.listener.connections_per_address = Some(1);
        config.listener.proxies = Proxies {
            trusted: vec!["127.0.0.1".parse().unwrap()],
            header: ProxyHeader::XForwardedFor,
        };
    })
    .await;
    let from = async |address: &str| {
        // An entry from the client itself is on the left.
        let header = format!("X-Forwarded-For: 192.0.2.{}, {address}", address.len());
        knock(&server, "phone", &[&header]).await.status
    };
    for _ in 0..2 {
        assert_eq!(from("198.51.100.1").await, 101);
    }
    assert_eq!(from("198.51.100.1").await, 429);
    assert_eq!(from("198.51.100.2").await, 101);
    // Hosts of one IPv6 network count as one.
    assert_eq!(from("2001:db8::1").await, 101);
    assert_eq!(from("2001:db8::2").await, 101);
    assert_eq!(from("2001:db8::3").await, 429);
}

#[tokio::test]
async fn forwarding_headers_of_other_clients_are_ignored() {
    let server = server(|config| config.signaling.limits.handshakes = Some(RARE)).await;
    for (last, status) in [(1, 101), (2, 101), (3, 429)] {
        let header = format!("X-Forwarded-For: 198.51.100.{last}");
        assert_eq!(knock(&server, "phone", &[&header]).await.status, status);
    }
}

#[tokio::test]
async fn messages_and_bodies_have_configurable_limits() {
    let server = server(|config| {
        config.signaling.limits.message_bytes = 2000;
        config.listener.max_body = 2000;
    })
    .await;
    let address = server.local_addr();
    let long = "x".repeat(2000);
    let body = json!({"deviceId": "phone", "more": long}).to_string();
    let headers = ["Authorization: Bearer dev"];
    let answer = ask(address, None, "POST /api/auth/webrtc-token", &headers, &body).await;
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.text.contains("2000 bytes"), "{answer:?}");
    let (mut phone, mut mac) = both(address, None).await;
    mac.reaches(&mut phone).await;
    phone.send(json!({"t": "offer", "pairId": "demo", "sdp": long})).await;
    assert_eq!(phone.close_code().await, 1009);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = server(|config| config.listener.body_within = Duration::from_millis(200)).await;
    let mut stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let head = "POST /api/auth/webrtc-token HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer dev\r\n\
                Content-Length: 100\r\nConnection: close\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("it hangs");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("in time"), "{answer}");
}

#[tokio::test]
async fn long_headers_are_rejected() {
    let server = server(|_| {}).await;
    let long = format!("X-Long: {}", "x".repeat(100 * 1024));
    let many: Vec<String> = (0..100).map(|at| format!("X-{at}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for headers in [&[long.as_str()][..], &many] {
        let answer = ask(server.local_addr(), None, "GET /healthz", headers, "").await;
        assert_eq!(answer.status, 431, "{answer:?}");
    }
    let token = format!("X-Token: {}", "x".repeat(20 * 1024));
    assert_eq!(ask(server.local_addr(), None, "GET /healthz", &[&token], "").await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_responses_is_disconnected() {
    use tokio::io::AsyncWriteExt;
    let server =
        server(|config| config.listener.connection_within = Duration::from_millis(200)).await;
    let address = server.local_addr();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
    // Until the server disconnects; the responses fill the buffers long before.
    while stream.write_all(request.as_bytes()).await.is_ok() {}
    let open = async || {
        let page = ask(address, None, "GET /metrics", &[], "").await.text;
        page.contains("\norion_http_connections 1\n")
    };
    while !open().await {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_draining_server_reports_it_and_closes_sockets_with_1012() {
    let server = server(|config| {
        config.signaling.timings.close_within = HANG;
        config.signaling.timings.drain_jitter = Duration::from_millis(300);
    })
    .await;
    let address = server.local_addr();
    let ready = async |path: &str| {
        let answer = ask(address, None, &format!("GET {path}"), &[], "").await;
        (answer.status, answer.json()["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(ready("/readyz").await, (200, "ok".into()));
    let (mut phone, mut mac) = both(address, None).await;
    let signaling = server.signaling().clone();
    let stopping = tokio::spawn(server.shutdown());
    while !signaling.is_draining() {
        tokio::task::yield_now().await;
    }
    // The clients do not read from their sockets, so the drain waits for them.
    assert_eq!(ready("/readyz").await, (503, "draining".into()));
    assert_eq!(ready("/healthz").await, (200, "draining".into()), "it is still alive");
    let metrics = ask(address, None, "GET /metrics", &[], "").await;
    assert!(metrics.text.contains("\norion_draining 1\n"), "{metrics:?}");
    assert_eq!(phone.close_code().await, 1012);
    assert_eq!(mac.close_code().await, 1012);
    drop((phone, mac));
    tokio::time::timeout(HANG, stopping).await.expect("it does not stop").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_a_second_one_does_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let (served, address, _) = tokio::task::spawn_blocking(move || {
        serve(&path, "127.0.0.1:0", "127.0.0.1:0", &["--drain", "10m"])
    })
    .await
    .unwrap();
    let (phone, _mac) = both(address.parse().unwrap(), None).await;
    served.signal(Signal::TERM);
    served.says("shutting down");
    let token = {
        let answer = super::fetch(address.parse().unwrap(), None, "phone").await;
        answer["token"].as_str().unwrap().to_owned()
    };
    let bearer = format!("Authorization: Bearer {token}");
    let headers = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &bearer,
    ];
    let refused = ask(address.parse().unwrap(), None, "GET /api/signal", &headers, "").await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    // Two signals in quick succession count as one.
    tokio::time::sleep(Duration::from_millis(200)).await;
    served.signal(Signal::TERM);
    let ended = tokio::task::spawn_blocking(move || served.end()).await.unwrap();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    drop(phone);
}

#[test]
fn invalid_limits_are_usage_errors_that_name_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, value, word) in [
        ("--max-sockets", "0", "from 1"),
        ("--socket-rate", "fast", "60:2/s"),
        ("--max-message", "1MB", "65536"),
        ("--drain", "1d", "10m"),
        ("--trusted-proxy", "10.0.0.0/40", "10.0.0.0/40"),
        ("--metrics-listen", "nowhere", "nowhere"),
        ("--tls-cert", "cert.pem", "--tls-key"),
    ] {
        let ended = run(dir.path(), &["serve", "--listen", "127.0.0.1:0", flag, value]);
        assert_eq!(ended.code, Some(2), "{flag}: {}", ended.stderr);
        assert!(ended.stderr.contains(flag), "{flag}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{flag}: {}", ended.stderr);
    }
}

/// With the limit on open files that a shell sets for its child processes.
#[test]
fn a_low_open_file_limit_is_reported_or_raised() {
    use std::io::{BufRead, BufReader};
    for (limit, warned) in [("ulimit -n 300", true), ("ulimit -Sn 300", false)] {
        let dir = tempfile::tempdir().unwrap();
        let line = format!(
            "{limit}; exec {} serve --listen 127.0.0.1:0 --no-turn --max-sockets 400 \
             --max-connections 100",
            env!("CARGO_BIN_EXE_orion-peer")
        );
        let mut child = std::process::Command::new("bash")
            .args(["-c", &line])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut output = Vec::new();
        for line in lines {
            let line = line.unwrap();
            let listening = line.contains("listening on");
            output.push(line);
            if listening {
                break;
            }
        }
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        let output = output.join("\n");
        assert_eq!(output.contains("open file limit"), warned, "{limit}: {output}");
        #[cfg(target_os = "linux")]
        {
            let limits = limits.unwrap();
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
            let soft = line.split_whitespace().nth(3).unwrap();
            assert_eq!(soft, if warned { "300" } else { "756" }, "{limit}: {line}");
        }
        #[cfg(not(target_os = "linux"))]
        drop(limits);
    }
}
