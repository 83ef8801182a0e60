//! One room: both sockets of a pair in one task, and the messages sent and received on them.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Frame};

use super::{
    TIMER,
    plan::{self, Pace, Relay},
    shared::{Phase, RunState},
};
use crate::{
    pairs::Pair,
    proto::signaling::{Body, Message},
    signaling::client::{self, Socket},
    types::{DeviceId, Stage},
};

/// Age at which the token of an open socket is renewed; its lifetime is 300 s.
const RENEW_AFTER: Duration = Duration::from_secs(200);

/// Time without the server accepting a message after which the socket counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Timeout of the closing handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A socket that was closed or became unusable.
struct LostSocket {
    code: String,
    message: String,
}

/// One side of a room: the phone or the Mac.
struct Side {
    socket: Socket,
    device: DeviceId,
    /// Number of the next message to send, and of the next to receive.
    next: u64,
    expected: u64,
}

/// Messages being sent.
struct Sending {
    relay: Relay,
    from: Instant,
    /// Messages sent in this room so far.
    count: u64,
}

/// A room with both its sockets.
struct Room {
    shared: Arc<RunState>,
    index: u32,
    pair: Pair,
    sides: [Side; 2],
    sending: Option<Sending>,
    renew_at: Instant,
}

/// Opens the room and serves it until the run stops.
pub(super) async fn run(shared: Arc<RunState>, index: u32) {
    let mut phase = shared.phase.subscribe();
    let opened = tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase == Phase::Stop) => None,
        opened = open(&shared, index) => opened,
    };
    shared.room_settled();
    let Some(mut room) = opened else { return };
    let ended = room.live(&mut phase).await;
    if let Err(LostSocket { code, message }) = ended {
        let mut tally = shared.tallies.of(index);
        // The other socket has lost its peer and is closed with it.
        tally.lost += 1;
        tally.error(Stage::Signaling, code, &message, remedy_of_loss(&message));
    }
    join_all(room.sides.iter_mut().map(|side| timeout(CLOSE_TIMEOUT, side.socket.close(None))))
        .await;
}

fn remedy_of_loss(message: &str) -> &'static str {
    if message.contains("slow") || message.contains("waiting") {
        "lower --message-rate: messages arrive faster than they are read"
    } else {
        "see the server's log; if its limits were exceeded, raise them or lower --message-rate"
    }
}

/// Opens both sockets; `None` if one of them was rejected.
async fn open(shared: &Arc<RunState>, index: u32) -> Option<Room> {
    let pair = plan::pair(index);
    let mut sides = Vec::with_capacity(2);
    for (number, device) in (u64::from(index) * 2..).zip([&pair.ios, &pair.mac]) {
        let due = shared
            .plan
            .open_rate
            .map(|rate| shared.epoch + Duration::from_secs_f64(number as f64 / rate));
        if let Some(due) = due {
            sleep_until(due.into()).await;
        }
        // The semaphore is never closed.
        let _permit = shared.openings.acquire().await.ok()?;
        let start = due.map_or_else(Instant::now, |due| counted_from(due, Instant::now()));
        let sources = &shared.plan.sources;
        let source = (!sources.is_empty()).then(|| sources[number as usize % sources.len()]);
        match open_socket(shared, &pair, device, source).await {
            Ok(socket) => {
                shared.tallies.of(index).handshake(start.elapsed());
                sides.push(Side { socket, device: device.clone(), next: 0, expected: 0 });
            }
            Err(error) => {
                shared.tallies.of(index).refused(&error);
                return None;
            }
        }
    }
    let sides = <[Side; 2]>::try_from(sides).ok()?;
    let renew_at = Instant::now() + RENEW_AFTER;
    Some(Room { shared: Arc::clone(shared), index, pair, sides, sending: None, renew_at })
}

async fn open_socket(
    shared: &RunState,
    pair: &Pair,
    device: &DeviceId,
    source: Option<IpAddr>,
) -> Result<Socket, client::ClientError> {
    let plan = &shared.plan;
    // Signing is the only thing that can fail, and the keys were tested before the run.
    let token = plan.tokens.of(&pair.id, device).unwrap_or_default();
    client::open(&plan.signal, &token, &plan.trust, source, plan.open_within).await
}

/// The time from which to measure an action that was due at `due` and starts at `now`.
fn counted_from(due: Instant, now: Instant) -> Instant {
    if now.saturating_duration_since(due) <= TIMER { now } else { due }
}

impl Room {
    async fn live(&mut self, phase: &mut watch::Receiver<Phase>) -> Result<(), LostSocket> {
        loop {
            let due = self.due();
            let wake = due.unwrap_or(self.renew_at).min(self.renew_at);
            let [phone, mac] = &mut self.sides;
            tokio::select! {
                biased;
                changed = phase.changed() => {
                    let now = *phase.borrow_and_update();
                    match now {
                        _ if changed.is_err() => return Ok(()),
                        Phase::Open => {}
                        Phase::Relay { from } => self.begin(from).await?,
                        Phase::Drain => self.sending = None,
                        Phase::Stop => return Ok(()),
                    }
                }
                frame = phone.socket.next() => self.on_frame(0, frame).await?,
                frame = mac.socket.next() => self.on_frame(1, frame).await?,
                () = sleep_until(wake.into()) => {
                    if self.renew_at <= Instant::now() {
                        self.renew().await?;
                    } else if let Some(due) = due {
                        self.send_due(due).await?;
                    }
                }
            }
        }
    }

