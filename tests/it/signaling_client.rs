//! The signaling client and the token client against small servers controlled by the tests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    proto::signaling::{Body, Message},
    signaling::{
        client::token_client::{TokenClient, TokenError},
        client::{
            Access, Backoff, ClientConfig, ClientError, ClientEvent, ClientHandle, SendError,
            TokenProvider, connect,
        },
    },
    types::Stage,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message as Frame,
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

/// Returns `token-1`, `token-2`, …, each valid for `lifetime_s` seconds.
struct Tokens {
    given: AtomicU32,
    lifetime_s: u64,
}

impl Tokens {
    fn lasting(lifetime_s: u64) -> Arc<Self> {
        Arc::new(Self { given: AtomicU32::new(0), lifetime_s })
    }
}

#[async_trait]
impl TokenProvider for Tokens {
    async fn access(&self) -> Result<Access, TokenError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let number = self.given.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Access {
            token: format!("token-{number}"),
            pair_id: "demo".into(),
            device_id: Some("phone".into()),
            exp: Some(now + self.lifetime_s),
            ice_servers: Vec::new(),
            clock_skew: None,
        })
    }
}

struct Server {
    listener: TcpListener,
    echo_subprotocol: bool,
}

struct Socket {
    frames: WebSocketStream<TcpStream>,
    token: String,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener, echo_subprotocol: true }
    }

    fn url(&self) -> String {
        format!("http://{}", self.listener.local_addr().unwrap())
    }

    fn config(&self) -> ClientConfig {
        self.config_with(Tokens::lasting(300))
    }

    fn config_with(&self, tokens: Arc<dyn TokenProvider>) -> ClientConfig {
        let backoff = Backoff::new(Duration::ZERO, 1);
        ClientConfig { backoff, ..ClientConfig::new(self.url(), tokens) }
    }

    /// Accepts the next socket.
    #[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
    async fn accept(&self) -> Socket {
        let (stream, _) = self.listener.accept().await.unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let token = Arc::clone(&seen);
        let echo = self.echo_subprotocol;
        let frames = accept_hdr_async(stream, move |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/api/signal");
            let authorization = request.headers()["authorization"].to_str().unwrap();
            token.lock().unwrap().push_str(authorization.strip_prefix("Bearer ").unwrap());
            if echo {
                assert_eq!(request.headers()["sec-websocket-protocol"], "orion.v1");
                let echoed = HeaderValue::from_static("orion.v1");
                response.headers_mut().insert("sec-websocket-protocol", echoed);
            }
            Ok(response)
        })
        .await;
        let token = seen.lock().unwrap().clone();
        Socket { frames: frames.expect("an upgrade"), token }
    }

    /// Answers the next request with plain HTTP, and returns the request.
    async fn answer(&self, status: &str, headers: &str, body: &str) -> String {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !complete(&request) {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "incomplete request");
        }
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        // The client may close the connection before the end of a response that is too long.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.shutdown().await;
        String::from_utf8(request).unwrap()
    }
}

/// Whether a request is complete, including its body.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

impl Socket {
    async fn send(&mut self, body: Body) {
        self.text(&Message::new("demo".into(), body).to_json()).await;
    }

    async fn text(&mut self, text: &str) {
        self.frames.send(Frame::text(text)).await.unwrap();
    }

