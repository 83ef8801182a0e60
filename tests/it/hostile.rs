//! Hostile or faulty clients: slow or silent ones, floods of bytes, and ambiguous requests that two
//! parsers would interpret differently. The server answers or closes the connection, and continues
//! to serve other clients.

use std::{net::SocketAddr, time::Duration};

use futures_util::StreamExt;
use orion_peer::{auth::login::DEV_TOKEN, server::TOKEN_PATH, signaling::server::limits::Timings};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{
    raw_http::{HANG, request},
    rig::{Rig, rig},
};

type Socket = WebSocketStream<TcpStream>;

impl Rig {
    async fn open(&self, device: &str) -> Socket {
        let mut request = self.server.signal_url().into_client_request().unwrap();
        let bearer = format!("Bearer {}", self.token(device)).parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        let stream = TcpStream::connect(self.address()).await.unwrap();
        client_async(request, stream).await.unwrap().0
    }

    /// The phone and the Mac, after the Mac has read its `hello`.
    async fn both(&self) -> (Socket, Socket) {
        let phone = self.open("phone").await;
        let mut mac = self.open("mac").await;
        assert!(next_text(&mut mac).await.contains("hello"));
        (phone, mac)
    }

    /// Writes `raw` and returns everything received until the server closes the connection.
    async fn exchange(&self, raw: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        // The server may close the connection before it has read everything.
        let _cut_off = stream.write_all(raw).await;
        read_all(&mut stream).await
    }

    async fn is_healthy(&self) {
        assert_eq!(request(self.address(), "GET /healthz", &[], "").await.status, 200);
    }
}

async fn next_text(socket: &mut Socket) -> String {
    loop {
        match timeout(HANG, socket.next()).await.expect("nothing was received") {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("expected a message, not {other:?}"),
        }
    }
}

/// The close code of a socket.
async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match timeout(HANG, socket.next()).await.expect("nothing was received") {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("expected a close frame, not {other:?}"),
        }
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(HANG, stream.read_to_end(&mut text)).await.expect("the server hangs");
    // A reset after the answer also ends the connection.
    drop(read);
    String::from_utf8_lossy(&text).into_owned()
}

