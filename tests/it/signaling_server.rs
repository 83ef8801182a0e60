//! The signaling server over real sockets on loopback: every row of the contract's case table and
//! every close code.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::{
        jws::{Key, SigningKeys},
        secret::Secret,
        unix_now,
    },
    pairs::{Pair, PairStore, sqlite::SqlitePairs},
    proto::signaling::{MAX_MESSAGE_BYTES, Message},
    signaling::{
        server::Origins,
        server::limits::{Limits, Rate, Timings},
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message as Frame, client::IntoClientRequest, error::Error as WsError, error::ProtocolError,
    },
};

use crate::{
    raw_http::{Answer, HANG, request},
    rig::{Rig, rig},
    slow_store::Slow,
};

const PATH: &str = "GET /api/signal";

/// The header lines of a correct handshake, without a token.
const UPGRADE: [&str; 4] = [
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

impl Rig {
    async fn join(&self, device: &str) -> Client {
        let (client, hello) = self.join_with(&self.token(device), None).await;
        assert_eq!(hello["deviceId"], device);
        client
    }

    /// Joins with a token, and also returns the `hello`.
    async fn join_with(&self, token: &str, receive_buffer: Option<u32>) -> (Client, Value) {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let stream = socket.connect(self.server.local_addr()).await.unwrap();
        let mut request = self.server.signal_url().into_client_request().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        let (ws, _) = timeout(HANG, client_async(request, stream)).await.unwrap().unwrap();
        let mut client = Client { ws };
        let hello = client.receive().await;
        assert_eq!(hello["t"], "hello", "hello is the first message");
        (client, hello)
    }

    /// Requests the upgrade with additional header lines.
    async fn request_upgrade(&self, headers: &[&str]) -> Answer {
        self.upgrade_at(PATH, &[&UPGRADE, headers].concat()).await
    }

    async fn upgrade_at(&self, line: &str, headers: &[&str]) -> Answer {
        request(self.server.local_addr(), line, headers, "").await
    }

    async fn upgrade_with_token(&self, token: &str) -> Answer {
        self.request_upgrade(&[&format!("Authorization: Bearer {token}")]).await
    }

    fn closed(&self, code: &str) -> u64 {
        self.server.signaling().counters().closed.get(code)
    }
}

struct Client {
    ws: WebSocketStream<TcpStream>,
}

impl Client {
    async fn next(&mut self) -> Option<Result<Frame, WsError>> {
        timeout(HANG, self.ws.next()).await.expect("nothing arrives")
    }

    /// The next message.
    async fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text().await).unwrap()
    }

    async fn receive_text(&mut self) -> String {
        loop {
            match self.next().await {
                Some(Ok(Frame::Text(text))) => return text.to_string(),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// Reads up to the close frame; returns its code and the messages before it.
    async fn ending(&mut self) -> (u16, Vec<Value>) {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Some(Ok(Frame::Close(Some(frame)))) => {
                    // Further reads send the reply to the close frame.
                    while let Some(Ok(_)) = self.next().await {}
                    return (frame.code.into(), messages);
                }
                Some(Ok(Frame::Text(text))) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }

    async fn close_code(&mut self) -> u16 {
        self.ending().await.0
    }

    async fn send(&mut self, text: impl Into<String>) {
        self.ws.send(Frame::text(text.into())).await.unwrap();
    }

    /// Writes one frame with the given first byte, without checks.
    async fn send_raw(&mut self, first: u8, payload: &[u8]) {
        let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        self.ws.get_mut().write_all(&bytes).await.unwrap();
    }

    /// Sends an offer and checks that it arrives at `peer`, so both sockets are alive.
    async fn reaches(&mut self, peer: &mut Self) {
        let text = offer("are you there?");
        self.send(&text).await;
        assert_eq!(peer.receive_text().await, text);
    }
}

fn offer(sdp: &str) -> String {
    json!({"t": "offer", "pairId": "demo", "sdp": sdp}).to_string()
}

fn candidate(line: &str) -> String {
    json!({"t": "ice", "pairId": "demo", "candidate": {"candidate": line}}).to_string()
}

async fn both(rig: &Rig) -> (Client, Client) {
    let mut phone = rig.join("phone").await;
    let mac = rig.join("mac").await;
    assert_eq!(phone.receive().await["t"], "peer-joined");
    (phone, mac)
}

// The handshake.

#[tokio::test]
async fn tokens_are_checked_before_the_upgrade() {
    let rig = rig(|_| {}).await;
    let now = unix_now();
    let foreign = SigningKeys::new(vec![Key::hs256("k", &Secret::random()).unwrap()]).unwrap();
    let foreign = Rig { server: rig.server, keys: foreign };
    let forged = foreign.token("phone");
    let rig = Rig { keys: rig.keys, ..foreign };
    for (token, code) in [
        (String::from("nonsense"), "bad-token"),
        (forged, "bad-token"),
        (rig.token_until("phone", "demo", now - 60), "token-expired"),
        (rig.token_until("phone", "demo", now + 300), "bad-token"),
    ] {
        let answer = rig.upgrade_with_token(&token).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some(code)));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(!answer.body.contains(&token));
    }
    let none = rig.request_upgrade(&[]).await;
    assert_eq!((none.status, none.json()["code"].as_str()), (401, Some("token-missing")));
    assert_eq!(rig.server.signaling().counters().refused.get("bad-token"), 3);
    assert_eq!(rig.server.signaling().sockets(), 0);
}

