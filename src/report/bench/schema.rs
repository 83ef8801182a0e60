//! The result of a bench run, schema `orion-peer/bench/1`: what `--json` prints, `--out` writes,
//! `--baseline` and `report` read.
//!
//! Times are in ms (`…Ms`), moments in seconds since the start of the run (`atS`), sizes in bytes,
//! shares from 0 to 1. A quantity that was not measured is null or absent, never 0.
//! `schema.json` beside this file says the same to JSON Schema validators.

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

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchResult {
    /// [`SCHEMA`].
    pub schema: String,
    /// Version of `orion-peer` that measured.
    pub version: String,
    /// RFC 3339.
    pub started_at: String,
    /// Length of the run, seconds.
    pub duration_s: f64,
    /// The run ended before everything asked for was done: what is here is what was measured so far.
    #[serde(default)]
    pub partial: bool,
    /// Why it is partial, or why nothing could be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<FailureRecord>,
    /// The machine that measured.
    pub host: Host,
    /// Flags that say what was measured and how; no secrets.
    pub config: Map<String, Value>,
    /// Connections: how many, how, how fast, and why not.
    pub connections: Connections,
    /// Round-trip times of pings over the data channel, ms.
    pub rtt_ms: Rtt,
    /// One-way times of the pings, ms, with the clocks' offset taken out; absent unless asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_way_ms: Option<OneWay>,
    /// Keyframes over the video track.
    pub keyframes: Keyframes,
    /// What the run took of the machine.
    pub resources: Resources,
    /// What could not be measured, and why.
    #[serde(default)]
    pub not_measured: Vec<NotMeasured>,
    /// Against the baseline; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// The gates.
    pub checks: Vec<GateResult>,
    /// Whether the run is whole and every gate was passed.
    pub pass: bool,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// As Rust names it: `linux`, `macos`.
    pub os: String,
    /// As Rust names it: `x86_64`, `aarch64`.
    pub arch: String,
    /// Processors this process may use.
    pub cpus: u64,
}

/// Connections of a run. Warm-up connections are not in it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Begun.
    pub attempted: u64,
    /// Those that got through every stage asked for.
    pub succeeded: u64,
    /// `succeeded / attempted`; null when none was attempted.
    pub success_rate: Option<f64>,
    /// Wilson's 95 % interval of the success rate.
    pub ci95: [f64; 2],
    /// Succeeded connections by type: `host`, `srflx`, `relay/udp`, `relay/tcp`, `relay/tls`, and
    /// `relay` when only the other side's end is a relay, whose transport it does not tell.
    pub by_type: BTreeMap<String, u64>,
    /// How long each stage took in those that got through it.
    pub setup_ms: Setup<Spread>,
    /// How long it took until there was a picture, in those that had one.
    #[serde(default)]
    pub first_picture_ms: FirstPicture<Spread>,
    /// Failures by stage and code, most frequent first.
    pub failures: Vec<FailureGroup>,
    /// One record a connection, in the order they were begun.
    #[serde(default)]
    pub records: Vec<ConnectionRecord>,
}

/// Something for each stage of the set-up. Stages follow each other without gap or overlap from the
/// token request to the open data channel; `total` is their sum, and `firstKeyframe` comes after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Setup<T> {
    /// Asking the token API for a token.
    #[serde(default)]
    pub token: T,
    /// Resolving the signaling server's name.
    #[serde(default)]
    pub dns: T,
    /// TLS handshake with the signaling server.
    #[serde(default)]
    pub tls: T,
    /// TCP connection and WebSocket upgrade.
    pub signaling: T,
    /// From being in the room to having the other side's description, less the gathering.
    #[serde(default)]
    pub room: T,
    /// From building the peer connection to its first local candidate.
    pub gathering: T,
    /// From having the other side's description to ICE being connected.
    pub ice: T,
    /// From there to DTLS being done.
    pub dtls: T,
    /// From there to our data channel being open.
    pub data_channel: T,
    /// From the open data channel to the first keyframe being whole at the other side.
    pub first_keyframe: T,
    /// From the start to our data channel being open.
    pub total: T,
}

impl<T> Setup<T> {
    /// The stages by their names in JSON, in the order they happen.
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

/// The time to the first picture: until the first keyframe was whole at the receiver, by its clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirstPicture<T> {
    /// From the start of the connection, its token request: `total` and `firstKeyframe` of [`Setup`] together.
    pub from_start: T,
    /// From being in the room.
    pub from_join: T,
}

impl<T> FirstPicture<T> {
    /// Both, as people say them.
    #[must_use]
    pub fn named(&self) -> [(&'static str, &T); 2] {
        [("from start", &self.from_start), ("from joining", &self.from_join)]
    }
}

/// Failures with the same stage and code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureGroup {
    /// Where.
    pub stage: Stage,
    /// What, in kebab case: stable, for programs.
    pub code: String,
    /// How many.
    pub count: u64,
    /// What and why, for people; of the first one.
    pub message: String,
    /// What to try; of the first one.
    pub remedy: String,
}

