//! The result of a timeline in JSON: part of `orion-peer/lab/1`.
//!
//! Times are in seconds from the start of the timeline, when the initial keyframes had arrived. Values that
//! were not measured are null, never 0.

use serde::{Deserialize, Serialize};

use crate::report::schema::FailureRecord;

/// The result of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineResult {
    /// Name of the scenario.
    pub name: String,
    /// One-sentence description of the scenario.
    pub description: String,
    /// Network of the phone, `send`.
    pub a: String,
    /// Network of the Mac, `recv`.
    pub b: String,
    /// Time between keyframes.
    pub interval_s: f64,
    /// Length of the run.
    pub duration_s: f64,
    /// From the start of both peers to the first keyframe.
    pub first_keyframe_s: Option<f64>,
    /// Maximum time to the first keyframe; none if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_first_picture_s: Option<f64>,
    /// One row per event.
    pub outages: Vec<Outage>,
    /// Number of keyframes sent.
    pub sent: u64,
    /// Number of these that were received intact.
    pub came: u64,
    /// Number of these that were lost.
    pub lost: u64,
    /// Maximum number that may be lost.
    pub most_lost: u64,
    /// Whether everything is as expected.
    pub agree: bool,
    /// Why it ended early, or what was not as expected.
    pub reason: Option<FailureRecord>,
}

/// The effect of an event on the keyframes, until the next event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// When it happened.
    pub at_s: f64,
    /// The event as written.
    pub event: String,
    /// When it was over; equal to `atS` for an instantaneous event.
    pub until_s: f64,
    /// How long keyframes were overdue: the maximum time between two keyframes, minus the interval.
    pub outage_s: f64,
    /// The part of the outage after the event was over.
    pub recovery_s: f64,
    /// Maximum recovery time.
    pub within_s: f64,
    /// Whether keyframes resumed.
    pub back: bool,
    /// Number of keyframes sent until the next event.
    pub sent: u64,
    /// Number of these that were lost.
    pub lost: u64,
    /// Connection type at the end of this span: `host`, `srflx`, `relay`, `relay/udp`, …
    pub via: Option<String>,
    /// Whether keyframes resumed within the maximum recovery time.
    pub agree: bool,
}

/// An example result with two events, the second not as expected.
#[cfg(test)]
pub(crate) fn example() -> TimelineResult {
    let outage = |at_s: f64, event: &str, recovery_s: f64| Outage {
        at_s,
        event: event.into(),
        until_s: at_s,
        outage_s: recovery_s,
        recovery_s,
        within_s: 5.0,
        back: true,
        sent: 20,
        lost: 0,
        via: Some("srflx".into()),
        agree: recovery_s <= 5.0,
    };
    let outages =
        vec![outage(10.0, "kill signaling for 3s", 0.0), outage(20.0, "nat a -> sym", 6.25)];
    TimelineResult {
        name: "x".into(),
        description: "An example".into(),
        a: "port".into(),
        b: "sym".into(),
        interval_s: 0.5,
        duration_s: 30.0,
        first_keyframe_s: Some(0.4),
        max_first_picture_s: None,
        outages,
        sent: 40,
        came: 40,
        lost: 0,
        most_lost: 0,
        agree: true,
        reason: None,
    }
}
