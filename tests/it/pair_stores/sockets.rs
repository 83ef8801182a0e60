//! A server with a given store, and a phone and a Mac connected to it.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::{login::LoginCheck, login::LoginError, unix_now},
    pairs::PairStore,
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest},
};

use super::uuid;
use crate::raw_http::{HANG, request};

/// The same user for every token.
struct OneUser;

#[async_trait::async_trait]
impl LoginCheck for OneUser {
    async fn user(&self, _token: &str, _now: u64) -> Result<String, LoginError> {
        Ok(uuid(1000))
    }
}

pub struct Rig {
    pub server: RunningServer,
    id: String,
}

impl Rig {
    /// A server that polls for revoked pairs every `poll`; its pair is `id`.
    pub async fn start(store: Arc<dyn PairStore>, poll: Duration, id: &str) -> Self {
        let mut config = ServerConfig::dev().await.unwrap();
        config.store = store;
        config.login = Some(Arc::new(OneUser));
        config.signaling.timings.revocation_poll = poll;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server::start(config, listener).await.unwrap();
        Self { server, id: id.to_owned() }
    }

    fn token(&self, device: &str) -> String {
        let verifier = self.server.verifier();
        verifier.mint(device.into(), self.id.as_str().into(), unix_now(), 200).unwrap().0
    }

    /// The status of a handshake.
    pub async fn knock(&self, device: &str) -> u16 {
        let bearer = format!("Authorization: Bearer {}", self.token(device));
        let headers = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            &bearer,
        ];
        request(self.server.local_addr(), "GET /api/signal", &headers, "").await.status
    }

    /// The status of a request for a token.
    pub async fn ask(&self) -> u16 {
        self.ask_with(&json!({"deviceId": "phone", "pairId": self.id})).await
    }

    /// The status of a request for a token with this body.
    pub async fn ask_with(&self, body: &Value) -> u16 {
        let line = format!("POST {TOKEN_PATH}");
        let headers = ["Authorization: Bearer any", "Content-Type: application/json"];
        request(self.server.local_addr(), &line, &headers, &body.to_string()).await.status
    }

    /// Repeatedly sends values that no store accepts, and checks that other clients are still served.
    pub async fn other_clients_are_not_affected(&self) {
        let there = || self.server.signaling().counters().store.is_up();
        for _ in 0..3 {
            assert_eq!(self.ask_with(&json!({"deviceId": "a\u{0}b"})).await, 400);
            let named = json!({"deviceId": "phone", "pairId": "a\u{0}b"});
            assert_eq!(self.ask_with(&named).await, 400);
            assert_eq!(self.knock("a\u{0}b").await, 401, "a token with an invalid device id");
            assert_eq!((self.ask().await, self.knock("tv").await, there()), (200, 403, true));
        }
    }

    async fn health(&self) -> u16 {
        request(self.server.local_addr(), "GET /readyz", &[], "").await.status
    }

    /// Waits until tokens, handshakes and health all show that the store is down, or up.
    pub async fn until(&self, status: u16, device: &str) {
        let joined = if status == 200 { 101 } else { status };
        let see = async {
            while self.health().await != status
                || self.ask().await != status
                || self.knock(device).await != joined
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(3 * HANG, see).await.unwrap_or_else(|_| panic!("the status is never {status}"));
    }

    pub async fn join(&self, device: &str) -> Client {
        let addr = self.server.local_addr();
        let mut request = format!("ws://{addr}/api/signal").into_client_request().unwrap();
        let bearer = format!("Bearer {}", self.token(device));
        request.headers_mut().insert("authorization", bearer.parse().unwrap());
        let stream = TcpStream::connect(addr).await.unwrap();
        let (ws, _) = timeout(HANG, client_async(request, stream)).await.unwrap().unwrap();
        let mut client = Client { ws };
        assert_eq!(client.receive().await["t"], "hello");
        client
    }

    /// The phone and the Mac.
    pub async fn both(&self) -> (Client, Client) {
        let mut phone = self.join("phone").await;
        let mac = self.join("mac").await;
        assert_eq!(phone.receive().await["t"], "peer-joined");
        (phone, mac)
    }

    /// Sends an offer and waits until it arrives.
    pub async fn reaches(&self, from: &mut Client, to: &mut Client) {
        let offer = json!({"t": "offer", "pairId": self.id, "sdp": "there?"}).to_string();
        from.ws.send(Frame::text(offer)).await.unwrap();
        assert_eq!(to.receive().await["sdp"], "there?");
    }
}

pub struct Client {
    ws: WebSocketStream<TcpStream>,
}

impl Client {
    async fn frame(&mut self) -> Frame {
        let next = timeout(3 * HANG, self.ws.next()).await.expect("no frame arrives");
        next.expect("the socket ended").unwrap()
    }

    pub async fn receive(&mut self) -> Value {
        loop {
            match self.frame().await {
                Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    /// Reads up to the close frame, which must be 4503; `peer-left` may precede it.
    pub async fn is_revoked(&mut self) {
        loop {
            match self.frame().await {
                Frame::Close(Some(frame)) => return assert_eq!(u16::from(frame.code), 4503),
                Frame::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(message["reason"], "revoked", "{message}");
                }
                Frame::Ping(_) | Frame::Pong(_) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }
}