#[tokio::test]
async fn third_devices_and_unknown_pairs_get_the_same_403() {
    let rig = rig(|_| {}).await;
    let exp = unix_now() + 200;
    let third = rig.upgrade_with_token(&rig.token("tv")).await;
    let unknown = rig.upgrade_with_token(&rig.token_until("phone", "nothing", exp)).await;
    assert_eq!((third.status, unknown.status), (403, 403));
    assert_eq!(third.body, unknown.body);
}

#[tokio::test]
async fn requests_that_are_not_websocket_upgrades_are_426_or_400() {
    let rig = rig(|_| {}).await;
    let bearer = format!("Authorization: Bearer {}", rig.token("phone"));
    for left_out in 0..3 {
        let mut headers = vec![bearer.as_str()];
        headers.extend(UPGRADE.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, h)| *h));
        let answer = rig.upgrade_at(PATH, &headers).await;
        assert_eq!(answer.status, 426, "{headers:?}");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        assert_eq!(answer.json()["code"], "upgrade-required");
    }
    for key in ["", "short", "bm90IHNpeHRlZW4gYnl0ZXM="] {
        let key = format!("Sec-WebSocket-Key: {key}");
        let headers = [UPGRADE[0], UPGRADE[1], UPGRADE[2], &key, &bearer];
        assert_eq!(rig.upgrade_at(PATH, &headers).await.status, 400, "{key}");
    }
    assert_eq!(rig.upgrade_at("POST /api/signal", &UPGRADE).await.status, 405);
}

#[tokio::test]
async fn a_token_in_a_subprotocol_is_accepted_and_only_orion_v1_is_echoed() {
    let rig = rig(|_| {}).await;
    let token = rig.token("phone");
    let header = format!("Sec-WebSocket-Protocol: chat, orion.v1, bearer.{token}");
    let answer = rig.request_upgrade(&[&header]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.header("sec-websocket-protocol"), Some("orion.v1"));
    // RFC 6455 §1.3.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let answer = rig.upgrade_with_token(&token).await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, None));
}

#[tokio::test]
async fn a_token_in_the_query_is_accepted_only_if_allowed() {
    for (allowed, status) in [(false, 401), (true, 101)] {
        let rig = rig(|config| config.signaling.allow_query_token = allowed).await;
        let line = format!("{PATH}?x=1&token={}", rig.token("phone"));
        assert_eq!(rig.upgrade_at(&line, &UPGRADE).await.status, status);
    }
}

#[tokio::test]
async fn origins_are_checked_against_the_list() {
    let listed = Origins::Listed(vec!["https://app.example".into()]);
    let rig = rig(|config| config.signaling.origins = listed).await;
    let bearer = format!("Authorization: Bearer {}", rig.token("phone"));
    for (origin, status) in
        [("https://app.example", 101), ("https://evil.example", 403), ("null", 403)]
    {
        let origin = format!("Origin: {origin}");
        assert_eq!(rig.request_upgrade(&[&bearer, &origin]).await.status, status, "{origin}");
    }
    assert_eq!(rig.request_upgrade(&[&bearer]).await.status, 101, "a native app sends no Origin");
}

