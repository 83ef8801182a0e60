//! The result of a run: JSON according to `src/load/schema.json`, a table, and gates.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::{
    report::{
        human::{bytes, millis, rate},
        schema::GateResult,
    },
    stats::Spread,
    types::Stage,
};

/// Name and version of the schema.
pub const SCHEMA: &str = "orion-peer/load/1";

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadResult {
    /// [`SCHEMA`]
    pub schema: String,
    /// The run was stopped early.
    pub partial: bool,
    /// URL of the server, without the query.
    pub signal: String,
    /// Whether the connection used TLS.
    pub tls: bool,
    /// Requested rooms.
    pub rooms: u32,
    /// Sockets and their handshakes.
    pub sockets: Sockets,
    /// Messages; null if none were requested, or the run ended before them.
    pub relay: Option<Relayed>,
    /// Memory of the server; null if it is not on this machine.
    pub memory: Option<Memory>,
    /// CPU time of the server; null if it is not on this machine.
    pub cpu: Option<Cpu>,
    /// Errors by stage and code.
    pub errors: Vec<Errors>,
    /// Outcomes of the gates.
    pub checks: Vec<GateResult>,
}

/// Sockets and their handshakes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sockets {
    /// Requested sockets, two per room.
    #[serde(rename = "asked")]
    pub requested: u64,
    /// Sockets opened (101 response).
    pub opened: u64,
    /// Handshakes rejected or not answered.
    pub failed: u64,
    /// Sockets lost later; the other socket of the room, which is then closed, is not counted.
    pub lost: u64,
    /// Seconds from the first attempt to the last success.
    pub seconds: f64,
    /// Handshakes per second in that time; null without any.
    pub per_second: Option<f64>,
    /// Time from connecting, or from the due time if a rate was requested, to the 101 response.
    pub handshake_ms: Spread,
}

/// Messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relayed {
    /// Requested rate; null if messages are sent as fast as they are relayed.
    #[serde(rename = "askedPerSecond")]
    pub requested_per_second: Option<f64>,
    /// Length of each message, bytes.
    pub bytes: usize,
    /// Messages sent.
    pub sent: u64,
    /// Messages delivered.
    pub received: u64,
    /// Messages not delivered.
    pub lost: u64,
    /// Messages delivered out of order.
    pub disordered: u64,
    /// Seconds from the first message to the last.
    pub seconds: f64,
    /// Messages delivered per second; null without any.
    pub per_second: Option<f64>,
    /// Time from the moment a message was due to its delivery.
    pub latency_ms: Spread,
}

/// Memory of the server, resident and swapped out, bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Before the first socket.
    pub before: u64,
    /// With all sockets open, before the first message.
    pub idle: u64,
    /// After the last message; null without messages.
    pub end: Option<u64>,
    /// Memory per idle socket; null without any.
    pub per_socket: Option<f64>,
}

/// CPU time of the server, microseconds of one core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Per handshake; null without any.
    pub micros_per_handshake: Option<f64>,
    /// Per message; null without any.
    pub micros_per_message: Option<f64>,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// The stage that failed.
    pub stage: Stage,
    /// Kebab-case code.
    pub code: String,
    /// Number of errors.
    pub count: u64,
    /// Message of the first one.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// Limits; `None` means no gate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadGates {
    /// Maximum 99th percentile of the relay latency, ms.
    pub max_relay_p99: Option<f64>,
    /// Minimum handshakes per second.
    pub min_handshakes: Option<f64>,
    /// Minimum messages per second.
    pub min_messages: Option<f64>,
    /// Maximum memory per idle socket, bytes.
    pub max_socket_memory: Option<f64>,
}

impl LoadGates {
    /// One result for each gate that is set. A value that was not measured does not meet its gate.
    #[must_use]
    pub fn check(&self, result: &LoadResult) -> Vec<GateResult> {
        let relay = result.relay.as_ref();
        let most = |limit: f64, actual: f64| actual <= limit;
        let least = |limit: f64, actual: f64| actual >= limit;
        let gates = [
            (
                "max-relay-p99",
                "ms",
                self.max_relay_p99,
                relay.and_then(|r| r.latency_ms.p99),
                false,
            ),
            ("min-handshakes", "1/s", self.min_handshakes, result.sockets.per_second, true),
            ("min-messages", "1/s", self.min_messages, relay.and_then(|r| r.per_second), true),
            (
                "max-socket-memory",
                "bytes",
                self.max_socket_memory,
                result.memory.as_ref().and_then(|memory| memory.per_socket),
                false,
            ),
        ];
        let checks = gates.into_iter().filter_map(|(name, unit, limit, actual, at_least)| {
            let limit = limit?;
            let met = if at_least { least } else { most };
            Some(GateResult {
                name: name.to_owned(),
                limit: limit.into(),
                actual: actual.into(),
                unit: unit.to_owned(),
                pass: actual.is_some_and(|actual| met(limit, actual)),
                note: actual.is_none().then(|| "not measured".to_owned()),
            })
        });
        checks.collect()
    }
}

