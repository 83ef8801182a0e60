//! The rooms of the faulty server, and its sockets.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::unix_now,
    check::wire::Stream,
    signaling::{
        server::fragments::{Fragments, is_flood},
        server::limits::{Limits, Rate},
    },
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message as Frame,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use super::{
    fault::Fault,
    faulty::{GRACE_S, PING_EVERY, PONG_WITHIN, Shared, parts},
};

/// Maximum number of messages queued for a socket.
const QUEUE: usize = 64;

/// Maximum number of held candidates.
const HELD: usize = 64;

/// Number of bad messages answered with an error.
const BAD_MESSAGES: usize = 4;

/// Number of messages beyond the limit answered with an error.
const FLOODS: usize = 10;

enum Out {
    Text(String),
    Ping,
    Close(Option<u16>),
}

/// A socket in a room.
struct Member {
    device: String,
    id: u64,
    tx: mpsc::UnboundedSender<Out>,
    queued: Arc<AtomicUsize>,
}

impl Member {
    fn say(&self, text: String) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        let _ = self.tx.send(Out::Text(text));
    }

    fn close(&self, code: Option<u16>) {
        let _ = self.tx.send(Out::Close(code));
    }
}

/// A room.
#[derive(Default)]
pub struct Room {
    members: Vec<Member>,
    held: HashMap<String, Vec<String>>,
    /// The device that offered last, until there is an answer.
    offerer: Option<String>,
    saw_offer: bool,
    delayed: Option<String>,
}

impl Room {
    /// Ends every socket.
    pub fn close_all(&mut self, code: Option<u16>) {
        self.members.drain(..).for_each(|member| member.close(code));
    }

    /// Ends every socket because the pair is revoked.
    pub fn revoke(&mut self) {
        for member in &self.members {
            for other in self.members.iter().filter(|other| other.id != member.id) {
                let left = json!({"t": "peer-left", "deviceId": other.device, "reason": "revoked"});
                member.say(left.to_string());
            }
        }
        self.close_all(Some(4503));
    }

    fn notify_others(&self, device: &str, what: &Value) {
        for member in self.members.iter().filter(|member| member.device != device) {
            member.say(what.to_string());
        }
    }

    fn relay(&mut self, fault: Fault, from: &str, t: &str, text: String) {
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let candidate = value["candidate"]["candidate"].as_str().unwrap_or_default().to_owned();
        if !self.members.iter().any(|member| member.device != from) {
            return self.hold(fault, from, t, text);
        }
        let glare = self.offerer.as_deref().is_some_and(|offerer| offerer != from);
        match t {
            "offer" if fault == Fault::DropsOffers => return,
            "offer" if fault == Fault::DropsGlare && glare => return,
            "answer" if fault == Fault::DropsAnswers => return,
            "bye" if fault == Fault::DropsBye => return,
            "state" if fault == Fault::DropsState => return,
            "ice" if fault == Fault::CandidateNeedsOffer && !self.saw_offer => return,
            "ice" if fault == Fault::DropsNull && value["candidate"].is_null() => return,
            "ice" if fault == Fault::SwapsTwo && candidate.contains(" 7 typ") => {
                self.delayed = Some(text);
                return;
            }
            "offer" => (self.offerer, self.saw_offer) = (Some(from.to_owned()), true),
            "answer" => self.offerer = None,
            _ => {}
        }
        let text = rewritten(fault, value, text);
        let texts = [Some(text), self.delayed.take()];
        let mut slow = Vec::new();
        for member in &self.members {
            if member.device == from && fault != Fault::Echo {
                continue;
            }
            for text in texts.iter().flatten() {
                member.say(text.clone());
            }
            if member.queued.load(Ordering::Relaxed) > QUEUE && fault != Fault::UnboundedQueue {
                member.close(Some(4003));
                slow.push((member.id, member.device.clone()));
            }
        }
        for (id, device) in slow {
            self.members.retain(|member| member.id != id);
            let left = json!({"t": "peer-left", "deviceId": device, "reason": "closed"});
            self.notify_others(&device, &left);
        }
    }

    fn hold(&mut self, fault: Fault, from: &str, t: &str, text: String) {
        let held = self.held.entry(from.to_owned()).or_default();
        let text = match t {
            _ if fault == Fault::HoldsNothing || fault == Fault::Bare => return,
            "offer" if fault != Fault::HoldsAllOffers => {
                held.clear();
                text
            }
            "ice" if fault == Fault::HoldsNoCandidates => return,
            "ice" if held.len() > HELD && fault != Fault::HoldsWithoutBound => return,
            "offer" | "ice" => text,
            _ => return,
        };
        held.push(rewritten(fault, serde_json::from_str(&text).unwrap_or_default(), text));
    }
}

