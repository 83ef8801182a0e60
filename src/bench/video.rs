//! Keyframes of one connection: which are due, which are under way, what became of them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    milestones::{micros, ms},
    partner::Arrived,
    pictures::Picture,
};
use crate::{
    peer::video::SentAccessUnit,
    report::{bench::schema::KeyframeRecord, delivery::KeyframeDelivery},
    stats::bottleneck::{Judged, PingedBy, RoundTrip, Seen, judge},
};

/// How long a keyframe may take to arrive before it counts as lost: several rounds of repair.
pub(super) const WITHIN: Duration = Duration::from_secs(3);

/// Keyframes of one connection, in the order they were sent or came.
#[derive(Debug)]
pub(super) struct Video {
    interval: Duration,
    left: u64,
    due: Option<Instant>,
    entries: Vec<Entry>,
    /// Entries by RTP timestamp that nothing is known of yet.
    waiting: HashMap<u32, usize>,
    /// What came in pieces, last.
    broken: Option<String>,
}

/// One keyframe.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// When the first packet was handed over, or the last one came when this side receives.
    pub(super) at: Instant,
    sha256: String,
    /// From the picture being taken to its being encoded; it was encoded ahead.
    prepared: Duration,
    /// From being handed over to being whole at the receiver, ms.
    on_its_way: Option<f64>,
    /// When it was whole at the receiver.
    whole: Option<Instant>,
    /// How it arrived, when it arrived in this process.
    pub(super) seen: Option<Seen>,
    /// What goes into the result.
    pub(super) record: KeyframeRecord,
}

impl Entry {
    /// It was whole at the receiver so many ms after it was handed over, which may be what the other side says: any
    /// number.
    pub(super) fn took(&mut self, handover_to_whole: f64) {
        let took = Duration::try_from_secs_f64(handover_to_whole / 1e3);
        self.whole = took.ok().and_then(|took| self.at.checked_add(took));
        self.on_its_way = Some(handover_to_whole);
        self.record.latency_ms = Some(micros(ms(self.prepared) + handover_to_whole));
    }

    /// What the stages of a sent keyframe say together, once all are known.
    pub(super) fn complete(&mut self) {
        let stages = &mut self.record.stages_ms;
        let network = self.on_its_way.zip(stages.packetize);
        stages.network = network.map(|(all, packetize)| micros((all - packetize).max(0.0)));
        stages.total = stages.sum().map(micros);
    }
}

impl Video {
    /// `count` keyframes, one each `interval`.
    pub(super) fn new(count: u64, interval: Duration) -> Self {
        Self {
            interval,
            left: count,
            due: None,
            entries: Vec::new(),
            waiting: HashMap::new(),
            broken: None,
        }
    }

    /// The first keyframe is due now.
    pub(super) fn start(&mut self, now: Instant) {
        self.due = (self.left > 0).then_some(now);
    }

    /// No more keyframes.
    pub(super) fn stop(&mut self) {
        self.left = 0;
        self.due = None;
    }

    /// Whether a keyframe is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// The keyframe that is due is due later.
    pub(super) fn postpone(&mut self, to: Instant) {
        self.due = self.due.map(|due| due.max(to));
    }

    /// When something is to be done: the next one is due, or the oldest one counts as lost.
    pub(super) fn wake(&self) -> Option<Instant> {
        let lost = self.waiting.values().map(|index| self.entries[*index].at + WITHIN).min();
        [self.due, lost].into_iter().flatten().min()
    }

    /// Whether all were sent and told of.
    pub(super) fn is_done(&self) -> bool {
        self.left == 0 && self.waiting.is_empty()
    }

    /// One is on its way; `told` says whether it will be told what becomes of it.
    pub(super) fn sent(&mut self, picture: &Picture, rtp_timestamp: u32, now: Instant, told: bool) {
        self.taken(now);
        if told {
            self.waiting.insert(rtp_timestamp, self.entries.len());
        }
        self.entries.push(Entry {
            at: now,
            sha256: picture.sha256.clone(),
            prepared: picture.prepared,
            on_its_way: None,
            whole: None,
            seen: None,
            record: KeyframeRecord {
                bytes: picture.access_unit.data.len() as u64,
                encode_ms: picture.stages.encode,
                stages_ms: picture.stages,
                psnr_db: picture.quality.map(|quality| (quality.psnr_y * 1e2).round() / 1e2),
                ssim: picture.quality.map(|quality| (quality.ssim_y * 1e5).round() / 1e5),
                ..KeyframeRecord::default()
            },
        });
    }

    /// The last one that was sent is handed over to the connection.
    pub(super) fn handed_over(&mut self, sent: &SentAccessUnit) {
        let Some(entry) = self.entries.last_mut() else { return };
        let stages = &mut entry.record.stages_ms;
        stages.packetize = Some(ms(sent.first_packet.saturating_duration_since(entry.at)));
        stages.send = Some(ms(sent.send_time));
    }

    fn taken(&mut self, now: Instant) {
        self.left = self.left.saturating_sub(1);
        // At the pace of the clock, unless a whole interval was missed.
        self.due = self.due.filter(|_| self.left > 0).map(|due| (due + self.interval).max(now));
    }

