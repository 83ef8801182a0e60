//! Network measurements of a keyframe, kept until it is on disk.

use std::time::{Duration, SystemTime};

use super::millis;
use crate::{
    media::sink::FrameRecord,
    peer::assembler::WholeAccessUnit,
    proto::control::KeyframeInfo,
    session::epoch_seconds,
    stats::{Stages, bottleneck::ArrivedKeyframe},
};

/// A keyframe that is being written.
#[derive(Debug, Default)]
pub(super) struct InFlightKeyframe {
    /// Time between receiving its first and its last packet.
    pub(super) receive_time: Duration,
    /// How it arrived.
    pub(super) seen: Option<ArrivedKeyframe>,
    /// When the sender started sending it, in seconds since 1970 on the sender's clock.
    sent_at: Option<f64>,
}

impl InFlightKeyframe {
    pub(super) fn new(unit: &WholeAccessUnit, info: Option<&KeyframeInfo>) -> Self {
        Self {
            receive_time: unit.completed.duration_since(unit.first_packet),
            seen: Some(unit.arrival_summary()),
            sent_at: info.and_then(|info| info.sent_at),
        }
    }

    /// Adds the stages that need both clocks; `offset` is the sender's clock minus ours, in
    /// seconds.
    pub(super) fn complete(
        &self,
        stages: Stages<Option<f64>>,
        record: &FrameRecord,
        written_at: SystemTime,
        offset: Option<f64>,
    ) -> Stages<Option<f64>> {
        let since = |theirs: Option<f64>, ours: f64| {
            let (theirs, offset) = theirs.zip(offset)?;
            Some(millis(ours - theirs + offset).max(0.0))
        };
        Stages {
            network: since(self.sent_at, record.received_at),
            total: since(record.capture_time, epoch_seconds(written_at)),
            ..stages
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_offset_is_subtracted() {
        let underway = InFlightKeyframe { sent_at: Some(1007.010), ..InFlightKeyframe::default() };
        let record = FrameRecord {
            capture_time: Some(1006.970),
            received_at: 1000.012,
            ..FrameRecord::default()
        };
        let written_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_030);
        let complete = |offset| underway.complete(Stages::default(), &record, written_at, offset);
        // The sender's clock is 7 s ahead.
        assert_eq!(complete(Some(7.0)).network, Some(2.0));
        assert_eq!(complete(Some(7.0)).total, Some(60.0));
        assert_eq!(complete(None), Stages::default());
    }
}
