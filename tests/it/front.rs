//! The server's front end, before its routes: TLS, limits, drain, logs, metrics.

mod limits;
mod log;
mod metrics;
mod tls;

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::unix_now,
    proto::signaling::PATH,
    server::{RunningServer, Server, ServerConfig, TOKEN_PATH},
    stun::stream::{Stream, dial},
    tls::Trust,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message as Frame, client::IntoClientRequest},
};

use crate::raw_http::HANG;

/// A dev server with a configuration modified by `change`.
async fn server(change: impl FnOnce(&mut ServerConfig)) -> RunningServer {
    let mut config = ServerConfig::dev().await.unwrap();
    change(&mut config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Server::start(config, listener).await.unwrap()
}

/// A response as received.
#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        let body = self.text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request on a separate connection, with or without TLS.
async fn ask(
    address: SocketAddr,
    trust: Option<&Trust>,
    line: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let exchange = async {
        let mut stream = dial(address, "127.0.0.1", trust, None).await.unwrap();
        let length = format!("Content-Length: {}", body.len());
        let fixed = ["Host: localhost", "Connection: close", length.as_str()];
        let lines = [&fixed[..], headers].concat().join("\r\n");
        let text = format!("{line} HTTP/1.1\r\n{lines}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A connection that ends without an announcement is not an error here.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let text = timeout(HANG, exchange).await.expect("the server hangs");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status: {text:?}")), text }
}

/// Requests an upgrade as `device` of the pair `demo`.
async fn knock(server: &RunningServer, device: &str, headers: &[&str]) -> Answer {
    let token = token(server, device);
    let bearer = format!("Authorization: Bearer {token}");
    let fixed = [
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &bearer,
    ];
    let headers = [&fixed[..], headers].concat();
    let line = format!("GET {PATH}");
    // `Connection: close` would prevent the upgrade.
    let exchange = async {
        let mut stream = dial(server.local_addr(), "127.0.0.1", None, None).await.unwrap();
        let text =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", headers.join("\r\n"));
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    let text = timeout(HANG, exchange).await.expect("the server hangs");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer { status: status.unwrap_or_else(|| panic!("no status: {text:?}")), text }
}

/// A signaling token of the pair `demo`.
fn token(server: &RunningServer, device: &str) -> String {
    server.verifier().mint(device.into(), "demo".into(), unix_now(), 200).unwrap().0
}

/// A token from the token API of a dev server.
async fn fetch(address: SocketAddr, trust: Option<&Trust>, device: &str) -> Value {
    let body = json!({"deviceId": device}).to_string();
    let headers = ["Authorization: Bearer dev", "Content-Type: application/json"];
    let answer = ask(address, trust, &format!("POST {TOKEN_PATH}"), &headers, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// A client that has joined.
struct Client(WebSocketStream<Stream>);

impl Client {
    async fn join(address: SocketAddr, trust: Option<&Trust>, token: &str) -> Self {
        let stream = dial(address, "127.0.0.1", trust, None).await.unwrap();
        let mut request = format!("ws://{address}{PATH}").into_client_request().unwrap();
        let bearer = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert("Authorization", bearer);
        let (socket, _) = timeout(HANG, client_async(request, stream)).await.unwrap().unwrap();
        let mut client = Self(socket);
        assert_eq!(client.receive().await["t"], "hello");
        client
    }

    async fn receive(&mut self) -> Value {
        loop {
            match timeout(HANG, self.0.next()).await.expect("no message arrives") {
                Some(Ok(Frame::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                other => panic!("a message was expected, not {other:?}"),
            }
        }
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Frame::text(message.to_string())).await.unwrap();
    }

    /// Sends an offer and waits until it arrives at `peer`.
    async fn reaches(&mut self, peer: &mut Self) {
        let offer = json!({"t": "offer", "pairId": "demo", "sdp": "are you there?"});
        self.send(offer.clone()).await;
        while peer.receive().await != offer {}
    }

    /// Reads up to the close frame, and returns its code.
    async fn close_code(&mut self) -> u16 {
        loop {
            match timeout(HANG, self.0.next()).await.expect("no frame arrives") {
                Some(Ok(Frame::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a close frame was expected, not {other:?}"),
            }
        }
    }
}

/// The phone and the Mac of the pair `demo`.
async fn both(address: SocketAddr, trust: Option<&Trust>) -> (Client, Client) {
    let token = async |device: &str| {
        let answer = fetch(address, trust, device).await;
        answer["token"].as_str().unwrap().to_owned()
    };
    let phone = Client::join(address, trust, &token("phone").await).await;
    let mac = Client::join(address, trust, &token("mac").await).await;
    (phone, mac)
}
