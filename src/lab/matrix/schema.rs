//! The result of `orion-peer lab` as printed by `--json` and written by `--out`: schema `orion-peer/lab/1`.
//!
//! Times are in ms, shares from 0 to 1, rates in bit/s. Values that were not measured are null, never 0.
//! `schema.json` next to this file describes the same format as a JSON Schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::CellPlan;
use crate::{
    lab::timeline::TimelineResult,
    nat::{LinkSettings, Path},
    report::{bench::schema::Setup, schema::FailureRecord},
};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/lab/1";

/// The schema as JSON Schema, draft 2020-12.
pub const JSON_SCHEMA: &str = include_str!("schema.json");

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabResult {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// One per pair of networks, in the order requested.
    pub cells: Vec<Cell>,
    /// One per scenario with a timeline, in the order requested.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timelines: Vec<TimelineResult>,
    /// Number of cells and timelines that are as expected.
    pub agree: u64,
    /// Number of cells and timelines requested; larger than the number present if the run was stopped.
    pub total: u64,
    /// What provided the NATs and links.
    pub layer: BackendName,
    /// The requested seed; each cell derives its own.
    pub seed: u64,
    /// Start of the run, RFC 3339.
    pub started_at: String,
    /// Duration of the run in seconds.
    pub duration_s: f64,
    /// Whether the run was stopped early; the result contains the values measured until then.
    pub partial: bool,
    /// Software versions by name: `orion-peer`, `webrtc`, `os`.
    pub versions: BTreeMap<String, String>,
}

impl LabResult {
    /// Adds a timeline that was played.
    pub fn add(&mut self, timeline: TimelineResult) {
        self.total += 1;
        self.agree += u64::from(timeline.agree);
        self.duration_s += timeline.duration_s;
        self.timelines.push(timeline);
    }

    /// Whether every cell was measured and is as expected.
    #[must_use]
    pub fn all_agree(&self) -> bool {
        !self.partial && self.agree == self.total
    }
}

/// What provides NATs and links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendName {
    /// Simulated in this process.
    Simulated,
    /// The Linux kernel, in network namespaces.
    Kernel,
}

impl BackendName {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simulated => "simulated",
            Self::Kernel => "kernel",
        }
    }
}

/// One value for each of the two peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends<T> {
    /// The value of the offering peer.
    pub a: T,
    /// The value of the answering peer.
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
    /// Path that theory, or the scenario, expects.
    pub expected: Path,
    /// Path that was measured; the worst if there were several connections.
    pub measured: Path,
    /// Type of the connection: `host`, `srflx`, `relay/udp`, `relay/tcp`, `relay/tls`, `relay`; the most
    /// frequent one.
    #[serde(rename = "type")]
    pub connection_type: Option<String>,
    /// From the token request to the open data channel; median.
    pub setup_ms: Option<f64>,
    /// From the token request to the complete first keyframe at the receiver; median.
    #[serde(default)]
    pub first_picture_ms: Option<f64>,
    /// From joining the room to the complete first keyframe; median.
    #[serde(default)]
    pub first_picture_from_join_ms: Option<f64>,
    /// Maximum time to the first picture; none if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_first_picture_ms: Option<f64>,
    /// Round-trip time of pings over the data channel; median.
    pub rtt_ms: Option<f64>,
    /// Whether every connection is as expected, with its first picture in time; over lossless links also
    /// whether pings were answered and the keyframe arrived intact.
    pub agree: bool,
    /// Why it did not connect, or is not as expected.
    pub reason: Option<FailureRecord>,
    /// Number of measurements; a cell that is not as expected is measured again, on its own.
    #[serde(default)]
    pub attempts: u32,
    /// Whether both peers were behind the same NATs.
    pub same_nat: bool,
    /// The NAT profiles of the networks.
    pub nat: Ends<String>,
    /// The links of the networks.
    pub link: Ends<LinkRecord>,
    /// TURN transports offered.
    pub turn: Vec<String>,
    /// Seed of this cell.
    pub seed: u64,
    /// Name of the scenario it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scenario: Option<String>,
    /// Connections attempted.
    pub connections: u64,
    /// Number that connected, by type.
    pub by_type: BTreeMap<String, u64>,
    /// Duration of each setup stage; medians.
    pub stages: Setup<Option<f64>>,
    /// Share of pings that were not answered.
    pub ping_loss: Option<f64>,
    /// The keyframes sent.
    pub keyframe: Option<KeyframeRecord>,
}

/// Keyframes sent over a cell's connections, one each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeRecord {
    /// Size in bytes; median.
    pub bytes: Option<f64>,
    /// From capturing the picture to the arrival of its last packet; median.
    pub latency_ms: Option<f64>,
    /// From sending its first packet to the arrival of its last; median.
    #[serde(default)]
    pub network_ms: Option<f64>,
    /// Number of keyframes sent.
    pub sent: u64,
    /// Number of keyframes received intact, with the sender's SHA-256.
    pub intact: u64,
}

/// Properties of a link, per direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkRecord {
    /// Share of packets lost.
    pub loss: f64,
    /// Packets lost in a row; 0 and 1 mean independent losses.
    #[serde(default)]
    pub loss_burst: u32,
    /// One-way delay.
    pub delay_ms: f64,
    /// Maximum additional random delay.
    pub jitter_ms: f64,
    /// Bits per second; null means no limit.
    pub rate: Option<u64>,
    /// Queue size in bytes; null means that of a home router.
    #[serde(default)]
    pub queue_bytes: Option<u64>,
}

impl From<&LinkSettings> for LinkRecord {
    fn from(link: &LinkSettings) -> Self {
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
    /// A cell with only the planned values.
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

    /// The pair as text: `port and sym`, `both behind port:hairpin`.
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
