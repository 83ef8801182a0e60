//! The result of a bench run, schema `orion-peer/bench/1`: printed by `--json`, written by `--out`, read by
//! `--baseline` and `report`.
//!
//! Durations are in ms (`…Ms`), points in time in seconds since the start of the run (`atS`), sizes in bytes, shares from 0 to 1.
//! A quantity that was not measured is null or absent, never 0. `schema.json` in this directory is the equivalent for
//! JSON Schema validators.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    report::{
        delivery::{DeliveryReport, KeyframeDelivery},
        schema::{FailureRecord, GateResult},
    },
    stats::{Spread, Stages},
    types::Stage,
};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/bench/1";

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchResult {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of `orion-peer`.
    pub version: String,
    /// Start time, RFC 3339.
    pub started_at: String,
    /// Length of the run, seconds.
    pub duration_s: f64,
    /// The run ended early; the values are those measured until then.
    #[serde(default)]
    pub partial: bool,
    /// Why the run is partial, or why nothing could be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<FailureRecord>,
    /// The machine that ran the measurement.
    pub host: Host,
    /// Flags that determine what was measured and how; no secrets.
    pub config: Map<String, Value>,
    /// Connections: counts, types, setup times and failures.
    pub connections: Connections,
    /// Round-trip times of pings over the data channel, ms.
    pub rtt_ms: Rtt,
    /// One-way times of the pings, ms, corrected for the clock offset; absent unless requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_ms: Option<OneWay>,
    /// Keyframes over the video track.
    pub keyframes: Keyframes,
    /// Resource usage.
    pub resources: Resources,
    /// Quantities that could not be measured, and why.
    #[serde(default)]
    pub not_measured: Vec<NotMeasured>,
    /// Comparison with the baseline; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Outcomes of the gates.
    pub checks: Vec<GateResult>,
    /// Whether the run is complete and every gate was met.
    pub pass: bool,
}

/// The machine that ran the measurement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Operating system, in Rust's naming: `linux`, `macos`.
    pub os: String,
    /// Architecture, in Rust's naming: `x86_64`, `aarch64`.
    pub arch: String,
    /// Processors this process may use.
    pub cpus: u64,
}

/// Connections of a run. Warm-up connections are not included.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Connections started.
    pub attempted: u64,
    /// Connections that completed every requested stage.
    pub succeeded: u64,
    /// `succeeded / attempted`; null when none was attempted.
    pub success_rate: Option<f64>,
    /// Wilson's 95 % confidence interval of the success rate.
    pub ci95: [f64; 2],
    /// Successful connections by type: `host`, `srflx`, `relay/udp`, `relay/tcp`, `relay/tls`, and `relay` when only
    /// the peer's candidate is a relay, whose transport is unknown.
    pub by_type: BTreeMap<String, u64>,
    /// Duration of each stage, over the connections that completed it.
    pub setup_ms: Setup<Spread>,
    /// Time to the first picture, over the connections that had one.
    #[serde(default)]
    pub first_picture_ms: FirstPicture<Spread>,
    /// Failures by stage and code, most frequent first.
    pub failures: Vec<FailureGroup>,
    /// One record per connection, in the order they were started.
    #[serde(default)]
    pub records: Vec<ConnectionRecord>,
}

/// A value for each stage of the setup. Stages follow each other without gap or overlap from the token request to the
/// open data channel; `total` is their sum, and `firstKeyframe` follows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setup<T> {
    /// Requesting a token from the token API.
    #[serde(default)]
    pub token: T,
    /// Resolving the name of the signaling server.
    #[serde(default)]
    pub dns: T,
    /// TLS handshake with the signaling server.
    #[serde(default)]
    pub tls: T,
    /// TCP connection and WebSocket upgrade.
    pub signaling: T,
    /// From joining the room to receiving the remote description, minus the gathering.
    #[serde(default)]
    pub room: T,
    /// From creating the peer connection to its first local candidate.
    pub gathering: T,
    /// From receiving the remote description to ICE being connected.
    pub ice: T,
    /// From ICE being connected to the end of the DTLS handshake.
    pub dtls: T,
    /// From the end of DTLS to the open data channel.
    pub data_channel: T,
    /// From the open data channel to the first keyframe being complete at the receiver.
    pub first_keyframe: T,
    /// From the start to the open data channel.
    pub total: T,
}

