//! Matches access units from the video track with their announcements on the control channel, by RTP timestamp and in
//! any order of arrival.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{peer::event::ReceivedAccessUnit, proto::control::KeyframeInfo, session::sha256};

/// How long an access unit waits for its announcement: apps may not send one.
const WAIT: Duration = Duration::from_millis(300);

/// Maximum number of unmatched items; the oldest are dropped first.
const MAX_UNMATCHED: usize = 64;

/// Access units and announcements not yet matched.
#[derive(Debug, Default)]
pub(super) struct Matching {
    infos: BTreeMap<u32, KeyframeInfo>,
    units: BTreeMap<u32, ReceivedAccessUnit>,
}

/// A keyframe with its announcement.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) info: KeyframeInfo,
    pub(super) received: ReceivedAccessUnit,
    /// Whether its SHA-256 is the announced one.
    pub(super) intact: bool,
}

impl Matching {
    /// Adds the announcement of a keyframe.
    pub(super) async fn info(&mut self, info: KeyframeInfo) -> Option<Verified> {
        let timestamp = info.rtp_timestamp;
        if let Some(unit) = self.units.remove(&timestamp) {
            return Some(verified(info, unit).await);
        }
        keep(&mut self.infos, timestamp, info);
        None
    }

    /// Adds a complete access unit.
    pub(super) async fn unit(&mut self, received: ReceivedAccessUnit) -> Option<Verified> {
        let timestamp = received.unit.timestamp;
        if let Some(info) = self.infos.remove(&timestamp) {
            return Some(verified(info, received).await);
        }
        keep(&mut self.units, timestamp, received);
        None
    }

    /// When the next access unit becomes overdue.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.units.values().map(|received| received.unit.completed + WAIT).min()
    }

    /// Removes an access unit whose announcement is overdue.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<ReceivedAccessUnit> {
        let overdue = |received: &&ReceivedAccessUnit| now >= received.unit.completed + WAIT;
        let timestamp = self.units.values().find(overdue)?.unit.timestamp;
        self.units.remove(&timestamp)
    }
}

fn keep<T>(map: &mut BTreeMap<u32, T>, timestamp: u32, value: T) {
    map.insert(timestamp, value);
    if map.len() > MAX_UNMATCHED {
        map.pop_first();
    }
}

async fn verified(info: KeyframeInfo, received: ReceivedAccessUnit) -> Verified {
    let sha256 = hash(received.unit.data.clone()).await;
    let intact = sha256.eq_ignore_ascii_case(&info.sha256);
    Verified { info, received, intact }
}

/// SHA-256, hex, computed off the async threads: it takes as long as processing a hundred packets.
pub(super) async fn hash(data: Bytes) -> String {
    let computed = tokio::task::spawn_blocking(move || sha256(&data)).await;
    // The task fails only when the runtime shuts down.
    computed.unwrap_or_default()
}
