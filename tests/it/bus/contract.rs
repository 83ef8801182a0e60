//! The contract's rules for a room, with the phone on one node and the Mac on another. The nodes
//! run in this process, so that tests can set their limits.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::{Policy, Verifier},
        secret::Secret,
        unix_now,
    },
    pairs::PairStore,
    server::{RunningServer, Server, ServerConfig},
    signaling::bus::BusConfig,
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest},
};

use super::{
    nodes::{Redis, SECRET},
    peers::token,
};
use crate::raw_http::HANG;

struct Nodes {
    redis: Redis,
    servers: Vec<RunningServer>,
    store: Arc<dyn PairStore>,
}

impl Nodes {
    /// Starts two nodes that share a store, with configurations adjusted by `change`.
    async fn two(change: impl Fn(&mut ServerConfig)) -> Self {
        Self::with_prefixes(["orion:", "orion:"], change).await
    }

    async fn with_prefixes(prefixes: [&str; 2], change: impl Fn(&mut ServerConfig)) -> Self {
        let redis = Redis::start(&[]);
        let store = ServerConfig::dev().await.unwrap().store;
        let mut servers = Vec::new();
        for prefix in prefixes {
            let key = Key::from_secret_or_pem(&Secret::from(SECRET)).unwrap();
            let keys = SigningKeys::new(vec![key]).unwrap();
            let mut config = ServerConfig::dev().await.unwrap();
            config.verifier = Verifier::new(keys, Policy::default());
            config.store = Arc::clone(&store);
            config.signaling.bus = Some(BusConfig::new(&redis.url(), None, prefix, None).unwrap());
            change(&mut config);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            servers.push(Server::start(config, listener).await.unwrap());
        }
        Self { redis, servers, store }
    }

    async fn join(&self, node: usize, device: &str) -> Client {
        self.join_with(node, device, None).await.0
    }

    /// Joins, and also returns the `hello`.
    async fn join_with(&self, node: usize, device: &str, buffer: Option<u32>) -> (Client, Value) {
        let mut client = self.open(node, device, buffer).await;
        let hello = client.receive().await;
        assert_eq!(hello["t"], "hello", "hello is the first message");
        (client, hello)
    }

