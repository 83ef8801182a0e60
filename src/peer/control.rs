//! The data channels that carry control messages.
//!
//! We open one, label `control`, `{ordered: false, maxPacketLifeTime: 100}`, and send our own messages on it.
//! Messages on any channel are accepted, and an answer goes back on the channel that the question arrived on. A
//! `ping` is answered right where it is read, so that the round-trip time is that of the network.
//!
//! `rtc` 0.21.1 sends reliably and in order on a channel it *accepted*, whatever the remote peer requested
//! (webrtc-rs/rtc#117). A peer of this project is recognized by its channel's protocol, and gets answers on the
//! channel we opened once that is open, which behaves correctly. So that answers to other peers do not queue up
//! behind a lost one, an answer is dropped while an earlier one still waits for its acknowledgment after the
//! channel's lifetime.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant, SystemTime};

use rtc::data_channel::RTCDataChannelInit;
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    peer_connection::PeerConnection,
};

use super::{
    error::PeerError, event::PeerEvent, runtime::PeerRuntime, shared::PeerState,
    vitals::LivenessMonitor,
};
use crate::{
    proto::control::{self, ControlMessage},
    types::epoch_seconds,
};

/// Maximum number of bytes of a message shown in the log.
const MAX_LOGGED: usize = 1000;

/// Channels accepted from the remote peer; further ones are closed.
const MAX_ACCEPTED: u64 = 16;

/// Bytes that may wait on our own channel: beyond that, messages would outlive their lifetime anyway.
const MAX_OUTSTANDING: usize = 256 * 1024;

/// The channel that a message arrived on.
#[derive(Clone)]
pub struct ChannelRef {
    channel: Arc<dyn DataChannel>,
    accepted: bool,
    /// Whether a peer of this project opened it.
    of_this_project: bool,
    last_answer: Arc<std::sync::Mutex<Option<Instant>>>,
}

impl std::fmt::Debug for ChannelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelRef").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

/// Traffic on the data channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ControlCounters {
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes of message text sent.
    pub bytes_sent: u64,
    /// Messages received.
    pub messages_received: u64,
    /// Bytes of message text received.
    pub bytes_received: u64,
}

#[derive(Default)]
struct Counters {
    messages_sent: AtomicU64,
    bytes_sent: AtomicU64,
    messages_received: AtomicU64,
    bytes_received: AtomicU64,
}

/// The control channels of one peer.
#[derive(Default)]
pub(super) struct ControlChannels {
    own: OnceLock<Arc<dyn DataChannel>>,
    open: OnceLock<()>,
    accepted: AtomicU64,
    counters: Arc<Counters>,
}

impl ControlChannels {
    pub(super) async fn open(
        &self,
        shared: &Arc<PeerState>,
        connection: &dyn PeerConnection,
        runtime: &PeerRuntime,
        life_time: Option<Duration>,
    ) -> Result<(), PeerError> {
        let millis = |time: Duration| u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
        let init = RTCDataChannelInit {
            ordered: false,
            max_packet_life_time: life_time.map(millis),
            protocol: control::PROTOCOL.to_owned(),
            ..RTCDataChannelInit::default()
        };
        let channel = connection
            .create_data_channel(control::LABEL, Some(init))
            .await
            .map_err(PeerError::crate_error("create the control channel"))?;
        let _ = self.own.set(Arc::clone(&channel));
        // Beside the driver, like accepted channels: no thread has to wake to answer a ping.
        runtime.spawn_beside(self.reading(shared, channel, false));
        Ok(())
    }

    pub(super) fn accept(&self, shared: &Arc<PeerState>, channel: Arc<dyn DataChannel>) {
        let before = self.accepted.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_ACCEPTED {
            // Logged once, even if a peer opens a thousand.
            if before == MAX_ACCEPTED {
                tracing::warn!(
                    "the peer opened more than {MAX_ACCEPTED} data channels: the rest are closed"
                );
            }
            tokio::spawn(async move {
                let _ = channel.close().await;
            });
            return;
        }
        tokio::spawn(self.reading(shared, channel, true));
    }

    fn reading(
        &self,
        shared: &Arc<PeerState>,
        channel: Arc<dyn DataChannel>,
        accepted: bool,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (shared, counters) = (Arc::clone(shared), Arc::clone(&self.counters));
        async move {
            let of_this_project =
                channel.protocol().await.is_ok_and(|name| name == control::PROTOCOL);
            let last_answer = Arc::default();
            read(&shared, counters, ChannelRef { channel, accepted, of_this_project, last_answer })
                .await;
            if !accepted {
                shared.liveness.channel_closed();
                let _ = shared.events.send(PeerEvent::ControlClosed).await;
            }
        }
    }

