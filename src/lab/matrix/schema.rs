//! The result of `orion-peer lab`, schema `orion-peer/lab/1`: what `--json` prints and `--out` writes.
//!
//! Times are in ms, shares from 0 to 1, rates in bits a second. What was not measured is null, never 0.
//! `schema.json` beside this file says the same to JSON Schema validators.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::CellPlan;
use crate::{
    lab::timeline::TimelineResult,
    nat::{Link, Path},
    report::{bench::schema::Setup, schema::FailureRecord},
};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/lab/1";

/// The schema as JSON Schema, draft 2020-12.
pub const JSON_SCHEMA: &str = include_str!("schema.json");

/// All that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabResult {
    /// [`SCHEMA`].
    pub schema: String,
    /// One a pair of networks, in the order asked for.
    pub cells: Vec<Cell>,
    /// One a scenario with a time line, in the order asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<TimelineResult>,
    /// Cells and time lines that agree with what was expected.
    pub agree: u64,
    /// Cells and time lines that were to be measured; more than there are when the run was stopped.
    pub total: u64,
    /// What NATs and links were made with.
    pub layer: LayerName,
    /// The seed asked for; each cell has its own from it.
    pub seed: u64,
    /// RFC 3339.
    pub started_at: String,
    /// Length of the run, seconds.
    pub duration_s: f64,
    /// The run was stopped before its end: what is here is what was measured until then.
    pub partial: bool,
    /// What measured, by name: `orion-peer`, `webrtc`, `os`.
    pub versions: BTreeMap<String, String>,
}

impl LabResult {
    /// Adds a time line that was played.
    pub fn add(&mut self, timeline: TimelineResult) {
        self.total += 1;
        self.agree += u64::from(timeline.agree);
        self.duration_s += timeline.duration_s;
        self.timelines.push(timeline);
    }

    /// Whether every cell was measured and came out as expected.
    #[must_use]
    pub fn all_agree(&self) -> bool {
        !self.partial && self.agree == self.total
    }
}

/// What NATs and links are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerName {
    /// In this process.
    Simulated,
    /// By Linux, in network namespaces.
    Kernel,
}

impl LayerName {
    /// As in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Kernel => "kernel",
        }
    }
}

/// Something of each of the two ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends<T> {
    /// Of the offering peer's.
    pub a: T,
    /// Of the answering peer's.
    pub b: T,
}

/// One pair of networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// The offering peer's network.
    pub a: String,
    /// The answering peer's network.
    pub b: String,
    /// What theory, or the scenario, says.
    pub expected: Path,
    /// What came out; the worst when there were several connections.
    pub measured: Path,
    /// How it connected: `host`, `srflx`, `relay/udp`, `relay/tcp`, `relay/tls`, `relay`; the most
    /// frequent.
    #[serde(rename = "type")]
    pub connection_type: Option<String>,
    /// From the token request to the open data channel, the median.
    pub setup_ms: Option<f64>,
    /// From the token request to the first keyframe being whole at the receiver, the median.
    #[serde(default)]
    pub first_picture_ms: Option<f64>,
    /// From being in the room to that, the median.
    #[serde(default)]
    pub first_picture_from_join_ms: Option<f64>,
    /// Largest time to the first picture that is asked for; none when it may take any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_first_picture_ms: Option<f64>,
    /// Round-trip time of pings over the data channel, the median.
    pub rtt_ms: Option<f64>,
    /// Whether every connection came out as expected, with its first picture in time; over links that lose nothing also whether pings
    /// were answered and the keyframe arrived whole.
    pub agree: bool,
    /// Why it did not connect, or does not agree.
    pub reason: Option<FailureRecord>,
    /// Times it was measured; one that does not agree is measured once more, with nothing beside it.
    #[serde(default)]
    pub attempts: u32,
    /// Both peers were behind the same boxes.
    pub same_nat: bool,
    /// The profiles, spelt out where `a` and `b` are names of networks.
    pub nat: Ends<String>,
    /// The links.
    pub link: Ends<LinkRecord>,
    /// TURN transports offered.
    pub turn: Vec<String>,
    /// Where random choices began.
    pub seed: u64,
    /// The scenario it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Connections attempted.
    pub connections: u64,
    /// Those that connected, by type.
    pub by_type: BTreeMap<String, u64>,
    /// How long each stage of the set-up took, medians.
    pub stages: Setup<Option<f64>>,
    /// Pings that were not answered, as a share of those sent.
    pub ping_loss: Option<f64>,
    /// The keyframes sent.
    pub keyframe: Option<KeyframeRecord>,
}

/// Keyframes sent over a cell's connections, one each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeRecord {
    /// Size, the median.
    pub bytes: Option<f64>,
    /// From the picture being taken to its last packet having arrived, the median.
    pub latency_ms: Option<f64>,
    /// From its first packet being sent to its last having arrived, the median.
    #[serde(default)]
    pub network_ms: Option<f64>,
    /// Sent.
    pub sent: u64,
    /// Arrived whole, with the sender's SHA-256.
    pub intact: u64,
}

/// What a link does to each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRecord {
    /// Share of packets lost.
    pub loss: f64,
    /// How many in a row; 0 and 1 mean each on its own.
    #[serde(default)]
    pub loss_burst: u32,
    /// One way.
    pub delay_ms: f64,
    /// Up to this much more.
    pub jitter_ms: f64,
    /// Bits a second; null is no limit.
    pub rate: Option<u64>,
    /// Room in the queue, bytes; none is a home router's.
    #[serde(default)]
    pub queue_bytes: Option<u64>,
}

impl From<&Link> for LinkRecord {
    fn from(link: &Link) -> Self {
        Self {
            loss: link.loss,
            loss_burst: link.loss_burst,
            delay_ms: link.delay.as_secs_f64() * 1e3,
            jitter_ms: link.jitter.as_secs_f64() * 1e3,
            rate: link.rate,
            queue_bytes: link.queue.zip(link.rate).map(|(queue, rate)| queue.bytes(rate)),
        }
    }
}

impl Cell {
    /// A cell of which nothing is known but what was planned.
    #[must_use]
    pub fn unmeasured(plan: &CellPlan) -> Self {
        Self {
            a: plan.a.name.clone(),
            b: plan.b.name.clone(),
            expected: plan.expected,
            measured: Path::None,
            connection_type: None,
            setup_ms: None,
            first_picture_ms: None,
            first_picture_from_join_ms: None,
            max_first_picture_ms: plan.max_first_picture.map(|time| time.as_secs_f64() * 1e3),
            rtt_ms: None,
            agree: false,
            reason: None,
            attempts: 0,
            same_nat: plan.same_nat,
            nat: Ends { a: plan.a.profile.to_string(), b: plan.b.profile.to_string() },
            link: Ends { a: (&plan.a.link).into(), b: (&plan.b.link).into() },
            turn: plan.turn.names().into_iter().map(str::to_owned).collect(),
            seed: plan.seed,
            scenario: plan.scenario.clone(),
            connections: 0,
            by_type: BTreeMap::new(),
            stages: Setup::default(),
            ping_loss: None,
            keyframe: None,
        }
    }

    /// The pair in words: `port and sym`, `both behind port:hairpin`.
    #[must_use]
    pub fn pair(&self) -> String {
        if self.same_nat {
            return format!("both behind {}", self.a);
        }
        format!("{} and {}", self.a, self.b)
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
