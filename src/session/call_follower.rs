//! Code shared by sender and receiver: follows the call, sends pings, answers messages and keeps counts. The
//! remote peer's pings are answered by [`crate::peer`] itself.

use std::time::{Duration, Instant, SystemTime};

use super::{
    Firsts, SessionError, SessionReport, Totals,
    call::{Call, CallEvent},
    pings::Pings,
};
use crate::{
    peer::{ConnectionState, PeerEvent, Timings, control::ChannelRef, stats::SelectedPair},
    proto::control::{ControlMessage, Id},
    stats::bottleneck::RoundTrip,
    text::printable,
    types::Stage,
};

/// Follows the call of one peer with the other.
// Independent facts, not one state.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct CallFollower {
    pub(super) call: Call,
    /// Human-readable role of the other peer.
    other: &'static str,
    pings: Pings,
    totals: Totals,
    setup: Timings,
    state: String,
    pub(super) connected: bool,
    /// The other peer is known to be in the room.
    present: bool,
    /// There has been a connection before.
    met: bool,
    pub(super) channel_open: bool,
    texts: i64,
    first: Firsts,
    /// Number of lost connections, and the cause of the last loss.
    lost: (u64, Option<SessionError>),
}

/// What an event of the call means for sender and receiver.
pub(super) enum CallInput {
    /// Nothing.
    Nothing,
    /// A peer connection is established.
    Connected,
    /// The peer connection was lost; the cause, unless the other peer ended the call.
    Disconnected(Option<SessionError>),
    /// There is currently no working path.
    Silent,
    /// There is a working path again, on the same peer connection.
    Back,
    /// The control channel is open.
    ControlOpen,
    /// A text message arrived.
    Text(String),
    /// A control message that needs an answer.
    Control(ControlMessage, ChannelRef),
    /// Any other event of the peer connection.
    Peer(PeerEvent),
}

impl CallFollower {
    pub(super) fn new(call: Call, other: &'static str) -> Self {
        Self {
            call,
            other,
            pings: Pings::default(),
            totals: Totals::default(),
            setup: Timings::default(),
            state: "connecting to signaling".into(),
            connected: false,
            present: false,
            met: false,
            channel_open: false,
            texts: 0,
            first: Firsts::default(),
            lost: (0, None),
        }
    }

    /// A picture was sent, or received and decoded.
    pub(super) fn picture(&mut self, at: Instant) {
        self.first.picture.get_or_insert(at);
    }

    /// Sets whether the other peer is in the room.
    fn present(&mut self, present: bool) {
        self.present = present;
        if self.first.picture.is_none() {
            let since = self.first.met.unwrap_or_else(Instant::now);
            self.first.met = present.then_some(since);
        }
    }

    /// Handles an event of the call; returns a message to show and the input left for sender or receiver.
    ///
    /// # Errors
    /// The call has failed.
    pub(super) async fn on_call(
        &mut self,
        event: CallEvent,
    ) -> Result<(Option<String>, CallInput), SessionError> {
        let other = self.other;
        let line = match event {
            CallEvent::Joined { peer_present, .. } => {
                self.first.joined.get_or_insert_with(Instant::now);
                self.present(peer_present.unwrap_or(self.present));
                if !self.connected {
                    self.state = format!("waiting for the {other}");
                }
                let absent = peer_present == Some(false);
                return Ok((
                    absent.then(|| format!("joined the room; the {other} is not there yet")),
                    CallInput::Nothing,
                ));
            }
            CallEvent::Connected => {
                self.state = "connected".into();
                self.pings.connected();
                self.connected = true;
                self.met = true;
                self.count().await;
                return Ok((None, CallInput::Connected));
            }
            CallEvent::Lost(why, counted) => {
                self.disconnected(*counted);
                let line = format!("{} ({}, {})", why.message, why.stage, why.code);
                self.lost.0 += 1;
                self.lost.1 = Some(why.clone());
                return Ok((Some(line), CallInput::Disconnected(Some(why))));
            }
            CallEvent::Bye(reason, counted) => {
                self.disconnected(*counted);
                self.present(false);
                let reason =
                    reason.map_or(String::new(), |reason| format!(": {}", printable(&reason)));
                let line = format!("the {other} said goodbye{reason}");
                return Ok((Some(line), CallInput::Disconnected(None)));
            }
            CallEvent::Described(_) => {
                self.present(true);
                return Ok((None, CallInput::Nothing));
            }
            CallEvent::Refused(error) | CallEvent::Failed(error) => return Err(error),
            CallEvent::Peer(event) => return Ok(self.on_peer(event).await),
            CallEvent::PeerJoined => {
                self.present(true);
                format!("the {other} is in the room")
            }
            CallEvent::PeerLeft(reason) => {
                self.present(false);
                format!("the {other} left the room ({reason:?})").to_lowercase()
            }
            CallEvent::Restarting(why) => {
                self.state = "restarting ICE".into();
                let line = format!("{why}: looking for another path to the {other}");
                return Ok((Some(line), CallInput::Silent));
            }
            CallEvent::ChannelMissing(words) => {
                format!("{words} (datachannel, channel-not-opened)")
            }
            CallEvent::SignalingLost(cause) => format!("signaling: {cause} (trying again)"),
            CallEvent::CandidateError { url, code, text, remedy } => {
                format!("ICE server {url}: {code} {text}; {remedy}")
            }
        };
        Ok((Some(line), CallInput::Nothing))
    }

