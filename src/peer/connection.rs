//! One peer connection: offer, answer, candidates, states, and the events that come out of it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rtc::{
    ice::mdns::MulticastDnsMode,
    peer_connection::{
        sdp::RTCSessionDescription,
        transport::{RTCIceCandidate, RTCIceCandidateInit},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use webrtc::{
    data_channel::DataChannel,
    media_stream::track_remote::{TrackRemote, TrackRemoteEvent},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceConnectionState,
        RTCIceGatheringState, RTCPeerConnectionIceErrorEvent, RTCPeerConnectionIceEvent,
        RTCPeerConnectionState, StatsSelector,
    },
};

use super::{
    assembler::BrokenAccessUnit,
    config::{self, PeerConfig, PeerRole},
    control::{ChannelRef, ControlChannels},
    runtime::{ExtraPasses, PeerRuntime},
    sdp,
    stats::{self, CandidateStats, Snapshot},
    tap::{KeyframeRequest, Tap, TapCounters},
    video::{self, ReceivedAccessUnit, SentAccessUnit, VideoSender},
};
use crate::{
    media::h264::AccessUnit,
    proto::{control::ControlMessage, signaling::IceCandidateInit},
    types::{CandidateType, Stage},
};

/// Events that may wait for their reader. Control messages beyond it wait in SCTP; states and
/// candidates are few.
const QUEUE_EVENTS: usize = 1024;

/// Time given to a clean close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What happens on a peer connection.
#[derive(Debug)]
pub enum PeerEvent {
    /// A local candidate to tell the other side; `None` when there are no more.
    LocalCandidate(Option<IceCandidateInit>),
    /// A STUN or TURN server failed (W3C `RTCPeerConnectionIceErrorEvent`).
    CandidateError {
        /// The server.
        url: String,
        /// STUN error code (RFC 8489 §14.8), or 701 when it could not be reached.
        code: u16,
        /// The server's words.
        text: String,
    },
    /// The state of the connection changed.
    State(ConnectionState),
    /// The control channel we opened can be used.
    ControlOpen,
    /// A control message came.
    Control(ControlMessage, ChannelRef),
    /// Something came on a data channel that is no control message.
    ControlGarbage(String),
    /// The other side wants a keyframe (RTCP).
    KeyframeRequested(KeyframeRequest),
    /// A whole access unit came.
    AccessUnit(ReceivedAccessUnit),
    /// An access unit was given up.
    Broken(BrokenAccessUnit),
}

/// W3C `RTCPeerConnectionState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Nothing has begun.
    New,
    /// ICE or DTLS is under way.
    Connecting,
    /// ICE and DTLS are done.
    Connected,
    /// No answer from the other side for some seconds.
    Disconnected,
    /// Given up.
    Failed,
    /// Closed by us.
    Closed,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Closed => "closed",
        })
    }
}

/// A failure of the peer connection.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The crate refused an operation.
    #[error("could not {operation}: {cause}")]
    Crate {
        /// What was tried.
        operation: &'static str,
        /// The crate's words.
        cause: String,
    },
    /// No address to gather candidates on.
    #[error("no local address to connect from: {0}")]
    NoAddress(String),
    /// The other side's session description has no H.264 video.
    #[error("the other side's {kind} has no H.264 video{}", offered(.codecs))]
    NoH264 {
        /// Offer or answer.
        kind: &'static str,
        /// What it has instead.
        codecs: Vec<String>,
    },
    /// Nothing can be sent yet or any more.
    #[error("{0} is not open")]
    NotOpen(&'static str),
}

fn offered(codecs: &[String]) -> String {
    if codecs.is_empty() { String::new() } else { format!(" (it has {})", codecs.join(", ")) }
}

impl PeerError {
    pub(crate) fn crate_error<E: fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::Crate { operation, cause: cause.to_string() }
    }

    /// Where in the course of a connection this belongs.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::NoAddress(_) => Stage::Gathering,
            Self::NoH264 { .. } => Stage::Video,
            Self::NotOpen(_) => Stage::Datachannel,
            Self::Crate { .. } => Stage::Ice,
        }
    }

    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => {
                "check --interface and --network, and that the machine has an address"
            }
            Self::NoH264 { .. } => "let the other side offer H.264 with packetization-mode=1",
            Self::NotOpen(_) => "wait until the connection is up",
            Self::Crate { .. } => "run with -v for the details",
        }
    }
}

