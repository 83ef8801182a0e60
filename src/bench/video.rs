//! Keyframes of one connection: due, in flight, and their outcomes.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    local_peer::Arrived,
    prepared_keyframes::PreparedKeyframe,
    setup_timeline::{micros, ms},
};
use crate::{
    peer::video::SentAccessUnit,
    report::{bench::schema::KeyframeRecord, delivery::KeyframeDelivery},
    stats::bottleneck::{ArrivedKeyframe, Assessment, PingedBy, RoundTrip, assess},
};

/// Time after which a keyframe counts as lost: several rounds of repair.
pub(super) const WITHIN: Duration = Duration::from_secs(3);

/// Keyframes of one connection, in the order they were sent or received.
#[derive(Debug)]
pub(super) struct Video {
    interval: Duration,
    left: u64,
    due: Option<Instant>,
    entries: Vec<Entry>,
    /// Indices of entries with an unknown outcome, by RTP timestamp.
    in_flight: HashMap<u32, usize>,
    /// Why the last incomplete keyframe was incomplete.
    broken: Option<String>,
}

/// One keyframe.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// When it was handed over for sending; when receiving, the arrival of its last packet.
    pub(super) at: Instant,
    sha256: String,
    /// From capture to the end of the encoding, which happened in advance.
    prepared: Duration,
    /// From handover to completion at the receiver, ms.
    transit_ms: Option<f64>,
    /// When it was complete at the receiver.
    completed: Option<Instant>,
    /// How it arrived, if it arrived in this process.
    pub(super) arrival: Option<ArrivedKeyframe>,
    /// Its entry in the result.
    pub(super) record: KeyframeRecord,
}

impl Entry {
    /// Sets the time from handover to completion at the receiver, ms; if reported by the peer, it may be any
    /// number.
    pub(super) fn took(&mut self, handover_to_complete: f64) {
        let took = Duration::try_from_secs_f64(handover_to_complete / 1e3);
        self.completed = took.ok().and_then(|took| self.at.checked_add(took));
        self.transit_ms = Some(handover_to_complete);
        self.record.latency_ms = Some(micros(ms(self.prepared) + handover_to_complete));
    }

    /// Derives network and total time of a sent keyframe once all its stages are known.
    pub(super) fn complete(&mut self) {
        let stages = &mut self.record.stages_ms;
        let network = self.transit_ms.zip(stages.packetize);
        stages.network = network.map(|(all, packetize)| micros((all - packetize).max(0.0)));
        stages.total = stages.sum().map(micros);
    }
}

impl Video {
    /// `count` keyframes, one per `interval`.
    pub(super) fn new(count: u64, interval: Duration) -> Self {
        Self {
            interval,
            left: count,
            due: None,
            entries: Vec::new(),
            in_flight: HashMap::new(),
            broken: None,
        }
    }