    async fn receive(&mut self) -> Body {
        loop {
            match self.frames.next().await.unwrap().unwrap() {
                Frame::Text(text) => {
                    let message = Message::parse(&text).unwrap();
                    assert_eq!(message.pair_id.as_str(), "demo");
                    return message.body;
                }
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.frames.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = self.frames.next().await {}
    }
}

fn offer(sdp: &str) -> Body {
    Body::Offer { sdp: sdp.into() }
}

async fn connected(events: &mut mpsc::Receiver<ClientEvent>) -> bool {
    match events.recv().await.unwrap() {
        ClientEvent::Connected { pair_id, again, .. } => {
            assert_eq!(pair_id.as_str(), "demo");
            again
        }
        other => panic!("{other:?}"),
    }
}

async fn message(events: &mut mpsc::Receiver<ClientEvent>) -> Body {
    match events.recv().await.unwrap() {
        ClientEvent::Message(message) => message.body,
        other => panic!("{other:?}"),
    }
}

async fn disconnected(events: &mut mpsc::Receiver<ClientEvent>) -> (Option<u16>, String) {
    match events.recv().await.unwrap() {
        ClientEvent::Disconnected { code, reason, .. } => (code, reason),
        other => panic!("{other:?}"),
    }
}

async fn closed(events: &mut mpsc::Receiver<ClientEvent>) -> (Option<u16>, Option<ClientError>) {
    match events.recv().await.unwrap() {
        ClientEvent::Closed { code, error, .. } => {
            assert!(events.recv().await.is_none(), "`Closed` is the last event");
            (code, error)
        }
        other => panic!("{other:?}"),
    }
}

/// Connects to a server that is up.
async fn start(
    server: &Server,
    config: ClientConfig,
) -> (ClientHandle, mpsc::Receiver<ClientEvent>, Socket) {
    let (handle, mut events) = connect(config);
    let socket = server.accept().await;
    assert!(!connected(&mut events).await);
    (handle, events, socket)
}

/// The error of a failed first attempt.
async fn failure(config: ClientConfig) -> ClientError {
    let (_handle, mut events) = connect(config);
    closed(&mut events).await.1.expect("an error")
}

#[tokio::test]
async fn messages_are_delivered_in_both_directions_and_garbage_is_ignored() {
    let server = Server::start().await;
    let (handle, mut events, mut socket) = start(&server, server.config()).await;
    assert_eq!(socket.token, "token-1");
    handle.send(offer("v=0")).unwrap();
    assert_eq!(socket.receive().await, offer("v=0"));
    for garbage in [
        "",
        "{",
        "[]",
        "null",
        r#"{"t":"later","pairId":"demo"}"#,
        r#"{"t":"offer","pairId":"demo"}"#,
        r#"{"t":"offer","pairId":"other","sdp":"x"}"#,
        r#"{"t":5}"#,
    ] {
        socket.text(garbage).await;
    }
    socket
        .text(&format!(r#"{{"t":"answer","pairId":"demo","sdp":"{}"}}"#, "x".repeat(70_000)))
        .await;
    socket.frames.send(Frame::binary(vec![0xFF; 100])).await.unwrap();
    socket.frames.send(Frame::Ping("are you there".into())).await.unwrap();
    socket.send(Body::Answer { sdp: "v=1".into(), offer: None }).await;
    assert_eq!(message(&mut events).await, Body::Answer { sdp: "v=1".into(), offer: None });
    assert_eq!(socket.frames.next().await.unwrap().unwrap(), Frame::Pong("are you there".into()));
}

#[tokio::test]
async fn a_server_without_subprotocol_and_hello_is_accepted() {
    let server = Server { echo_subprotocol: false, ..Server::start().await };
    let (handle, mut events) = connect(server.config());
    // The first upgrade requests the subprotocol, and the response does not contain it.
    server.accept().await;
    let mut socket = server.accept().await;
    connected(&mut events).await;
    handle.send(offer("v=0")).unwrap();
    assert_eq!(socket.receive().await, offer("v=0"));
}

#[tokio::test]
async fn a_lost_socket_is_replaced_with_a_fresh_token() {
    let server = Server::start().await;
    let (_handle, mut events, socket) = start(&server, server.config()).await;
    socket.close(1012, "restart").await;
    assert_eq!(disconnected(&mut events).await, (Some(1012), "restart".into()));
    let socket = server.accept().await;
    assert_eq!(socket.token, "token-2");
    assert!(connected(&mut events).await);
    drop(socket);
    assert_eq!(disconnected(&mut events).await.0, None);
    assert_eq!(server.accept().await.token, "token-3");
    assert!(connected(&mut events).await);
}

#[tokio::test]
async fn the_client_reconnects_after_its_token_expired() {
    let server = Server::start().await;
    let (_handle, mut events, socket) = start(&server, server.config()).await;
    socket.close(4001, "token expired").await;
    assert_eq!(disconnected(&mut events).await.0, Some(4001));
    assert_eq!(server.accept().await.token, "token-2");
}

#[tokio::test]
async fn codes_from_4500_on_are_final() {
    let server = Server::start().await;
    for (code, stage) in [(4502, Stage::Signaling), (4500, Stage::Token), (4999, Stage::Signaling)]
    {
        let (handle, mut events, socket) = start(&server, server.config()).await;
        socket.close(code, "go away").await;
        let (seen, error) = closed(&mut events).await;
        let error = error.unwrap();
        assert_eq!((seen, error.stage()), (Some(code), stage));
        assert!(error.to_string().contains("go away") && !error.remedy().is_empty());
        assert_eq!(handle.send(offer("v=0")), Err(SendError::Closed));
    }
}

#[tokio::test]
async fn the_token_of_a_live_socket_is_renewed() {
    let server = Server::start().await;
    let tokens = Tokens::lasting(2);
    let (_handle, mut events, mut socket) = start(&server, server.config_with(tokens)).await;
    for expected in ["token-2", "token-3"] {
        assert_eq!(socket.receive().await, Body::Auth { token: expected.into() });
        let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 2;
        socket.send(Body::AuthOk { exp }).await;
        match events.recv().await.unwrap() {
            ClientEvent::Renewed { exp: renewed, .. } => assert_eq!(renewed, exp),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_expiry_in_hello_schedules_the_renewal() {
    let server = Server::start().await;
    let (_handle, mut events, mut socket) = start(&server, server.config()).await;
    let hello = Body::Hello {
        conn_id: "c".into(),
        device_id: "phone".into(),
        polite: false,
        peer_present: true,
        exp: 1,
        relays: vec!["state".into()],
    };
    socket.send(hello.clone()).await;
    assert_eq!(message(&mut events).await, hello);
    assert_eq!(socket.receive().await, Body::Auth { token: "token-2".into() });
}

/// Extreme expiry times in the server's messages.
#[tokio::test]
async fn no_number_from_the_server_ends_the_client() {
    let server = Server::start().await;
    for exp in [u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 53, 0] {
        let tokens = Tokens::lasting(300);
        let (handle, mut events, mut socket) = start(&server, server.config_with(tokens)).await;
        let hello = Body::Hello {
            conn_id: "c".into(),
            device_id: "phone".into(),
            polite: false,
            peer_present: true,
            exp,
            relays: Vec::new(),
        };
        socket.send(hello.clone()).await;
        assert_eq!(message(&mut events).await, hello);
        socket.send(Body::AuthOk { exp }).await;
        match events.recv().await.unwrap() {
            ClientEvent::Renewed { exp: renewed, .. } => assert_eq!(renewed, exp),
            other => panic!("{other:?}"),
        }
        for number in ["18446744073709551616", "-1", "1e999", "true"] {
            let text = format!(r#"{{"t":"auth-ok","pairId":"demo","exp":{number}}}"#);
            socket.text(&text).await;
        }
        socket.text(r#"{"t":"auth-ok","pairId":"demo","exp":4000000000.5}"#).await;
        let renewed = events.recv().await.unwrap();
        assert!(
            matches!(renewed, ClientEvent::Renewed { exp: 4_000_000_000, .. }),
            "fractions are truncated: {renewed:?}"
        );
        // The client still runs and receives the next message.
        socket.send(Body::Offer { sdp: "v=0".into() }).await;
        assert_eq!(message(&mut events).await, Body::Offer { sdp: "v=0".into() });
        handle.close().await;
    }
}

#[tokio::test]
async fn messages_wait_for_the_next_socket_up_to_a_limit() {
    let server = Server::start().await;
    let (handle, mut events, socket) = start(&server, server.config()).await;
    drop(socket);
    disconnected(&mut events).await;
    let mut queued = 0;
    while handle.send(offer(&queued.to_string())).is_ok() {
        queued += 1;
    }
    assert_eq!(handle.send(offer("more")), Err(SendError::QueueFull));
    let mut socket = server.accept().await;
    for number in 0..queued {
        assert_eq!(socket.receive().await, offer(&number.to_string()));
    }
}

#[tokio::test]
async fn closing_sends_the_queued_messages() {
    let server = Server::start().await;
    let (handle, mut events, mut socket) = start(&server, server.config()).await;
    for number in 0..20 {
        handle.send(offer(&number.to_string())).unwrap();
    }
    handle.send(Body::Bye { reason: None }).unwrap();
    let closing = tokio::spawn(async move { handle.close().await });
    for number in 0..20 {
        assert_eq!(socket.receive().await, offer(&number.to_string()));
    }
    assert_eq!(socket.receive().await, Body::Bye { reason: None });
    match socket.frames.next().await {
        Some(Ok(Frame::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Normal),
        other => panic!("{other:?}"),
    }
    while let Some(Ok(_)) = socket.frames.next().await {}
    closing.await.unwrap();
    assert!(closed(&mut events).await.1.is_none());
}

#[tokio::test]
async fn closing_ends_a_client_whose_events_are_not_read() {
    let server = Server::start().await;
    let (handle, events, mut socket) = start(&server, server.config()).await;
    for _ in 0..2000 {
        socket.send(offer("v=0")).await;
    }
    let reading =
        tokio::spawn(async move { while let Some(Ok(_)) = socket.frames.next().await {} });
    handle.close().await;
    reading.await.unwrap();
    drop(events);
}

#[tokio::test]
async fn dropping_the_handle_closes_the_client() {
    let server = Server::start().await;
    let (handle, mut events, socket) = start(&server, server.config()).await;
    drop(handle);
    let Socket { mut frames, .. } = socket;
    assert!(matches!(frames.next().await, Some(Ok(Frame::Close(_)))));
    while let Some(Ok(_)) = frames.next().await {}
    assert!(closed(&mut events).await.1.is_none());
}

#[tokio::test]
async fn a_socket_without_pongs_is_abandoned() {
    let server = Server::start().await;
    let short = Duration::from_millis(50);
    let config = ClientConfig { ping_every: short, pong_within: short, ..server.config() };
    let (_handle, mut events, socket) = start(&server, config).await;
    // The socket stays open but is never read, so pings are not answered.
    let (code, reason) = disconnected(&mut events).await;
    assert_eq!((code, reason.as_str()), (None, "the server does not answer pings"));
    drop(socket);
}

#[tokio::test]
async fn a_socket_with_pongs_is_kept() {
    let server = Server::start().await;
    let ping_every = Duration::from_millis(20);
    let config = ClientConfig { ping_every, ..server.config() };
    let (_handle, mut events, mut socket) = start(&server, config).await;
    for _ in 0..5 {
        assert!(matches!(socket.frames.next().await, Some(Ok(Frame::Ping(_)))));
    }
    socket.send(offer("v=0")).await;
    assert_eq!(message(&mut events).await, offer("v=0"));
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once() {
    let server = Server::start().await;
    let body = r#"{"code":"bad-token","message":"signature does not match"}"#;
    let (_handle, mut events) = connect(server.config());
    assert!(server.answer("401 Unauthorized", "", body).await.contains("Bearer token-1"));
    let socket = server.accept().await;
    assert_eq!(socket.token, "token-2");
    connected(&mut events).await;
    drop(socket);
    disconnected(&mut events).await;
    for token in ["Bearer token-3", "Bearer token-4"] {
        assert!(server.answer("401 Unauthorized", "", body).await.contains(token));
    }
    let error = closed(&mut events).await.1.unwrap();
    assert_eq!(error.stage(), Stage::Token);
    let text = error.to_string();
    assert!(text.contains("401 bad-token: signature does not match"), "{text}");
    assert!(!text.contains("token-4"));
}

#[tokio::test]
async fn errors_of_a_rejected_upgrade_show_the_servers_message() {
    let server = Server::start().await;
    for (status, headers, body, expected, remedy) in [
        ("403 Forbidden", "", r#"{"code":"not-yours","message":"m"}"#, "403 not-yours: m", "pair"),
        ("404 Not Found", "", "nothing here", "404 Not Found: nothing here", "/api/signal"),
        (
            "426 Upgrade Required",
            "",
            "",
            "426 Upgrade Required: the response has no explanation",
            "proxies",
        ),
        ("429 Too Many Requests", "Retry-After: 7\r\n", "", "429 Too Many", "wait 7 s"),
        ("503 Service Unavailable", "", r#"{"code":"down","message":"m"}"#, "503 down: m", "later"),
    ] {
        let (error, _) =
            tokio::join!(failure(server.config()), server.answer(status, headers, body));
        assert_eq!(
            (error.stage(), error.code()),
            (Stage::Signaling, format!("http-{}", &status[..3]))
        );
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.remedy().contains(remedy), "{}", error.remedy());
    }
}

#[tokio::test]
async fn a_server_without_websocket_is_reported() {
    let server = Server::start().await;
    let (error, _) = tokio::join!(failure(server.config()), server.answer("200 OK", "", "hello"));
    assert!(matches!(error, ClientError::NotWebSocket { .. }), "{error}");
    let other = async {
        let (mut stream, _) = server.listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await.unwrap();
        stream
    };
    let (error, _) = tokio::join!(failure(server.config()), other);
    assert!(matches!(error, ClientError::NotWebSocket { .. }), "{error}");
}

#[tokio::test]
async fn the_steps_of_connecting_are_timed() {
    let server = Server::start().await;
    let (_client, mut events) = connect(server.config());
    let _socket = server.accept().await;
    let ClientEvent::Connected { timings, clock_skew, .. } = events.recv().await.unwrap() else {
        panic!("not connected")
    };
    // A token was fetched; there is no TLS with `ws://`.
    assert!(timings.token.is_some() && timings.tls.is_none(), "{timings:?}");
    assert!(!timings.tcp.is_zero() && !timings.upgrade.is_zero(), "{timings:?}");
    assert_eq!(clock_skew, None, "no response had a Date header");
}

#[tokio::test]
async fn the_remedy_for_a_rejected_token_includes_the_clock_skew() {
    let server = Server::start().await;
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let config = server.config_with(Arc::new(Once));
    let (error, _) = tokio::join!(failure(config), server.answer("401 Unauthorized", date, ""));
    assert_eq!(error.code(), "http-401");
    assert!(error.remedy().contains("days ahead of the server's"), "{}", error.remedy());
}

/// A token source that cannot renew its token.
struct Once;

#[async_trait]
impl TokenProvider for Once {
    async fn access(&self) -> Result<Access, TokenError> {
        Tokens::lasting(300).access().await
    }

    fn renews(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn failures_before_http_have_different_codes() {
    let server = Server::start().await;
    let tls = ClientConfig { url: server.url().replace("http", "wss"), ..server.config() };
    let plain = async {
        let (mut stream, _) = server.listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let (error, _) = tokio::join!(failure(tls), plain);
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Tls, "tls-plain-text"), "{error}");
    assert!(error.remedy().contains(&server.url().replace("http", "ws")), "{}", error.remedy());

    // The server closes the connection during the TLS handshake.
    let tls = ClientConfig { url: server.url().replace("http", "wss"), ..server.config() };
    let hang_up = async { drop(server.listener.accept().await.unwrap()) };
    let (error, ()) = tokio::join!(failure(tls), hang_up);
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Tls, "tls-failed"), "{error}");

    let unknown = ClientConfig { url: "ws://no-such-host.invalid".into(), ..server.config() };
    let error = failure(unknown).await;
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Dns, "dns-failed"), "{error}");
    assert!(error.to_string().contains("no-such-host.invalid"));

    let scheme = ClientConfig { url: "ftp://127.0.0.1".into(), ..server.config() };
    assert_eq!(failure(scheme).await.stage(), Stage::Config);

    let config = server.config();
    let url = server.url().replace("http", "ws");
    drop(server);
    let error = failure(config).await;
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Signaling, "tcp-refused"));
    assert!(error.to_string().contains(&url), "{error}");
    assert!(error.remedy().contains("`orion-peer serve` is running at 127.0.0.1:"));
}

#[tokio::test]
async fn the_attempt_times_out_on_a_silent_server() {
    let server = Server::start().await;
    let connect_within = Duration::from_millis(50);
    let error = failure(ClientConfig { connect_within, ..server.config() }).await;
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_failed_first_attempt_can_be_retried() {
    let server = Server::start().await;
    let config = ClientConfig { retry_first: true, ..server.config() };
    let (_handle, mut events) = connect(config);
    server.answer("503 Service Unavailable", "", "").await;
    assert!(disconnected(&mut events).await.1.contains("503"));
    let socket = server.accept().await;
    assert_eq!(socket.token, "token-2");
    assert!(!connected(&mut events).await);
}

fn token_client(server: &Server) -> TokenClient {
    TokenClient::new(&server.url(), "login-token", "phone".into(), Some("demo".into())).unwrap()
}

#[tokio::test]
async fn a_token_is_fetched_according_to_the_contract() {
    let server = Server::start().await;
    let client = token_client(&server);
    let body = r#"{"token":"a.b.c","expiresAt":"2030-01-01T00:00:00Z","expiresIn":300,"pairId":"demo",
        "iceServers":[{"urls":["stun:s:3478"]},{"urls":"turn:t:3478","username":"u","credential":"c"}]}"#;
    let (answer, request) = tokio::join!(client.fetch(), server.answer("200 OK", "", body));
    let answer = answer.unwrap();
    assert_eq!((answer.token.as_str(), answer.ice_servers.len()), ("a.b.c", 2));
    assert!(request.starts_with("POST /api/auth/webrtc-token HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer login-token\r\n"), "{request}");
    assert!(request.ends_with(r#"{"deviceId":"phone","pairId":"demo"}"#), "{request}");
    let (access, _) = tokio::join!(client.access(), server.answer("200 OK", "", body));
    let access = access.unwrap();
    assert_eq!((access.exp, access.ice_servers.len()), (None, 2));
    assert_eq!(access.clock_skew, None);
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let (access, _) = tokio::join!(client.access(), server.answer("200 OK", date, body));
    let skew = access.unwrap().clock_skew.expect("the server's clock is in 1994");
    assert!(skew > 9e8, "{skew}");
}

#[tokio::test]
async fn errors_of_the_token_api_have_different_codes_and_remedies() {
    let server = Server::start().await;
    let client = token_client(&server);
    let said = r#"{"code":"c-1","message":"m-1"}"#;
    for (status, headers, body, is_final, remedy) in [
        ("400 Bad Request", "", said, true, "--device"),
        ("401 Unauthorized", "", said, true, "log in again"),
        (
            "401 Unauthorized",
            "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            said,
            true,
            "days ahead of",
        ),
        ("403 Forbidden", "", said, true, "active pair"),
        ("429 Too Many Requests", "Retry-After: 9\r\n", said, false, "wait 9 s"),
        ("503 Service Unavailable", "", said, false, "later"),
        ("500 Internal Server Error", "", said, false, "log"),
        (
            "429 Too Many Requests",
            "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n",
            said,
            false,
            "wait 30 s",
        ),
        ("302 Found", "", said, false, "log"),
    ] {
        let (error, _) = tokio::join!(client.fetch(), server.answer(status, headers, body));
        let error = error.unwrap_err();
        assert_eq!((error.stage(), error.is_final()), (Stage::Token, is_final), "{error}");
        assert!(error.to_string().contains(&format!("{} c-1: m-1", &status[..3])), "{error}");
        assert_eq!(error.code(), format!("token-http-{}", &status[..3]));
        assert!(error.remedy().contains(remedy), "{status}: {}", error.remedy());
        assert!(!error.to_string().contains("login-token"));
    }
}

#[tokio::test]
async fn redirects_of_the_token_api_are_followed_only_on_its_host() {
    let server = Server::start().await;
    let client = token_client(&server);
    let body = r#"{"token":"a.b.c","pairId":"demo"}"#;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Moved"] {
        let moved = async {
            server.answer(status, "Location: /v2/token?x=1\r\n", "").await;
            server.answer("200 OK", "", body).await
        };
        let (answer, request) = tokio::join!(client.fetch(), moved);
        assert_eq!(answer.unwrap().token, "a.b.c", "{status}");
        assert!(request.starts_with("POST /v2/token?x=1 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer login-token\r\n"), "{request}");
    }
    for target in ["http://127.0.0.1:1/", "https://other.example/api?secret=hush"] {
        let headers = format!("Location: {target}\r\n");
        let (error, _) = tokio::join!(client.fetch(), server.answer("301 Moved", &headers, ""));
        let error = error.unwrap_err();
        let named = target.split('?').next().unwrap();
        assert!(error.to_string().contains(&format!("redirects to {named}")), "{error}");
        assert!(error.remedy().contains(&format!("--token-url {named}")), "{}", error.remedy());
        assert!(error.is_final() && !error.to_string().contains("hush"), "{error}");
    }
    let loops = async {
        for _ in 0..4 {
            server.answer("301 Moved", "Location: /again\r\n", "").await;
        }
    };
    let (error, ()) = tokio::join!(client.fetch(), loops);
    assert!(error.unwrap_err().to_string().contains("/again"));
}

#[tokio::test]
async fn the_error_of_a_redirected_socket_names_the_target() {
    let server = Server::start().await;
    let elsewhere = "Location: https://other.example/api/signal?t=hush\r\n";
    let (error, _) =
        tokio::join!(failure(server.config()), server.answer("301 Moved", elsewhere, ""));
    assert!(error.to_string().contains("redirects to wss://other.example/api/signal"), "{error}");
    assert!(!error.to_string().contains("hush"), "{error}");
    assert!(
        error.remedy().contains("--signal wss://other.example/api/signal"),
        "{}",
        error.remedy()
    );
    let (_handle, mut events) = connect(server.config());
    let request = server.answer("308 Permanent Redirect", "Location: /api/signal\r\n", "").await;
    assert!(request.starts_with("GET /api/signal "), "{request}");
    let _socket = server.accept().await;
    assert!(!connected(&mut events).await);
}

#[tokio::test]
async fn invalid_ice_servers_are_ignored() {
    let server = Server::start().await;
    let client = token_client(&server);
    let body = r#"{"token":"a.b.c","pairId":"demo","expiresIn":299.5,"iceServers":[null,
        {"url":"turn:old","username":"u","credential":"c"},{"urls":["turn:t",null]},7,{"urls":"stun:s"}]}"#;
    let (answer, _) = tokio::join!(client.fetch(), server.answer("200 OK", "", body));
    let answer = answer.unwrap();
    assert_eq!((answer.ice_servers.len(), answer.expires_in), (1, 299));
    assert_eq!(answer.ice_servers[0].urls, ["stun:s"]);
}

#[tokio::test]
async fn an_invalid_token_response_is_reported() {
    let server = Server::start().await;
    let client = token_client(&server);
    let long = " ".repeat(300_000);
    for body in ["", "<html>", "{}", r#"{"token":"","pairId":"demo"}"#, &long] {
        let (error, _) = tokio::join!(client.fetch(), server.answer("200 OK", "", body));
        let error = error.unwrap_err();
        assert!(matches!(error, TokenError::Answer { .. }), "{error}");
        assert!(error.remedy().contains("/api/auth/webrtc-token"));
    }
}

#[tokio::test]
async fn the_error_of_an_unreachable_token_api_has_its_stage() {
    let server = Server::start().await;
    let secured = server.url().replace("http", "https");
    let client = TokenClient::new(&secured, "login-token", "phone".into(), None).unwrap();
    let plain = async {
        let (mut stream, _) = server.listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    };
    let (error, _) = tokio::join!(client.fetch(), plain);
    let error = error.unwrap_err();
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Tls, "tls-plain-text"), "{error}");
    assert!(error.remedy().contains(&server.url()), "{}", error.remedy());
    let client = token_client(&server);
    let url = server.url();
    drop(server);
    let error = client.fetch().await.unwrap_err();
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Token, "tcp-refused"));
    assert!(error.to_string().contains(&url) && error.to_string().contains("refused"), "{error}");
    assert!(error.remedy().contains("orion-peer serve"));
    let unknown = "http://no-such-host.invalid";
    let client = TokenClient::new(unknown, "login-token", "phone".into(), None).unwrap();
    let error = client.fetch().await.unwrap_err();
    assert_eq!((error.stage(), error.code().as_str()), (Stage::Dns, "dns-failed"));
}

#[tokio::test]
async fn the_client_fails_with_the_message_of_the_token_api() {
    let server = Server::start().await;
    let body = r#"{"code":"not-yours","message":"no such pair"}"#;
    let config = server.config_with(Arc::new(token_client(&server)));
    let (error, _) = tokio::join!(failure(config), server.answer("403 Forbidden", "", body));
    assert_eq!(error.stage(), Stage::Token);
    assert!(error.to_string().contains("no such pair"), "{error}");
}