/// When each step of the set-up was reached, counted from the building of the peer connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// First local candidate.
    pub gathering: Option<Duration>,
    /// ICE connected.
    pub ice: Option<Duration>,
    /// DTLS done.
    pub dtls: Option<Duration>,
    /// Our data channel open.
    pub data_channel: Option<Duration>,
}

pub(super) struct Shared {
    created: Instant,
    pub(super) events: mpsc::Sender<PeerEvent>,
    timings: Mutex<Timings>,
    pub(super) remote_track: OnceLock<Arc<dyn TrackRemote>>,
    pub(super) control: ControlChannels,
    candidates: Vec<CandidateType>,
    pub(super) payload_types: Mutex<Vec<u8>>,
}

impl Shared {
    fn mark(&self, step: impl FnOnce(&mut Timings) -> &mut Option<Duration>) {
        let mut timings = self.timings.lock().expect("no holder of this lock panics");
        step(&mut timings).get_or_insert(self.created.elapsed());
    }

    pub(super) fn mark_channel_open(&self) {
        self.mark(|t| &mut t.data_channel);
    }

    /// For events raised inside the crate's driver, which must not wait.
    pub(super) fn emit(&self, event: PeerEvent) {
        // A full queue is one of control messages. A state that got lost would leave a run waiting
        // for ever, so it waits for its place, apart from the driver.
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            tokio::spawn(async move {
                let _ = events.send(event).await;
            });
        }
    }
}

