//! One connection of the measuring peer, from the token request to the close. `measuring` covers the time after the
//! data channel is open, `remote_report` requests the peer's report, `record` assembles the result.

mod measuring;
mod record;
mod remote_report;

use std::{sync::Arc, time::Instant};

use tokio::task::JoinHandle;

use self::remote_report::RemoteReport;
use super::{
    BenchEvent, Run, Slot,
    diagnosis::Evidence,
    local_peer::{LocalPeer, LocalPeerEvent, settled},
    matching::Matching,
    pinging::Pinging,
    plan::Share,
    setup_timeline::SetupTimeline,
    video::Video,
};
use crate::{
    media::h264,
    peer::{
        ConnectionState, IcePolicy, Peer, PeerEvent, PeerRole,
        gathering::{GatherOutcome, GatherResult},
        stats::{SelectedPair, Snapshot},
        video::SentAccessUnit,
    },
    proto::control::ControlMessage,
    report::bench::schema::ConnectionRecord,
    session::{Call, CallEvent, SessionError, until},
    stats::{Histogram, bottleneck},
    types::ConnectionType,
};

/// The result of a connection.
pub(super) struct Attempted {
    /// Its record in the bench result.
    pub(super) record: ConnectionRecord,
    /// Round-trip times of all answered pings, ms.
    pub(super) rtt: Histogram,
    /// One-way times, ms: out and back.
    pub(super) one_way: Vec<[f64; 2]>,
    /// The peer's clock minus ours, ms.
    pub(super) clock_offset_ms: Option<f64>,
    /// Whether the peer did not report the outcome of the keyframes.
    pub(super) unreported: bool,
    /// Delivery of the keyframes that arrived in this process.
    pub(super) delivered: Vec<(bottleneck::ArrivedKeyframe, bottleneck::Assessment)>,
}

/// Makes and measures one connection; `index` is 0 for a warm-up connection.
pub(super) async fn attempt(run: &Run, slot: &Slot, index: u64, share: Share) -> Attempted {
    let mut connection = Connection::new(run, slot, index, share);
    if let Some(config) = &slot.local_peer {
        match LocalPeer::join(config.clone(), run.config.timeout).await {
            Ok(local_peer) => connection.local_peer = Some(local_peer),
            Err(error) => connection.evidence.error = Some(error),
        }
    }
    connection.timeline = SetupTimeline::new(Instant::now());
    if connection.evidence.error.is_none() {
        let mut call = Call::start(slot.measuring.clone());
        connection.follow(&mut call).await;
        connection.final_snapshot().await;
        if let Some(local_peer) = connection.local_peer.take() {
            connection.other = local_peer.leave().await.map(|pair| pair.connection);
        }
        call.close("done").await;
    } else if let Some(local_peer) = connection.local_peer.take() {
        local_peer.leave().await;
    }
    connection.finish()
}

struct Connection<'r> {
    run: &'r Run,
    role: PeerRole,
    relay_only: bool,
    index: u64,
    share: Share,
    timeline: SetupTimeline,
    evidence: Evidence,
    /// The remote peer is in this process, and reports what arrives.
    peer_is_local: bool,
    local_peer: Option<LocalPeer>,
    peer: Option<Arc<Peer>>,
    open: Option<super::resources::OpenConnection<'r>>,
    pair: Option<SelectedPair>,
    /// The connection type that the peer reports.
    other: Option<ConnectionType>,
    pinging: Pinging,
    video: Video,
    sending: Option<JoinHandle<Option<SentAccessUnit>>>,
    matching: Matching,
    stats_due: Option<Instant>,
    /// End of the measurement, if it has a duration.
    measured_until: Option<Instant>,
    remote_report: RemoteReport,
    over: bool,
}

enum Step {
    Call(CallEvent),
    LocalPeer(LocalPeerEvent),
    Sent(Option<SentAccessUnit>),
    Wake,
}

