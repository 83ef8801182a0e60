//! Aggregates the records of individual connections into the totals, spreads and failure groups of a
//! result.

use std::collections::BTreeMap;

use super::schema::{
    ConnectionRecord, Connections, FailureGroup, FirstPicture, KeyframeRecord, Keyframes, Setup,
};
use crate::stats::{
    Histogram, Spread, StageHistograms,
    interval::{Z95, wilson},
};

/// Aggregates connections; the records become part of the result.
#[must_use]
pub fn connections(records: Vec<ConnectionRecord>) -> Connections {
    let attempted = records.len() as u64;
    let succeeded = records.iter().filter(|record| record.ok).count() as u64;
    let mut by_type = BTreeMap::new();
    for record in records.iter().filter(|record| record.ok) {
        let kind = record.connection_type.clone().unwrap_or_else(|| "unknown".into());
        *by_type.entry(kind).or_default() += 1;
    }
    Connections {
        attempted,
        succeeded,
        success_rate: (attempted > 0).then(|| succeeded as f64 / attempted as f64),
        ci95: wilson(succeeded, attempted, Z95),
        by_type,
        setup_ms: setup(&records),
        first_picture_ms: first_picture(&records),
        failures: failures(&records),
        records,
    }
}

fn setup(records: &[ConnectionRecord]) -> Setup<Spread> {
    let mut histograms = vec![Histogram::new(); Setup::<()>::default().stages().len()];
    for record in records {
        for (histogram, (_, value)) in histograms.iter_mut().zip(record.setup_ms.stages()) {
            if let Some(value) = value {
                histogram.record(*value);
            }
        }
    }
    let mut spreads = histograms.iter().map(Histogram::spread);
    Setup::<()>::default().map(|()| spreads.next().unwrap_or_default())
}

fn first_picture(records: &[ConnectionRecord]) -> FirstPicture<Spread> {
    let spread = |of: fn(&FirstPicture<Option<f64>>) -> Option<f64>| {
        records.iter().filter_map(|r| of(&r.first_picture_ms)).collect::<Histogram>().spread()
    };
    FirstPicture { from_start: spread(|f| f.from_start), from_join: spread(|f| f.from_join) }
}

fn failures(records: &[ConnectionRecord]) -> Vec<FailureGroup> {
    let mut groups: Vec<FailureGroup> = Vec::new();
    for failure in records.iter().filter_map(|record| record.failure.as_ref()) {
        let known = groups.iter_mut().find(|g| g.stage == failure.stage && g.code == failure.code);
        match known {
            Some(group) => group.count += 1,
            None => groups.push(FailureGroup {
                stage: failure.stage,
                code: failure.code.clone(),
                count: 1,
                message: failure.message.clone(),
                remedy: failure.remedy.clone(),
            }),
        }
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups
}

/// Aggregates keyframes; one larger than `budget` bytes counts as over the limit.
#[must_use]
pub fn keyframes<'r>(
    records: impl IntoIterator<Item = &'r KeyframeRecord>,
    budget: Option<u64>,
) -> Keyframes {
    let [mut bytes, mut latency, mut encode, mut psnr, mut ssim, mut spread] =
        [const { None::<Histogram> }; 6].map(Option::unwrap_or_default);
    let mut stages = StageHistograms::default();
    let mut total = Keyframes::default();
    let (mut sent, mut received, mut intact) = (0, 0, 0);
    let (mut reported, mut hashed) = (false, false);
    for record in records {
        sent += 1;
        reported |= record.received.is_some();
        hashed |= record.intact.is_some();
        received += u64::from(record.received == Some(true));
        intact += u64::from(record.intact == Some(true));
        total.over_limit += u64::from(budget.is_some_and(|budget| record.bytes > budget));
        bytes.record(record.bytes as f64);
        stages.record(&record.stages_ms);
        for (histogram, value) in [
            (&mut latency, record.latency_ms),
            (&mut encode, record.encode_ms),
            (&mut psnr, record.psnr_db),
            (&mut ssim, record.ssim),
            (&mut spread, record.spread_ms),
        ] {
            if let Some(value) = value {
                histogram.record(value);
            }
        }
    }
    total.sent = Some(sent);
    total.received = reported.then_some(received);
    total.intact = hashed.then_some(intact);
    total.bytes = bytes.spread();
    total.latency_ms = latency.spread();
    total.encode_ms = encode.spread();
    total.psnr_db = psnr.spread();
    total.ssim = ssim.spread();
    total.spread_ms = spread.spread();
    total.stages_ms = Box::new(stages.spreads());
    total
}
