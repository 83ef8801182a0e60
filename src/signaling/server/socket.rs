//! One live socket: reading, writing, pings, token expiry, and draining.
//!
//! These run concurrently in one task; the first to finish ends the socket. Writing never blocks
//! reading. Reading pauses only to let a peer or the bus catch up.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message as Frame};

use super::{
    Shared, end::End, fragments, identity::Identity, limits::Meters, outbox::Item, rooms::RoomLock,
    tap::Visit, websocket,
};
use crate::signaling::{
    room::{Kind, Relayed},
    text::Text,
};
use crate::{
    auth::{jwt::TokenError, unix_now},
    lock::locked,
    proto::signaling::{Body, LeaveReason, Message, ParseError, close},
    types::PairId,
};

/// Maximum length, in characters, of a client's text quoted in an error.
const QUOTE: usize = 120;

/// Frames read before yielding to other tasks; a quarter of the peer's queue.
const FRAMES_PER_TURN: u32 = 16;

/// Pause in reading after a message to a peer whose queue is filling up.
const FULL_PEER_PAUSE: Duration = Duration::from_millis(1);

/// A socket with a seat in a room.
pub(super) struct Member {
    shared: Arc<Shared>,
    room: RoomLock,
    pair: PairId,
    identity: Identity,
    /// Expiry of its token, seconds since 1970; updated by `auth`.
    exp: watch::Sender<u64>,
    /// Number of the latest pong.
    pong: watch::Sender<u64>,
    since: Instant,
}

impl Member {
    pub(super) fn new(
        shared: Arc<Shared>,
        room: RoomLock,
        pair: PairId,
        identity: Identity,
        exp: u64,
    ) -> Self {
        let (exp, pong) = (watch::Sender::new(exp), watch::Sender::new(0));
        Self { shared, room, pair, identity, exp, pong, since: Instant::now() }
    }

