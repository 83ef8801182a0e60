//! Assembles the record of a connection at its end.

use std::time::{Duration, Instant, SystemTime};

use super::{Attempted, Connection};
use crate::{
    bench::{
        diagnosis::{Expectation, diagnose},
        pinging::Sample,
        setup_timeline::{micros, ms},
        video::Entry,
    },
    peer::{
        PeerRole,
        gathering::{GatherOutcome, GatherResult},
    },
    report::bench::schema::{ConnectionRecord, IceServerRecord, KeyframeRecord},
    session::epoch_seconds,
    stats::bottleneck::{ArrivedKeyframe, Assessment, PingedBy, RoundTrip},
};

impl Connection<'_> {
    /// Ends the measurement and returns its record.
    pub(super) fn finish(mut self) -> Attempted {
        let offset = self.pinging.clock_offset();
        let unreported = self.complete_keyframes(offset);
        if self.role == PeerRole::Sender {
            self.video.entries_mut().iter_mut().for_each(Entry::complete);
        }
        self.timeline.first_keyframe = self.video.first_complete();
        let delivered = self.assess_delivery();
        let wanted = self.share.keyframes > 0;
        let complete = self.timeline.first_keyframe.is_some() || unreported;
        if let Some(unanswered) = self.pinging.silent_end() {
            let why = format!("the last {unanswered} pings were not answered");
            self.evidence.lost.get_or_insert(why);
        }
        self.evidence.pings = (self.pinging.sent(), self.pinging.answered());
        self.evidence.broken = self.video.last_broken();
        let ok = self.evidence.error.is_none()
            && self.evidence.lost.is_none()
            && self.evidence.timings.data_channel.is_some()
            && (self.pinging.sent() == 0 || self.pinging.answered() > 0)
            && (!wanted || complete);
        let expectation = Expectation {
            role: self.role,
            relay_only: self.relay_only,
            within: self.run.config.timeout,
        };
        let kind = self.pair.as_ref().map(|pair| match self.other {
            Some(other) => pair.connection.with(other),
            None => pair.connection,
        });
        let run_start = match self.index {
            0 => self.timeline.start,
            _ => self.run.started(),
        };
        let at_s = |at: Instant| seconds(at.saturating_duration_since(run_start));
        let record = ConnectionRecord {
            index: self.index,
            at_s: at_s(self.timeline.start),
            ok,
            connection_type: kind.map(|kind| kind.to_string()),
            local: self.pair.as_ref().map(|pair| pair.local.to_string()),
            remote: self.pair.as_ref().map(|pair| pair.remote.to_string()),
            setup_ms: self.timeline.setup(),
            first_picture_ms: self.timeline.first_picture(),
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
            ice_servers: self.evidence.servers.iter().map(server_record).collect(),
            failure: (!ok).then(|| diagnose(&self.evidence, expectation)),
        };
        Attempted {
            record,
            rtt: self.pinging.histogram().clone(),
            one_way: self.pinging.one_way(),
            clock_offset_ms: offset.map(|offset| offset * 1e3),
            unreported: unreported && ok,
            delivered,
        }
    }

    /// Assesses the delivery of the keyframes.
    fn assess_delivery(&mut self) -> Vec<(ArrivedKeyframe, Assessment)> {
        let trip = |sample: &Sample| RoundTrip { sent: sample.sent, took: sample.took };
        let round_trips: Vec<RoundTrip> = self.pinging.samples().iter().map(trip).collect();
        let pinged_by = match self.role {
            PeerRole::Receiver => PingedBy::Receiver,
            PeerRole::Sender => PingedBy::Sender,
        };
        self.video.assess_delivery(&round_trips, pinged_by)
    }

    /// Adds the peer's report, and removes the clock offset; returns true if the outcome of the keyframes is
    /// unknown.
    fn complete_keyframes(&mut self, offset: Option<f64>) -> bool {
        if self.role == PeerRole::Receiver {
            for entry in self.video.entries_mut() {
                // Without the clock offset the difference is meaningless.
                let corrected = |apparent: Option<f64>| {
                    apparent.zip(offset).map(|(ms, offset)| micros((ms + offset * 1e3).max(0.0)))
                };
                entry.record.latency_ms = corrected(entry.record.latency_ms);
                entry.record.stages_ms.network = corrected(entry.record.stages_ms.network);
            }
            return false;
        }
        if self.peer_is_local || self.video.entries().is_empty() {
            return false;
        }
        if !self.remote_report.answered {
            return true;
        }
        let report = std::mem::take(&mut self.remote_report);
        self.other = report.connection.as_deref().and_then(|kind| kind.parse().ok());
        let now = (Instant::now(), epoch_seconds(SystemTime::now()));
        for (index, entry) in self.video.entries_mut().iter_mut().enumerate() {
            let reported = report.keyframes.get(&(index as u64 + 1));
            entry.record.received = Some(reported.is_some());
            entry.record.intact = Some(reported.is_some_and(|reported| reported.intact));
            entry.record.packets = reported.map(|reported| reported.packets);
            let sent = now.1 - now.0.saturating_duration_since(entry.at).as_secs_f64();
            if let Some((reported, offset)) = reported.zip(offset) {
                entry.took(micros(((reported.received_at - offset - sent) * 1e3).max(0.0)));
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