/// The status codes of the responses in `text`.
fn statuses(text: &str) -> Vec<&str> {
    text.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

fn offer(sdp: &str) -> Vec<u8> {
    json!({"t": "offer", "pairId": "demo", "sdp": sdp}).to_string().into_bytes()
}

/// A client's frame, masked with zeros; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut raw = vec![first];
    match payload.len() {
        short @ ..=125 => raw.push(0x80 | short as u8),
        medium @ ..=0xffff => {
            raw.push(0xfe);
            raw.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            raw.push(0xff);
            raw.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    raw.extend_from_slice(&[0; 4]);
    raw.extend_from_slice(payload);
    raw
}

// Slow and silent clients.

/// Sends `start`, then `byte` repeatedly, until the server closes the connection; returns its
/// answer.
async fn drip(address: SocketAddr, start: &str, byte: u8) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(start.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        while writer.write_all(&[byte]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut answer = Vec::new();
    let both = async {
        tokio::select! {
            _end = reader.read_to_end(&mut answer) => {}
            () = write => {}
        }
    };
    timeout(HANG, both).await.expect("the server waits forever");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn an_endless_header_times_out_although_it_grows() {
    let rig = rig(|config| config.header_within = Duration::from_millis(300)).await;
    let answer = drip(rig.address(), "GET /healthz HTTP/1.1\r\nX-Slow: ", b'a').await;
    assert!(!answer.contains(" 200"), "{answer}");
    rig.is_healthy().await;
}

#[tokio::test]
async fn an_endless_body_times_out_although_it_grows() {
    let rig = rig(|_| {}).await;
    let head = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {DEV_TOKEN}\r\n\
         Content-Length: 16000\r\n\r\n"
    );
    let answer = drip(rig.address(), &head, b' ').await;
    assert_eq!(statuses(&answer), ["400"], "{answer}");
    rig.is_healthy().await;
}

#[tokio::test]
async fn a_frame_may_arrive_byte_by_byte() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = rig.both().await;
    let text = offer("slowly");
    for byte in frame(0x81, &text) {
        phone.get_mut().write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(next_text(&mut mac).await.as_bytes(), text);
}

#[tokio::test]
async fn an_endless_frame_does_not_count_as_a_sign_of_life() {
    let rig = rig(|config| {
        config.signaling.timings = Timings {
            ping_every: Duration::from_millis(100),
            pong_within: Duration::from_millis(400),
            ..Timings::default()
        };
    })
    .await;
    let mut phone = rig.open("phone").await;
    let whole = frame(0x81, &b" ".repeat(60_000));
    let (mut reader, mut writer) = tokio::io::split(phone.get_mut());
    let mut sent = 0;
    let write = async {
        for byte in whole {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut seen = Vec::new();
    tokio::select! {
        _end = reader.read_to_end(&mut seen) => {}
        () = write => {}
    }
    assert!(sent < 60_000, "the server waited for the whole frame");
    // The close frame: 4002 = 0x0fa2.
    assert!(seen.windows(2).any(|code| code == [0x0f, 0xa2]), "{seen:?}");
}

#[tokio::test]
async fn a_half_closed_socket_is_reported_to_the_peer() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = rig.both().await;
    phone.get_mut().shutdown().await.unwrap();
    assert!(next_text(&mut mac).await.contains("peer-left"));
    let mut again = rig.open("phone").await;
    assert!(next_text(&mut again).await.contains("hello"));
}

#[tokio::test]
async fn a_thousand_silent_connections_do_not_affect_other_clients() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let rig = rig(|config| config.header_within = Duration::from_secs(2)).await;
    let (mut phone, mut mac) = rig.both().await;
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(TcpStream::connect(rig.address()).await.unwrap());
    }
    rig.is_healthy().await;
    let text = offer("in the crowd");
    phone.get_mut().write_all(&frame(0x81, &text)).await.unwrap();
    assert_eq!(next_text(&mut mac).await.as_bytes(), text);
    for stream in &mut silent {
        assert_eq!(read_all(stream).await, "", "each connection is closed");
    }
    rig.is_healthy().await;
}

// Frames.

#[tokio::test]
async fn frames_that_break_the_protocol_close_with_their_code() {
    let unmasked = [&[0x81, 2][..], b"{}"].concat();
    let text = offer("x");
    let compressed = frame(0xc1, &text);
    let two_halves = [frame(0x01, b"\xe2\x82"), frame(0x80, b"\x28")].concat();
    let half = b"x".repeat(600_000);
    let big = [frame(0x01, &half), frame(0x80, &half)].concat();
    for (what, raw, code) in [
        ("an unmasked frame", unmasked, 1002),
        ("a ping in fragments", frame(0x09, b"half"), 1002),
        ("a close in fragments", frame(0x08, &[0x03, 0xe8]), 1002),
        ("a pong in fragments", frame(0x0a, b"half"), 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a close frame of one byte", frame(0x88, &[3]), 1002),
        ("a compressed frame, not negotiated", compressed, 1002),
        ("a second reserved bit", frame(0xa1, &text), 1002),
        ("a text within a text", [frame(0x01, b"{"), frame(0x81, b"}")].concat(), 1002),
        ("invalid UTF-8 across two fragments", two_halves, 1007),
        ("an overlong UTF-8 form", frame(0x81, b"\xc0\xaf"), 1007),
        ("a description of 1 MB", frame(0x81, &offer(&"v=0\r\n".repeat(200_000))), 1009),
        ("a description of 1 MB in fragments", big, 1009),
        (
            "a frame with a length of 2^62 bytes",
            [vec![0x81, 0xff, 0x40], vec![0; 11]].concat(),
            1009,
        ),
    ] {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = rig.both().await;
        // The server may close the connection before it has read everything.
        let _cut_off = phone.get_mut().write_all(&raw).await;
        assert_eq!(close_code(&mut phone).await, code, "{what}");
        assert!(next_text(&mut mac).await.contains("peer-left"), "{what}");
        rig.is_healthy().await;
    }
}

#[tokio::test]
async fn an_offer_of_compression_is_ignored() {
    let rig = rig(|_| {}).await;
    let mut raw = handshake(&rig.token("phone"));
    raw.push_str("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n");
    let mut stream = TcpStream::connect(rig.address()).await.unwrap();
    stream.write_all(raw.as_bytes()).await.unwrap();
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
}

// Requests.

/// A handshake without the empty line at its end.
fn handshake(token: &str) -> String {
    format!(
        "GET /api/signal HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n"
    )
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let rig = rig(|_| {}).await;
    let one = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answer = rig.exchange(format!("{}{last}", one.repeat(50)).as_bytes()).await;
    let expected = [["200", "404"].repeat(50), vec!["200"]].concat();
    assert_eq!(statuses(&answer), expected);
}

#[tokio::test]
async fn huge_headers_are_rejected() {
    let rig = rig(|_| {}).await;
    for header in [
        format!("X-Big: {}\r\n", "x".repeat(1_000_000)),
        "X-Many: x\r\n".repeat(2_000),
        format!("Authorization: Bearer {}\r\n", "x".repeat(600_000)),
    ] {
        let raw = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{header}\r\n");
        let answer = rig.exchange(raw.as_bytes()).await;
        // Bytes still in flight may reset the connection before the answer is read.
        assert!(answer.is_empty() || statuses(&answer) == ["431"], "{answer}");
    }
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    let answer = rig.exchange(path.as_bytes()).await;
    // 414, or 431 because the target is also longer than the maximum header.
    assert!(answer.is_empty() || ["414", "431"].contains(&statuses(&answer)[0]), "{answer}");
    rig.is_healthy().await;
}

#[tokio::test]
async fn duplicate_headers_are_rejected() {
    let rig = rig(|_| {}).await;
    let token = rig.token("phone");
    for second in [
        format!("Authorization: Bearer {token}"),
        "Authorization: Bearer other".into(),
        "Host: localhost".into(),
        "Host: other".into(),
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==".into(),
        "Sec-WebSocket-Version: 8".into(),
        "Origin: http://localhost\r\nOrigin: https://evil.example".into(),
    ] {
        let raw = format!("{}{second}\r\n\r\n", handshake(&token));
        let answer = rig.exchange(raw.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{second}: {answer}");
    }
    let body = r#"{"deviceId":"phone"}"#;
    let raw = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {DEV_TOKEN}\r\n\
         Authorization: Bearer other\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = rig.exchange(raw.as_bytes()).await;
    assert_eq!(statuses(&answer), ["400"], "{answer}");
    let without = "GET /healthz HTTP/1.1\r\n\r\n";
    assert_eq!(statuses(&rig.exchange(without.as_bytes()).await), ["400"], "no Host at all");
}

/// Data after a request that must never be processed as a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test]
async fn ambiguous_lengths_do_not_allow_request_smuggling() {
    let rig = rig(|_| {}).await;
    let post = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {DEV_TOKEN}\r\n"
    );
    let length = SMUGGLED.len() + 5;
    let chunked = "Transfer-Encoding: chunked\r\n";
    for lines in [
        format!("Content-Length: {length}\r\n{chunked}"),
        format!("{chunked}Content-Length: {length}\r\n"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        "Content-Length: 0, 5\r\n".into(),
        "Content-Length: +0\r\n".into(),
        "Content-Length: -1\r\n".into(),
        "Content-Length: 0x5\r\n".into(),
        "Content-Length: 18446744073709551616\r\n".into(),
        "Transfer-Encoding: xchunked\r\n".into(),
        "Transfer-Encoding: chunked, identity\r\n".into(),
        "Transfer-Encoding : chunked\r\n".into(),
        "Transfer-Encoding:\r\n chunked\r\n".into(),
        "Transfer-Encoding\u{b}: chunked\r\n".into(),
        format!("X: y\rContent-Length: {length}\r\n"),
    ] {
        let raw = format!("{post}{lines}\r\n0\r\n\r\n{SMUGGLED}");
        let answer = rig.exchange(raw.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{lines:?}: {answer}");
        assert!(!answer.contains(" 404"), "{lines:?}: {answer}");
    }
    rig.is_healthy().await;
}

#[tokio::test]
async fn invalid_chunks_are_rejected() {
    let rig = rig(|_| {}).await;
    for chunks in ["zz\r\n", "-1\r\n", "ffffffffffffffffff\r\n", "1\r\nab\r\n", "5;\n"] {
        let raw = format!(
            "POST {TOKEN_PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {DEV_TOKEN}\r\n\
             Transfer-Encoding: chunked\r\n\r\n{chunks}{SMUGGLED}"
        );
        let answer = rig.exchange(raw.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{chunks:?}: {answer}");
    }
}

#[tokio::test]
async fn a_handshake_with_a_body_is_rejected() {
    let rig = rig(|_| {}).await;
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let raw = format!("{}{body}", handshake(&rig.token("phone")));
        let answer = rig.exchange(raw.as_bytes()).await;
        assert_eq!(statuses(&answer), ["400"], "{body:?}: {answer}");
    }
}

#[tokio::test]
async fn targets_of_every_form_are_accepted_or_rejected() {
    let rig = rig(|_| {}).await;
    for (line, status) in [
        ("GET http://localhost/healthz HTTP/1.1", "200"),
        ("GET http://other.example/healthz HTTP/1.1", "421"),
        ("GET /healthz?x=%zz HTTP/1.1", "200"),
        ("GET http://localhost/ HTTP/1.1", "404"),
        ("GET //healthz HTTP/1.1", "404"),
        ("GET /healthz/../metrics HTTP/1.1", "404"),
        ("GET /%68ealthz HTTP/1.1", "404"),
        ("OPTIONS * HTTP/1.1", "404"),
        ("CONNECT other.example:443 HTTP/1.1", "421"),
        ("DELETE /healthz HTTP/1.1", "405"),
        ("GET  /healthz HTTP/1.1", "400"),
        ("GET /health z HTTP/1.1", "400"),
        ("GET healthz HTTP/1.1", "400"),
        ("GET /healthz HTTP/9.9", "400"),
        ("PRI * HTTP/2.0", "400"),
        ("GET /healthz", "400"),
        ("G\u{7f}T /healthz HTTP/1.1", "400"),
    ] {
        let raw = format!("{line}\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let answer = rig.exchange(raw.as_bytes()).await;
        assert_eq!(statuses(&answer).first(), Some(&status), "{line}: {answer}");
    }
}

#[tokio::test]
async fn bytes_that_are_not_text_are_rejected() {
    let rig = rig(|_| {}).await;
    let token = [&b"Authorization: Bearer "[..], b"\xff\xfe\r\n\r\n"].concat();
    let raw = [
        b"POST ",
        TOKEN_PATH.as_bytes(),
        b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n",
        &token,
    ];
    assert_eq!(statuses(&rig.exchange(&raw.concat()).await), ["401"]);
    let body = b"{\"deviceId\":\"\xff\xfe\"}";
    let head = format!(
        "POST {TOKEN_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {DEV_TOKEN}\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(statuses(&rig.exchange(&[head.as_bytes(), body].concat()).await), ["400"]);
    assert_eq!(
        statuses(&rig.exchange(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await),
        ["400"]
    );
}
