//! What came on the video track and what its sender said of it on the control channel, brought
//! together by RTP timestamp in whichever order they come.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{peer::video::ReceivedAccessUnit, proto::control::KeyframeInfo, session::sha256};

/// How long an access unit waits for what its sender says of it: apps may say nothing.
const WAIT: Duration = Duration::from_millis(300);

/// Halves that wait for each other; the oldest go first.
const MOST: usize = 64;

/// Halves that wait for each other.
#[derive(Debug, Default)]
pub(super) struct Matching {
    infos: BTreeMap<u32, KeyframeInfo>,
    units: BTreeMap<u32, ReceivedAccessUnit>,
}

/// A keyframe with what its sender said of it.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) info: KeyframeInfo,
    pub(super) received: ReceivedAccessUnit,
    /// Whether its SHA-256 is the one the sender told.
    pub(super) intact: bool,
}

impl Matching {
    /// The sender says something of a keyframe.
    pub(super) async fn info(&mut self, info: KeyframeInfo) -> Option<Verified> {
        let timestamp = info.rtp_timestamp;
        if let Some(unit) = self.units.remove(&timestamp) {
            return Some(verified(info, unit).await);
        }
        keep(&mut self.infos, timestamp, info);
        None
    }

    /// An access unit came whole.
    pub(super) async fn unit(&mut self, received: ReceivedAccessUnit) -> Option<Verified> {
        let timestamp = received.unit.timestamp;
        if let Some(info) = self.infos.remove(&timestamp) {
            return Some(verified(info, received).await);
        }
        keep(&mut self.units, timestamp, received);
        None
    }

    /// When an access unit has waited long enough.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.units.values().map(|received| received.unit.completed + WAIT).min()
    }

    /// An access unit that has waited long enough.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<ReceivedAccessUnit> {
        let overdue = |received: &&ReceivedAccessUnit| now >= received.unit.completed + WAIT;
        let timestamp = self.units.values().find(overdue)?.unit.timestamp;
        self.units.remove(&timestamp)
    }
}

fn keep<T>(map: &mut BTreeMap<u32, T>, timestamp: u32, value: T) {
    map.insert(timestamp, value);
    if map.len() > MOST {
        map.pop_first();
    }
}

async fn verified(info: KeyframeInfo, received: ReceivedAccessUnit) -> Verified {
    let sha256 = hash(received.unit.data.clone()).await;
    let intact = sha256.eq_ignore_ascii_case(&info.sha256);
    Verified { info, received, intact }
}

/// SHA-256, hex, computed off the async threads: it takes as long as a hundred packets.
pub(super) async fn hash(data: Bytes) -> String {
    let computed = tokio::task::spawn_blocking(move || sha256(&data)).await;
    // It fails only when the runtime ends.
    computed.unwrap_or_default()
}
