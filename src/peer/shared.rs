//! State shared by the crate's callbacks, the tasks and the peer.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{runtime::Handle, sync::mpsc};
use webrtc::media_stream::track_remote::TrackRemote;

use super::{
    control::ControlChannels,
    event::{PeerEvent, Timings},
    frames::Frames,
    gathering::GatheringMonitor,
    repair::RtxTypes,
    vitals::LivenessMonitor,
};
use crate::types::CandidateType;

/// State shared by the callbacks, the tasks and the peer.
pub(super) struct PeerState {
    pub(super) liveness: Arc<LivenessMonitor>,
    /// The application's runtime, for tasks that have to outlive the driver.
    application: Handle,
    pub(super) events: mpsc::Sender<PeerEvent>,
    timings: Mutex<Timings>,
    pub(super) remote_track: OnceLock<Arc<dyn TrackRemote>>,
    pub(super) control: ControlChannels,
    pub(super) frames: Frames,
    /// Types of local candidates to announce; empty means all.
    pub(super) candidates: Vec<CandidateType>,
    pub(super) payload_types: Mutex<Vec<u8>>,
    pub(super) rtx_types: RtxTypes,
    /// Parameter sets from the peer's description, in Annex B form.
    pub(super) parameter_sets: Mutex<Bytes>,
    /// The m-line of our candidates: its `a=mid` and index.
    pub(super) candidate_line: Mutex<(String, u16)>,
    gathering: Arc<GatheringMonitor>,
    no_more_candidates: AtomicBool,
}

impl PeerState {
    pub(super) fn new(
        events: mpsc::Sender<PeerEvent>,
        candidates: Vec<CandidateType>,
        gathering: Arc<GatheringMonitor>,
        liveness: Arc<LivenessMonitor>,
    ) -> Arc<Self> {
        Arc::new(Self {
            liveness,
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
            // The first m-line of our offers.
            candidate_line: Mutex::new(("0".into(), 0)),
            gathering,
            no_more_candidates: AtomicBool::new(false),
        })
    }

    pub(super) fn created(&self) -> Instant {
        self.liveness.created()
    }

    pub(super) fn timings(&self) -> Timings {
        *self.timings.lock().expect("no holder of this lock panics")
    }

    pub(super) fn mark(&self, step: impl FnOnce(&mut Timings) -> &mut Option<Duration>) {
        let mut timings = self.timings.lock().expect("no holder of this lock panics");
        step(&mut timings).get_or_insert(self.created().elapsed());
    }

    pub(super) fn mark_channel_open(&self) {
        self.mark(|t| &mut t.data_channel);
        self.liveness.channel_opened();
        self.gathering.finish();
    }

    /// Announces the end of candidates, once. The crate does so when the last of its requests has timed out, which
    /// may never happen; the gathering monitor detects the end earlier.
    pub(super) fn end_of_candidates(&self) {
        if !self.no_more_candidates.swap(true, Ordering::Relaxed) {
            self.emit(PeerEvent::LocalCandidate(None));
        }
    }

    /// Prepares for further candidates, which are followed by another end of candidates.
    pub(super) fn restart_gathering(&self) {
        self.no_more_candidates.store(false, Ordering::Relaxed);
    }

    /// Emits an event without blocking: it may be raised inside the crate's driver.
    pub(super) fn emit(&self, event: PeerEvent) {
        // A full queue holds control messages. Losing a state event would leave a run waiting forever, so the event
        // waits for space in the queue, outside the driver.
        if let Err(mpsc::error::TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            self.application.spawn(async move {
                let _ = events.send(event).await;
            });
        }
    }
}
