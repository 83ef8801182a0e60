//! Gates: conditions a result must meet for a run to end with exit code 0.
//!
//! Each gate that is set yields a [`GateResult`]. A value that was not measured does not meet its gate: a gate that
//! passes because nothing happened would be useless.

use serde_json::Value;

use super::{BenchResult, schema::Connections};
use crate::{report::schema::GateResult, stats::Spread};

mod contradiction;
mod regression;
mod required_type;

pub use contradiction::Measured;
pub use required_type::{RequiredType, UnknownRequiredType};

/// Limits; `None` means no gate. Shares are from 0 to 1, times in ms.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gates {
    /// Minimum share of connections that succeed.
    pub min_success: Option<f64>,
    /// Maximum median of the round-trip times.
    pub max_rtt_p50: Option<f64>,
    /// Maximum 95th percentile of the round-trip times.
    pub max_rtt_p95: Option<f64>,
    /// Maximum 99th percentile of the round-trip times.
    pub max_rtt_p99: Option<f64>,
    /// Maximum 95th percentile of the time from the start to the open data channel.
    pub max_setup_p95: Option<f64>,
    /// Maximum share of unanswered pings.
    pub max_ping_loss: Option<f64>,
    /// Required type of every successful connection.
    pub require_type: Option<RequiredType>,
    /// Minimum share of keyframes that arrive intact.
    pub min_keyframes_intact: Option<f64>,
    /// Maximum keyframe size, bytes.
    pub max_frame_bytes: Option<u64>,
    /// Maximum 95th percentile of the keyframe latency, from capture to complete.
    pub max_keyframe_latency_p95: Option<f64>,
    /// Maximum 95th percentile of the keyframe network time, from the first packet sent to the last packet received.
    pub max_keyframe_network_p95: Option<f64>,
    /// Maximum time from the first received packet of a keyframe to the last, for every keyframe.
    pub max_keyframe_spread: Option<f64>,
    /// Maximum time to the first picture, for every connection.
    pub max_first_picture: Option<f64>,
    /// Maximum 95th percentile of the times to the first picture.
    pub max_first_picture_p95: Option<f64>,
    /// Maximum allowed regression against the baseline, see [`compare`](super::compare::compare).
    pub max_regression: Option<f64>,
}

impl Gates {
    /// One result for each gate that is set; for `max_regression` one per metric of [`BenchResult::comparison`].
    #[must_use]
    pub fn check(&self, result: &BenchResult) -> Vec<GateResult> {
        let connections = &result.connections;
        let (rtt, setup) = (&result.rtt_ms, &connections.setup_ms.total);
        let (latency, network) =
            (&result.keyframes.latency_ms, &result.keyframes.stages_ms.network);
        let first_picture = &connections.first_picture_ms.from_start;
        let loss = share(Some(rtt.lost), Some(rtt.sent));
        let intact = share(result.keyframes.intact, result.keyframes.sent);
        let mut checks = Vec::new();
        checks.extend(self.min_success.map(|limit| {
            at_least("min-success", limit, connections.success_rate, Some(interval_note(result)))
        }));
        for (name, limit, spread, percent) in [
            ("max-setup-p95", self.max_setup_p95, setup, 95),
            ("max-rtt-p50", self.max_rtt_p50, &rtt.spread, 50),
            ("max-rtt-p95", self.max_rtt_p95, &rtt.spread, 95),
            ("max-rtt-p99", self.max_rtt_p99, &rtt.spread, 99),
            ("max-first-picture-p95", self.max_first_picture_p95, first_picture, 95),
            ("max-keyframe-latency-p95", self.max_keyframe_latency_p95, latency, 95),
            ("max-keyframe-network-p95", self.max_keyframe_network_p95, network, 95),
        ] {
            checks.extend(limit.map(|limit| max_time(name, limit, spread, percent)));
        }
        checks.extend(self.max_keyframe_spread.map(|limit| {
            at_most("max-keyframe-spread", "ms", limit, result.keyframes.spread_ms.max, None)
        }));
        checks.extend(self.max_first_picture.map(|limit| every_first_picture(limit, connections)));
        checks.extend(self.max_ping_loss.map(|limit| {
            let note = format!("{} of {} pings were lost", rtt.lost, rtt.sent);
            at_most("max-ping-loss", "share", limit, loss, Some(note))
        }));
        checks.extend(self.require_type.map(|required| required.check(connections)));
        checks.extend(
            self.min_keyframes_intact.map(|limit| {
                at_least("min-keyframes-intact", limit, intact, keyframes_note(result))
            }),
        );
        checks.extend(self.max_frame_bytes.map(|limit| frame_bytes(limit, result)));
        checks.extend(
            self.max_regression.map_or_else(Vec::new, |limit| {
                regression::checks(limit, result.comparison.as_ref())
            }),
        );
        checks
    }
}

