//! What came of a connection, put together at its end.

use std::time::{Duration, Instant, SystemTime};

use super::{Attempted, Connection};
use crate::{
    bench::{
        diagnosis::{Asked, diagnose},
        milestones::{micros, ms},
        pinging::Sample,
        video::Entry,
    },
    peer::{
        PeerRole,
        gathering::{GatherOutcome, GatherResult},
    },
    report::bench::schema::{ConnectionRecord, IceServerRecord, KeyframeRecord},
    session::epoch_seconds,
    stats::bottleneck::{Judged, PingedBy, RoundTrip, Seen},
};

impl Connection<'_> {
    /// What came of it.
    pub(super) fn finish(mut self) -> Attempted {
        let offset = self.pinging.clock_offset();
        let untold = self.complete_keyframes(offset);
        if self.role == PeerRole::Sender {
            self.video.entries_mut().iter_mut().for_each(Entry::complete);
        }
        self.marks.first_keyframe = self.video.first_whole();
        let delivered = self.judge();
        let wanted = self.share.keyframes > 0;
        let whole = self.marks.first_keyframe.is_some() || untold;
        if let Some(unanswered) = self.pinging.silent_end() {
            let why = format!("the last {unanswered} pings were not answered");
            self.seen.lost.get_or_insert(why);
        }
        self.seen.pings = (self.pinging.sent(), self.pinging.answered());
        self.seen.broken = self.video.last_broken();
        let ok = self.seen.error.is_none()
            && self.seen.lost.is_none()
            && self.seen.timings.data_channel.is_some()
            && (self.pinging.sent() == 0 || self.pinging.answered() > 0)
            && (!wanted || whole);
        let asked =
            Asked { role: self.role, relay_only: self.relay_only, within: self.run.config.timeout };
        let kind = self.pair.as_ref().map(|pair| match self.other {
            Some(other) => pair.connection.with(other),
            None => pair.connection,
        });
        let begun = match self.index {
            0 => self.marks.begun,
            _ => self.run.begun(),
        };
        let at_s = |at: Instant| seconds(at.saturating_duration_since(begun));
        let record = ConnectionRecord {
            index: self.index,
            at_s: at_s(self.marks.begun),
            ok,
            connection_type: kind.map(|kind| kind.to_string()),
            local: self.pair.as_ref().map(|pair| pair.local.to_string()),
            remote: self.pair.as_ref().map(|pair| pair.remote.to_string()),
            setup_ms: self.marks.setup(),
            first_picture_ms: self.marks.first_picture(),
            pings_sent: self.pinging.sent(),
            pings_lost: self.pinging.sent() - self.pinging.answered(),
            rtt: self
                .pinging
                .samples()
                .iter()
                .map(|sample| [at_s(sample.sent), micros(sample.rtt_ms)])
                .collect(),
            keyframes: self
                .video
                .entries()
                .iter()
                .map(|entry| KeyframeRecord { at_s: at_s(entry.at), ..entry.record.clone() })
                .collect(),
            ice_servers: self.seen.servers.iter().map(server_record).collect(),
            failure: (!ok).then(|| diagnose(&self.seen, asked)),
        };
        Attempted {
            record,
            rtt: self.pinging.histogram().clone(),
            one_way: self.pinging.one_way(),
            clock_offset_ms: offset.map(|offset| offset * 1e3),
            untold: untold && ok,
            delivered,
        }
    }

    /// Judges how the keyframes were delivered.
    fn judge(&mut self) -> Vec<(Seen, Judged)> {
        let trip = |sample: &Sample| RoundTrip { sent: sample.sent, took: sample.took };
        let round_trips: Vec<RoundTrip> = self.pinging.samples().iter().map(trip).collect();
        let pinged_by = match self.role {
            PeerRole::Receiver => PingedBy::Receiver,
            PeerRole::Sender => PingedBy::Sender,
        };
        self.video.judge(&round_trips, pinged_by)
    }

    /// Puts in what the other side reported, and takes the clocks' offset out; true when nobody told
    /// what became of the keyframes.
    fn complete_keyframes(&mut self, offset: Option<f64>) -> bool {
        if self.role == PeerRole::Receiver {
            for entry in self.video.entries_mut() {
                // Without the other clock a difference of the two says nothing.
                let true_time = |seen: Option<f64>| {
                    seen.zip(offset).map(|(seen, offset)| micros((seen + offset * 1e3).max(0.0)))
                };
                entry.record.latency_ms = true_time(entry.record.latency_ms);
                entry.record.stages_ms.network = true_time(entry.record.stages_ms.network);
            }
            return false;
        }
        if self.told || self.video.entries().is_empty() {
            return false;
        }
        if !self.report.answered {
            return true;
        }
        let report = std::mem::take(&mut self.report);
        self.other = report.connection.as_deref().and_then(|kind| kind.parse().ok());
        let now = (Instant::now(), epoch_seconds(SystemTime::now()));
        for (index, entry) in self.video.entries_mut().iter_mut().enumerate() {
            let told = report.keyframes.get(&(index as u64 + 1));
            entry.record.received = Some(told.is_some());
            entry.record.intact = Some(told.is_some_and(|told| told.intact));
            entry.record.packets = told.map(|told| told.packets);
            let sent = now.1 - now.0.saturating_duration_since(entry.at).as_secs_f64();
            if let Some((told, offset)) = told.zip(offset) {
                entry.took(micros(((told.received_at - offset - sent) * 1e3).max(0.0)));
            }
        }
        false
    }
}

fn server_record(result: &GatherResult) -> IceServerRecord {
    let name = match &result.outcome {
        GatherOutcome::Reflexive(_) => "reflexive",
        GatherOutcome::Allocated { .. } => "allocated",
        GatherOutcome::Refused { .. } => "refused",
        GatherOutcome::Silent { .. } => "silent",
        GatherOutcome::Unresolved(_) => "unresolved",
        GatherOutcome::Unreachable(_) => "unreachable",
        GatherOutcome::NotConnected(_) => "not-connected",
        GatherOutcome::Unused => "unused",
        GatherOutcome::Unusable(_) => "unusable",
    };
    let (code, reason) = result.failure().unzip();
    IceServerRecord {
        url: result.url.clone(),
        result: name.into(),
        code,
        reason,
        ms: result.took.map(ms),
    }
}

/// Seconds, to the microsecond.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}