    fn disconnected(&mut self, counted: Option<crate::peer::stats::Snapshot>) {
        self.state = format!("waiting for the {}", self.other);
        self.connected = false;
        self.channel_open = false;
        self.pings.reset();
        self.totals.connection_ended(counted);
    }

    async fn on_peer(&mut self, event: PeerEvent) -> (Option<String>, CallInput) {
        match event {
            PeerEvent::ControlOpen => {
                self.channel_open = true;
                self.ping().await;
                (None, CallInput::ControlOpen)
            }
            PeerEvent::ControlClosed => {
                self.channel_open = false;
                let line = format!("the control channel to the {} is closed", self.other);
                (Some(line), CallInput::Nothing)
            }
            PeerEvent::Control(message, channel, read_at) => {
                self.on_control(message, channel, read_at).await
            }
            PeerEvent::ControlGarbage(error) => {
                tracing::warn!("{error}");
                (None, CallInput::Nothing)
            }
            PeerEvent::State(state) => {
                let input = match state {
                    ConnectionState::Disconnected => CallInput::Silent,
                    ConnectionState::Connected => CallInput::Back,
                    _ => return (None, CallInput::Nothing),
                };
                let before = std::mem::replace(&mut self.state, state.to_string());
                let back = state == ConnectionState::Connected && before != self.state;
                (back.then(|| format!("connected to the {} again", self.other)), input)
            }
            event => (None, CallInput::Peer(event)),
        }
    }

    async fn on_control(
        &mut self,
        message: ControlMessage,
        channel: ChannelRef,
        read_at: Instant,
    ) -> (Option<String>, CallInput) {
        match message {
            ControlMessage::Pong { id, at, .. } => {
                self.pings.pong(&id, at, read_at);
                (None, CallInput::Nothing)
            }
            ControlMessage::Text { id, text } => {
                let ack =
                    ControlMessage::Ack { id: Some(id), error: None, width: None, height: None };
                self.answer(&ack, &channel).await;
                (None, CallInput::Text(printable(&text)))
            }
            ControlMessage::Ack { error: Some(error), .. } => {
                let error = printable(&error);
                (
                    Some(format!("the {} rejected a message: {error}", self.other)),
                    CallInput::Nothing,
                )
            }
            ControlMessage::Ack { width: Some(width), height: Some(height), .. } => {
                let line = format!("the {} sends pictures of {width}x{height}", self.other);
                (Some(line), CallInput::Nothing)
            }
            ControlMessage::Ack { .. } | ControlMessage::Ping { .. } | ControlMessage::Unknown => {
                (None, CallInput::Nothing)
            }
            message => (None, CallInput::Control(message, channel)),
        }
    }