impl<T> Setup<T> {
    /// The stages by their JSON names, in chronological order.
    #[must_use]
    pub fn stages(&self) -> [(&'static str, &T); 11] {
        [
            ("token", &self.token),
            ("dns", &self.dns),
            ("tls", &self.tls),
            ("signaling", &self.signaling),
            ("room", &self.room),
            ("gathering", &self.gathering),
            ("ice", &self.ice),
            ("dtls", &self.dtls),
            ("dataChannel", &self.data_channel),
            ("firstKeyframe", &self.first_keyframe),
            ("total", &self.total),
        ]
    }

    /// The same stages with `f` applied to each, in the order of [`Setup::stages`].
    pub fn map<U>(&self, mut f: impl FnMut(&T) -> U) -> Setup<U> {
        Setup {
            token: f(&self.token),
            dns: f(&self.dns),
            tls: f(&self.tls),
            signaling: f(&self.signaling),
            room: f(&self.room),
            gathering: f(&self.gathering),
            ice: f(&self.ice),
            dtls: f(&self.dtls),
            data_channel: f(&self.data_channel),
            first_keyframe: f(&self.first_keyframe),
            total: f(&self.total),
        }
    }
}

/// The time to the first picture: until the first keyframe was complete at the receiver, by its clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirstPicture<T> {
    /// From the start of the connection, its token request: `total` and `firstKeyframe` of [`Setup`] together.
    pub from_start: T,
    /// From joining the room.
    pub from_join: T,
}

impl<T> FirstPicture<T> {
    /// Both, with human-readable names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &T); 2] {
        [("from start", &self.from_start), ("from joining", &self.from_join)]
    }
}

/// Failures with the same stage and code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// The stage that failed.
    pub stage: Stage,
    /// Kebab-case code, stable across versions.
    pub code: String,
    /// Number of failures.
    pub count: u64,
    /// Cause of the first one in a sentence.
    pub message: String,
    /// What to do about the first one.
    pub remedy: String,
}

/// One connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Index of the connection, from 1.
    pub index: u64,
    /// Start time.
    pub at_s: f64,
    /// Whether it completed every requested stage.
    pub ok: bool,
    /// Connection type, as in [`Connections::by_type`]; null when there was no selected pair.
    #[serde(rename = "type")]
    pub connection_type: Option<String>,
    /// Type of the local candidate of the selected pair.
    pub local: Option<String>,
    /// Type of the remote candidate of the selected pair.
    pub remote: Option<String>,
    /// Duration of each stage; null for stages it did not reach.
    pub setup_ms: Setup<Option<f64>>,
    /// Time to the first picture; null when there was none.
    #[serde(default)]
    pub first_picture_ms: FirstPicture<Option<f64>>,
    /// Pings sent on the connection.
    pub pings_sent: u64,
    /// Unanswered pings.
    pub pings_lost: u64,
    /// Round-trip times as `[atS, ms]`, in the order of sending. For a long connection, only every n-th one is kept;
    /// [`Rtt`] includes all.
    #[serde(default)]
    pub rtt: Vec<[f64; 2]>,
    /// Keyframes sent on the connection, or received if `bench` is the receiver.
    #[serde(default)]
    pub keyframes: Vec<KeyframeRecord>,
    /// The answer of each STUN and TURN server.
    #[serde(default)]
    pub ice_servers: Vec<IceServerRecord>,
    /// The cause of the failure; null if it did not fail.
    pub failure: Option<FailureRecord>,
}

/// One keyframe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeRecord {
    /// When it was sent, or received if `bench` is the receiver.
    pub at_s: f64,
    /// Size of the access unit.
    pub bytes: u64,
    /// Number of RTP packets.
    pub packets: Option<u64>,
    /// Whether it arrived completely; null if unknown.
    pub received: Option<bool>,
    /// Whether it arrived with the sender's SHA-256; null if unknown.
    pub intact: Option<bool>,
    /// From capture to the arrival of the last packet. A picture encoded in advance counts as captured one encoding
    /// time before it was sent. The time from the first packet to the last is `network` of
    /// [`stages_ms`](Self::stages_ms).
    pub latency_ms: Option<f64>,
    /// Encoding time, all passes.
    pub encode_ms: Option<f64>,
    /// PSNR of luma against the source picture, dB.
    pub psnr_db: Option<f64>,
    /// SSIM of luma against the source picture, 1 when equal.
    #[serde(default)]
    pub ssim: Option<f64>,
    /// Duration of each stage; null if not measured. Encoder, decoder and disk are measured before it is sent, so
    /// that they do not slow down the connection.
    #[serde(default)]
    pub stages_ms: Stages<Option<f64>>,
    /// From the first packet received to the last; null if the peer receives and does not report it.
    #[serde(default)]
    pub spread_ms: Option<f64>,
    /// Delivery and bottleneck; null whenever [`spread_ms`](Self::spread_ms) is.
    #[serde(default)]
    pub delivery: Option<KeyframeDelivery>,
}