impl LoadResult {
    /// Whether nothing went wrong: every socket opened and stayed open, and every message was delivered in
    /// order.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let relayed = self.relay.as_ref();
        self.sockets.failed == 0
            && self.sockets.lost == 0
            && self.errors.is_empty()
            && relayed.is_none_or(|relay| relay.lost == 0 && relay.disordered == 0)
    }

    /// The human-readable table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![self.sockets_line(), self.handshakes_line()];
        if let Some(relay) = &self.relay {
            lines.push(relay.line());
            lines.push(format!("latency     {}", spread(&relay.latency_ms)));
        }
        if let Some(memory) = &self.memory {
            lines.push(memory.line());
        }
        if let Some(cpu) = &self.cpu {
            lines.push(cpu.line());
        }
        for error in &self.errors {
            lines.push(format!(
                "{} × {}: {}: {}\n  try: {}",
                error.count, error.stage, error.code, error.message, error.remedy
            ));
        }
        for check in &self.checks {
            let mark = if check.pass { "pass" } else { "FAIL" };
            let note = check.note.as_deref().map(|note| format!(" ({note})")).unwrap_or_default();
            let actual = check.actual.as_f64().map_or_else(|| "-".into(), |n| format!("{n:.2}"));
            let (name, unit, limit) = (&check.name, &check.unit, &check.limit);
            lines.push(format!("{mark}  {name}: {actual} {unit}, limit {limit} {unit}{note}"));
        }
        lines.join("\n")
    }

    fn sockets_line(&self) -> String {
        let Sockets { requested, opened, failed, lost, .. } = self.sockets;
        let mut line = format!("sockets     {opened} of {requested} opened");
        for (count, what) in [(failed, "failed"), (lost, "lost later")] {
            if count > 0 {
                // Writing to a string cannot fail.
                let _ = write!(line, ", {count} {what}");
            }
        }
        line + if self.tls { ", over TLS" } else { "" }
    }

    fn handshakes_line(&self) -> String {
        let rate = self.sockets.per_second.map_or_else(|| "-".into(), rate);
        format!("handshakes  {rate}; {}", spread(&self.sockets.handshake_ms))
    }
}

impl Relayed {
    fn line(&self) -> String {
        let reached = self.per_second.map_or_else(|| "-".into(), rate);
        let requested =
            self.requested_per_second.map(|requested| format!(" of {}", rate(requested)));
        let mut line = format!(
            "relay       {reached}{}, {} of {} messages of {} B delivered",
            requested.unwrap_or_default(),
            self.received,
            self.sent,
            self.bytes
        );
        if self.disordered > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {} of them out of order", self.disordered);
        }
        line
    }
}

impl Memory {
    fn line(&self) -> String {
        let each = self
            .per_socket
            .map_or_else(String::new, |each| format!(": {:.1} KiB per socket", each / 1024.0));
        let end = self.end.map_or_else(String::new, |end| format!(", {} at the end", bytes(end)));
        format!("memory      {} before, {} idle{each}{end}", bytes(self.before), bytes(self.idle))
    }
}

impl Cpu {
    fn line(&self) -> String {
        let micros =
            |micros: Option<f64>| micros.map_or_else(|| "-".into(), |us| format!("{us:.0} µs"));
        format!(
            "CPU         {} per handshake, {} per message",
            micros(self.micros_per_handshake),
            micros(self.micros_per_message)
        )
    }
}

fn spread(spread: &Spread) -> String {
    let [p50, p90, p99, p999, max] = [spread.p50, spread.p90, spread.p99, spread.p999, spread.max]
        .map(|ms| ms.map_or_else(|| "-".to_owned(), millis));
    format!("p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Histogram;

    fn result() -> LoadResult {
        let mut times = Histogram::new();
        for ms in [1.0, 2.0, 3.0] {
            times.record(ms);
        }
        let spread = times.spread();
        LoadResult {
            schema: SCHEMA.to_owned(),
            partial: false,
            signal: "ws://127.0.0.1:8787/api/signal".into(),
            tls: false,
            rooms: 2,
            sockets: Sockets {
                requested: 4,
                opened: 4,
                failed: 0,
                lost: 0,
                seconds: 0.5,
                per_second: Some(8.0),
                handshake_ms: spread,
            },
            relay: Some(Relayed {
                requested_per_second: Some(10.0),
                bytes: 300,
                sent: 3,
                received: 3,
                lost: 0,
                disordered: 0,
                seconds: 0.3,
                per_second: Some(10.0),
                latency_ms: spread,
            }),
            memory: None,
            cpu: None,
            errors: Vec::new(),
            checks: Vec::new(),
        }
    }

    #[test]
    fn unmeasured_values_meet_no_gate() {
        let gates = LoadGates {
            max_relay_p99: Some(3.0),
            min_handshakes: Some(9.0),
            min_messages: Some(10.0),
            max_socket_memory: Some(10_240.0),
        };
        let passed: Vec<_> = gates.check(&result()).iter().map(|check| check.pass).collect();
        assert_eq!(passed, [true, false, true, false]);
        assert!(LoadGates::default().check(&result()).is_empty());
    }

    #[test]
    fn any_problem_is_not_clean() {
        assert!(result().is_clean());
        let relay = |change: fn(&mut Relayed)| {
            let mut relay = result().relay.unwrap();
            change(&mut relay);
            LoadResult { relay: Some(relay), ..result() }
        };
        assert!(!relay(|relay| relay.lost = 1).is_clean());
        assert!(!relay(|relay| relay.disordered = 1).is_clean());
        let sockets = Sockets { lost: 1, ..result().sockets };
        assert!(!LoadResult { sockets, ..result() }.is_clean());
    }
}
