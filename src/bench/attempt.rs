//! One connection of the measuring side, from the token request to the goodbye. `measuring` is
//! what happens once the data channel is open, `reporting` asks the other side what it saw, `record` puts
//! together what came of it.

mod measuring;
mod record;
mod reporting;

use std::{sync::Arc, time::Instant};

use tokio::task::JoinHandle;

use self::reporting::Reporting;
use super::{
    BenchEvent, Run, Slot,
    diagnosis::Seen,
    matching::Matching,
    milestones::Milestones,
    partner::{Partner, Told, settled},
    pinging::Pinging,
    plan::Share,
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

/// What came of a connection.
pub(super) struct Attempted {
    /// What goes into the result.
    pub(super) record: ConnectionRecord,
    /// Round-trip times of all answered pings, ms.
    pub(super) rtt: Histogram,
    /// One-way times, ms: out and back.
    pub(super) one_way: Vec<[f64; 2]>,
    /// The other side's clock less ours, ms.
    pub(super) clock_offset_ms: Option<f64>,
    /// The other side did not say what became of the keyframes.
    pub(super) untold: bool,
    /// How the keyframes that arrived in this process were delivered.
    pub(super) delivered: Vec<(bottleneck::Seen, bottleneck::Judged)>,
}

/// Makes and measures one connection; `index` is 0 for one that does not count.
pub(super) async fn attempt(run: &Run, slot: &Slot, index: u64, share: Share) -> Attempted {
    let mut connection = Connection::new(run, slot, index, share);
    if let Some(config) = &slot.partner {
        match Partner::join(config.clone(), run.config.timeout).await {
            Ok(partner) => connection.partner = Some(partner),
            Err(error) => connection.seen.error = Some(error),
        }
    }
    connection.marks = Milestones::new(Instant::now());
    if connection.seen.error.is_none() {
        let mut link = Call::start(slot.measuring.clone());
        connection.follow(&mut link).await;
        connection.last_look().await;
        if let Some(partner) = connection.partner.take() {
            connection.other = partner.leave().await.map(|pair| pair.connection);
        }
        link.close("done").await;
    } else if let Some(partner) = connection.partner.take() {
        partner.leave().await;
    }
    connection.finish()
}

struct Connection<'r> {
    run: &'r Run,
    role: PeerRole,
    relay_only: bool,
    index: u64,
    share: Share,
    marks: Milestones,
    seen: Seen,
    /// The other side is in this process, and tells what arrives.
    told: bool,
    partner: Option<Partner>,
    peer: Option<Arc<Peer>>,
    open: Option<super::resources::Open<'r>>,
    pair: Option<SelectedPair>,
    /// How the other side says it is connected.
    other: Option<ConnectionType>,
    pinging: Pinging,
    video: Video,
    sending: Option<JoinHandle<Option<SentAccessUnit>>>,
    matching: Matching,
    stats_due: Option<Instant>,
    /// When the measuring ends, with a duration.
    until: Option<Instant>,
    report: Reporting,
    over: bool,
}