    /// Runs the socket until it ends.
    pub(super) async fn run<S>(self, websocket: WebSocketStream<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sink, mut stream) = websocket.split();
        let end = tokio::select! {
            biased;
            end = self.identity.outbox.kicked() => end,
            end = self.read(&mut stream) => end,
            end = self.write(&mut sink) => end,
            end = self.keep_alive() => end,
            end = self.expire() => end,
            end = self.drain() => end,
        };
        // Reported to the peer's node as a revocation, so that it need not wait for its own check.
        let revoked = end.code == Some(close::PAIR_REVOKED);
        let left = if revoked { LeaveReason::Revoked } else { end.left };
        self.shared.rooms.leave(&self.pair, &self.identity, left);
        let code = end.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        self.shared.counters.closed.count(&code);
        tracing::info!(
            pair = %self.pair, device = %self.identity.device, conn = %self.identity.conn,
            code, reason = end.reason, "socket closed"
        );
        self.shared.config.tap.show(|| Visit::Left {
            device: self.identity.device.clone(),
            role: self.identity.role,
            pair: self.pair.clone(),
            after: self.since.elapsed(),
            code: end.code,
            reason: end.reason,
        });
        let limit = self.shared.config.timings.close_within;
        let rest = match end.code {
            None | Some(close::SLOW_CONSUMER) => Vec::new(),
            Some(_) => self.identity.outbox.rest(),
        };
        let farewell =
            websocket::say_goodbye(sink, stream, rest, end.code.map(|code| (code, end.reason)));
        if timeout(limit, Box::pin(farewell)).await.is_err() {
            tracing::debug!(conn = %self.identity.conn, "the client did not answer the close");
        }
    }

    async fn read<S>(&self, stream: &mut SplitStream<WebSocketStream<S>>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut meters = Meters::new(&self.shared.config.limits);
        let mut frames = 0_u32;
        loop {
            let frame = match stream.next().await {
                Some(Ok(frame)) => frame,
                Some(Err(error)) if fragments::is_flood(&error) => {
                    self.refuse("rate-limited", "too many message fragments", None);
                    let reason = "too many frames";
                    return End::with(close::RATE_LIMITED, reason, LeaveReason::Closed);
                }
                Some(Err(error)) => return End::of_broken(&error),
                None => return End::gone("the connection is closed"),
            };
            let mut pause = false;
            let end = match frame {
                Frame::Text(text) => {
                    let taken = self.on_text(text, &mut meters).await;
                    pause = matches!(taken, Ok(true));
                    taken.err()
                }
                Frame::Binary(_) => Some(End::with(
                    close::UNSUPPORTED_DATA,
                    "binary frames are not accepted",
                    LeaveReason::Closed,
                )),
                Frame::Ping(_) => self.meter(&mut meters).err(),
                Frame::Pong(payload) => {
                    self.on_pong(&payload);
                    self.meter(&mut meters).err()
                }
                Frame::Close(_) => Some(End::gone("the client closed the socket")),
                Frame::Frame(_) => None,
            };
            if let Some(end) = end {
                return end;
            }
            // A burst must not fill the peer's queue before the peer's task has run.
            if pause {
                sleep(FULL_PEER_PAUSE).await;
                while self.is_congested() {
                    sleep(FULL_PEER_PAUSE).await;
                }
                continue;
            }
            frames = (frames + 1) % FRAMES_PER_TURN;
            if frames == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whether too many messages of this socket are waiting for the bus.
    fn is_congested(&self) -> bool {
        locked(&self.room).shared.room.is_congested(self.identity.role, &self.identity.conn)
    }

    fn on_pong(&self, payload: &[u8]) {
        if let Ok(number) = payload.try_into().map(u64::from_be_bytes) {
            self.pong.send_replace(number);
        }
    }

    /// Counts a frame; `Ok(false)` if it exceeds the rate and was answered with an error.
    fn meter(&self, meters: &mut Meters) -> Result<bool, End> {
        let now = Instant::now();
        if meters.messages.take(now) {
            return Ok(true);
        }
        if !meters.floods.take(now) {
            return Err(End::with(close::RATE_LIMITED, "too many messages", LeaveReason::Closed));
        }
        self.refuse("rate-limited", "too many messages; this one was dropped", None);
        Ok(false)
    }

    /// Handles one message; `Ok(true)` if the peer's queue is filling up.
    async fn on_text(&self, text: Text, meters: &mut Meters) -> Result<bool, End> {
        self.shared.counters.bytes_in.fetch_add(text.len() as u64, Ordering::Relaxed);
        if text.len() > self.shared.config.limits.message_bytes {
            return Err(End::too_big());
        }
        if !self.meter(meters)? {
            return Ok(false);
        }
        match Message::parse_of(&text, Some(&self.pair)) {
            Ok(Message { body: Body::Auth { token }, .. }) => Box::pin(self.on_auth(&token)).await,
            Ok(message) => {
                let t = message.body.t();
                if let Some(kind) = Kind::of(&message.body) {
                    return Ok(self.relay(kind, t, text));
                }
                self.schema_error(meters, "server-only", "only the server sends this type", Some(t))
            }
            Err(ParseError::OtherPair) => Err(End::with(
                close::WRONG_PAIR,
                "the pairId of the message differs from the token's",
                LeaveReason::Closed,
            )),
            Err(ParseError::UnknownType(t)) => {
                let what = format!("unknown message type `{}`", quote(&t));
                self.schema_error(meters, "unknown-type", &what, Some(&t))
            }
            Err(error) => self.schema_error(meters, "malformed", &error.to_string(), None),
        }
    }

    /// Relays a message; true if the peer's queue is filling up.
    fn relay(&self, kind: Kind, t: &'static str, text: Text) -> bool {
        let identity = &self.identity;
        let (outcome, filling) =
            locked(&self.room).relay(identity.role, &identity.conn, kind, text);
        let counters = &self.shared.counters;
        match outcome {
            Relayed::Delivered | Relayed::Held => counters.relayed.count(t),
            Relayed::Stale => {}
            Relayed::Dropped => {
                counters.undeliverable.count(t);
                if !matches!(kind, Kind::Bye | Kind::State) {
                    let what = "the other device is not connected; the message was dropped";
                    self.refuse("peer-absent", what, Some(t));
                }
            }
        }
        filling
    }

    /// Handles `auth`: a fresh token for the same device and pair.
    async fn on_auth(&self, token: &str) -> Result<bool, End> {
        let bad = |reason| Err(End::with(close::BAD_TOKEN, reason, LeaveReason::Closed));
        match self.shared.verifier.check(token, unix_now()).await {
            Ok(claims) if claims.sub != self.identity.device || claims.pair_id != self.pair => {
                bad("the fresh token is for another device or pair")
            }
            Ok(claims) => {
                self.exp.send_replace(claims.exp);
                let text = self.text(Body::AuthOk { exp: claims.exp });
                self.identity.outbox.push(text);
                Ok(false)
            }
            Err(error @ TokenError::KeysUnavailable(_)) => {
                tracing::warn!(conn = %self.identity.conn, %error, "cannot check a fresh token");
                let message = "the token cannot be checked at the moment";
                self.refuse(error.code(), message, Some("auth"));
                Ok(false)
            }
            Err(error) => {
                tracing::info!(conn = %self.identity.conn, %error, "a fresh token was rejected");
                bad("the fresh token was rejected")
            }
        }
    }

    fn text(&self, body: Body) -> Text {
        Message::new(self.pair.clone(), body).to_json().into()
    }

    fn refuse(&self, code: &'static str, message: &str, reference: Option<&str>) {
        self.shared.counters.errors.count(code);
        let message = quote(message);
        let reference = reference.map(quote);
        let text = self.text(Body::Error { code: code.to_owned(), message, reference });
        self.identity.outbox.push_advisory(text);
    }

    fn schema_error(
        &self,
        meters: &mut Meters,
        code: &'static str,
        message: &str,
        reference: Option<&str>,
    ) -> Result<bool, End> {
        if !meters.schema_errors.take(Instant::now()) {
            let reason = "too many messages violate the schema";
            return Err(End::with(close::SCHEMA_ERRORS, reason, LeaveReason::Closed));
        }
        self.refuse(code, message, reference);
        Ok(false)
    }

    async fn write<S>(&self, sink: &mut SplitSink<WebSocketStream<S>, Frame>) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let (frame, since) = match self.identity.outbox.next().await {
                Item::Text(text) => (Frame::Text(text), None),
                Item::Relayed(text, since) => (Frame::Text(text), Some(since)),
                Item::Ping(number) => (Frame::Ping(number.to_be_bytes().to_vec().into()), None),
            };
            let bytes = if frame.is_text() { frame.len() as u64 } else { 0 };
            if let Err(error) = sink.send(frame).await {
                return End::of_broken(&error);
            }
            let counters = &self.shared.counters;
            counters.bytes_out.fetch_add(bytes, Ordering::Relaxed);
            if let Some(since) = since {
                counters.relay.observe(since.elapsed());
            }
        }
    }

    /// Sends pings; ends when a pong does not arrive in time.
    async fn keep_alive(&self) -> End {
        let timings = &self.shared.config.timings;
        let mut pong = self.pong.subscribe();
        for number in 1_u64.. {
            sleep(timings.ping_every).await;
            self.identity.outbox.ping(number);
            let answered = pong.wait_for(|latest| *latest == number);
            if timeout(timings.pong_within, answered).await.is_err() {
                break;
            }
        }
        End::with(close::NO_PONG, "no pong received", LeaveReason::Timeout)
    }

    /// Ends when the token has expired and the grace period has elapsed.
    async fn expire(&self) -> End {
        if self.shared.config.connect_only {
            return std::future::pending().await;
        }
        let mut exp = self.exp.subscribe();
        loop {
            let deadline = Duration::from_secs(*exp.borrow_and_update())
                .saturating_add(self.shared.config.timings.expiry_grace);
            // Computed again after each wait, because the wall clock may have been adjusted.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let left = deadline.saturating_sub(now);
            if left.is_zero() {
                return End::with(close::TOKEN_EXPIRED, "the token expired", LeaveReason::Expired);
            }
            // Returns early if `exp` changes.
            let _ = timeout(left, exp.changed()).await;
        }
    }

    /// Ends at a random time after the server started to drain.
    async fn drain(&self) -> End {
        let mut draining = self.shared.draining.subscribe();
        if draining.wait_for(|draining| *draining).await.is_ok() {
            sleep(self.shared.config.timings.drain_jitter.mul_f64(rand::random())).await;
        }
        End::with(close::RESTART, "the server is restarting", LeaveReason::Closed)
    }
}

/// Closes a socket that could not get a seat in its room because the bus was lost.
pub(super) async fn turn_away<S>(shared: &Shared, websocket: WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let reason = "the bus between the nodes is not available";
    shared.counters.closed.count(&close::TRY_AGAIN_LATER.to_string());
    let (sink, stream) = websocket.split();
    let end = Some((close::TRY_AGAIN_LATER, reason));
    let farewell = websocket::say_goodbye(sink, stream, Vec::new(), end);
    if timeout(shared.config.timings.close_within, farewell).await.is_err() {
        tracing::debug!("the client did not answer the close");
    }
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE).collect()
}