/// One connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionRecord {
    /// Counts from 1.
    pub index: u64,
    /// When it was begun.
    pub at_s: f64,
    /// Whether it got through every stage asked for.
    pub ok: bool,
    /// As in [`Connections::by_type`]; null when there was no selected pair.
    #[serde(rename = "type")]
    pub connection_type: Option<String>,
    /// Type of our candidate of the selected pair.
    pub local: Option<String>,
    /// Type of the other side's candidate of the selected pair.
    pub remote: Option<String>,
    /// How long each stage took; null for those it did not get to.
    pub setup_ms: Setup<Option<f64>>,
    /// How long it took until there was a picture; null when there was none.
    #[serde(default)]
    pub first_picture_ms: FirstPicture<Option<f64>>,
    /// Pings sent on it.
    pub pings_sent: u64,
    /// Pings that were never answered.
    pub pings_lost: u64,
    /// Round-trip times as `[atS, ms]`, in the order of sending. Of a long connection only every
    /// n-th is kept; [`Rtt`] counts them all.
    #[serde(default)]
    pub rtt: Vec<[f64; 2]>,
    /// Keyframes sent on it, or received when this side receives.
    #[serde(default)]
    pub keyframes: Vec<KeyframeRecord>,
    /// What each STUN and TURN server answered.
    #[serde(default)]
    pub ice_servers: Vec<IceServerRecord>,
    /// Why it failed; null when it did not.
    pub failure: Option<FailureRecord>,
}

/// One keyframe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeRecord {
    /// When it was sent, or received when this side receives.
    pub at_s: f64,
    /// Size of the access unit.
    pub bytes: u64,
    /// RTP packets.
    pub packets: Option<u64>,
    /// Whether it arrived whole; null when nobody told.
    pub received: Option<bool>,
    /// Whether it arrived whole with the sender's SHA-256; null when nobody told.
    pub intact: Option<bool>,
    /// From the picture being taken to its last packet having arrived. A picture that was encoded ahead counts as
    /// taken as long before its sending as its encoding took. From the first packet to the last is `network` of
    /// [`stages_ms`](Self::stages_ms).
    pub latency_ms: Option<f64>,
    /// Time the encoder took, all passes.
    pub encode_ms: Option<f64>,
    /// PSNR of luma against the picture that was encoded, dB.
    pub psnr_db: Option<f64>,
    /// SSIM of luma against the picture that was encoded, 1 when equal.
    #[serde(default)]
    pub ssim: Option<f64>,
    /// How long each stage of its way took; null for those that were not measured. Encoder, decoder
    /// and disk are measured before it is sent, so that they take no time from the connection.
    #[serde(default)]
    pub stages_ms: Stages<Option<f64>>,
    /// From the first packet received to the last; null where the peer receives and does not report it.
    #[serde(default)]
    pub spread_ms: Option<f64>,
    /// How it was delivered, and what limited that; null as [`spread_ms`](Self::spread_ms) is.
    #[serde(default)]
    pub delivery: Option<KeyframeDelivery>,
}

/// What a STUN or TURN server answered while candidates were gathered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceServerRecord {
    /// Its URL.
    pub url: String,
    /// `reflexive`, `allocated`, `refused`, `silent`, `unresolved`, `unreachable`,
    /// `not-connected` (TURN over TCP or TLS), `unusable` (its URL or credentials), or `unused` when it was never asked.
    pub result: String,
    /// STUN error code (RFC 8489 §14.8) when it refused, 701 when it could not be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Its reason phrase, or what went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the first request to the answer, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
}

/// Round-trip times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    /// Over all answered pings, with the time added that a ping was sent late.
    #[serde(flatten)]
    pub spread: Spread,
    /// Pings sent.
    pub sent: u64,
    /// Pings never answered.
    pub lost: u64,
}

/// One-way times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OneWay {
    /// From here to the other side.
    pub out: Spread,
    /// From the other side to here.
    pub back: Spread,
    /// The other side's clock less ours, ms; the median over the connections.
    pub offset_ms: Option<f64>,
}

/// Keyframes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keyframes {
    /// Sent; null when the other side sends and does not tell.
    pub sent: Option<u64>,
    /// Arrived whole; null when the other side receives and does not tell.
    pub received: Option<u64>,
    /// Arrived whole with the sender's SHA-256; null when nobody told.
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
    /// How they were delivered, and what limited that; null where nothing was received in this process.
    #[serde(default)]
    pub delivery: Option<DeliveryReport>,
}

/// What a run took of the machine: this process, both peers and the servers when they are in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU time of the process, user and system.
    pub cpu_seconds: Option<f64>,
    /// Largest resident set.
    pub max_rss_bytes: Option<u64>,
    /// Growth of the resident set when most connections were open, by their number; null when there
    /// were never two at once.
    #[serde(default)]
    pub rss_bytes_per_connection: Option<u64>,
}

/// Something that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotMeasured {
    /// The part of this result: `keyframes.received`.
    pub what: String,
    /// Why.
    pub why: String,
}

/// This run against a baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// Where the baseline runs were read from.
    pub baseline: Vec<String>,
    /// How differences were tested, for people.
    pub method: String,
    /// Largest worsening allowed, as a share of the baseline; null when nothing is gated.
    pub max_regression: Option<f64>,
    /// One a metric.
    pub metrics: Vec<MetricComparison>,
}

/// One metric against the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricComparison {
    /// `setup-p50`, `rtt-p95`.
    pub name: String,
    /// `ms`, `share` or `bytes`.
    pub unit: String,
    /// In the baseline; null when it has none.
    pub baseline: Option<f64>,
    /// In this run; null when it has none.
    pub current: Option<f64>,
    /// Worsening as a share of the baseline: 0.1 is 10 % worse, negative is better. Of a share (success,
    /// loss) it is the difference: 0.1 is from 99 % to 89 %.
    pub change: Option<f64>,
    /// Interval of the change.
    pub interval: Option<[f64; 2]>,
    /// What the interval says.
    pub verdict: Verdict,
}

/// What an interval says of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Surely worse by more than is allowed.
    Regressed,
    /// Surely worse, but maybe not by more than is allowed.
    Worse,
    /// No difference can be told.
    Same,
    /// Surely better.
    Better,
    /// One of the two has too little to tell.
    Unknown,
}