    /// One came whole at the other side, in this process.
    pub(super) fn arrived(&mut self, arrived: &Arrived) {
        let Some(index) = self.waiting.remove(&arrived.rtp_timestamp) else { return };
        let entry = &mut self.entries[index];
        entry.record.received = Some(true);
        entry.record.intact = Some(entry.sha256 == arrived.sha256);
        entry.record.packets = Some(arrived.packets);
        entry.seen = Some(arrived.seen);
        entry.took(ms(arrived.completed.saturating_duration_since(entry.at)));
        entry.record.stages_ms.reassemble =
            Some(ms(arrived.verified.saturating_duration_since(arrived.completed)));
    }

    /// One came in pieces.
    pub(super) fn broken(&mut self, why: String) {
        self.broken = Some(why);
    }

    /// One came whole to this side.
    pub(super) fn received(&mut self, at: Instant, record: KeyframeRecord, seen: Seen) {
        self.taken(at);
        self.entries.push(Entry {
            at,
            sha256: String::new(),
            prepared: Duration::ZERO,
            on_its_way: None,
            whole: Some(at),
            seen: Some(seen),
            record,
        });
    }

    /// Those that are waited for too long are lost.
    pub(super) fn expire(&mut self, now: Instant) {
        let entries = &mut self.entries;
        self.waiting.retain(|_, index| {
            let entry = &mut entries[*index];
            let lost = now.saturating_duration_since(entry.at) >= WITHIN;
            if lost {
                entry.record.received = Some(false);
                entry.record.intact = Some(false);
            }
            !lost
        });
    }

    /// All of them.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All of them, to be completed by what the other side told at the end.
    pub(super) fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// Judges how those that arrived in this process were delivered, and puts that into their records.
    pub(super) fn judge(
        &mut self,
        round_trips: &[RoundTrip],
        pinged_by: PingedBy,
    ) -> Vec<(Seen, Judged)> {
        let mut arrived: Vec<(&mut KeyframeRecord, Seen)> = self
            .entries
            .iter_mut()
            .filter_map(|entry| Some((&mut entry.record, entry.seen?)))
            .collect();
        arrived.sort_by_key(|(_, seen)| seen.first);
        let seen: Vec<Seen> = arrived.iter().map(|(_, seen)| *seen).collect();
        let judged = judge(&seen, round_trips, pinged_by);
        for ((record, seen), judged) in arrived.into_iter().zip(&judged) {
            record.spread_ms = Some(ms(seen.delivery.spread));
            record.delivery = Some(KeyframeDelivery::new(&seen, judged));
        }
        seen.into_iter().zip(judged).collect()
    }

    /// When the first one was whole at the receiver.
    pub(super) fn first_whole(&self) -> Option<Instant> {
        self.entries.iter().find(|entry| entry.record.received == Some(true))?.whole
    }

    /// Why the last one that did not come whole did not.
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

    fn picture() -> Picture {
        Picture {
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

    fn seen_at(first: Instant) -> Seen {
        let spread = Duration::from_millis(2);
        let delivery = Delivery { spread, original: spread, ..Delivery::default() };
        Seen { first, delivery, bytes: 3, pixels: None }
    }

    #[test]
    fn each_keyframe_is_whole_other_or_lost() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut video = Video::new(3, second);
        video.start(begin);
        for step in 0..3 {
            let now = begin + second * step;
            assert!(video.is_due(now));
            video.sent(&picture(), step, now, true);
            assert!(!video.is_due(now));
        }
        let arrived = |rtp_timestamp, sha256: &str| Arrived {
            rtp_timestamp,
            sha256: sha256.into(),
            packets: 85,
            completed: begin + second * rtp_timestamp + Duration::from_millis(2),
            verified: begin + second * rtp_timestamp + Duration::from_millis(3),
            seen: seen_at(begin + second * rtp_timestamp),
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
        assert_eq!(record.latency_ms, Some(3.0), "1 ms of the encoder and 2 ms on its way");
        assert_eq!((record.stages_ms.encode, record.stages_ms.reassemble), (Some(1.0), Some(1.0)));
        assert_eq!(video.first_whole(), Some(begin + second + Duration::from_millis(2)));
        assert_eq!(video.judge(&[], PingedBy::Sender).len(), 2);
        let spreads: Vec<_> = video.entries().iter().map(|one| one.record.spread_ms).collect();
        assert_eq!(spreads, [None, Some(2.0), Some(2.0)]);
        // Of the responder's report.
        for took in [1e300, f64::INFINITY, f64::NAN, -1.0] {
            video.entries_mut()[1].took(took);
            assert_eq!(video.first_whole(), None, "{took}");
        }
    }

    #[test]
    fn one_that_is_received_is_whole_when_it_came_not_its_latency_later() {
        let now = Instant::now();
        let mut video = Video::new(1, Duration::from_secs(1));
        let late =
            KeyframeRecord { received: Some(true), latency_ms: Some(900.0), ..Default::default() };
        video.received(now, late, seen_at(now));
        assert_eq!(video.first_whole(), Some(now));
    }

    #[test]
    fn a_late_keyframe_does_not_bring_a_burst() {
        let begin = Instant::now();
        let mut video = Video::new(3, Duration::from_millis(10));
        video.start(begin);
        let late = begin + Duration::from_secs(1);
        video.sent(&picture(), 0, late, false);
        assert_eq!(video.wake(), Some(late));
        video.sent(&picture(), 1, late, false);
        assert_eq!(video.wake(), Some(late + Duration::from_millis(10)));
    }
}
