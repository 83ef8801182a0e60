//! Opens and accepts data channels, and reads their messages.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime},
};

use rtc::data_channel::RTCDataChannelInit;
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    peer_connection::PeerConnection,
};

use super::{ChannelRef, ControlChannels, Counters, excerpt};
use crate::{
    peer::{error::PeerError, event::PeerEvent, runtime::PeerRuntime, shared::PeerState},
    proto::control::{self, ControlMessage},
    types::epoch_seconds,
};

/// Maximum number of channels accepted from the remote peer; further channels are closed.
const MAX_ACCEPTED: u64 = 16;

impl ControlChannels {
    pub(in crate::peer) async fn open(
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
        // On the driver's thread, like accepted channels: no other thread has to wake to answer a
        // ping.
        runtime.spawn_beside(self.reading(shared, channel, false));
        Ok(())
    }

    pub(in crate::peer) fn accept(&self, shared: &Arc<PeerState>, channel: Arc<dyn DataChannel>) {
        let before = self.accepted.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_ACCEPTED {
            // Logged only once, even if a peer opens a thousand.
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
        // While this waits, messages stay in SCTP, whose window then slows the sender down.
        if shared.events.send(event).await.is_err() {
            break;
        }
    }
}