struct Handler(Arc<Shared>);

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        self.0.mark(|t| &mut t.gathering);
        let allowed = &self.0.candidates;
        let kind = event.candidate.typ.to_string().parse::<CandidateType>();
        if !allowed.is_empty() && !kind.is_ok_and(|kind| allowed.contains(&kind)) {
            return;
        }
        match event.candidate.to_json() {
            Ok(init) => self.0.emit(PeerEvent::LocalCandidate(Some(IceCandidateInit {
                candidate: init.candidate,
                sdp_mid: init.sdp_mid.filter(|mid| !mid.is_empty()).or_else(|| Some("0".into())),
                sdp_mline_index: init.sdp_mline_index.or(Some(0)),
                username_fragment: init.username_fragment,
            }))),
            Err(error) => tracing::warn!("a local candidate could not be written: {error}"),
        }
    }

    async fn on_ice_candidate_error(&self, event: RTCPeerConnectionIceErrorEvent) {
        self.0.emit(PeerEvent::CandidateError {
            url: event.url,
            code: event.error_code,
            text: event.error_text,
        });
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.0.emit(PeerEvent::LocalCandidate(None));
        }
    }

    async fn on_ice_connection_state_change(&self, state: RTCIceConnectionState) {
        tracing::debug!(%state, "ICE connection state");
        if matches!(state, RTCIceConnectionState::Connected | RTCIceConnectionState::Completed) {
            self.0.mark(|t| &mut t.ice);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let state = match state {
            RTCPeerConnectionState::Connecting => ConnectionState::Connecting,
            RTCPeerConnectionState::Connected => {
                self.0.mark(|t| &mut t.dtls);
                ConnectionState::Connected
            }
            RTCPeerConnectionState::Disconnected => ConnectionState::Disconnected,
            RTCPeerConnectionState::Failed => ConnectionState::Failed,
            RTCPeerConnectionState::Closed => ConnectionState::Closed,
            _ => return,
        };
        self.0.emit(PeerEvent::State(state));
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.0.control.accept(&self.0, channel);
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let _ = self.0.remote_track.set(Arc::clone(&track));
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

/// One peer connection.
pub struct Peer {
    connection: Arc<dyn PeerConnection>,
    runtime: Arc<PeerRuntime>,
    shared: Arc<Shared>,
    counters: Arc<TapCounters>,
    video: Option<VideoSender>,
    remote_described: tokio::sync::Mutex<Vec<RTCIceCandidateInit>>,
    tasks: Vec<JoinHandle<()>>,
    closed: AtomicBool,
}

impl Peer {
    /// Builds a peer connection with its control channel and, for a sender, its video track.
    ///
    /// # Errors
    /// [`PeerError`] when there is no usable local address or the crate refuses a setting.
    pub async fn new(config: PeerConfig) -> Result<(Self, mpsc::Receiver<PeerEvent>), PeerError> {
        let addresses = config::socket_addresses(&config);
        if addresses.is_empty() {
            return Err(PeerError::NoAddress("none is left after the filters".into()));
        }
        let (events, events_out) = mpsc::channel(QUEUE_EVENTS);
        let (tap, outputs) = Tap::new();
        let shared = Arc::new(Shared {
            created: Instant::now(),
            events,
            timings: Mutex::default(),
            remote_track: OnceLock::new(),
            control: ControlChannels::default(),
            candidates: config.candidates.clone(),
            payload_types: Mutex::default(),
        });
        let runtime = PeerRuntime::new();
        let connection =
            Box::pin(build(&config, addresses, tap, Arc::clone(&runtime), &shared)).await?;
        shared.control.open(&shared, connection.as_ref()).await?;
        let video = match config.role {
            PeerRole::Sender => Some(VideoSender::new(&config, connection.as_ref()).await?),
            PeerRole::Receiver => None,
        };
        let tasks = vec![
            tokio::spawn(video::forward_requests(outputs.requests, shared.events.clone())),
            tokio::spawn(video::receive(outputs.packets, Arc::clone(&shared))),
        ];
        let peer = Self {
            connection,
            runtime,
            shared,
            counters: outputs.counters,
            video,
            remote_described: tokio::sync::Mutex::default(),
            tasks,
            closed: AtomicBool::new(false),
        };
        Ok((peer, events_out))
    }

    /// Creates and sets an offer; its candidates follow as events.
    ///
    /// # Errors
    /// [`PeerError::Crate`].
    pub async fn create_offer(&self) -> Result<String, PeerError> {
        let offer = self
            .connection
            .create_offer(None)
            .await
            .map_err(PeerError::crate_error("create an offer"))?;
        let sdp = offer.sdp.clone();
        self.connection
            .set_local_description(offer)
            .await
            .map_err(PeerError::crate_error("set the offer"))?;
        Ok(sdp)
    }

    /// Takes an offer and gives the answer.
    ///
    /// # Errors
    /// [`PeerError::NoH264`] when the offer has no H.264 video, [`PeerError::Crate`] when it is not
    /// understood.
    pub async fn accept_offer(&self, offer: String) -> Result<String, PeerError> {
        self.check_video(&offer, "offer")?;
        let description = RTCSessionDescription::offer(offer)
            .map_err(PeerError::crate_error("read the offer"))?;
        self.set_remote(description).await?;
        let answer = self
            .connection
            .create_answer(None)
            .await
            .map_err(PeerError::crate_error("create an answer"))?;
        let sdp = answer.sdp.clone();
        self.check_video(&sdp, "offer")?;
        self.connection
            .set_local_description(answer)
            .await
            .map_err(PeerError::crate_error("set the answer"))?;
        Ok(sdp)
    }

    /// Takes the answer to our offer.
    ///
    /// # Errors
    /// [`PeerError::NoH264`] when the answer refuses the video, [`PeerError::Crate`] when it is not
    /// understood.
    pub async fn accept_answer(&self, answer: String) -> Result<(), PeerError> {
        self.check_video(&answer, "answer")?;
        let description = RTCSessionDescription::answer(answer)
            .map_err(PeerError::crate_error("read the answer"))?;
        self.set_remote(description).await
    }

    fn check_video(&self, sdp: &str, kind: &'static str) -> Result<(), PeerError> {
        let media = sdp::h264_media(sdp)
            .ok_or_else(|| PeerError::NoH264 { kind, codecs: sdp::video_codecs(sdp) })?;
        *self.shared.payload_types.lock().expect("no holder of this lock panics") =
            media.payload_types;
        Ok(())
    }

    async fn set_remote(&self, description: RTCSessionDescription) -> Result<(), PeerError> {
        let mut early = self.remote_described.lock().await;
        self.connection
            .set_remote_description(description)
            .await
            .map_err(PeerError::crate_error("set the other side's description"))?;
        for candidate in early.drain(..) {
            self.add(candidate).await;
        }
        Ok(())
    }

    /// Takes a candidate of the other side, also before its description; `None` says there are no
    /// more.
    pub async fn add_candidate(&self, candidate: Option<IceCandidateInit>) {
        let Some(candidate) = candidate.filter(|c| !c.candidate.is_empty()) else { return };
        let init = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_mline_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        let mut early = self.remote_described.lock().await;
        if self.connection.remote_description().await.is_none() {
            // A few hundred are plenty; a flood is not kept.
            if early.len() < 256 {
                early.push(init);
            }
            return;
        }
        drop(early);
        self.add(init).await;
    }

    async fn add(&self, candidate: RTCIceCandidateInit) {
        if let Err(error) = self.connection.add_ice_candidate(candidate).await {
            tracing::warn!("a candidate of the other side was not taken: {error}");
        }
        self.runtime.wake();
    }

    /// Sends an access unit on the video track.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`] for a receiver or before the connection is up.
    pub async fn send_access_unit(&self, unit: &AccessUnit) -> Result<SentAccessUnit, PeerError> {
        self.video.as_ref().ok_or(PeerError::NotOpen("the video track"))?.send(unit).await
    }

    /// RTP timestamp the sender gives to a picture taken at that time.
    #[must_use]
    pub fn rtp_timestamp(&self, unit: &AccessUnit) -> Option<u32> {
        self.video.as_ref().map(|video| video.timestamp(unit.captured_at))
    }

    /// Asks the other side for a keyframe by PLI; false when its track has not begun yet.
    pub async fn send_pli(&self) -> bool {
        let Some(track) = self.shared.remote_track.get() else { return false };
        video::send_pli(track.as_ref()).await
    }

    /// Sends a message of our own on the control channel.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`] before the channel is open.
    pub async fn send_control(&self, message: &ControlMessage) -> Result<(), PeerError> {
        self.shared.control.send(message).await
    }

    /// Answers a message on the channel it came on.
    pub async fn answer_control(&self, message: &ControlMessage, channel: &ChannelRef) {
        self.shared.control.answer(message, channel).await;
    }

    /// When each step of the set-up was reached.
    #[must_use]
    pub fn timings(&self) -> Timings {
        *self.shared.timings.lock().expect("no holder of this lock panics")
    }

    /// getStats with W3C names.
    pub async fn stats(&self) -> Snapshot {
        let report = self.connection.get_stats(Instant::now(), StatsSelector::None).await;
        let selected = self.selected_pair().await;
        if let Some([local, _]) = &selected
            && self.timings().data_channel.is_some()
        {
            self.runtime.set_passes(match local.kind {
                CandidateType::Relay => ExtraPasses::Relayed,
                _ => ExtraPasses::Direct,
            });
        }
        stats::snapshot(&report, selected, &self.counters, self.shared.control.counters())
    }

    /// The selected pair, which the crate's report names but does not always describe.
    async fn selected_pair(&self) -> Option<[CandidateStats; 2]> {
        let dtls = self.connection.sctp().await?.transport();
        let pair = dtls.ice_transport().get_selected_candidate_pair().await.ok()??;
        let describe = |candidate: &RTCIceCandidate| CandidateStats {
            kind: candidate.typ.to_string().parse().unwrap_or(CandidateType::Prflx),
            address: candidate.address.clone(),
            port: candidate.port,
        };
        Some([describe(pair.local()), describe(pair.remote())])
    }

    /// Closes the connection and everything on it.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        close(Arc::clone(&self.connection)).await;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        // The crate keeps its driver and sockets when a connection is dropped without `close`.
        for task in &self.tasks {
            task.abort();
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(close(Arc::clone(&self.connection)));
        }
    }
}

async fn close(connection: Arc<dyn PeerConnection>) {
    match tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("closing the peer connection: {error}"),
        Err(_) => tracing::warn!("closing the peer connection took over {CLOSE_TIMEOUT:?}"),
    }
}

