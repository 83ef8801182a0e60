//! One peer connection: construction, outgoing video and control messages, statistics, and closing.

mod negotiation;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rtc::peer_connection::transport::{RTCIceCandidate, RTCIceCandidateInit};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use webrtc::peer_connection::{PeerConnection, StatsSelector, transport::DtlsTransport};

use super::{
    config::{self, Binding, IcePolicy, PeerConfig, PeerRole},
    control::ChannelRef,
    error::PeerError,
    event::{PeerEvent, Timings},
    frames::CodedFrame,
    gathering::{GatherResult, GatheringMonitor, ServerFailure},
    handler::build,
    pacing::Pacing,
    relay_wait::RelayWait,
    remote_candidates::RemoteCandidates,
    repair::{PeerRepairs, RttSeed, Rtx},
    rtp_observer::{RtpCounters, RtpObserver},
    runtime::{ExtraPasses, PeerRuntime},
    sdp::{Setup, hints::Hints},
    shared::PeerState,
    stats::{self, CandidateStats, Snapshot},
    streams::StreamServers,
    video::{self, SentAccessUnit, VideoSender},
    vitals::{LivenessMonitor, Vitals},
    watchdog,
};
use crate::{
    lock::locked, media::h264::AccessUnit, proto::control::ControlMessage, types::CandidateType,
};

/// Capacity of the event queue. Control messages beyond it wait in SCTP; states and candidates are few.
const QUEUE_EVENTS: usize = 1024;

/// Timeout of a clean close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum delay from a server's last answer to the candidate that the crate creates from it, including a margin.
const LAST_CANDIDATES: Duration = Duration::from_millis(200);

/// One peer connection.
pub struct Peer {
    config: PeerConfig,
    connection: Arc<dyn PeerConnection>,
    runtime: Arc<PeerRuntime>,
    streams: Arc<StreamServers>,
    gathering: Arc<GatheringMonitor>,
    shared: Arc<PeerState>,
    counters: Arc<RtpCounters>,
    rtt_seed: RttSeed,
    pacing: Arc<Pacing>,
    video: Option<VideoSender>,
    remote_described: tokio::sync::Mutex<Vec<RTCIceCandidateInit>>,
    with_mdns: bool,
    remote_candidates: Mutex<RemoteCandidates>,
    /// Our DTLS role as stated in the first answer, if the offer left no choice; it is permanent (RFC 8842 §5.3).
    answered_setup: OnceLock<Option<Setup>>,
    /// The hints for the phone's bandwidth estimator in the first answer: if they changed, libwebrtc would restart
    /// its estimate.
    answered_hints: OnceLock<Option<Hints>>,
    /// The last statistics, for when the connection can no longer be queried.
    last_stats: Mutex<Snapshot>,
    tasks: Vec<JoinHandle<()>>,
    closed: AtomicBool,
}

