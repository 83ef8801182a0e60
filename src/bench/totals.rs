//! Aggregates ended connections into the result of a run.

use std::time::Duration;

use super::{Measured, Run, attempt::Attempted};
use crate::{
    peer::PeerRole,
    report::{
        bench::{
            collect,
            schema::{ConnectionRecord, NotMeasured, OneWay, Rtt},
        },
        delivery::DeliveryReport,
        schema::FailureRecord,
    },
    stats::{
        Histogram,
        bottleneck::{ArrivedKeyframe, Assessment, summarize},
    },
};

/// The totals over all ended connections.
#[derive(Default)]
pub(super) struct Totals {
    records: Vec<ConnectionRecord>,
    rtt: Histogram,
    out: Histogram,
    back: Histogram,
    offsets_ms: Vec<f64>,
    unreported: bool,
    delivered: Vec<(ArrivedKeyframe, Assessment)>,
}

impl Totals {
    pub(super) fn add(&mut self, attempted: Attempted) {
        self.rtt.add(&attempted.rtt);
        for [out, back] in attempted.one_way {
            self.out.record(out);
            self.back.record(back);
        }
        self.offsets_ms.extend(attempted.clock_offset_ms);
        self.unreported |= attempted.unreported;
        self.delivered.extend(attempted.delivered);
        self.records.push(attempted.record);
    }

    pub(super) fn measured(mut self, run: &Run, ended: Option<FailureRecord>) -> Measured {
        self.records.sort_by_key(|record| record.index);
        let not_measured = self.not_measured(run);
        let sent = self.records.iter().map(|record| record.pings_sent).sum();
        let lost = self.records.iter().map(|record| record.pings_lost).sum();
        let sends = run.role() == PeerRole::Sender;
        let budget = sends.then_some(run.config.capture.max_bytes as u64);
        let mut keyframes =
            collect::keyframes(self.records.iter().flat_map(|record| &record.keyframes), budget);
        if !sends {
            keyframes.sent = None;
        }
        let connections = collect::connections(std::mem::take(&mut self.records));
        let first_after = connections.setup_ms.first_keyframe.p50;
        let first_after = first_after.and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
        let overall =
            summarize(self.delivered.iter().map(|(keyframe, verdict)| (keyframe, verdict)));
        let budget = run.config.capture.max_bytes as u64;
        keyframes.delivery =
            overall.map(|overall| DeliveryReport::new(&overall, Some(budget), first_after));
        self.offsets_ms.sort_by(f64::total_cmp);
        let one_way = (run.config.one_way && self.out.count() > 0).then(|| OneWay {
            out: self.out.spread(),
            back: self.back.spread(),
            offset_ms: self.offsets_ms.get(self.offsets_ms.len() / 2).copied(),
        });
        Measured {
            duration: run.started().elapsed(),
            rtt: Rtt { spread: self.rtt.spread(), sent, lost },
            one_way,
            keyframes,
            resources: run.meter.resources(),
            not_measured,
            connections,
            ended,
        }
    }

    fn not_measured(&self, run: &Run) -> Vec<NotMeasured> {
        let mut list = Vec::new();
        let mut add = |what: &str, why: &str| {
            list.push(NotMeasured { what: what.to_owned(), why: why.to_owned() });
        };
        let plan = &run.config.plan;
        let no_clock = self.rtt.count() > 0 && self.offsets_ms.is_empty();
        if plan.pings == 0 {
            add("rttMs", "no pings were requested (--pings 0)");
        }
        if plan.keyframes == 0 {
            add("keyframes", "no keyframes were requested (--keyframes 0)");
        } else if run.role() == PeerRole::Receiver {
            add("keyframes.sent", "the peer sends the keyframes but does not report how many");
            add(
                "keyframes.encodeMs, keyframes.psnrDb, keyframes.ssim",
                "the peer encodes the keyframes",
            );
            add(
                "keyframes.stagesMs",
                "except network and reassemble: the peer encodes the keyframes, and this process \
                 writes none",
            );
            let silent = |record: &ConnectionRecord| {
                record.keyframes.iter().any(|keyframe| keyframe.intact.is_none())
            };
            if self.records.iter().any(silent) {
                add(
                    "keyframes.intact",
                    "the peer does not announce the SHA-256 of its keyframes; they arrived \
                     completely",
                );
            }
            if no_clock {
                add(
                    "keyframes.latencyMs",
                    "the peer's pongs do not carry its clock, and clocks may differ",
                );
            }
        } else if self.delivered.is_empty() {
            add(
                "keyframes.spreadMs, keyframes.delivery",
                "the peer receives the keyframes but does not report when each packet arrived",
            );
        }
        if plan.keyframes > 0 && run.role() == PeerRole::Sender && self.unreported {
            add(
                "keyframes.received, keyframes.intact, keyframes.latencyMs",
                "the peer does not report what arrived: it is not `orion-peer bench --respond`",
            );
        }
        if run.config.one_way && no_clock {
            add("oneWayMs", "the peer's pongs do not carry its clock");
        }
        if self.records.iter().any(|record| record.connection_type.as_deref() == Some("relay")) {
            add("connections.byType", "the transport between the peer and its relay is unknown");
        }
        list
    }
}
