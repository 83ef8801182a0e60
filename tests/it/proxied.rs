//! Proxies from environment variables, for the token API and the WebSocket. The query of `--signal` is sent, but not
//! shown.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::run::{HANG, Running, follow};

/// This name cannot be resolved (RFC 6761 §6.4), so only a proxy can connect.
const SIGNAL: &str = "ws://signal.invalid:8787/api/signal?key=hush-query";

/// The header of each request to a proxy, in order.
type Asked = Arc<Mutex<Vec<String>>>;

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Runs a proxy that also answers as the token API; no server answers behind its tunnel.
async fn serve(listener: TcpListener, asked: Asked) {
    let body = r#"{"token":"a.b.c","pairId":"demo","expiresIn":300.5,"iceServers":[null]}"#;
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Some(head) = head(&mut stream).await {
                let answer = if head.starts_with("CONNECT ") {
                    "HTTP/1.1 200 OK\r\n\r\n".to_owned()
                } else {
                    let length = body.len();
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
                };
                let upgrade = head.starts_with("GET ");
                asked.lock().unwrap().push(head);
                if upgrade || stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn recv(dir: &Path, environment: &[(&str, &str)]) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
    command.args([
        "recv",
        "-v",
        "--access-token",
        "hush-login",
        "--signal",
        SIGNAL,
        "--out",
        "out",
    ]);
    command.current_dir(dir).env_clear().env("HOME", dir);
    command.envs(environment.iter().copied());
    follow(format!("recv with {environment:?}"), command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn token_api_and_websocket_go_through_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:hush-proxy@{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    tokio::spawn(serve(listener, Arc::clone(&asked)));
    let dir = tempfile::tempdir().unwrap();
    let recv = recv(dir.path(), &[("HTTP_PROXY", &proxy)]);
    let seen =
        |start: &str| asked.lock().unwrap().iter().find(|head| head.starts_with(start)).cloned();
    let upgrade = timeout(HANG, async {
        loop {
            if let Some(upgrade) = seen("GET ") {
                return upgrade;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let upgrade = upgrade.await.unwrap_or_else(|_| panic!("{asked:?}"));
    let token = seen("POST http://signal.invalid:8787/api/auth/webrtc-token ").unwrap();
    let tunnel = seen("CONNECT signal.invalid:8787 ").unwrap();
    for head in [&token, &tunnel] {
        // printf user:hush-proxy | base64
        let login = "proxy-authorization: basic dxnlcjpodxnolxbyb3h5";
        assert!(head.to_ascii_lowercase().contains(login), "{head}");
    }
    assert!(upgrade.starts_with("GET /api/signal?key=hush-query "), "{upgrade}");
    assert!(!tunnel.contains("hush-login") && !tunnel.contains("a.b.c"), "{tunnel}");
    recv.says("joining");
    recv.says("entry 1 of iceServers");
    recv.signal(rustix::process::Signal::TERM);
    let ended = tokio::task::block_in_place(|| recv.end());
    assert!(!ended.stderr.contains("hush"), "{}", ended.stderr);
    assert!(!ended.stdout.concat().contains("hush"), "{:?}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proxy_names_servers_that_are_reached_directly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    tokio::spawn(serve(listener, Arc::clone(&asked)));
    let dir = tempfile::tempdir().unwrap();
    let recv = recv(dir.path(), &[("HTTP_PROXY", &proxy), ("NO_PROXY", "other.example, .invalid")]);
    recv.says("dns");
    assert!(asked.lock().unwrap().is_empty(), "{asked:?}");
}
