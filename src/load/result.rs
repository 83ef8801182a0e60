//! What came of a run: JSON by `src/load/schema.json`, a table, and gates.

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

/// `schema` of the results.
pub const SCHEMA: &str = "orion-peer/load/1";

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadResult {
    /// [`SCHEMA`]
    pub schema: String,
    /// It was stopped before its end.
    pub partial: bool,
    /// The server, without its query.
    pub signal: String,
    /// Whether over TLS.
    pub tls: bool,
    /// Rooms that were asked for.
    pub rooms: u32,
    /// Sockets and their handshakes.
    pub sockets: Sockets,
    /// Messages; null when none were asked for, or the run ended before them.
    pub relay: Option<Relayed>,
    /// Memory of the server; null when it is not on this machine.
    pub memory: Option<Memory>,
    /// CPU time of the server; null when it is not on this machine.
    pub cpu: Option<Cpu>,
    /// What went wrong, by stage and code.
    pub errors: Vec<Errors>,
    /// The gates.
    pub checks: Vec<GateResult>,
}

/// Sockets and their handshakes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sockets {
    /// Two a room.
    pub asked: u64,
    /// Answered with 101.
    pub opened: u64,
    /// Refused, or not answered.
    pub failed: u64,
    /// Ended by themselves later; the other socket of the room, which then closes, is not counted.
    pub lost: u64,
    /// From the first attempt to the last success.
    pub seconds: f64,
    /// Handshakes a second in that time; null without one.
    pub per_second: Option<f64>,
    /// From the connect, or when a rate was asked for from the moment it was due, to the answer 101.
    pub handshake_ms: Spread,
}

/// Messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relayed {
    /// Rate that was asked for; null for as fast as they are relayed.
    pub asked_per_second: Option<f64>,
    /// Length of each.
    pub bytes: usize,
    /// Messages sent.
    pub sent: u64,
    /// Messages that came.
    pub received: u64,
    /// Messages that did not.
    pub lost: u64,
    /// Messages that came out of turn.
    pub disordered: u64,
    /// From the first to the last.
    pub seconds: f64,
    /// Messages that came a second; null without one.
    pub per_second: Option<f64>,
    /// From when a message was due to when it came.
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
    /// What an idle socket took; null without one.
    pub per_socket: Option<f64>,
}

/// CPU time of the server, microseconds of one core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// For a handshake; null without one.
    pub micros_per_handshake: Option<f64>,
    /// For a message; null without one.
    pub micros_per_message: Option<f64>,
}

/// Errors of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Errors {
    /// Where.
    pub stage: Stage,
    /// In kebab case.
    pub code: String,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub message: String,
    /// What to try.
    pub remedy: String,
}

/// Limits; none means that it is not asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gates {
    /// Largest 99th percentile of the relay's latency, ms.
    pub max_relay_p99: Option<f64>,
    /// Least handshakes a second.
    pub min_handshakes: Option<f64>,
    /// Least messages a second.
    pub min_messages: Option<f64>,
    /// Most memory of an idle socket, bytes.
    pub max_socket_memory: Option<f64>,
}

impl Gates {
    /// One check for each gate that is set. What was not measured is not met.
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
                note: actual.is_none().then(|| "it was not measured".to_owned()),
            })
        });
        checks.collect()
    }
}

impl LoadResult {
    /// Whether nothing went wrong: each socket opened and stayed, each message came, in its turn.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let relayed = self.relay.as_ref();
        self.sockets.failed == 0
            && self.sockets.lost == 0
            && self.errors.is_empty()
            && relayed.is_none_or(|relay| relay.lost == 0 && relay.disordered == 0)
    }

    /// For people.
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
        let Sockets { asked, opened, failed, lost, .. } = self.sockets;
        let mut line = format!("sockets     {opened} of {asked} opened");
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
        let asked = self.asked_per_second.map(|asked| format!(" of {}", rate(asked)));
        let mut line = format!(
            "relay       {reached}{}, {} of {} messages of {} B came",
            asked.unwrap_or_default(),
            self.received,
            self.sent,
            self.bytes
        );
        if self.disordered > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {} of them out of turn", self.disordered);
        }
        line
    }
}

impl Memory {
    fn line(&self) -> String {
        let each = self
            .per_socket
            .map_or_else(String::new, |each| format!(": {:.1} KiB a socket", each / 1024.0));
        let end = self.end.map_or_else(String::new, |end| format!(", {} at the end", bytes(end)));
        format!("memory      {} before, {} idle{each}{end}", bytes(self.before), bytes(self.idle))
    }
}

impl Cpu {
    fn line(&self) -> String {
        let micros =
            |micros: Option<f64>| micros.map_or_else(|| "-".into(), |us| format!("{us:.0} µs"));
        format!(
            "CPU         {} a handshake, {} a message",
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
                asked: 4,
                opened: 4,
                failed: 0,
                lost: 0,
                seconds: 0.5,
                per_second: Some(8.0),
                handshake_ms: spread,
            },
            relay: Some(Relayed {
                asked_per_second: Some(10.0),
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
    fn gates_are_met_or_not_and_what_was_not_measured_is_not() {
        let gates = Gates {
            max_relay_p99: Some(3.0),
            min_handshakes: Some(9.0),
            min_messages: Some(10.0),
            max_socket_memory: Some(10_240.0),
        };
        let passed: Vec<_> = gates.check(&result()).iter().map(|check| check.pass).collect();
        assert_eq!(passed, [true, false, true, false]);
        assert!(Gates::default().check(&result()).is_empty());
    }

    #[test]
    fn anything_that_went_wrong_is_not_clean() {
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
