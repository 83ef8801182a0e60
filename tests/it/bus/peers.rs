//! The two devices, with the real signaling client: the phone sends an offer in every new room, the
//! Mac answers, and both track whether they are connected.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use orion_peer::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::mint,
        secret::Secret,
        unix_now,
    },
    proto::{
        claims::Claims,
        signaling::{Body, LeaveReason},
    },
    signaling::client::{Backoff, ClientConfig, ClientEvent, ClientHandle, StaticToken, connect},
    types::ConnId,
};
use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::nodes::{Balancer, SECRET};

/// Timeout for two devices to connect: longer than a lease and its renewal.
const SETTLED_WITHIN: Duration = Duration::from_mins(1);

/// A token of `device` that outlasts the test.
pub fn token(device: &str) -> String {
    let keys = SigningKeys::new(vec![Key::from_secret_or_pem(&Secret::from(SECRET)).unwrap()]);
    let claims = Claims {
        sub: device.into(),
        pair_id: "demo".into(),
        exp: unix_now() + 290,
        iat: Some(unix_now()),
        nbf: None,
        iss: None,
        aud: None,
        jti: None,
    };
    mint(&keys.unwrap(), &claims).unwrap()
}

/// The state of a device.
#[derive(Debug, Default, Clone)]
pub struct Known {
    /// Its socket.
    pub conn: Option<ConnId>,
    /// The other device's socket, if announced by `peer-joined`.
    pub peer: Option<ConnId>,
    /// Whether the other device is present.
    pub present: bool,
    /// Number of the latest offer sent or received on this socket.
    pub offer: usize,
    /// Number of the latest answer sent or received on this socket.
    pub answer: usize,
    /// Number of candidates received since the latest offer.
    pub candidates: usize,
    /// Reasons of the `peer-left` messages.
    pub left: Vec<LeaveReason>,
    /// Close codes of its sockets.
    pub codes: Vec<Option<u16>>,
    /// Whether the other device sent bye.
    pub bye: bool,
    /// Reason that the client ended.
    pub closed: Option<String>,
}

pub struct Device {
    pub balancer: Balancer,
    pub handle: ClientHandle,
    pub known: watch::Receiver<Known>,
    task: JoinHandle<()>,
}

impl Drop for Device {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Device {
    /// Connects through a load balancer of its own.
    pub async fn start(device: &'static str, targets: Vec<std::net::SocketAddr>) -> Self {
        let balancer = Balancer::to(targets).await;
        let tokens = Arc::new(StaticToken::new(&token(device)).unwrap());
        let config = ClientConfig {
            retry_first: true,
            backoff: Backoff::new(Duration::from_millis(50), 1),
            connect_within: Duration::from_secs(2),
            ping_every: Duration::from_secs(1),
            pong_within: Duration::from_secs(2),
            ..ClientConfig::new(format!("ws://{}", balancer.address), tokens)
        };
        let (handle, mut events) = connect(config);
        let (state, known) = watch::channel(Known::default());
        let sender = handle.clone();
        let task = tokio::spawn(async move {
            // Continues over all sockets, so that answers to older offers can be recognized.
            let offers = Mutex::new(0);
            while let Some(event) = events.recv().await {
                state.send_modify(|known| handle_event(device, known, event, &sender, &offers));
            }
        });
        Self { balancer, handle, known, task }
    }

    /// Waits until `holds` returns true; `what` names the condition in the panic message.
    pub async fn wait(&mut self, what: &str, holds: impl Fn(&Known) -> bool) -> Known {
        let result = timeout(SETTLED_WITHIN, self.known.wait_for(holds)).await;
        if let Ok(Ok(known)) = result {
            return known.clone();
        }
        drop(result);
        panic!("timeout waiting for {what}: {:?}", self.now());
    }

    pub fn now(&self) -> Known {
        self.known.borrow().clone()
    }
}

fn handle_event(
    device: &str,
    known: &mut Known,
    event: ClientEvent,
    handle: &ClientHandle,
    offers: &Mutex<usize>,
) {
    let message = match event {
        ClientEvent::Message(message) => message,
        ClientEvent::Disconnected { code, .. } => {
            let Known { left, mut codes, bye, .. } = std::mem::take(known);
            codes.push(code);
            *known = Known { left, codes, bye, ..Known::default() };
            return;
        }
        ClientEvent::Closed { code, reason, .. } => {
            known.codes.push(code);
            known.closed = Some(reason);
            return;
        }
        _ => return,
    };
    let offer = |known: &mut Known| {
        let mut offers = offers.lock().unwrap();
        *offers += 1;
        (known.offer, known.answer, known.candidates) = (*offers, 0, 0);
        handle.send(Body::Offer { sdp: offers.to_string() }).unwrap();
        handle.send(Body::Ice { candidate: None }).unwrap();
    };
    match message.body {
        Body::Hello { conn_id, peer_present, .. } => {
            known.conn = Some(conn_id);
            known.present = peer_present;
            if device == "phone" {
                offer(known);
            }
        }
        Body::PeerJoined { conn_id, .. } => {
            known.peer = Some(conn_id);
            known.present = true;
            if device == "phone" {
                offer(known);
            }
        }
        Body::PeerLeft { reason, .. } => {
            known.left.push(reason);
            known.present = false;
            known.peer = None;
        }
        Body::Offer { sdp } => {
            (known.offer, known.answer) = (sdp.parse().unwrap(), sdp.parse().unwrap());
            known.candidates = 0;
            handle.send(Body::Answer { sdp, offer: None }).unwrap();
            handle.send(Body::Ice { candidate: None }).unwrap();
        }
        Body::Answer { sdp, .. } => known.answer = sdp.parse().unwrap(),
        Body::Ice { .. } => known.candidates += 1,
        Body::Bye { .. } => known.bye = true,
        _ => {}
    }
}

/// Waits until both devices are in one room and have negotiated in it: the phone's latest offer
/// reached the Mac's current socket, and the answer and the candidates of both were delivered.
pub async fn connected(phone: &mut Device, mac: &mut Device, when: &str) {
    let complete = |phone: &Known, mac: &Known| {
        phone.offer > 0
            && phone.answer == phone.offer
            && mac.offer == phone.offer
            && phone.candidates > 0
            && mac.candidates > 0
            && phone.present
            && (mac.present || mac.offer > 0)
            && phone.peer.as_ref().is_none_or(|peer| Some(peer) == mac.conn.as_ref())
            && mac.peer.as_ref().is_none_or(|peer| Some(peer) == phone.conn.as_ref())
    };
    let settle = async {
        while !complete(&phone.now(), &mac.now()) {
            tokio::select! {
                changed = phone.known.changed() => changed.unwrap(),
                changed = mac.known.changed() => changed.unwrap(),
            }
        }
    };
    let settled = timeout(SETTLED_WITHIN, settle).await;
    assert!(settled.is_ok(), "{when}: not connected\n{:?}\n{:?}", phone.now(), mac.now());
}