    pub(super) async fn send(
        &self,
        message: &ControlMessage,
        liveness: &LivenessMonitor,
    ) -> Result<(), PeerError> {
        if matches!(message, ControlMessage::Ping { .. }) && self.open.get().is_some() {
            liveness.ping_sent();
        }
        let closed = || PeerError::NotOpen("the control channel");
        let channel = self.own.get().filter(|_| self.open.get().is_some()).ok_or_else(closed)?;
        if channel.outstanding_bytes().await.unwrap_or(0) > MAX_OUTSTANDING {
            tracing::debug!("control channel is congested: a message was dropped");
            return Ok(());
        }
        self.write(channel.as_ref(), message).await.map_err(|_| closed())
    }

    pub(super) async fn answer(
        &self,
        message: &ControlMessage,
        reference: &ChannelRef,
        liveness: &LivenessMonitor,
    ) {
        let on_own = reference.accepted && reference.of_this_project;
        if on_own && self.send(message, liveness).await.is_ok() {
            return;
        }
        if reference.accepted && !reference.of_this_project {
            let waiting = reference.channel.outstanding_bytes().await.unwrap_or(0) > 0;
            let mut last = reference.last_answer.lock().expect("no holder of this lock panics");
            if waiting && last.is_some_and(|sent| sent.elapsed() > control::CONTROL_LIFE_TIME) {
                return;
            }
            if !waiting || last.is_none() {
                *last = Some(Instant::now());
            }
        }
        if let Err(error) = self.write(reference.channel.as_ref(), message).await {
            tracing::debug!("an answer could not be sent: {error}");
        }
    }

    async fn write(
        &self,
        channel: &dyn DataChannel,
        message: &ControlMessage,
    ) -> Result<(), webrtc::error::Error> {
        let text = message.to_json();
        channel.send_text(&text).await?;
        tracing::debug!("control message sent: {}", excerpt(text.as_bytes()));
        self.counters.messages_sent.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_sent.fetch_add(text.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn counters(&self) -> ControlCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ControlCounters {
            messages_sent: get(&self.counters.messages_sent),
            bytes_sent: get(&self.counters.bytes_sent),
            messages_received: get(&self.counters.messages_received),
            bytes_received: get(&self.counters.bytes_received),
        }
    }
}

/// The beginning of a message, for the log.
fn excerpt(message: &[u8]) -> String {
    let cut = &message[..message.len().min(MAX_LOGGED)];
    let more = if cut.len() < message.len() { "…" } else { "" };
    String::from_utf8_lossy(cut).into_owned() + more
}

/// Reads one channel until it closes.
async fn read(shared: &Arc<PeerState>, counters: Arc<Counters>, reference: ChannelRef) {
    while let Some(event) = reference.channel.poll().await {
        let event = match event {
            DataChannelEvent::OnOpen if !reference.accepted => {
                let _ = shared.control.open.set(());
                shared.mark_channel_open();
                PeerEvent::ControlOpen
            }
            DataChannelEvent::OnMessage(message) => {
                counters.messages_received.fetch_add(1, Ordering::Relaxed);
                counters.bytes_received.fetch_add(message.data.len() as u64, Ordering::Relaxed);
                let read_at = Instant::now();
                shared.liveness.data_received();
                tracing::debug!("control message received: {}", excerpt(&message.data));
                let message = ControlMessage::parse(&message.data);
                match &message {
                    Ok(ControlMessage::Pong { .. }) => shared.liveness.pong_received(),
                    Ok(ControlMessage::Keyframe(_)) => shared.liveness.keyframe_announced(),
                    _ => {}
                }
                match message {
                    Ok(ControlMessage::Ping { id, ts, .. }) => {
                        let at = Some(epoch_seconds(SystemTime::now()));
                        let pong = ControlMessage::Pong { id, ts, at };
                        shared.control.answer(&pong, &reference, &shared.liveness).await;
                        continue;
                    }
                    Ok(message) => PeerEvent::Control(message, reference.clone(), read_at),
                    Err(error) => PeerEvent::ControlGarbage(error.to_string()),
                }
            }
            DataChannelEvent::OnClose => break,
            _ => continue,
        };
        // Waiting here leaves messages in SCTP, whose window then slows the sender down.
        if shared.events.send(event).await.is_err() {
            break;
        }
    }
}
