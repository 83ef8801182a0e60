//! Turns the crate's callbacks into events, and builds the crate's connection.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use rtc::{
    ice::mdns::MulticastDnsMode, interceptor::Registry,
    peer_connection::configuration::RTCConfiguration,
};
use webrtc::{
    data_channel::DataChannel,
    media_stream::track_remote::{TrackRemote, TrackRemoteEvent},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceConnectionState,
        RTCIceGatheringState, RTCPeerConnectionIceEvent, RTCPeerConnectionState,
    },
};

use super::{
    config::{self, Binding, PeerConfig},
    error::PeerError,
    event::{ConnectionState, PeerEvent},
    runtime::PeerRuntime,
    shared::PeerState,
};
use crate::{proto::signaling::IceCandidateInit, types::CandidateType};

/// The crate's connection keeps its handler, and [`PeerState`] keeps channels and a track that keep the connection: a
/// strong reference here would keep them all alive forever.
struct Handler(Weak<PeerState>);

// `on_ice_candidate_error` is omitted: `gathering` sees every failure of a server, the crate only a few.
#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.mark(|t| &mut t.gathering);
        let allowed = &shared.candidates;
        let kind = event.candidate.typ.to_string().parse::<CandidateType>();
        if !allowed.is_empty() && !kind.is_ok_and(|kind| allowed.contains(&kind)) {
            return;
        }
        let (mid, index) =
            shared.candidate_line.lock().expect("no holder of this lock panics").clone();
        match event.candidate.to_json() {
            Ok(init) => shared.emit(PeerEvent::LocalCandidate(Some(IceCandidateInit {
                candidate: init.candidate,
                sdp_mid: Some(mid),
                sdp_mline_index: Some(index),
                username_fragment: init.username_fragment,
            }))),
            Err(error) => tracing::warn!("a local candidate could not be serialized: {error}"),
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        let Some(shared) = self.0.upgrade() else { return };
        if state == RTCIceGatheringState::Complete {
            shared.end_of_candidates();
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        let Some(shared) = self.0.upgrade() else { return };
        tracing::info!("ICE: {state}");
        if matches!(state, RTCIceConnectionState::Connected | RTCIceConnectionState::Completed) {
            shared.mark(|t| &mut t.ice);
            shared.liveness.ice_connected();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let Some(shared) = self.0.upgrade() else { return };
        let state = match state {
            RTCPeerConnectionState::Connecting => ConnectionState::Connecting,
            RTCPeerConnectionState::Connected => {
                shared.mark(|t| &mut t.dtls);
                shared.liveness.dtls_established();
                ConnectionState::Connected
            }
            RTCPeerConnectionState::Disconnected => ConnectionState::Disconnected,
            RTCPeerConnectionState::Failed => ConnectionState::Failed,
            RTCPeerConnectionState::Closed => ConnectionState::Closed,
            _ => return,
        };
        shared.emit(PeerEvent::State(state));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.control.accept(&shared, channel);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let Some(shared) = self.0.upgrade() else { return };
        let _ = shared.remote_track.set(Arc::clone(&track));
        // Packets are read by the RTP observer; the track's own queue only has to be emptied.
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if matches!(event, TrackRemoteEvent::OnEnded) {
                    break;
                }
            }
        });
    }
}

/// Builds the connection, without mDNS if its multicast group cannot be joined; also returns whether mDNS is in use.
pub(super) async fn build(
    config: &PeerConfig,
    rtc: RTCConfiguration,
    binding: Binding,
    chain: Registry,
    runtime: Arc<PeerRuntime>,
    shared: &Arc<PeerState>,
) -> Result<(Arc<dyn PeerConnection>, bool), PeerError> {
    // mDNS names are useless behind a NAT.
    let with_mdns = config.gateway.is_none() && multicast_works();
    let mdns = if with_mdns { MulticastDnsMode::QueryOnly } else { MulticastDnsMode::Disabled };
    let building = PeerConnectionBuilder::new()
        .with_configuration(rtc)
        .with_media_engine(config::media_engine(config)?)
        .with_setting_engine(config::setting_engine(config, mdns))
        .with_interceptor_registry(chain)
        .with_runtime(runtime)
        // Any size works: `PeerRuntime` gives each driver its own thread.
        .with_dedicated_reactor_pool_size(1)
        .with_handler(Arc::new(Handler(Arc::downgrade(shared))))
        .with_udp_addrs(vec![binding])
        .with_data_channel_send_buffer_limit(4 << 20)
        .build();
    let connection =
        Box::pin(building).await.map_err(PeerError::crate_error("build the peer connection"))?;
    Ok((Arc::new(connection), with_mdns))
}

/// Whether the mDNS group can be joined; if not, the crate's `build` fails, and so does its rebind at an ICE
/// restart, which ends its driver.
pub(super) fn multicast_works() -> bool {
    std::net::UdpSocket::bind("0.0.0.0:0").is_ok_and(|socket| {
        socket
            .join_multicast_v4(
                &std::net::Ipv4Addr::new(224, 0, 0, 251),
                &std::net::Ipv4Addr::UNSPECIFIED,
            )
            .is_ok()
    })
}
