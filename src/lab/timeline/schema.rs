//! What came of a time line, as JSON has it: part of `orion-peer/lab/1`.
//!
//! Times are in seconds from the start of the time line, when the first keyframes had come. What was not
//! measured is null, never 0.

use serde::{Deserialize, Serialize};

use crate::report::schema::FailureRecord;

/// A time line, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimelineResult {
    /// The scenario's name.
    pub name: String,
    /// What it is about.
    pub description: String,
    /// The network of the phone, `send`.
    pub a: String,
    /// The network of the Mac, `recv`.
    pub b: String,
    /// Time between two keyframes.
    pub interval_s: f64,
    /// Length of what was run.
    pub duration_s: f64,
    /// From the start of both peers to the first keyframe.
    pub first_keyframe_s: Option<f64>,
    /// Largest time to it that is asked for; none when it may take any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_first_picture_s: Option<f64>,
    /// A row an event.
    pub outages: Vec<Outage>,
    /// Keyframes sent.
    pub sent: u64,
    /// Of these, those that came whole.
    pub came: u64,
    /// Of these, those that did not.
    pub lost: u64,
    /// Most that may be lost.
    pub most_lost: u64,
    /// All was as asked for.
    pub agree: bool,
    /// Why it ended before its end, or what was not as asked for.
    pub reason: Option<FailureRecord>,
}

/// What an event did to the keyframes, until the next event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// When it happened.
    pub at_s: f64,
    /// What, as it was written.
    pub event: String,
    /// When it was over; the same for what happens at once.
    pub until_s: f64,
    /// For how long there was no keyframe when one was due: the longest time between two, less the
    /// interval.
    pub outage_s: f64,
    /// How much of it came after the event was over.
    pub recovery_s: f64,
    /// Longest recovery that is asked for.
    pub within_s: f64,
    /// Keyframes came again.
    pub back: bool,
    /// Keyframes sent until the next event.
    pub sent: u64,
    /// Of these, those that never came.
    pub lost: u64,
    /// How the peers were connected at its end: `host`, `srflx`, `relay`, `relay/udp`, …
    pub via: Option<String>,
    /// They were back within the time.
    pub agree: bool,
}

/// A result with two events, the second one not as asked for.
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