    /// When this room's next message is due.
    fn due(&self) -> Option<Instant> {
        let sending = self.sending.as_ref()?;
        let Pace::PerSecond(rate) = sending.relay.pace else { return None };
        let rooms = f64::from(self.shared.plan.rooms);
        let number = sending.count as f64 * rooms + f64::from(self.index);
        Some(sending.from + Duration::from_secs_f64(number / rate))
    }

    async fn begin(&mut self, from: Instant) -> Result<(), LostSocket> {
        let Some(relay) = self.shared.plan.relay else { return Ok(()) };
        self.sending = Some(Sending { relay, from, count: 0 });
        if let Pace::Window(window) = relay.pace {
            for _ in 0..window {
                self.send(0, Instant::now()).await?;
                self.send(1, Instant::now()).await?;
            }
        }
        Ok(())
    }

    async fn send_due(&mut self, due: Instant) -> Result<(), LostSocket> {
        let Some(sending) = &mut self.sending else { return Ok(()) };
        let side = (sending.count % 2) as usize;
        sending.count += 1;
        self.send(side, counted_from(due, Instant::now())).await
    }

    /// Sends a message that counts from `due`.
    async fn send(&mut self, side: usize, due: Instant) -> Result<(), LostSocket> {
        let Some(sending) = &self.sending else { return Ok(()) };
        let due = due.saturating_duration_since(self.shared.epoch).as_nanos() as u64;
        let number = self.sides[side].next;
        let text = plan::message(&self.pair.id, number, due, sending.relay.bytes);
        self.sides[side].next += 1;
        self.put(side, text).await?;
        self.shared.tallies.of(self.index).sent += 1;
        Ok(())
    }

    async fn put(&mut self, side: usize, text: String) -> Result<(), LostSocket> {
        let sent = timeout(STUCK_AFTER, self.sides[side].socket.send(Frame::text(text))).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(broken(&error)),
            Err(_) => Err(LostSocket {
                code: "stuck".into(),
                message: format!("the server accepted no data for {} s", STUCK_AFTER.as_secs()),
            }),
        }
    }

    async fn renew(&mut self) -> Result<(), LostSocket> {
        self.renew_at = Instant::now() + RENEW_AFTER;
        for side in 0..self.sides.len() {
            let device = &self.sides[side].device;
            let token = self.shared.plan.tokens.of(&self.pair.id, device).unwrap_or_default();
            let message = Message::new(self.pair.id.clone(), Body::Auth { token });
            self.put(side, message.to_json()).await?;
        }
        Ok(())
    }

    async fn on_frame(
        &mut self,
        side: usize,
        frame: Option<Result<Frame, WsError>>,
    ) -> Result<(), LostSocket> {
        let text = match frame {
            Some(Ok(Frame::Text(text))) => text,
            Some(Ok(Frame::Close(frame))) => {
                let (code, reason) = frame
                    .map_or((1005, String::new()), |f| (u16::from(f.code), f.reason.to_string()));
                let message = format!("the server closed a socket with {code} {reason}");
                return Err(LostSocket { code: format!("closed-{code}"), message });
            }
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return Err(broken(&error)),
            None => {
                let message = "the server disconnected without a close frame".into();
                return Err(LostSocket { code: "cut-off".into(), message });
            }
        };
        let Some((number, due)) = plan::read(&text) else {
            self.on_server_message(&text);
            return Ok(());
        };
        let now = self.shared.epoch.elapsed();
        let in_order = number == self.sides[side].expected;
        self.sides[side].expected = number + 1;
        {
            let mut tally = self.shared.tallies.of(self.index);
            tally.relayed(now.saturating_sub(Duration::from_nanos(due)));
            tally.disordered += u64::from(!in_order);
        }
        let windowed =
            self.sending.as_ref().is_some_and(|s| matches!(s.relay.pace, Pace::Window(_)));
        if windowed { self.send(1 - side, Instant::now()).await } else { Ok(()) }
    }

    /// Handles a message from the server itself; only errors matter.
    fn on_server_message(&self, text: &str) {
        if let Ok(Message { body: Body::Error { code, message, .. }, .. }) = Message::parse(text) {
            let remedy = if code == "rate-limited" {
                "use more --rooms, a lower --message-rate, or `serve --socket-rate`: the server \
                 limits a socket to 20 messages per second"
            } else {
                "see the server's log"
            };
            self.shared.tallies.of(self.index).error(Stage::Signaling, code, &message, remedy);
        }
    }
}

fn broken(error: &WsError) -> LostSocket {
    LostSocket { code: "broken".into(), message: format!("a socket broke: {error}") }
}