enum Step {
    Link(CallEvent),
    Told(Told),
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
            marks: Milestones::new(Instant::now()),
            seen: Seen::default(),
            told: slot.partner.is_some(),
            partner: None,
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
            until: None,
            report: Reporting::default(),
            over: false,
        }
    }

    /// Follows everything until all is measured, or nothing more can be.
    async fn follow(&mut self, link: &mut Call) {
        while !self.over {
            let wake = self.wake();
            let step = tokio::select! {
                biased;
                event = link.next() => Step::Link(event),
                told = next_told(self.partner.as_mut()) => Step::Told(told),
                sent = sent(&mut self.sending) => Step::Sent(sent),
                () = until(wake.map(Into::into)) => Step::Wake,
            };
            if let Some(peer) = link.peer() {
                self.peer = Some(peer);
            }
            match step {
                Step::Link(event) => self.on_link(event).await,
                Step::Told(told) => self.on_told(told),
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
        self.seen.error = Some(error);
        self.over = true;
    }

    fn wake(&self) -> Option<Instant> {
        let set_up_by = self.marks.begun + self.run.config.timeout;
        if self.open.is_none() {
            return Some(set_up_by);
        }
        let video = self.video.wake().filter(|_| self.sending.is_none());
        [
            self.pinging.wake(),
            self.matching.wake(),
            video,
            self.stats_due,
            self.until,
            self.report.due,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    async fn on_link(&mut self, event: CallEvent) {
        match event {
            CallEvent::Joined { peer_present, timings, clock_skew } => {
                self.seen.joined = true;
                self.seen.clock_skew = clock_skew;
                self.seen.present = peer_present.or(self.seen.present);
                if let Some(timings) = timings {
                    self.marks.joined.get_or_insert((Instant::now(), timings));
                }
            }
            CallEvent::PeerJoined => self.seen.present = Some(true),
            CallEvent::PeerLeft(_) => self.seen.present = Some(false),
            CallEvent::Described(at) => {
                self.seen.described = true;
                self.marks.described.get_or_insert(at);
            }
            CallEvent::Refused(error) | CallEvent::Failed(error) => {
                // A socket that is gone leaves the connection alone, once there is one.
                if self.open.is_none() {
                    self.fail(error);
                }
            }
            CallEvent::Lost(why, counted) => self.lost(why.message, *counted),
            CallEvent::Bye(reason, counted) => {
                let reason = reason.map_or(String::new(), |reason| format!(": {reason}"));
                self.lost(format!("the other side said goodbye{reason}"), *counted);
            }
            CallEvent::Peer(event) => self.on_peer(event).await,
            CallEvent::CandidateError { .. } => self.on_candidate_error(),
            CallEvent::Connected
            | CallEvent::SignalingLost(_)
            | CallEvent::Restarting(_)
            | CallEvent::ChannelMissing(_) => {}
        }
    }

    /// A STUN or TURN server failed. With nothing but relays allowed and no TURN server left, there
    /// is nothing to wait for.
    fn on_candidate_error(&mut self) {
        let Some(peer) = self.peer.as_ref().filter(|_| self.relay_only && self.open.is_none())
        else {
            return;
        };
        let servers = peer.gathering();
        let given_up = |server: &GatherResult| {
            server.failure().is_some() || server.outcome == GatherOutcome::Unused
        };
        self.seen.no_relay = servers.iter().filter(|s| s.is_turn()).all(given_up);
        self.over |= self.seen.no_relay;
    }

    fn lost(&mut self, why: String, counted: Option<Snapshot>) {
        if let Some(snapshot) = counted {
            self.look_at(&snapshot);
        }
        self.seen.lost = Some(why);
        self.over = true;
    }

    async fn on_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::ControlOpen => self.opened().await,
            PeerEvent::State(ConnectionState::Disconnected) if self.open.is_some() => {
                self.lost("the other side does not answer any more".into(), None);
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
                self.report.take(report);
            }
            // Pictures between keyframes are not what is measured.
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

    fn on_told(&mut self, told: Told) {
        match told {
            Told::Arrived(arrived) => self.video.arrived(&arrived),
            Told::Broken(why) => self.video.broken(why),
            Told::Failed(error) if self.open.is_none() => {
                let message = format!("the other side: {}", error.message);
                self.fail(SessionError { message, ..error });
            }
            Told::Failed(_) => {}
        }
    }

    async fn tell_stats(&self) {
        if let Some(peer) = self.peer.as_ref().filter(|_| self.index > 0) {
            let report = peer.stats().await.report;
            self.run.tell(BenchEvent::Stats { connection: self.index, report });
        }
    }

    /// What can only be asked while the connection is there.
    async fn last_look(&mut self) {
        let Some(peer) = self.peer.clone() else { return };
        self.marks.peer = Some((peer.created(), peer.timings()));
        self.seen.timings = peer.timings();
        self.seen.servers = peer.gathering();
        if self.seen.lost.is_none() {
            let snapshot = settled(&peer).await;
            self.look_at(&snapshot);
        }
    }

    fn look_at(&mut self, snapshot: &Snapshot) {
        self.seen.local = snapshot.candidate_types("local-candidate");
        self.seen.remote = snapshot.candidate_types("remote-candidate");
        self.pair = snapshot.pair.clone().or_else(|| self.pair.take());
        if self.index > 0 && !snapshot.report.is_empty() {
            let report = snapshot.report.clone();
            self.run.tell(BenchEvent::Stats { connection: self.index, report });
        }
    }
}

async fn next_told(partner: Option<&mut Partner>) -> Told {
    match partner {
        Some(partner) => partner.next().await,
        None => std::future::pending().await,
    }
}

async fn sent(sending: &mut Option<JoinHandle<Option<SentAccessUnit>>>) -> Option<SentAccessUnit> {
    match sending {
        // What became of one that could not be sent shows at the other side.
        Some(sending) => sending.await.ok().flatten(),
        None => std::future::pending().await,
    }
}