impl<'r> Connection<'r> {
    fn new(run: &'r Run, slot: &Slot, index: u64, share: Share) -> Self {
        let plan = &run.config.plan;
        let role = slot.measuring.peer.role;
        Self {
            run,
            role,
            relay_only: slot.measuring.peer.ice_policy == IcePolicy::Relay,
            index,
            share,
            timeline: SetupTimeline::new(Instant::now()),
            evidence: Evidence::default(),
            peer_is_local: slot.local_peer.is_some(),
            local_peer: None,
            peer: None,
            open: None,
            pair: None,
            other: None,
            pinging: Pinging::new(
                share.pings,
                plan.ping_interval,
                plan.ping_bytes,
                plan.ping_life_time,
            ),
            video: Video::new(share.keyframes, plan.interval),
            sending: None,
            matching: Matching::default(),
            stats_due: None,
            measured_until: None,
            remote_report: RemoteReport::default(),
            over: false,
        }
    }

    /// Handles events until everything is measured or the connection is over.
    async fn follow(&mut self, call: &mut Call) {
        while !self.over {
            let wake = self.wake();
            let step = tokio::select! {
                biased;
                event = call.next() => Step::Call(event),
                event = next_local_event(self.local_peer.as_mut()) => Step::LocalPeer(event),
                sent = sent(&mut self.sending) => Step::Sent(sent),
                () = until(wake.map(Into::into)) => Step::Wake,
            };
            if let Some(peer) = call.peer() {
                self.peer = Some(peer);
            }
            match step {
                Step::Call(event) => self.on_call(event).await,
                Step::LocalPeer(event) => self.on_local_peer(event),
                Step::Sent(sent) => {
                    self.sending = None;
                    if let Some(sent) = sent {
                        self.video.handed_over(&sent);
                    }
                }
                Step::Wake => {}
            }
            self.on_time().await;
        }
    }

    fn fail(&mut self, error: SessionError) {
        self.evidence.error = Some(error);
        self.over = true;
    }

    fn wake(&self) -> Option<Instant> {
        let set_up_by = self.timeline.start + self.run.config.timeout;
        if self.open.is_none() {
            return Some(set_up_by);
        }
        let video = self.video.wake().filter(|_| self.sending.is_none());
        [
            self.pinging.wake(),
            self.matching.wake(),
            video,
            self.stats_due,
            self.measured_until,
            self.remote_report.due,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    async fn on_call(&mut self, event: CallEvent) {
        match event {
            CallEvent::Joined { peer_present, timings, clock_skew } => {
                self.evidence.joined = true;
                self.evidence.clock_skew = clock_skew;
                self.evidence.present = peer_present.or(self.evidence.present);
                if let Some(timings) = timings {
                    self.timeline.joined.get_or_insert((Instant::now(), timings));
                }
            }
            CallEvent::PeerJoined => self.evidence.present = Some(true),
            CallEvent::PeerLeft(_) => self.evidence.present = Some(false),
            CallEvent::Described(at) => {
                self.evidence.described = true;
                self.timeline.described.get_or_insert(at);
            }
            CallEvent::Refused(error) | CallEvent::Failed(error) => {
                // Losing the socket does not affect an established connection.
                if self.open.is_none() {
                    self.fail(error);
                }
            }
            CallEvent::Lost(why, counted) => self.lost(why.message, *counted),
            CallEvent::Bye(reason, counted) => {
                let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
                self.lost(format!("the peer left{reason}"), *counted);
            }
            CallEvent::Peer(event) => self.on_peer(event).await,
            CallEvent::CandidateError { .. } => self.on_candidate_error(),
            CallEvent::Connected
            | CallEvent::SignalingLost(_)
            | CallEvent::Restarting(_)
            | CallEvent::ChannelMissing(_) => {}
        }
    }

    /// A STUN or TURN server failed. If only relays are allowed and no TURN server is left, there is nothing to wait
    /// for.
    fn on_candidate_error(&mut self) {
        let Some(peer) = self.peer.as_ref().filter(|_| self.relay_only && self.open.is_none())
        else {
            return;
        };
        let servers = peer.gathering();
        let has_failed = |server: &GatherResult| {
            server.failure().is_some() || server.outcome == GatherOutcome::Unused
        };
        self.evidence.no_relay = servers.iter().filter(|s| s.is_turn()).all(has_failed);
        self.over |= self.evidence.no_relay;
    }

    fn lost(&mut self, why: String, counted: Option<Snapshot>) {
        if let Some(snapshot) = counted {
            self.take_snapshot(&snapshot);
        }
        self.evidence.lost = Some(why);
        self.over = true;
    }

    async fn on_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::ControlOpen => self.opened().await,
            PeerEvent::State(ConnectionState::Disconnected) if self.open.is_some() => {
                self.lost("the peer no longer responds".into(), None);
            }
            PeerEvent::Control(ControlMessage::Pong { id, at, .. }, _, read) => {
                self.pinging.pong(&id, at, read);
            }
            PeerEvent::Control(ControlMessage::Keyframe(info), ..)
                if self.role == PeerRole::Receiver =>
            {
                if let Some(verified) = self.matching.info(info).await {
                    self.keyframe(verified);
                }
            }
            PeerEvent::Control(ControlMessage::BenchReport(report), ..) => {
                self.remote_report.take(report);
            }
            // Pictures between keyframes are not measured.
            PeerEvent::AccessUnit(received)
                if self.role == PeerRole::Receiver && h264::is_keyframe(&received.unit.data) =>
            {
                if let Some(verified) = self.matching.unit(received).await {
                    self.keyframe(verified);
                }
            }
            PeerEvent::Broken(broken) => self.video.broken(broken.reason.as_str().to_owned()),
            _ => {}
        }
    }