/// Builds the connection, without mDNS where multicast cannot be joined.
async fn build(
    config: &PeerConfig,
    addresses: Vec<SocketAddr>,
    tap: Tap,
    runtime: Arc<PeerRuntime>,
    shared: &Arc<Shared>,
) -> Result<Arc<dyn PeerConnection>, PeerError> {
    let mdns =
        if multicast_works() { MulticastDnsMode::QueryOnly } else { MulticastDnsMode::Disabled };
    let building = PeerConnectionBuilder::new()
        .with_configuration(config::rtc_configuration(config))
        .with_media_engine(config::media_engine(config)?)
        .with_setting_engine(config::setting_engine(mdns))
        .with_interceptor_registry(config::interceptors(tap))
        .with_runtime(runtime)
        .with_handler(Arc::new(Handler(Arc::clone(shared))))
        .with_udp_addrs(addresses)
        .with_data_channel_send_buffer_limit(4 << 20)
        .build();
    let connection =
        Box::pin(building).await.map_err(PeerError::crate_error("build the peer connection"))?;
    Ok(Arc::new(connection))
}

/// Whether the mDNS group can be joined; the crate's `build` fails where it cannot.
fn multicast_works() -> bool {
    std::net::UdpSocket::bind("0.0.0.0:0").is_ok_and(|socket| {
        socket
            .join_multicast_v4(
                &std::net::Ipv4Addr::new(224, 0, 0, 251),
                &std::net::Ipv4Addr::UNSPECIFIED,
            )
            .is_ok()
    })
}
