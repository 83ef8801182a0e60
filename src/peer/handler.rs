//! The crate's callbacks, turned into events; and the building of the crate's connection.

use std::{
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use rtc::{
    ice::mdns::MulticastDnsMode, interceptor::Registry,
    peer_connection::configuration::RTCConfiguration,
};
use tokio::{runtime::Handle, sync::mpsc};
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
    control::ControlChannels,
    event::{ConnectionState, PeerError, PeerEvent, Timings},
    frames::Frames,
    gathering::Watcher,
    repair::RtxTypes,
    runtime::PeerRuntime,
    vitals::Monitor,
};
use crate::{proto::signaling::IceCandidateInit, types::CandidateType};

/// What the callbacks, the tasks and the peer share.
pub(super) struct Shared {
    pub(super) monitor: Arc<Monitor>,
    /// The application's runtime: tasks that have to outlive the driver run there.
    application: Handle,
    pub(super) events: mpsc::Sender<PeerEvent>,
    timings: Mutex<Timings>,
    pub(super) remote_track: OnceLock<Arc<dyn TrackRemote>>,
    pub(super) control: ControlChannels,
    pub(super) frames: Frames,
    candidates: Vec<CandidateType>,
    pub(super) payload_types: Mutex<Vec<u8>>,
    pub(super) rtx_types: RtxTypes,
    /// Parameter sets that the peer's description has, in Annex B form.
    pub(super) parameter_sets: Mutex<Bytes>,
    /// The m-line that our candidates belong to: its `a=mid` and index.
    pub(super) candidate_line: Mutex<(String, u16)>,
    watcher: Arc<Watcher>,
    no_more_candidates: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        events: mpsc::Sender<PeerEvent>,
        candidates: Vec<CandidateType>,
        watcher: Arc<Watcher>,
        monitor: Arc<Monitor>,
    ) -> Arc<Self> {
        Arc::new(Self {
            monitor,
            application: Handle::current(),
            events,
            timings: Mutex::default(),
            remote_track: OnceLock::new(),
            control: ControlChannels::default(),
            frames: Frames::default(),
            candidates,
            payload_types: Mutex::default(),
            rtx_types: RtxTypes::default(),
            parameter_sets: Mutex::default(),
            // The first of our offers.
            candidate_line: Mutex::new(("0".into(), 0)),
            watcher,
            no_more_candidates: AtomicBool::new(false),
        })
    }

    pub(super) fn created(&self) -> Instant {
        self.monitor.created()
    }

    pub(super) fn timings(&self) -> Timings {
        *self.timings.lock().expect("no holder of this lock panics")
    }

    fn mark(&self, step: impl FnOnce(&mut Timings) -> &mut Option<Duration>) {
        let mut timings = self.timings.lock().expect("no holder of this lock panics");
        step(&mut timings).get_or_insert(self.created().elapsed());
    }

    pub(super) fn mark_channel_open(&self) {
        self.mark(|t| &mut t.data_channel);
        self.monitor.channel_opened();
        self.watcher.finish();
    }

    /// Says once that there are no more candidates. The crate says it when the last of its requests
    /// has been given up, which may be never; the watch over the servers ends before.
    pub(super) fn end_of_candidates(&self) {
        if !self.no_more_candidates.swap(true, Ordering::Relaxed) {
            self.emit(PeerEvent::LocalCandidate(None));
        }
    }

    /// There will be candidates again, and another end of them.
    pub(super) fn gathers_again(&self) {
        self.no_more_candidates.store(false, Ordering::Relaxed);
    }

    /// For events raised inside the crate's driver, which must not wait.
    pub(super) fn emit(&self, event: PeerEvent) {
        // A full queue is one of control messages. A state that got lost would leave a run waiting
        // for ever, so it waits for its place, apart from the driver.
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            self.application.spawn(async move {
                let _ = events.send(event).await;
            });
        }
    }
}

/// The crate's connection keeps its handler, and [`Shared`] keeps channels and a track that keep the connection: a
/// strong reference here would keep them all for ever.
struct Handler(Weak<Shared>);

// `on_ice_candidate_error` is left out: `gathering` sees every failure of a server, the crate few.
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
            Err(error) => tracing::warn!("a local candidate could not be written: {error}"),
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
            shared.monitor.ice_connected();
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let Some(shared) = self.0.upgrade() else { return };
        let state = match state {
            RTCPeerConnectionState::Connecting => ConnectionState::Connecting,
            RTCPeerConnectionState::Connected => {
                shared.mark(|t| &mut t.dtls);
                shared.monitor.dtls_established();
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
        // Packets are taken by the tap; the track's own queue only has to be emptied.
        tokio::spawn(async move {
            while let Some(event) = track.poll().await {
                if matches!(event, TrackRemoteEvent::OnEnded) {
                    break;
                }
            }
        });
    }
}

/// Builds the connection, without mDNS where multicast cannot be joined; says whether it is with it.
pub(super) async fn build(
    config: &PeerConfig,
    rtc: RTCConfiguration,
    binding: Binding,
    chain: Registry,
    runtime: Arc<PeerRuntime>,
    shared: &Arc<Shared>,
) -> Result<(Arc<dyn PeerConnection>, bool), PeerError> {
    // A name of mDNS is of no use behind a NAT.
    let with_mdns = config.gateway.is_none() && multicast_works();
    let mdns = if with_mdns { MulticastDnsMode::QueryOnly } else { MulticastDnsMode::Disabled };
    let building = PeerConnectionBuilder::new()
        .with_configuration(rtc)
        .with_media_engine(config::media_engine(config)?)
        .with_setting_engine(config::setting_engine(config, mdns))
        .with_interceptor_registry(chain)
        .with_runtime(runtime)
        // Any size: `PeerRuntime` gives each driver a thread.
        .with_dedicated_reactor_pool_size(1)
        .with_handler(Arc::new(Handler(Arc::downgrade(shared))))
        .with_udp_addrs(vec![binding])
        .with_data_channel_send_buffer_limit(4 << 20)
        .build();
    let connection =
        Box::pin(building).await.map_err(PeerError::crate_error("build the peer connection"))?;
    Ok((Arc::new(connection), with_mdns))
}

/// Whether the mDNS group can be joined; the crate's `build` fails where it cannot, and so does its rebind
/// at an ICE restart, after which its driver is gone.
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