/// `part / all`; `None` when either is unknown or `all` is 0.
fn share(part: Option<u64>, all: Option<u64>) -> Option<f64> {
    let (part, all) = part.zip(all)?;
    (all > 0).then(|| part as f64 / all as f64)
}

/// A share in percent, precise enough to distinguish a limit from a value that just misses it.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn interval_note(result: &BenchResult) -> String {
    let connections = &result.connections;
    let [low, high] = connections.ci95.map(percent);
    let (succeeded, attempted) = (connections.succeeded, connections.attempted);
    format!("{succeeded} of {attempted}; 95 % CI {low} to {high}")
}

fn keyframes_note(result: &BenchResult) -> Option<String> {
    let keyframes = &result.keyframes;
    match (keyframes.intact, keyframes.sent) {
        (Some(intact), Some(sent)) => Some(format!("{intact} of {sent}")),
        (None, Some(1..)) => Some("the peer does not report what arrived".to_owned()),
        (Some(intact), None) => {
            Some(format!("{intact} arrived intact, but the peer does not report how many it sent"))
        }
        _ => None,
    }
}

fn max_time(name: &str, limit: f64, spread: &Spread, percent: u32) -> GateResult {
    let actual = match percent {
        50 => spread.p50,
        95 => spread.p95,
        _ => spread.p99,
    };
    let needed = crate::stats::difference::values_needed(f64::from(percent) / 100.0) as u64;
    let few = (1..needed).contains(&spread.count);
    let note = few.then(|| format!("with {} values the p{percent} is the maximum", spread.count));
    at_most(name, "ms", limit, actual, note)
}

/// Applies to every connection: one without a picture exceeds any limit.
fn every_first_picture(limit: f64, connections: &Connections) -> GateResult {
    let spread = &connections.first_picture_ms.from_start;
    let without = connections.attempted.saturating_sub(spread.count);
    let note = (without > 0 && spread.count > 0)
        .then(|| format!("{without} of {} connections had no picture", connections.attempted));
    let mut check = at_most("max-first-picture", "ms", limit, spread.max, note);
    check.pass &= without == 0;
    check
}

fn frame_bytes(limit: u64, result: &BenchResult) -> GateResult {
    let actual = result.keyframes.bytes.max;
    let mut check = at_most("max-frame-bytes", "bytes", limit as f64, actual, None);
    // Bytes are written as integers.
    check.limit = limit.into();
    check.actual = actual.map_or(Value::Null, |bytes| (bytes as u64).into());
    check
}

fn at_most(
    name: &str,
    unit: &str,
    limit: f64,
    actual: Option<f64>,
    note: Option<String>,
) -> GateResult {
    check(name, unit, limit, actual, actual.is_some_and(|actual| actual <= limit), note)
}

fn at_least(name: &str, limit: f64, actual: Option<f64>, note: Option<String>) -> GateResult {
    check(name, "share", limit, actual, actual.is_some_and(|actual| actual >= limit), note)
}

fn check(
    name: &str,
    unit: &str,
    limit: f64,
    actual: Option<f64>,
    pass: bool,
    note: Option<String>,
) -> GateResult {
    let note = match actual {
        Some(_) => note,
        None => Some(note.unwrap_or_else(|| "nothing was measured".to_owned())),
    };
    GateResult {
        name: name.to_owned(),
        limit: limit.into(),
        actual: actual.map_or(Value::Null, Into::into),
        unit: unit.to_owned(),
        pass,
        note,
    }
}

#[cfg(test)]
mod tests;