    fn on_local_peer(&mut self, event: LocalPeerEvent) {
        match event {
            LocalPeerEvent::Arrived(arrived) => self.video.arrived(&arrived),
            LocalPeerEvent::Broken(why) => self.video.broken(why),
            LocalPeerEvent::Failed(error) if self.open.is_none() => {
                let message = format!("the remote peer: {}", error.message);
                self.fail(SessionError { message, ..error });
            }
            LocalPeerEvent::Failed(_) => {}
        }
    }

    async fn emit_stats(&self) {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.index > 0) {
            let report = peer.stats().await.report;
            self.run.emit(BenchEvent::Stats { connection: self.index, report });
        }
    }

    /// Reads state that is only available while the connection exists.
    async fn final_snapshot(&mut self) {
        let Some(peer) = self.peer.clone() else { return };
        self.timeline.peer = Some((peer.created(), peer.timings()));
        self.evidence.timings = peer.timings();
        self.evidence.servers = peer.gathering();
        if self.evidence.lost.is_none() {
            let snapshot = settled(&peer).await;
            self.take_snapshot(&snapshot);
        }
    }

    fn take_snapshot(&mut self, snapshot: &Snapshot) {
        self.evidence.local = snapshot.candidate_types("local-candidate");
        self.evidence.remote = snapshot.candidate_types("remote-candidate");
        self.pair = snapshot.pair.clone().or_else(|| self.pair.take());
        if self.index > 0 && !snapshot.report.is_empty() {
            let report = snapshot.report.clone();
            self.run.emit(BenchEvent::Stats { connection: self.index, report });
        }
    }
}

async fn next_local_event(local_peer: Option<&mut LocalPeer>) -> LocalPeerEvent {
    match local_peer {
        Some(local_peer) => local_peer.next().await,
        None => std::future::pending().await,
    }
}

async fn sent(sending: &mut Option<JoinHandle<Option<SentAccessUnit>>>) -> Option<SentAccessUnit> {
    match sending {
        // A failed send is noticed at the receiver.
        Some(sending) => sending.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