    async fn open(&self, node: usize, device: &str, buffer: Option<u32>) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        let server = &self.servers[node];
        let stream = socket.connect(server.local_addr()).await.unwrap();
        let mut request = server.signal_url().into_client_request().unwrap();
        let bearer = format!("Bearer {}", token(device)).parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        let (ws, _) = timeout(HANG, client_async(request, stream)).await.unwrap().unwrap();
        Client(ws)
    }

    /// The phone on the first node, the Mac on the second.
    async fn both(&self) -> (Client, Client) {
        let mut phone = self.join(0, "phone").await;
        let mac = self.join(1, "mac").await;
        assert_eq!(phone.receive().await["t"], "peer-joined");
        (phone, mac)
    }
}

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn receive_text(&mut self) -> String {
        loop {
            match timeout(HANG, self.0.next()).await.expect("nothing arrives") {
                Some(Ok(Frame::Text(text))) => return text.to_string(),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    async fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text().await).unwrap()
    }

    /// Reads up to the close frame; returns its code and the messages before it.
    async fn ending(&mut self) -> (u16, Vec<Value>) {
        let mut messages = Vec::new();
        loop {
            match timeout(HANG, self.0.next()).await.expect("nothing arrives") {
                Some(Ok(Frame::Close(Some(frame)))) => return (frame.code.into(), messages),
                Some(Ok(Frame::Text(text))) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }

    async fn send(&mut self, text: impl Into<String>) {
        self.0.send(Frame::text(text.into())).await.unwrap();
    }
}

fn offer(sdp: &str) -> String {
    json!({"t": "offer", "pairId": "demo", "sdp": sdp}).to_string()
}

fn candidate(number: usize) -> String {
    json!({"t": "ice", "pairId": "demo", "candidate": {"candidate": number.to_string()}})
        .to_string()
}

#[tokio::test]
async fn hello_and_peer_left_are_the_same_as_on_one_node() {
    let nodes = Nodes::two(|_| {}).await;
    let (mut phone, hello) = nodes.join_with(0, "phone", None).await;
    assert_eq!((&hello["polite"], &hello["peerPresent"]), (&json!(false), &json!(false)));
    let (mut mac, hello) = nodes.join_with(1, "mac", None).await;
    assert_eq!((&hello["polite"], &hello["peerPresent"]), (&json!(true), &json!(true)));
    let joined = phone.receive().await;
    assert_eq!((&joined["t"], &joined["deviceId"]), (&json!("peer-joined"), &json!("mac")));
    assert_eq!(joined["connId"], hello["connId"]);

    // The Mac connects again, on the phone's node.
    let (mut newer, hello) = nodes.join_with(0, "mac", None).await;
    assert_eq!(hello["peerPresent"], true);
    assert_eq!(mac.ending().await, (4502, vec![]));
    let left = phone.receive().await;
    assert_eq!((&left["t"], &left["reason"]), (&json!("peer-left"), &json!("replaced")));
    let joined = phone.receive().await;
    assert_eq!(joined["connId"], hello["connId"]);
    newer.send(offer("here")).await;
    assert_eq!(phone.receive_text().await, offer("here"));

    // The Mac moves back to the other node, and the room continues.
    let mut third = nodes.join(1, "mac").await;
    assert_eq!(newer.ending().await.0, 4502);
    for t in ["peer-left", "peer-joined"] {
        assert_eq!(phone.receive().await["t"], t);
    }
    phone.send(offer("there")).await;
    assert_eq!(third.receive_text().await, offer("there"));
    phone.0.close(None).await.unwrap();
    let left = third.receive().await;
    assert_eq!((&left["t"], &left["reason"]), (&json!("peer-left"), &json!("closed")));
}

#[tokio::test]
async fn texts_arrive_unchanged_and_in_order_and_glare_is_relayed() {
    let nodes = Nodes::two(|_| {}).await;
    let (mut phone, mut mac) = nodes.both().await;
    let odd = "{ \"pairId\":\"demo\",\n\t\"t\":\"offer\",\"sdp\":\"v=0\\r\\n\u{1f980}\", \"later\":[1,2]}\n\n";
    let large = offer(&"x".repeat(60 * 1024));
    for text in [odd, &large] {
        phone.send(text).await;
        assert_eq!(mac.receive_text().await, text);
    }
    phone.send(offer("the phone's")).await;
    mac.send(offer("the Mac's")).await;
    assert_eq!(phone.receive_text().await, offer("the Mac's"));
    assert_eq!(mac.receive_text().await, offer("the phone's"));
}

#[tokio::test]
async fn a_burst_reaches_a_peer_that_reads() {
    let nodes = Nodes::two(|_| {}).await;
    let (mut phone, mut mac) = nodes.both().await;
    // Almost the burst that a socket may send, all on one thread.
    for number in 0..95 {
        phone.send(candidate(number)).await;
    }
    for number in 0..95 {
        assert_eq!(mac.receive_text().await, candidate(number));
    }
}

#[tokio::test]
async fn the_latest_offer_and_64_candidates_are_held_for_the_other_node() {
    let nodes = Nodes::two(|_| {}).await;
    let mut phone = nodes.join(0, "phone").await;
    phone.send(offer("old")).await;
    phone.send(candidate(0)).await;
    phone.send(offer("new")).await;
    for number in 1..=65 {
        phone.send(candidate(number)).await;
    }
    let refused = phone.receive().await;
    assert_eq!((&refused["t"], &refused["code"]), (&json!("error"), &json!("peer-absent")));
    let mut mac = nodes.join(1, "mac").await;
    assert_eq!(mac.receive_text().await, offer("new"));
    for number in 1..=64 {
        assert_eq!(mac.receive_text().await, candidate(number));
    }
    assert_eq!(phone.receive().await["t"], "peer-joined");
    phone.send(offer("live")).await;
    assert_eq!(mac.receive_text().await, offer("live"), "nothing else was held");
}

#[tokio::test]
async fn a_slow_peer_on_another_node_is_closed_with_4003_without_affecting_the_sender() {
    let nodes = Nodes::two(|config| {
        config.signaling.limits.messages.burst = 10_000.try_into().unwrap();
    })
    .await;
    let mut phone = nodes.join(0, "phone").await;
    let (mac, _) = nodes.join_with(1, "mac", Some(4096)).await;
    assert_eq!(phone.receive().await["t"], "peer-joined");
    let large = offer(&"x".repeat(60 * 1024));
    let left = loop {
        // The Mac reads nothing; the phone sends until it receives a message.
        phone.send(&large).await;
        if let Ok(text) = timeout(Duration::from_millis(5), phone.receive_text()).await {
            break text;
        }
    };
    let left: Value = serde_json::from_str(&left).unwrap();
    assert_eq!((&left["t"], &left["reason"]), (&json!("peer-left"), &json!("closed")));
    let closed = nodes.servers[1].signaling().counters().closed.get("4003");
    assert_eq!(closed, 1);
    drop(mac);
}

#[tokio::test]
async fn a_revocation_detected_by_one_node_closes_the_sockets_on_both() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let nodes = Nodes::two(|config| {
        // Only the first node polls during the test.
        let is_first = first.swap(false, std::sync::atomic::Ordering::Relaxed);
        let poll = if is_first { Duration::from_millis(100) } else { Duration::from_hours(1) };
        config.signaling.timings.revocation_poll = poll;
    })
    .await;
    let (mut phone, mut mac) = nodes.both().await;
    assert!(nodes.store.revoke(&"demo".into(), unix_now()).await.unwrap());
    for client in [&mut phone, &mut mac] {
        let (code, before) = client.ending().await;
        assert_eq!(code, 4503);
        let [left] = &before[..] else { panic!("{before:?}") };
        assert_eq!((&left["t"], &left["reason"]), (&json!("peer-left"), &json!("revoked")));
    }
}

#[tokio::test]
async fn deployments_with_different_prefixes_are_separate() {
    let nodes = Nodes::with_prefixes(["one:", "two:"], |_| {}).await;
    let mut phone = nodes.join(0, "phone").await;
    let (_mac, hello) = nodes.join_with(1, "mac", None).await;
    assert_eq!(hello["peerPresent"], false);
    phone.send(offer("held")).await;
    let (_own, hello) = nodes.join_with(0, "mac", None).await;
    assert_eq!(hello["peerPresent"], true);
    let keys = nodes.redis.ask("KEYS *");
    assert!(keys.contains("one:pair:{demo}:ios") && keys.contains("two:pair:{demo}:mac"), "{keys}");
}

/// Redis does not lose messages, but a proxy in front of it may.
#[tokio::test]
async fn a_gap_in_the_messages_closes_the_receiver_with_1012() {
    let nodes = Nodes::two(|_| {}).await;
    let (mut phone, mut mac) = nodes.both().await;
    phone.send(offer("first")).await;
    assert_eq!(mac.receive_text().await, offer("first"));
    // As if the phone's node had sent the third message.
    let lease =
        |role: &str| nodes.redis.ask(&format!("HMGET orion:pair:{{demo}}:{role} node conn"));
    let words = |answer: String| -> Vec<String> {
        let words = answer.lines().filter(|line| line.len() == 36);
        words.map(str::to_owned).collect()
    };
    let (phones, macs) = (words(lease("ios")), words(lease("mac")));
    let envelope = format!(
        "{{\"t\":\"relay\",\"pair\":\"demo\",\"role\":\"ios\",\"from\":\"{}\",\"to\":\"{}\",\"seq\":\"3\",\"held\":false}}",
        phones[1], macs[1]
    );
    let quoted = envelope.replace('"', "\\\"");
    let reply = nodes.redis.ask(&format!("PUBLISH orion:node:{} \"{quoted}\"", macs[0]));
    assert!(reply.starts_with(":1"), "{reply}");
    assert_eq!(mac.ending().await, (1012, vec![]));
    assert_eq!(phone.receive().await["t"], "peer-left");
    let (_, counters) = nodes.servers[1].signaling().bus().unwrap();
    assert_eq!(counters.closed.get("gap"), 1);
}

/// A delayed claim must not close a newer socket of the device on another node.
#[tokio::test]
async fn a_late_claim_is_rejected_with_1012() {
    let nodes = Nodes::two(|_| {}).await;
    // Simulates a socket that arrived long after this one.
    let key = "orion:pair:{demo}:ios";
    nodes.redis.ask(&format!("HSET {key} node n conn newer device phone epoch 8000000000000000"));
    let mut phone = nodes.open(0, "phone", None).await;
    assert_eq!(phone.ending().await, (1012, vec![]), "the client may reconnect, unlike after 4502");
    assert!(nodes.redis.ask(&format!("HGET {key} conn")).contains("newer"));
    let (_, counters) = nodes.servers[0].signaling().bus().unwrap();
    assert_eq!(counters.closed.get("late"), 1);
}
