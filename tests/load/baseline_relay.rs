//! A minimal signaling server as a baseline: axum's WebSocket, a JWT check (HS256) at the handshake, and rooms of two in
//! which every text is relayed to the peer. It has no pair store, limits, schema, pings or takeover. `scripts/load.sh`
//! compares the signaling server with it.
//!
//! `baseline-relay SECRET` prints its URL and runs until it is killed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    extract::{
        State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use tokio::{net::TcpListener, sync::mpsc};

/// Claims of a signaling token.
#[derive(serde::Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "pairId")]
    pair: String,
}

type Member = (String, mpsc::UnboundedSender<Message>);

struct Relay {
    key: DecodingKey,
    validation: Validation,
    rooms: Mutex<HashMap<String, Vec<Member>>>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let secret = std::env::args().nth(1).expect("usage: baseline-relay SECRET");
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_aud = false;
    let key = DecodingKey::from_secret(secret.as_bytes());
    let relay = Arc::new(Relay { key, validation, rooms: Mutex::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
    println!("ws://{}/api/signal", listener.local_addr().expect("it is bound"));
    let router = Router::new().route("/api/signal", get(upgrade)).with_state(relay);
    let listener = listener.tap_io(|stream| {
        // As in the signaling server; otherwise messages wait for acknowledgements.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await.expect("it serves until it is killed");
}

async fn upgrade(
    State(relay): State<Arc<Relay>>,
    headers: HeaderMap,
    websocket: WebSocketUpgrade,
) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    let checked = jsonwebtoken::decode::<Claims>(token, &relay.key, &relay.validation);
    let Ok(checked) = checked else { return StatusCode::UNAUTHORIZED.into_response() };
    let claims = checked.claims;
    websocket.protocols(["orion.v1"]).on_upgrade(move |socket| serve(relay, claims, socket))
}

async fn serve(relay: Arc<Relay>, claims: Claims, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let (sender, mut outbox) = mpsc::unbounded_channel();
    let join = |rooms: &mut HashMap<String, Vec<Member>>| {
        rooms.entry(claims.pair.clone()).or_default().push((claims.sub.clone(), sender.clone()));
    };
    join(&mut relay.rooms.lock().expect("no holder panics"));
    let writer = async {
        while let Some(message) = outbox.recv().await {
            if sink.send(message).await.is_err() {
                break;
            }
        }
    };
    let reader = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(_) = message {
                let rooms = relay.rooms.lock().expect("no holder panics");
                let others = rooms.get(&claims.pair).into_iter().flatten();
                for (_, peer) in others.filter(|(device, _)| *device != claims.sub) {
                    // A peer that just left gets nothing.
                    let _ = peer.send(message.clone());
                }
            }
        }
    };
    tokio::select! {
        () = writer => {}
        () = reader => {}
    }
    let mut rooms = relay.rooms.lock().expect("no holder panics");
    if let Some(members) = rooms.get_mut(&claims.pair) {
        members.retain(|(device, _)| *device != claims.sub);
        if members.is_empty() {
            rooms.remove(&claims.pair);
        }
    }
}