impl Peer {
    /// Builds a peer connection with its control channel and, for a sender, its video track.
    ///
    /// # Errors
    /// [`PeerError`] if there is no usable local address or the crate rejects a setting.
    pub async fn new(config: PeerConfig) -> Result<(Self, mpsc::Receiver<PeerEvent>), PeerError> {
        let binding = Binding::new(&config);
        if binding.is_empty() {
            return Err(PeerError::NoAddress("none matches the filters".into()));
        }
        let (events, events_out) = mpsc::channel(QUEUE_EVENTS);
        let streams = Arc::new(StreamServers::new(
            &config.ice_servers,
            config.trust.clone(),
            config.gateway.clone(),
        ));
        // The phone offers, so it is the controlling agent (RFC 8445 §6.1.1).
        let holds = config.role == PeerRole::Sender && config.ice_policy == IcePolicy::All;
        let (gathering, losses) = GatheringMonitor::new(&config.ice_servers, &streams, holds);
        let liveness = Arc::new(LivenessMonitor::new());
        let candidates = config.candidates.clone();
        let shared =
            PeerState::new(events, candidates, Arc::clone(&gathering), Arc::clone(&liveness));
        let pacing = Pacing::new(config.pace);
        let runtime = PeerRuntime::new(
            Arc::clone(&gathering),
            Arc::clone(&streams),
            config.gateway.clone(),
            Arc::clone(&liveness),
            RelayWait::new(config::nomination_wait(&config)),
            Arc::clone(&pacing),
        );
        let (rtp_observer, outputs) = RtpObserver::new(Arc::clone(&liveness));
        let rtx = Rtx::new(shared.rtx_types.clone(), Arc::clone(&runtime.filters().media));
        let rtc = config::rtc_configuration(&config, &streams);
        let rtt_seed = RttSeed::default();
        let peer_repairs = PeerRepairs::default();
        let chain =
            config::interceptors(&config, rtp_observer, rtx, &pacing, &rtt_seed, &peer_repairs);
        let building = build(&config, rtc, binding, chain, Arc::clone(&runtime), &shared);
        let (connection, with_mdns) = Box::pin(building).await?;
        let life_time = config.control_life_time;
        shared.control.open(&shared, connection.as_ref(), &runtime, life_time).await?;
        let video = match config.role {
            PeerRole::Sender => Some(VideoSender::new(&config, connection.as_ref()).await?),
            PeerRole::Receiver => None,
        };
        let patience = if config.repair { video::PATIENCE } else { video::PATIENCE_UNREPAIRED };
        let mut tasks = vec![
            tokio::spawn(video::forward_requests(outputs.requests, shared.events.clone())),
            tokio::spawn(video::receive(
                outputs.packets,
                Arc::clone(&shared),
                patience,
                peer_repairs,
                config.phone_path.clone(),
            )),
            tokio::spawn(watchdog::watch(Arc::clone(&liveness), Arc::downgrade(&runtime))),
            tokio::spawn(report_end(Arc::clone(&shared))),
        ];
        for failure in gathering.unusable() {
            report_failure(&shared, failure);
        }
        if gathering.is_active() {
            let (gathering, shared) = (Arc::clone(&gathering), Arc::clone(&shared));
            tasks.push(tokio::spawn(report_failures(gathering, losses, shared)));
        }
        let peer = Self {
            config,
            connection,
            runtime,
            streams,
            gathering,
            shared,
            counters: outputs.counters,
            rtt_seed,
            pacing,
            video,
            remote_described: tokio::sync::Mutex::default(),
            with_mdns,
            remote_candidates: Mutex::default(),
            answered_setup: OnceLock::new(),
            answered_hints: OnceLock::new(),
            last_stats: Mutex::default(),
            tasks,
            closed: AtomicBool::new(false),
        };
        Ok((peer, events_out))
    }

    /// Sends an access unit on the video track.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`] for a receiver or before the connection is established.
    pub async fn send_access_unit(&self, unit: &AccessUnit) -> Result<SentAccessUnit, PeerError> {
        let timestamp =
            self.next_rtp_timestamp(unit).ok_or(PeerError::NotOpen("the video track"))?;
        self.send_access_unit_at(unit, timestamp).await
    }

    /// Sends an access unit with a timestamp obtained from [`Peer::next_rtp_timestamp`].
    ///
    /// # Errors
    /// As [`Peer::send_access_unit`].
    pub async fn send_access_unit_at(
        &self,
        unit: &AccessUnit,
        rtp_timestamp: u32,
    ) -> Result<SentAccessUnit, PeerError> {
        let video = self.video.as_ref().ok_or(PeerError::NotOpen("the video track"))?;
        let sending = async {
            self.wait_for_remote_keys().await;
            let relayed = self.may_be_relayed().await;
            let sent = video.send(unit, rtp_timestamp, &self.pacing, relayed).await;
            self.shared.liveness.keyframe_sent();
            if sent.is_ok() {
                self.shared.frames.transferred(Some((unit.width, unit.height)));
            }
            sent
        };
        self.unless_stopped(sending).await
    }