fn rewritten(fault: Fault, mut value: Value, text: String) -> String {
    match fault {
        Fault::Reserializes => value.to_string(),
        Fault::LosesUfrag if value["candidate"].is_object() => {
            value["candidate"].as_object_mut().unwrap().remove("usernameFragment");
            value.to_string()
        }
        _ => text,
    }
}

/// One socket.
struct Connection {
    shared: Arc<Shared>,
    device: String,
    pair: String,
    id: u64,
    tx: mpsc::UnboundedSender<Out>,
    exp: watch::Sender<u64>,
    allowance: f64,
    last: Instant,
    floods: usize,
    bad: usize,
}

/// The close code with which a socket ends.
type Over = Option<u16>;

/// Runs one socket to its end.
pub async fn run(shared: Arc<Shared>, stream: Stream, claims: Value) {
    let config = WebSocketConfig::default().max_message_size(Some(8 << 20));
    let burst = if shared.has(Fault::FragmentsUncounted) { u32::MAX } else { 100 };
    let limits =
        Limits { messages: Rate::new(burst, Duration::from_millis(50)), ..Limits::default() };
    let stream = Fragments::new(stream, &limits);
    let ws = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (mut sink, mut stream) = ws.split();
    let (tx, mut rx) = mpsc::unbounded_channel();
    let queued = Arc::<AtomicUsize>::default();
    let exp = watch::Sender::new(claims["exp"].as_u64().unwrap_or(u64::MAX / 2));
    let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
    let (device, pair, id) = (text("sub"), text("pairId"), rand::random());
    let mut connection = Connection {
        shared,
        device,
        pair,
        id,
        tx: tx.clone(),
        exp,
        allowance: 100.0,
        last: Instant::now(),
        floods: 0,
        bad: 0,
    };
    if connection.shared.has(Fault::SmallBurst) {
        connection.allowance = 50.0;
    }
    connection.join(Arc::clone(&queued));
    let pong = watch::Sender::new(0_u64);
    let (alive, expired) = (connection.alive(pong.subscribe()), connection.expired());
    let writing = async {
        while let Some(out) = rx.recv().await {
            let frame = match out {
                Out::Text(text) => Frame::text(text),
                Out::Ping => Frame::Ping(Vec::new().into()),
                Out::Close(None) => return,
                Out::Close(Some(code)) => {
                    Frame::Close(Some(CloseFrame { code: code.into(), reason: "".into() }))
                }
            };
            let last = frame.is_close();
            if sink.send(frame).await.is_err() || last {
                return;
            }
            queued.fetch_sub(1, Ordering::Relaxed);
        }
    };
    let reading = async {
        loop {
            match stream.next().await {
                Some(Ok(Frame::Pong(_))) => pong.send_modify(|count| *count += 1),
                Some(Ok(frame)) => {
                    if let Err(over) = connection.on_frame(frame) {
                        return over;
                    }
                    // A burst must not fill the peer's queue before its task has run.
                    if connection.peer_is_behind() {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
                Some(Err(error)) => return connection.broken(&error),
                None => return None,
            }
        }
    };
    tokio::pin!(writing);
    let mut written = false;
    let (over, reason) = tokio::select! {
        () = &mut writing => {
            written = true;
            (None, "closed")
        }
        over = reading => (over, "closed"),
        () = alive => (Some(4002), "timeout"),
        () = expired => (Some(4001), "expired"),
    };
    connection.leave(reason);
    let over = if connection.shared.has(Fault::Bare) { None } else { over };
    let _ = tx.send(Out::Close(over));
    let patience = Duration::from_secs(3);
    if !written {
        let _ = timeout(patience, writing).await;
    }
    let _ = timeout(patience, async { while let Some(Ok(_)) = stream.next().await {} }).await;
}

impl Connection {
    fn has(&self, fault: Fault) -> bool {
        self.shared.has(fault)
    }

    fn say(&self, mut what: Value) {
        if !self.has(Fault::Bare) {
            what["pairId"] = json!(self.pair);
            let _ = self.tx.send(Out::Text(what.to_string()));
        }
    }

    fn peer_is_behind(&self) -> bool {
        let rooms = self.shared.rooms.lock().unwrap();
        let others = rooms.get(&self.pair).into_iter().flat_map(|room| &room.members);
        others
            .filter(|member| member.id != self.id)
            .any(|member| 2 * member.queued.load(Ordering::Relaxed) > QUEUE)
    }

    fn join(&self, queued: Arc<AtomicUsize>) {
        let mut rooms = self.shared.rooms.lock().unwrap();
        let room = rooms.entry(self.pair.clone()).or_default();
        let device = self.device.clone();
        let quiet = self.has(Fault::Bare);
        let code = if self.has(Fault::ReplacedIs4001) { 4001 } else { 4502 };
        if let Some(at) = room.members.iter().position(|member| member.device == device) {
            room.members.remove(at).close(Some(code).filter(|_| !quiet));
            let left = json!({"t": "peer-left", "deviceId": device, "reason": "replaced"});
            if !quiet {
                room.notify_others(&device, &left);
            }
        }
        let id = self.id.to_string();
        let conn = if self.has(Fault::SameConnId) { device.clone() } else { id };
        let present = !room.members.is_empty();
        let mut hello = json!({
            "t": "hello", "connId": conn, "deviceId": device, "exp": *self.exp.borrow(),
            "polite": if self.has(Fault::PoliteByOrder) { present } else { device == "mac" },
            "peerPresent": present && !self.has(Fault::NeverPresent), "relays": ["state"],
        });
        if self.has(Fault::HelloWithoutExp) {
            hello.as_object_mut().unwrap().remove("exp");
        }
        let member = Member { device: device.clone(), id: self.id, tx: self.tx.clone(), queued };
        if !quiet {
            member.queued.fetch_add(1, Ordering::Relaxed);
            self.say(hello);
            room.notify_others(
                &device,
                &json!({"t": "peer-joined", "deviceId": device, "connId": conn}),
            );
        }
        let held: Vec<String> = room
            .held
            .iter_mut()
            .filter(|(holder, _)| **holder != device)
            .flat_map(|(_, held)| std::mem::take(held))
            .collect();
        for text in held {
            member.say(text);
        }
        // Held messages do not count against the queue.
        member.queued.store(0, Ordering::Relaxed);
        room.members.push(member);
    }

    fn leave(&self, reason: &str) {
        let mut rooms = self.shared.rooms.lock().unwrap();
        let Some(room) = rooms.get_mut(&self.pair) else { return };
        let by_device = self.has(Fault::CleansUpByDevice);
        let mine = |member: &Member| {
            if by_device { member.device == self.device } else { member.id == self.id }
        };
        let before = room.members.len();
        room.members.retain(|member| !mine(member));
        if room.members.len() == before {
            return;
        }
        if !self.has(Fault::HoldsAfterLeaving) {
            room.held.remove(&self.device);
        }
        let wrong = self.has(Fault::LeftReason) && reason == "closed";
        let reason = if wrong { "gone" } else { reason };
        if !self.has(Fault::Bare) {
            let left = json!({"t": "peer-left", "deviceId": self.device, "reason": reason});
            room.notify_others(&self.device, &left);
        }
        if room.members.is_empty() && !self.has(Fault::HoldsAfterLeaving) {
            rooms.remove(&self.pair);
        }
    }

    /// Ends when a pong does not arrive in time.
    fn alive(&self, mut pong: watch::Receiver<u64>) -> impl Future<Output = ()> + use<> {
        let (tx, off) = (self.tx.clone(), !self.shared.pings || self.has(Fault::NeverPings));
        async move {
            if off {
                return std::future::pending().await;
            }
            loop {
                sleep(PING_EVERY).await;
                pong.mark_unchanged();
                let _ = tx.send(Out::Ping);
                if timeout(PONG_WITHIN, pong.changed()).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Ends when the token's expiry and grace period have elapsed.
    fn expired(&self) -> impl Future<Output = ()> + use<> {
        let (exp, never) = (self.exp.subscribe(), self.has(Fault::NeverExpires));
        async move {
            while never || unix_now() < *exp.borrow() + GRACE_S {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn broken(&self, error: &WsError) -> Over {
        match error {
            flood if is_flood(flood) => Some(4004),
            _ if self.has(Fault::DropsConnectionOnErrors) => None,
            WsError::Utf8(_) => Some(1007),
            WsError::Protocol(_) => Some(1002),
            _ => None,
        }
    }

    fn on_frame(&mut self, frame: Frame) -> Result<(), Over> {
        match frame {
            Frame::Text(text) => self.on_text(text.as_str()),
            Frame::Binary(_) if self.has(Fault::IgnoresBinary) => Ok(()),
            Frame::Binary(_) => Err(Some(1003)),
            Frame::Close(_) => Err(None),
            _ => Ok(()),
        }
    }

    fn meter(&mut self) -> Result<bool, Over> {
        let now = Instant::now();
        let burst = if self.has(Fault::SmallBurst) { 50.0 } else { 100.0 };
        let gained = (now - self.last).as_secs_f64() * 20.0;
        self.allowance = (self.allowance + gained).min(burst);
        self.last = now;
        if self.allowance >= 1.0 || self.has(Fault::NoFloodLimit) {
            self.allowance -= 1.0;
            return Ok(true);
        }
        self.floods += 1;
        if self.floods > FLOODS {
            return Err(Some(4004));
        }
        self.say(json!({"t": "error", "code": "rate-limited", "message": "too many"}));
        Ok(false)
    }

    fn bad_message(&mut self) -> Result<(), Over> {
        self.bad += 1;
        if self.bad > BAD_MESSAGES && !self.has(Fault::EndlessSchemaErrors) {
            return Err(Some(4504));
        }
        if !self.has(Fault::SilentAboutErrors) {
            self.say(json!({"t": "error", "code": "malformed", "message": "bad message"}));
        }
        Ok(())
    }

    fn relay(&self, pair: &str, t: &str, text: &str) {
        if let Some(room) = self.shared.rooms.lock().unwrap().get_mut(pair) {
            room.relay(self.shared.fault, &self.device, t, text.to_owned());
        }
    }

    fn on_text(&mut self, text: &str) -> Result<(), Over> {
        let limit = match self.shared.fault {
            Fault::SmallLimit => 32 << 10,
            Fault::LargeLimit => 1 << 20,
            _ => 64 << 10,
        };
        if text.len() > limit {
            return Err(Some(1009));
        }
        if !self.meter()? {
            return Ok(());
        }
        if text.contains("18446744073709551615") && self.has(Fault::ClosesOnLargeNumbers) {
            return Err(Some(1011));
        }
        let twice = |key: &&str| text.matches(*key).count() > 1;
        let keys = [r#""t":"#, r#""sdp":"#, r#""pairId":"#];
        if keys.iter().any(twice) && !self.has(Fault::RelaysDuplicates) {
            return self.bad_message();
        }
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let (Some(t), Some(pair)) = (value["t"].as_str(), value["pairId"].as_str()) else {
            return self.bad_message();
        };
        if pair != self.pair {
            match self.shared.fault {
                Fault::RelaysBeforeChecking => self.relay(&self.pair, t, text),
                Fault::RoutesByMessage => {
                    self.relay(pair, t, text);
                    return Ok(());
                }
                _ => {}
            }
            return Err(Some(4501));
        }
        match t {
            "offer" | "answer" if value["sdp"].is_string() => self.relay(pair, t, text),
            "ice" if value.get("candidate").is_some() => self.relay(pair, t, text),
            "bye" | "state" => self.relay(pair, t, text),
            "auth" => return self.on_auth(text, value["token"].as_str().unwrap_or_default()),
            "hello" | "peer-joined" | "peer-left" => {
                if self.has(Fault::RelaysServerOnly) {
                    self.relay(pair, t, text);
                }
                return self.bad_message();
            }
            "offer" | "answer" | "ice" => return self.bad_message(),
            _ => {
                if self.has(Fault::RelaysUnknown) {
                    self.relay(pair, t, text);
                }
                return self.bad_message();
            }
        }
        Ok(())
    }

    fn on_auth(&self, text: &str, token: &str) -> Result<(), Over> {
        let claims = parts(token).and_then(|parts| self.shared.verify(token, parts));
        let claims = claims.ok_or(Some(4500))?;
        if claims["sub"] != self.device.as_str() && !self.has(Fault::AuthOfAnyDevice) {
            return Err(Some(4500));
        }
        if self.has(Fault::RelaysAuth) {
            self.relay(&self.pair, "auth", text);
        }
        let exp = claims["exp"].as_u64().unwrap_or_default();
        if !self.has(Fault::AuthForgotten) {
            self.exp.send_replace(exp);
        }
        if !self.has(Fault::AuthWithoutAnswer) {
            self.say(json!({"t": "auth-ok", "exp": exp}));
        }
        Ok(())
    }
}