#[tokio::test]
async fn too_many_handshakes_are_429() {
    let rare = Rate::new(2, Duration::from_hours(1));
    let rig = rig(|config| config.signaling.limits.handshakes = Some(rare)).await;
    for _ in 0..2 {
        assert_eq!(rig.request_upgrade(&[]).await.status, 401);
    }
    let answer = rig.request_upgrade(&[]).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn a_full_server_and_a_server_without_its_store_answer_503() {
    let one = Limits { sockets: 1, handshakes: None, ..Limits::default() };
    let full = rig(|config| config.signaling.limits = one).await;
    let _phone = full.join("phone").await;
    let answer = full.upgrade_with_token(&full.token("mac")).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("overloaded")));

    let store = SqlitePairs::in_memory().await.unwrap();
    let rig = rig(|config| config.store = Arc::new(store.clone())).await;
    store.close().await;
    let answer = rig.upgrade_with_token(&rig.token("phone")).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("store-down")));
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_slow_header_times_out() {
    let rig = rig(|config| config.header_within = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(rig.server.local_addr()).await.unwrap();
    stream.write_all(b"GET /api/signal HTTP/1.1\r\nHost: localhost\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(HANG, stream.read_to_end(&mut answer)).await;
    read.expect("the server does not close the connection").unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
}

// The room.

#[tokio::test]
async fn hello_contains_the_role_and_each_device_is_notified_of_the_other() {
    let rig = rig(|_| {}).await;
    let exp = unix_now() + 150;
    let (mut phone, hello) = rig.join_with(&rig.token_until("phone", "demo", exp), None).await;
    assert_eq!(
        (&hello["polite"], &hello["peerPresent"], &hello["exp"], &hello["pairId"]),
        (&json!(false), &json!(false), &json!(exp), &json!("demo"))
    );
    let (mut mac, hello) = rig.join_with(&rig.token("mac"), None).await;
    assert_eq!((&hello["polite"], &hello["peerPresent"]), (&json!(true), &json!(true)));
    let joined = phone.receive().await;
    assert_eq!(
        (&joined["t"], &joined["deviceId"], &joined["connId"]),
        (&json!("peer-joined"), &json!("mac"), &hello["connId"])
    );
    mac.ws.close(None).await.unwrap();
    let left = phone.receive().await;
    assert_eq!(
        left,
        json!({"pairId": "demo", "t": "peer-left", "deviceId": "mac", "reason": "closed"})
    );
}

#[tokio::test]
async fn messages_are_relayed_unchanged_and_in_order() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    let sent = [
        // A candidate before the offer is relayed as well.
        r#"{ "pairId":"demo" , "t":"ice","candidate":{"candidate":"c","sdpMid":"0"}, "x":[1] }"#,
        "{\"sdp\":\"v=0\\r\\n\\u00e9 é\",\"t\":\"offer\",\"pairId\":\"demo\"}",
        r#"{"t":"ice","pairId":"demo","candidate":null}"#,
        r#"{"t":"bye","pairId":"demo","reason":"done"}"#,
        r#"{"connection":"alive","fingerprint":"a798de8ee75aeb55","pairId":"demo","t":"state"}"#,
    ];
    for text in sent {
        phone.send(text).await;
    }
    for text in sent {
        assert_eq!(mac.receive_text().await, text);
    }
    let answer = r#"{"t":"answer","pairId":"demo","sdp":"v=0"}"#;
    mac.send(answer).await;
    assert_eq!(phone.receive_text().await, answer);
}

#[tokio::test]
async fn state_is_announced_in_hello_and_dropped_without_a_peer() {
    let rig = rig(|_| {}).await;
    let (mut phone, hello) = rig.join_with(&rig.token("phone"), None).await;
    assert_eq!(hello["relays"], json!(["state"]));
    phone.send(r#"{"t":"state","pairId":"demo","connection":"alive"}"#).await;
    phone.send(offer("after it")).await;
    let mut mac = rig.join("mac").await;
    assert_eq!(mac.receive().await["sdp"], "after it");
    assert_eq!(
        phone.receive().await["t"],
        "peer-joined",
        "an absent peer is not an error of the sender"
    );
    mac.send(r#"{"t":"state","pairId":"demo","connection":"dead"}"#).await;
    assert_eq!(mac.receive().await["code"], "malformed");
    mac.send(r#"{"t":"state","pairId":"demo","connection":"new"}"#).await;
    assert_eq!(phone.receive().await["connection"], "new");
    let counters = rig.server.signaling().counters();
    assert_eq!((counters.relayed.get("state"), counters.undeliverable.get("state")), (1, 1));
}

#[tokio::test]
async fn glare_is_relayed_in_both_directions() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    phone.send(offer("of the phone")).await;
    mac.send(offer("of the mac")).await;
    assert_eq!(phone.receive().await["sdp"], "of the mac");
    assert_eq!(mac.receive().await["sdp"], "of the phone");
}

#[tokio::test]
async fn an_offer_is_held_for_a_peer_that_joins_later() {
    let rig = rig(|_| {}).await;
    let mut phone = rig.join("phone").await;
    phone.send(offer("old")).await;
    phone.send(candidate("of old")).await;
    phone.send(offer("new")).await;
    for number in 0..70 {
        phone.send(candidate(&number.to_string())).await;
    }
    for _ in 64..70 {
        let error = phone.receive().await;
        assert_eq!((&error["code"], &error["ref"]), (&json!("peer-absent"), &json!("ice")));
    }
    let mut mac = rig.join("mac").await;
    assert_eq!(mac.receive().await["sdp"], "new");
    for number in 0..64 {
        assert_eq!(mac.receive().await["candidate"]["candidate"], number.to_string());
    }
    assert_eq!(phone.receive().await["t"], "peer-joined");
    phone.reaches(&mut mac).await;
}

#[tokio::test]
async fn a_held_offer_is_discarded_when_its_sender_leaves() {
    let rig = rig(|_| {}).await;
    let mut phone = rig.join("phone").await;
    phone.send(offer("gone")).await;
    phone.ws.close(None).await.unwrap();
    assert!(phone.next().await.is_none_or(|frame| frame.is_ok()));
    while rig.server.signaling().rooms() > 0 {
        tokio::task::yield_now().await;
    }
    let mut mac = rig.join("mac").await;
    let mut phone = rig.join("phone").await;
    assert_eq!(mac.receive().await["t"], "peer-joined");
    phone.reaches(&mut mac).await;
}

#[tokio::test]
async fn an_answer_without_a_peer_is_an_error() {
    let rig = rig(|_| {}).await;
    let mut mac = rig.join("mac").await;
    mac.send(r#"{"t":"answer","pairId":"demo","sdp":"v=0"}"#).await;
    let error = mac.receive().await;
    assert_eq!((&error["code"], &error["ref"]), (&json!("peer-absent"), &json!("answer")));
}

#[tokio::test]
async fn a_newer_socket_of_a_device_takes_over() {
    let rig = rig(|_| {}).await;
    let (mut old, mut mac) = both(&rig).await;
    let (mut new, hello) = rig.join_with(&rig.token("phone"), None).await;
    assert_eq!(mac.receive().await["reason"], "replaced");
    assert_eq!(mac.receive().await["connId"], hello["connId"]);
    assert_eq!(old.close_code().await, 4502);
    // The end of the old socket must not remove the new one.
    new.reaches(&mut mac).await;
    mac.reaches(&mut new).await;
}

// Messages.

#[tokio::test]
async fn a_message_for_another_pair_is_closed_with_4501() {
    for text in [
        r#"{"t":"offer","pairId":"other","sdp":"v=0"}"#,
        r#"{"t":"later","pairId":"other"}"#,
        r#"{"t":"offer","pairId":"other"}"#,
        r#"{"t":"auth","pairId":"other","token":"x"}"#,
    ] {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = both(&rig).await;
        phone.send(text).await;
        assert_eq!(phone.close_code().await, 4501, "{text}");
        assert_eq!(mac.receive().await["t"], "peer-left", "nothing was relayed");
    }
}

#[tokio::test]
async fn schema_errors_are_answered_and_then_closed_with_4504() {
    let wrong = [
        ("{", "malformed"),
        ("[]", "malformed"),
        (r#"{"t":"offer","sdp":"x"}"#, "malformed"),
        (r#"{"t":"offer","pairId":"demo"}"#, "malformed"),
        (r#"{"t":"offer","pairId":"demo","sdp":7}"#, "malformed"),
        (r#"{"t":"offer","pairId":"demo","pairId":"demo","sdp":"x"}"#, "malformed"),
        (r#"{"t":"ice","pairId":"demo"}"#, "malformed"),
        (r#"{"pairId":"demo"}"#, "malformed"),
        (r#"{"t":"later","pairId":"demo"}"#, "unknown-type"),
        (r#"{"t":"auth-ok","pairId":"demo","exp":1}"#, "server-only"),
        (
            r#"{"t":"hello","pairId":"demo","connId":"c","deviceId":"d","polite":true,"peerPresent":true,"exp":1}"#,
            "server-only",
        ),
        (r#"{"t":"peer-joined","pairId":"demo","deviceId":"d","connId":"c"}"#, "server-only"),
        (r#"{"t":"peer-left","pairId":"demo","deviceId":"d","reason":"closed"}"#, "server-only"),
        (r#"{"t":"error","pairId":"demo","code":"c","message":"m"}"#, "server-only"),
    ];
    for chunk in wrong.chunks(4) {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = both(&rig).await;
        for (text, code) in chunk {
            phone.send(*text).await;
            let error = phone.receive().await;
            assert_eq!((&error["t"], &error["code"]), (&json!("error"), &json!(code)), "{text}");
            Message::parse(&error.to_string()).expect("the error conforms to the contract");
        }
        phone.reaches(&mut mac).await;
    }
    let rig = rig(|_| {}).await;
    let mut phone = rig.join("phone").await;
    for _ in 0..5 {
        phone.send("{").await;
    }
    let (code, errors) = phone.ending().await;
    assert_eq!((code, errors.len()), (4504, 4));
}

#[tokio::test]
async fn binary_is_1003_invalid_utf8_is_1007_and_invalid_frames_are_1002() {
    for (first, payload, code) in [
        (0x82_u8, &b"binary"[..], 1003),
        (0x81, b"\xff\xfe", 1007),
        (0x81, b"\xed\xa0\x80", 1007),
        (0x83, b"reserved opcode", 1002),
        (0xc1, b"reserved bit", 1002),
        (0x80, b"nothing to continue", 1002),
    ] {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = both(&rig).await;
        phone.send_raw(first, payload).await;
        assert_eq!(phone.close_code().await, code, "{payload:?}");
        assert_eq!(mac.receive().await["reason"], "closed");
        assert_eq!(rig.closed(&code.to_string()), 1);
    }
}

#[tokio::test]
async fn more_than_64_kib_is_1009() {
    let frame = |bytes: usize| {
        let empty = offer("").len();
        offer(&"x".repeat(bytes - empty))
    };
    for bytes in [MAX_MESSAGE_BYTES + 1, 900 * 1024, 3 * 1024 * 1024] {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = both(&rig).await;
        let largest = frame(MAX_MESSAGE_BYTES);
        phone.send(&largest).await;
        assert_eq!(mac.receive_text().await.len(), MAX_MESSAGE_BYTES);
        // The server may close before everything is written, but its close frame must arrive.
        let _interrupted = phone.ws.send(Frame::text(frame(bytes))).await;
        assert_eq!(phone.close_code().await, 1009, "{bytes}");
    }
}

/// Parsers differ in which of two duplicate keys they use. Messages are relayed unchanged, so all
/// parsers must read them in the same manner.
#[tokio::test]
async fn messages_with_duplicate_keys_or_deep_nesting_are_not_relayed() {
    let deep = |depth| {
        let (open, shut) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"t":"offer","pairId":"demo","sdp":"deep","x":{open}{shut}}}"#)
    };
    let bad = [
        r#"{"t":"offer","pairId":"demo","sdp":"a","sdp":"b"}"#.to_owned(),
        r#"{"t":"offer","t":"offer","pairId":"demo","sdp":"a"}"#.into(),
        r#"{"t":"hello","t":"offer","pairId":"demo","sdp":"a"}"#.into(),
        r#"{"t":"offer","t":"peer-left","pairId":"demo","sdp":"a","deviceId":"phone"}"#.into(),
        r#"{"t":"offer","\u0074":"bye","pairId":"demo","sdp":"a"}"#.into(),
        r#"{"t":"offer","pairId":"other","pairId":"demo","sdp":"a"}"#.into(),
        r#"{"t":"offer","pairId":"demo","pairId":"other","sdp":"a"}"#.into(),
        r#"{"t":"answer","pairId":"demo","sdp":"a","offer":"1","offer":"2"}"#.into(),
        r#"{"t":"bye","pairId":"demo","reason":"a","reason":"b"}"#.into(),
        r#"{"t":"state","pairId":"demo","connection":"new","connection":"alive"}"#.into(),
        r#"{"t":"ice","pairId":"demo","candidate":null,"candidate":{"candidate":"c"}}"#.into(),
        r#"{"t":"ice","pairId":"demo","candidate":{"candidate":"a","candidate":"b"}}"#.into(),
        r#"{"t":"ice","pairId":"demo","candidate":{"candidate":"a","sdpMid":"0","sdpMid":"1"}}"#.into(),
        r#"{"t":"ice","pairId":"demo","candidate":{"candidate":"a","sdpMLineIndex":18446744073709551615}}"#.into(),
        r#"{"t":"offer","pairId":"demo","sdp":"\ud800"}"#.into(),
        r#"{"t":"offer","pairId":"demo","sdp":"a"}{"t":"bye","pairId":"demo"}"#.into(),
        "{\"t\":\"offer\",\"pairId\":\"demo\",\"sdp\":\"a\u{1}\"}".into(),
        deep(130),
        deep(20_000),
        "[".repeat(60_000),
    ];
    for chunk in bad.chunks(4) {
        let rig = rig(|_| {}).await;
        let (mut phone, mut mac) = both(&rig).await;
        for text in chunk {
            phone.send(text).await;
            let error = phone.receive().await;
            let start: String = text.chars().take(80).collect();
            assert_eq!(
                (&error["t"], &error["code"]),
                (&json!("error"), &json!("malformed")),
                "{start}"
            );
        }
        phone.reaches(&mut mac).await;
    }
    // Unknown members may contain numbers of any size.
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    let text = r#"{"t":"offer","pairId":"demo","sdp":"a","x":18446744073709551615,"y":-9223372036854775808,"z":1e308}"#;
    phone.send(text).await;
    assert_eq!(mac.receive_text().await, text);
}

#[tokio::test]
async fn fragments_are_assembled_and_a_flood_of_them_is_closed_with_4004() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    let text = offer("in pieces");
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(10).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let last = at + 1 == pieces.len();
        phone.send_raw(u8::from(at == 0) | if last { 0x80 } else { 0 }, piece).await;
        phone.send_raw(0x89, b"ping").await;
    }
    assert_eq!(mac.receive_text().await, text);

    // `01 80 00000000`, then `00 80 00000000` repeatedly: no message is ever complete.
    phone.send_raw(0x01, b"").await;
    let empty = [0x00, 0x80, 0, 0, 0, 0].repeat(1000);
    for _ in 0..20 {
        if phone.ws.get_mut().write_all(&empty).await.is_err() {
            break;
        }
    }
    let (code, messages) = phone.ending().await;
    assert_eq!(code, 4004);
    assert!(messages.iter().any(|message| message["code"] == "rate-limited"), "{messages:?}");
    assert_eq!(rig.closed("4004"), 1);
    assert_eq!(mac.receive().await["t"], "peer-left");
}

#[tokio::test]
async fn a_flood_of_pings_or_pongs_is_closed_with_4004() {
    for opcode in [0x89, 0x8a] {
        let rig = rig(|_| {}).await;
        let mut phone = rig.join("phone").await;
        let frames = [opcode, 0x80, 0, 0, 0, 0].repeat(300);
        // The server may close the socket before everything is written.
        let _ = phone.ws.get_mut().write_all(&frames).await;
        assert_eq!(phone.close_code().await, 4004, "{opcode:x}");
    }
}

#[tokio::test]
async fn a_flood_is_answered_with_errors_and_then_closed_with_4004() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    for number in 0..400 {
        let sent = phone.ws.send(Frame::text(candidate(&number.to_string()))).await;
        if sent.is_err() {
            break;
        }
    }
    let (code, errors) = phone.ending().await;
    assert_eq!(code, 4004);
    assert!(errors.len() >= 10, "{} errors", errors.len());
    assert!(errors.iter().all(|error| error["code"] == "rate-limited"));
    let mut relayed = 0;
    while mac.receive().await["t"] == "ice" {
        relayed += 1;
    }
    assert!(relayed >= 100, "only {relayed} messages of the burst of 100 were relayed");
}

#[tokio::test]
async fn a_burst_of_100_reaches_a_peer_that_reads() {
    let rig = rig(|_| {}).await;
    let (mut phone, mut mac) = both(&rig).await;
    let burst: Vec<String> = (0..100).map(|number| candidate(&number.to_string())).collect();
    for text in &burst {
        phone.ws.feed(Frame::text(text.clone())).await.unwrap();
    }
    phone.ws.flush().await.unwrap();
    for text in &burst {
        assert_eq!(mac.receive_text().await, *text);
    }
}

#[tokio::test]
async fn a_slow_peer_is_closed_with_4003_without_affecting_the_sender() {
    let rig = rig(|config| {
        config.signaling.limits.messages = Rate::new(1_000_000, Duration::from_millis(1));
        config.signaling.timings.close_within = HANG;
    })
    .await;
    let mut phone = rig.join("phone").await;
    let (mut mac, _) = rig.join_with(&rig.token("mac"), Some(4096)).await;
    assert_eq!(phone.receive().await["t"], "peer-joined");
    let big = json!({"t": "answer", "pairId": "demo", "sdp": "x".repeat(60 * 1024)}).to_string();
    let left = loop {
        phone.send(&big).await;
        if let Ok(Some(Ok(frame))) = timeout(Duration::from_millis(1), phone.ws.next()).await {
            break frame;
        }
    };
    assert!(left.to_text().unwrap().contains("peer-left"), "{left:?}");
    let mut mac_again = rig.join("mac").await;
    // Answers still in transit were dropped, or reach the new socket.
    while phone.receive().await["t"] != "peer-joined" {}
    let marker = offer("after the slow one");
    phone.send(&marker).await;
    while mac_again.receive_text().await != marker {}
    assert_eq!(mac.close_code().await, 4003);
}

// Time.

#[tokio::test]
async fn a_dead_peer_is_closed_with_4002_and_a_live_one_is_not() {
    let rig = rig(|config| {
        config.signaling.timings = Timings {
            ping_every: Duration::from_millis(50),
            pong_within: Duration::from_secs(2),
            close_within: HANG,
            ..Timings::default()
        };
    })
    .await;
    let (mut phone, mut mac) = both(&rig).await;
    // A client answers pings only while it reads, and the Mac does not read.
    assert_eq!(phone.receive().await["reason"], "timeout");
    assert_eq!(mac.close_code().await, 4002);
    let mut mac = rig.join("mac").await;
    phone.reaches(&mut mac).await;
}

#[tokio::test]
async fn an_expired_token_is_4001_after_the_grace_period() {
    let rig = rig(|config| config.signaling.timings.expiry_grace = Duration::ZERO).await;
    let mut phone = rig.join("phone").await;
    // Within the leeway: accepted in the handshake, but the grace period ends immediately.
    let late = rig.token_until("mac", "demo", unix_now() - 1);
    let (mut mac, _) = rig.join_with(&late, None).await;
    assert_eq!(mac.close_code().await, 4001);
    assert_eq!(phone.receive().await["t"], "peer-joined");
    assert_eq!(phone.receive().await["reason"], "expired");
}

#[tokio::test]
async fn connect_only_lets_a_socket_outlast_its_token() {
    let rig = rig(|config| {
        config.signaling.timings.expiry_grace = Duration::ZERO;
        config.signaling.connect_only = true;
    })
    .await;
    let mut phone = rig.join("phone").await;
    let late = rig.token_until("mac", "demo", unix_now() - 1);
    let (mut mac, _) = rig.join_with(&late, None).await;
    assert_eq!(phone.receive().await["t"], "peer-joined");
    for _ in 0..10 {
        phone.reaches(&mut mac).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_fresh_token_renews_a_live_socket() {
    let grace = Duration::from_secs(3);
    let rig = rig(|config| config.signaling.timings.expiry_grace = grace).await;
    let mut phone = rig.join("phone").await;
    let (mut mac, _) = rig.join_with(&rig.token_until("mac", "demo", unix_now()), None).await;
    assert_eq!(phone.receive().await["t"], "peer-joined");
    let exp = unix_now() + 180;
    let fresh = rig.token_until("mac", "demo", exp);
    mac.send(json!({"t": "auth", "pairId": "demo", "token": fresh}).to_string()).await;
    let renewed = mac.receive().await;
    assert_eq!(renewed, json!({"pairId": "demo", "t": "auth-ok", "exp": exp}));
    tokio::time::sleep(grace + Duration::from_millis(1500)).await;
    phone.reaches(&mut mac).await;
}

#[tokio::test]
async fn a_fresh_token_that_is_not_valid_is_4500() {
    let rig = rig(|_| {}).await;
    let now = unix_now();
    for token in [
        "nonsense".to_owned(),
        rig.token("mac"),
        rig.token_until("phone", "other", now + 200),
        rig.token_until("phone", "demo", now - 60),
    ] {
        let mut phone = rig.join("phone").await;
        phone.send(json!({"t": "auth", "pairId": "demo", "token": token}).to_string()).await;
        assert_eq!(phone.close_code().await, 4500);
    }
}

#[tokio::test]
async fn a_revoked_pair_is_4503_on_both_sockets() {
    let poll = Duration::from_millis(50);
    let rig = rig(|config| config.signaling.timings.revocation_poll = poll).await;
    let (mut phone, mut mac) = both(&rig).await;
    assert!(rig.server.store().revoke(&"demo".into(), unix_now()).await.unwrap());
    for client in [&mut phone, &mut mac] {
        let (code, messages) = client.ending().await;
        assert_eq!(code, 4503);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0]["reason"], "revoked");
    }
    assert_eq!(rig.upgrade_with_token(&rig.token("phone")).await.status, 403);
}

#[tokio::test]
async fn during_a_restart_sockets_are_closed_with_1012_and_new_ones_get_503() {
    let rig = rig(|config| config.signaling.timings.close_within = HANG).await;
    let mut phone = rig.join("phone").await;
    let (token, addr) = (rig.token("mac"), rig.server.local_addr());
    let stopping = tokio::spawn(rig.server.shutdown());
    // The phone does not read, so the drain waits for it.
    let bearer = format!("Authorization: Bearer {token}");
    let headers = [&UPGRADE[..], &[bearer.as_str()]].concat();
    loop {
        let answer = request(addr, PATH, &headers, "").await;
        if answer.status == 503 {
            assert_eq!(answer.json()["code"], "draining");
            break;
        }
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    assert_eq!(phone.close_code().await, 1012);
    timeout(HANG, stopping).await.expect("the server does not stop").unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "the server no longer listens");
}

/// The drain takes every free slot, so a concurrent handshake fails with the code `draining`.
#[tokio::test]
async fn a_drain_that_starts_during_a_handshake_is_reported_in_its_response() {
    let slow = Slow::new(1, 1000).await;
    slow.insert(&Pair::active("demo", "user", "phone", "mac", 7)).await.unwrap();
    let rig = rig(|config| {
        config.store = Arc::clone(&slow) as Arc<dyn PairStore>;
        config.signaling.timings.close_within = HANG;
    })
    .await;
    let _phone = rig.join("phone").await;
    let (token, addr) = (rig.token("mac"), rig.server.local_addr());
    let bearer = format!("Authorization: Bearer {token}");
    let headers = [&UPGRADE[..], &[bearer.as_str()]].concat();
    let drain = async {
        while slow.pair.asked.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let stopping = tokio::spawn(rig.server.shutdown());
        // Lets the drain start.
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.pair.gate.add_permits(1);
        stopping.abort_handle()
    };
    let (answer, stopping) = tokio::join!(request(addr, PATH, &headers, ""), drain);
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("draining")));
    stopping.abort();
}

#[tokio::test]
async fn a_dropped_server_closes_its_sockets() {
    let rig = rig(|_| {}).await;
    let mut phone = rig.join("phone").await;
    drop(rig.server);
    assert_eq!(phone.close_code().await, 1012);
}

#[tokio::test]
async fn a_broken_connection_is_reported_to_the_peer() {
    let rig = rig(|_| {}).await;
    let (phone, mut mac) = both(&rig).await;
    drop(phone);
    assert_eq!(mac.receive().await["reason"], "closed");
    mac.ws.close(None).await.unwrap();
    let end = loop {
        match mac.next().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(
        matches!(
            end,
            None | Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)))
        ),
        "{end:?}"
    );
    while rig.server.signaling().sockets() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rig.server.signaling().rooms(), 0, "an empty room is removed");
}