    /// Runs a request to the crate; fails once the driver has ended or hangs, since the crate would then never
    /// answer.
    async fn unless_stopped<T>(
        &self,
        request: impl Future<Output = Result<T, PeerError>>,
    ) -> Result<T, PeerError> {
        tokio::select! {
            biased;
            answer = request => answer,
            () = self.shared.liveness.driver_is_gone() => {
                Err(PeerError::Stopped(self.shared.liveness.driver_end().unwrap_or_default()))
            }
        }
    }

    /// Evidence that the connection is alive.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.shared.liveness.vitals()
    }

    /// Waits until the remote peer has shown that it has keys; an access unit sent before that would be lost. The
    /// wait is bounded, and happens only once: the peer may have nothing to send.
    pub async fn wait_for_remote_keys(&self) {
        self.runtime.wait_for_remote_keys().await;
    }

    /// Whether the selected pair may be relayed. A remote candidate whose check arrived before it was signaled is
    /// peer reflexive, even if it belongs to a relay; the statistics are accurate once it has been signaled.
    pub(crate) async fn may_be_relayed(&self) -> bool {
        let may_be = |kind| matches!(kind, CandidateType::Relay | CandidateType::Prflx);
        let Some(pair) = self.selected_pair().await else { return false };
        pair.iter().any(|candidate| may_be(candidate.kind))
            && self.stats().await.pair.is_none_or(|pair| may_be(pair.local) || may_be(pair.remote))
    }

    /// Returns the RTP timestamp for the next access unit, so that it can be announced before the access unit is
    /// sent; `None` for a receiver.
    #[must_use]
    pub fn next_rtp_timestamp(&self, unit: &AccessUnit) -> Option<u32> {
        self.video.as_ref().map(|video| video.next_timestamp(unit.captured_at))
    }

    /// Requests a keyframe from the remote peer by PLI; false if its track has not started yet.
    pub async fn send_pli(&self) -> bool {
        let Some(track) = self.shared.remote_track.get() else { return false };
        let request = async { Ok(video::send_pli(track.as_ref()).await) };
        self.unless_stopped(request).await.unwrap_or(false)
    }

    /// Sends one of our own messages on the control channel.
    ///
    /// # Errors
    /// [`PeerError::NotOpen`] before the channel is open.
    pub async fn send_control(&self, message: &ControlMessage) -> Result<(), PeerError> {
        self.unless_stopped(self.shared.control.send(message, &self.shared.liveness)).await
    }

    /// Sends a ping, and returns the time at which it was passed to SCTP. Both this and reading the answer happen on
    /// the driver's thread, so the round-trip time does not include thread wake-ups.
    ///
    /// # Errors
    /// As [`Peer::send_control`].
    pub async fn send_ping(&self, ping: ControlMessage) -> Result<Instant, PeerError> {
        let (sent, sending) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        self.runtime.spawn_beside(async move {
            let now = Instant::now();
            let result = shared.control.send(&ping, &shared.liveness).await;
            let _ = sent.send(result.map(|()| now));
        });
        let ended = || PeerError::NotOpen("the control channel");
        self.unless_stopped(async { sending.await.map_err(|_| ended())? }).await
    }

    /// Answers a message on the channel it arrived on.
    pub async fn answer_control(&self, message: &ControlMessage, channel: &ChannelRef) {
        let answering = self.shared.control.answer(message, channel, &self.shared.liveness);
        // A connection that has stopped is reported elsewhere.
        let answering = async {
            answering.await;
            Ok(())
        };
        let _ = self.unless_stopped(answering).await;
    }

    /// When the peer connection was built, which is the origin of [`Peer::timings`].
    #[must_use]
    pub fn created(&self) -> Instant {
        self.shared.created()
    }

    /// When each step of the setup was reached.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.shared.timings()
    }

    /// The outcome for each STUN and TURN server so far, in the order of the configured URLs.
    #[must_use]
    pub fn gathering(&self) -> Vec<GatherResult> {
        self.gathering.results()
    }

    /// Counts a frame that was encoded for this connection, or decoded from it.
    pub fn count_coded(&self, frame: &CodedFrame) {
        self.shared.frames.coded(frame);
    }

    /// getStats with W3C names; the last known values if the connection has stopped.
    pub async fn stats(&self) -> Snapshot {
        let last = || locked(&self.last_stats);
        if let Ok(snapshot) = self.unless_stopped(async { Ok(self.current_stats().await) }).await {
            let before = last().pair.clone();
            stats::log_selection(before.as_ref(), snapshot.pair.as_ref());
            *last() = snapshot;
        }
        last().clone()
    }

    async fn current_stats(&self) -> Snapshot {
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
        let counters = self.shared.control.counters();
        let signaled = |address| self.signaled_kind(address);
        let mut snapshot =
            stats::snapshot(&report, selected, signaled, &self.streams, &self.counters, counters);
        snapshot.set_frames(&self.shared.frames);
        snapshot.set_liveness(&self.vitals());
        if let Some(bitrate) = self.pacing.estimate() {
            snapshot.set_outgoing_bitrate(bitrate);
        }
        let round_trip = snapshot.pair.as_ref().and_then(|pair| pair.current_round_trip_time);
        if let Some(Ok(round_trip)) = round_trip.map(Duration::try_from_secs_f64) {
            self.rtt_seed.set(round_trip);
        }
        snapshot
    }

    /// The selected pair, which the crate's report names but does not always describe.
    async fn selected_pair(&self) -> Option<[CandidateStats; 2]> {
        let dtls = self.transport().await?;
        let pair = dtls.ice_transport().get_selected_candidate_pair().await.ok()??;
        let describe = |candidate: &RTCIceCandidate| CandidateStats {
            kind: candidate.typ.to_string().parse().unwrap_or(CandidateType::Prflx),
            address: candidate.address.clone(),
            port: candidate.port,
        };
        Some([describe(pair.local()), describe(pair.remote())])
    }

    /// The transport; it is also found if the connection has no data channel.
    async fn transport(&self) -> Option<Arc<dyn DtlsTransport>> {
        if let Some(sctp) = self.connection.sctp().await {
            return Some(sctp.transport());
        }
        for receiver in self.connection.get_receivers().await {
            if let Ok(Some(transport)) = receiver.transport().await {
                return Some(transport);
            }
        }
        for sender in self.connection.get_senders().await {
            if let Ok(Some(transport)) = sender.transport().await {
                return Some(transport);
            }
        }
        None
    }

    /// The candidate type that the peer signaled for an address.
    fn signaled_kind(&self, address: SocketAddr) -> Option<CandidateType> {
        let candidates = self.remote_candidates.lock().expect("no holder of this lock panics");
        candidates.kind_of(address)
    }

    /// Closes the connection and everything on it.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
        let closing = close(Arc::clone(&self.connection));
        if self.shared.liveness.driver_end().is_some() {
            tokio::spawn(closing);
        } else {
            closing.await;
        }
    }
}

/// Reports that the connection has stopped.
async fn report_end(shared: Arc<PeerState>) {
    shared.liveness.driver_is_gone().await;
    let why = shared.liveness.driver_end().unwrap_or_default();
    shared.emit(PeerEvent::Stopped(why));
}

fn report_failure(shared: &PeerState, ServerFailure { url, code, text }: ServerFailure) {
    shared.emit(PeerEvent::CandidateError { url, code, text });
}

/// Reports servers that fail while candidates are gathered, the end of gathering, and allocations that are lost
/// later.
async fn report_failures(
    gathering: Arc<GatheringMonitor>,
    mut losses: mpsc::UnboundedReceiver<ServerFailure>,
    shared: Arc<PeerState>,
) {
    let report = |failure| report_failure(&shared, failure);
    gathering.follow(report).await;
    tokio::time::sleep(LAST_CANDIDATES).await;
    shared.end_of_candidates();
    while let Some(lost) = losses.recv().await {
        report(lost);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        // The crate keeps its driver and sockets if a connection is dropped without `close`.
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
        Ok(Err(error)) => tracing::debug!("could not close the peer connection: {error}"),
        Err(_) => tracing::debug!("closing the peer connection took longer than {CLOSE_TIMEOUT:?}"),
    }
}
