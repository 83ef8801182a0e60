//! The data channels that carry control messages.
//!
//! We open one with the label `control` and `{ordered: false, maxPacketLifeTime: 100}`, and send our own messages on
//! it. Messages are accepted on any channel, and answered on the channel that they arrived on. A `ping` is answered
//! where it is read, so that the round-trip time is that of the network.
//!
//! `rtc` 0.21.1 sends reliably and in order on a channel it *accepted*, whatever the remote peer requested
//! (webrtc-rs/rtc#117). A peer of this project is recognized by its channel's protocol; once the channel that we
//! opened is open, it gets its answers there, where delivery is as requested. So that answers to other peers do not
//! queue up behind a lost one, an answer is dropped while an earlier answer has been waiting for its acknowledgment
//! for longer than the channel's lifetime.

mod reader;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use webrtc::data_channel::DataChannel;

use super::{error::PeerError, vitals::LivenessMonitor};
use crate::proto::control::{self, ControlMessage};

/// Maximum number of bytes of a message shown in the log.
const MAX_LOGGED: usize = 1000;

/// Maximum number of bytes that may wait on our own channel: with more, messages would exceed their lifetime anyway.
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