/// The answer of a STUN or TURN server during candidate gathering.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceServerRecord {
    /// Its URL.
    pub url: String,
    /// `reflexive`, `allocated`, `refused`, `silent`, `unresolved`, `unreachable`,
    /// `not-connected` (TURN over TCP or TLS), `unusable` (its URL or credentials), or `unused` when it was never
    /// queried.
    pub result: String,
    /// STUN error code (RFC 8489 §14.8) of a refusal, 701 if it could not be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Its reason phrase, or a description of the problem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the first request to the answer, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
}

/// Round-trip times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// Over all answered pings, including the delay of pings that were sent late.
    #[serde(flatten)]
    pub spread: Spread,
    /// Pings sent.
    pub sent: u64,
    /// Unanswered pings.
    pub lost: u64,
}

/// One-way times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OneWay {
    /// From here to the peer.
    pub out: Spread,
    /// From the peer to here.
    pub back: Spread,
    /// The peer's clock minus ours, ms; the median over the connections.
    pub offset_ms: Option<f64>,
}

/// Keyframes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keyframes {
    /// Keyframes sent; null if the peer sends and does not report the number.
    pub sent: Option<u64>,
    /// Keyframes received completely; null if the peer receives and does not report it.
    pub received: Option<u64>,
    /// Keyframes received with the sender's SHA-256; null if unknown.
    pub intact: Option<u64>,
    /// Sizes.
    pub bytes: Spread,
    /// See [`KeyframeRecord::latency_ms`].
    pub latency_ms: Spread,
    /// See [`KeyframeRecord::encode_ms`].
    pub encode_ms: Spread,
    /// See [`KeyframeRecord::psnr_db`].
    pub psnr_db: Spread,
    /// See [`KeyframeRecord::ssim`].
    #[serde(default)]
    pub ssim: Spread,
    /// See [`KeyframeRecord::stages_ms`].
    #[serde(default)]
    pub stages_ms: Box<Stages<Spread>>,
    /// Keyframes larger than the budget.
    pub over_limit: u64,
    /// See [`KeyframeRecord::spread_ms`].
    #[serde(default)]
    pub spread_ms: Spread,
    /// Delivery and bottleneck; null if nothing was received in this process.
    #[serde(default)]
    pub delivery: Option<DeliveryReport>,
}

/// Resource usage of this process, including both peers and the servers, if embedded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU time of the process, user and system.
    pub cpu_seconds: Option<f64>,
    /// Peak resident set size.
    pub max_rss_bytes: Option<u64>,
    /// Growth of the resident set at the maximum of open connections, divided by their number; null if there were
    /// never two concurrent connections.
    #[serde(default)]
    pub rss_bytes_per_connection: Option<u64>,
}

/// A quantity that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotMeasured {
    /// The field of this result, such as `keyframes.received`.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// The comparison with a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Where the baseline runs were read from.
    pub baseline: Vec<String>,
    /// Human-readable description of the statistical test.
    pub method: String,
    /// Maximum allowed regression, as a share of the baseline; null without a gate.
    pub max_regression: Option<f64>,
    /// One entry per metric.
    pub metrics: Vec<MetricComparison>,
}

/// One metric compared with the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricComparison {
    /// Name of the metric, such as `setup-p50` or `rtt-p95`.
    pub name: String,
    /// Unit: `ms`, `share` or `bytes`.
    pub unit: String,
    /// Value in the baseline; null if it has none.
    pub baseline: Option<f64>,
    /// Value in this run; null if it has none.
    pub current: Option<f64>,
    /// Regression as a share of the baseline: 0.1 is 10 % worse, negative is better. For a share (success, loss) it is
    /// the difference: 0.1 is a change from 99 % to 89 %.
    pub change: Option<f64>,
    /// Confidence interval of the change.
    pub interval: Option<[f64; 2]>,
    /// Verdict by the interval.
    pub verdict: Verdict,
}

/// The verdict on a change, by its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Significantly worse by more than allowed.
    Regressed,
    /// Significantly worse, but not significantly by more than allowed.
    Worse,
    /// No significant difference.
    Same,
    /// Significantly better.
    Better,
    /// Not enough samples in one of the runs.
    Unknown,
}