    /// Starts: the first keyframe is due now.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = (self.left > 0).then_some(now);
    }

    /// Stops: no more keyframes are due.
    pub(super) fn stop(&mut self) {
        self.left = 0;
        self.due = None;
    }

    /// Whether a keyframe is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// Postpones the due keyframe.
    pub(super) fn postpone(&mut self, to: Instant) {
        self.due = self.due.map(|due| due.max(to));
    }

    /// When the next action is due: sending the next one, or declaring the oldest one lost.
    pub(super) fn wake(&self) -> Option<Instant> {
        let lost = self.in_flight.values().map(|index| self.entries[*index].at + WITHIN).min();
        [self.due, lost].into_iter().flatten().min()
    }

    /// Whether all keyframes were sent and their outcomes are known.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.in_flight.is_empty()
    }

    /// Adds a sent keyframe; `reported` indicates whether its outcome will be reported.
    pub(super) fn sent(
        &mut self,
        keyframe: &PreparedKeyframe,
        rtp_timestamp: u32,
        now: Instant,
        reported: bool,
    ) {
        self.taken(now);
        if reported {
            self.in_flight.insert(rtp_timestamp, self.entries.len());
        }
        self.entries.push(Entry {
            at: now,
            sha256: keyframe.sha256.clone(),
            prepared: keyframe.prepared,
            transit_ms: None,
            completed: None,
            arrival: None,
            record: KeyframeRecord {
                bytes: keyframe.access_unit.data.len() as u64,
                encode_ms: keyframe.stages.encode,
                stages_ms: keyframe.stages,
                psnr_db: keyframe.quality.map(|quality| (quality.psnr_y * 1e2).round() / 1e2),
                ssim: keyframe.quality.map(|quality| (quality.ssim_y * 1e5).round() / 1e5),
                ..KeyframeRecord::default()
            },
        });
    }

    /// Records that the last keyframe was handed over to the connection.
    pub(super) fn handed_over(&mut self, sent: &SentAccessUnit) {
        let Some(entry) = self.entries.last_mut() else { return };
        let stages = &mut entry.record.stages_ms;
        stages.packetize = Some(ms(sent.first_packet.saturating_duration_since(entry.at)));
        stages.send = Some(ms(sent.send_time));
    }

    fn taken(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(1);
        // The pace follows the clock, unless a whole interval was missed.
        self.due = self.due.filter(|_| self.left > 0).map(|due| (due + self.interval).max(now));
    }

    /// Records a keyframe that arrived completely at the local peer.
    pub(super) fn arrived(&mut self, arrived: &Arrived) {
        let Some(index) = self.in_flight.remove(&arrived.rtp_timestamp) else { return };
        let entry = &mut self.entries[index];
        entry.record.received = Some(true);
        entry.record.intact = Some(entry.sha256 == arrived.sha256);
        entry.record.packets = Some(arrived.packets);
        entry.arrival = Some(arrived.arrival);
        entry.took(ms(arrived.completed.saturating_duration_since(entry.at)));
        entry.record.stages_ms.reassemble =
            Some(ms(arrived.verified.saturating_duration_since(arrived.completed)));
    }

    /// Records why a keyframe arrived incomplete.
    pub(super) fn broken(&mut self, why: String) {
        self.broken = Some(why);
    }

    /// Adds a keyframe that was received completely in this process.
    pub(super) fn received(
        &mut self,
        at: Instant,
        record: KeyframeRecord,
        arrival: ArrivedKeyframe,
    ) {
        self.taken(at);
        self.entries.push(Entry {
            at,
            sha256: String::new(),
            prepared: Duration::ZERO,
            transit_ms: None,
            completed: Some(at),
            arrival: Some(arrival),
            record,
        });
    }

    /// Declares overdue keyframes lost.
    pub(super) fn expire(&mut self, now: Instant) {
        let entries = &mut self.entries;
        self.in_flight.retain(|_, index| {
            let entry = &mut entries[*index];
            let lost = now.saturating_duration_since(entry.at) >= WITHIN;
            if lost {
                entry.record.received = Some(false);
                entry.record.intact = Some(false);
            }
            !lost
        });
    }

    /// All keyframes.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All keyframes, to be completed with the peer's final report.
    pub(super) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Assesses the delivery of those that arrived in this process, and stores it in their records.
    pub(super) fn assess_delivery(
        &mut self,
        round_trips: &[RoundTrip],
        pinged_by: PingedBy,
    ) -> Vec<(ArrivedKeyframe, Assessment)> {
        let mut arrived: Vec<(&mut KeyframeRecord, ArrivedKeyframe)> = self
            .entries
            .iter_mut()
            .filter_map(|entry| Some((&mut entry.record, entry.arrival?)))
            .collect();
        arrived.sort_by_key(|(_, arrival)| arrival.first);
        let arrivals: Vec<ArrivedKeyframe> = arrived.iter().map(|(_, arrival)| *arrival).collect();
        let assessment = assess(&arrivals, round_trips, pinged_by);
        for ((record, arrival), assessment) in arrived.into_iter().zip(&assessment) {
            record.spread_ms = Some(ms(arrival.delivery.spread));
            record.delivery = Some(KeyframeDelivery::new(&arrival, assessment));
        }
        arrivals.into_iter().zip(assessment).collect()
    }

    /// When the first keyframe was complete at the receiver.
    pub(super) fn first_complete(&self) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.record.received == Some(true))?.completed
    }

    /// Why the last incomplete keyframe was incomplete.
    pub(super) fn last_broken(&self) -> Option<String> {
        self.broken.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;

    use super::*;
    use crate::{
        media::h264::AccessUnit,
        stats::{Stages, delivery::Delivery},
    };

    fn prepared() -> PreparedKeyframe {
        PreparedKeyframe {
            access_unit: AccessUnit {
                data: Bytes::from_static(b"123"),
                width: 16,
                height: 16,
                captured_at: SystemTime::UNIX_EPOCH,
            },
            sha256: "ab".into(),
            stages: Stages { encode: Some(1.0), ..Stages::default() },
            prepared: Duration::from_millis(1),
            quality: None,
        }
    }

    fn arrival_at(first: Instant) -> ArrivedKeyframe {
        let spread = Duration::from_millis(2);
        let delivery = Delivery { spread, original: spread, ..Delivery::default() };
        ArrivedKeyframe { first, delivery, bytes: 3, pixels: None }
    }

    #[test]
    fn each_keyframe_is_intact_altered_or_lost() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut video = Video::new(3, second);
        video.start(begin);
        for step in 0..3 {
            let now = begin + second * step;
            assert!(video.is_due(now));
            video.sent(&prepared(), step, now, true);
            assert!(!video.is_due(now));
        }
        let arrived = |rtp_timestamp, sha256: &str| Arrived {
            rtp_timestamp,
            sha256: sha256.into(),
            packets: 85,
            completed: begin + second * rtp_timestamp + Duration::from_millis(2),
            verified: begin + second * rtp_timestamp + Duration::from_millis(3),
            arrival: arrival_at(begin + second * rtp_timestamp),
        };
        video.arrived(&arrived(1, "cd"));
        video.arrived(&arrived(2, "ab"));
        video.arrived(&arrived(9, "ab"));
        assert!(!video.is_done());
        assert_eq!(video.wake(), Some(begin + WITHIN));
        video.expire(begin + WITHIN);
        assert!(video.is_done());
        let intact: Vec<_> = video.entries().iter().map(|entry| entry.record.intact).collect();
        assert_eq!(intact, [Some(false), Some(false), Some(true)]);
        let record = &video.entries()[2].record;
        assert_eq!(record.latency_ms, Some(3.0), "1 ms of the encoder and 2 ms in transit");
        assert_eq!((record.stages_ms.encode, record.stages_ms.reassemble), (Some(1.0), Some(1.0)));
        assert_eq!(video.first_complete(), Some(begin + second + Duration::from_millis(2)));
        assert_eq!(video.assess_delivery(&[], PingedBy::Sender).len(), 2);
        let spreads: Vec<_> = video.entries().iter().map(|one| one.record.spread_ms).collect();
        assert_eq!(spreads, [None, Some(2.0), Some(2.0)]);
        // From a responder's report.
        for took in [1e300, f64::INFINITY, f64::NAN, -1.0] {
            video.entries_mut()[1].took(took);
            assert_eq!(video.first_complete(), None, "{took}");
        }
    }

    #[test]
    fn a_received_keyframe_is_complete_on_arrival() {
        let now = Instant::now();
        let mut video = Video::new(1, Duration::from_secs(1));
        let late =
            KeyframeRecord { received: Some(true), latency_ms: Some(900.0), ..Default::default() };
        video.received(now, late, arrival_at(now));
        assert_eq!(video.first_complete(), Some(now));
    }

    #[test]
    fn a_late_keyframe_does_not_cause_a_burst() {
        let begin = Instant::now();
        let mut video = Video::new(3, Duration::from_millis(10));
        video.start(begin);
        let late = begin + Duration::from_secs(1);
        video.sent(&prepared(), 0, late, false);
        assert_eq!(video.wake(), Some(late));
        video.sent(&prepared(), 1, late, false);
        assert_eq!(video.wake(), Some(late + Duration::from_millis(10)));
    }
}