    /// The result of a run with `--once` whose connection ended: no error after a `bye`.
    pub(super) fn once(&self, lost: Option<SessionError>) -> Result<(), SessionError> {
        let Some(why) = lost else { return Ok(()) };
        Err(SessionError {
            code: "connection-lost".into(),
            message: format!("the connection to the {} was lost: {}", self.other, why.message),
            ..why
        })
    }

    /// The error of a run with `--once` when `bye` arrives before `--count` is reached.
    pub(super) fn left_early(&self, keyframes: u64, count: u64) -> SessionError {
        SessionError::new(
            Stage::Video,
            "peer-left-early",
            format!("the {} said goodbye after {keyframes} of {count} keyframes", self.other),
            "check why it ended; without --once, orion-peer waits for it to come back",
        )
    }

    /// The error when there is no connection after `timeout`.
    pub(super) fn no_connection(&self, timeout: Duration) -> SessionError {
        let other = self.other;
        let timings = self.call.peer().map(|peer| peer.timings());
        if timings.is_some_and(|timings| timings.ice.is_some() && timings.dtls.is_none()) {
            return SessionError::new(
                Stage::Dtls,
                "no-connection",
                format!(
                    "ICE found a path to the {other}, but the DTLS handshake did not complete within \
                     {timeout:?}"
                ),
                "packets may be getting lost, or the peer is stuck: check its messages, or retry with a \
                 longer --timeout",
            );
        }
        if self.present {
            return SessionError::new(
                Stage::Ice,
                "no-connection",
                format!(
                    "the {other} is in the room, but no connection was established within {timeout:?}"
                ),
                "check --ice-policy and --candidates on both peers, the TURN credentials, and whether \
                 UDP is blocked",
            );
        }
        let joined = if self.met { "come back" } else { "join" };
        SessionError::new(
            Stage::Room,
            "peer-absent",
            format!("the {other} did not {joined} within {timeout:?}"),
            "start it with the same --signal and --pair, or use a longer --timeout",
        )
    }

    /// Answers on the channel that the message arrived on.
    pub(super) async fn answer(&self, message: &ControlMessage, channel: &ChannelRef) {
        if let Some(peer) = self.call.peer() {
            peer.answer_control(message, channel).await;
        }
    }

    /// Sends a message; `false` when there is no connection.
    pub(super) async fn send(&self, message: &ControlMessage) -> bool {
        match self.call.peer() {
            Some(peer) => peer.send_control(message).await.is_ok(),
            None => false,
        }
    }

    /// Sends a text message; `false` when there is no connection.
    pub(super) async fn send_text(&mut self, text: String) -> bool {
        self.texts += 1;
        self.send(&ControlMessage::Text { id: Id::Number(self.texts), text }).await
    }

    /// Sends a ping if the control channel is open.
    pub(super) async fn ping(&mut self) {
        let Some(peer) = self.call.peer().filter(|_| self.channel_open) else { return };
        let ping = self.pings.ping(Instant::now(), SystemTime::now());
        match peer.send_ping(ping).await {
            Ok(sent) => self.pings.sent(sent),
            Err(error) => tracing::debug!("ping not sent: {error}"),
        }
    }

    async fn count(&mut self) {
        if let Some(peer) = self.call.peer() {
            self.totals.update(peer.stats().await);
            self.setup = peer.timings();
        }
    }

    /// The selected pair of the current or last peer connection.
    pub(super) fn pair(&self) -> Option<&SelectedPair> {
        self.totals.pair()
    }

    /// The peer's clock minus ours, in seconds, if its answers carry its clock.
    pub(super) fn clock_offset(&self) -> Option<f64> {
        self.pings.clock_offset()
    }

    /// The latest round trips of this connection, or of the previous one if there is none.
    pub(super) fn round_trips(&mut self) -> &[RoundTrip] {
        self.pings.recent()
    }

    /// The part of a report that is the same for sender and receiver.
    pub(super) async fn report(&mut self) -> SessionReport {
        self.count().await;
        SessionReport {
            state: self.state.clone(),
            connected: self.connected,
            stats: self.totals.sum(),
            setup: self.setup,
            rtt_ms: self.pings.take_times(),
            pings_lost: self.pings.lost(),
            lost: self.lost.clone(),
            first: self.first,
            ..SessionReport::default()
        }
    }
}
