//! Generated results for the tests of this module.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::{
    BenchResult, Named, collect,
    schema::{ConnectionRecord, FirstPicture, Host, KeyframeRecord, Resources, Rtt, SCHEMA, Setup},
};
use crate::{
    report::schema::FailureRecord,
    stats::{Histogram, Stages},
    types::Stage,
};

/// Parameters of a generated run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub seed: u64,
    pub connections: usize,
    /// Connections that fail.
    pub failed: usize,
    /// Pings lost of 40 on each connection.
    pub lost: u64,
    /// Keyframes on each connection, and how many of them are not intact.
    pub keyframes: usize,
    pub torn: usize,
    /// Factor on all times.
    pub slower: f64,
    pub kind: &'static str,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            seed: 1,
            connections: 30,
            failed: 0,
            lost: 0,
            keyframes: 2,
            torn: 0,
            slower: 1.0,
            kind: "host",
        }
    }
}

/// A result with a name.
pub fn named(name: &str, result: BenchResult) -> Named {
    Named { name: name.to_owned(), result }
}

impl Sample {
    pub fn result(self) -> BenchResult {
        let mut random = StdRng::seed_from_u64(self.seed);
        let records: Vec<_> = (0..self.connections).map(|i| self.record(i, &mut random)).collect();
        let rtt: Histogram = records.iter().flat_map(|r| &r.rtt).map(|[_, ms]| *ms).collect();
        let sent = records.iter().map(|record| record.pings_sent).sum();
        let lost = records.iter().map(|record| record.pings_lost).sum();
        let config = json!({"connections": self.connections, "pingInterval": "20ms"});
        let mut result = BenchResult {
            schema: SCHEMA.to_owned(),
            version: "0.1.0".to_owned(),
            started_at: "2026-01-02T03:04:05Z".to_owned(),
            duration_s: 20.0,
            partial: false,
            ended: None,
            host: Host { os: "linux".to_owned(), arch: "x86_64".to_owned(), cpus: 2 },
            config: config.as_object().unwrap().clone(),
            connections: collect::connections(records),
            rtt_ms: Rtt { spread: rtt.spread(), sent, lost },
            one_way_ms: None,
            keyframes: super::schema::Keyframes::default(),
            resources: Resources::default(),
            not_measured: Vec::new(),
            comparison: None,
            checks: Vec::new(),
            pass: true,
        };
        let keyframes = result.connections.records.iter().flat_map(|record| &record.keyframes);
        result.keyframes = collect::keyframes(keyframes, Some(100_000));
        result
    }

    fn record(&self, index: usize, random: &mut StdRng) -> ConnectionRecord {
        let mut record = ConnectionRecord { index: index as u64 + 1, ..Default::default() };
        if index < self.failed {
            record.failure = Some(FailureRecord {
                stage: Stage::Ice,
                code: "no-pair".to_owned(),
                message: "no candidate pair worked".to_owned(),
                remedy: "add a TURN server".to_owned(),
            });
            return record;
        }
        // In whole µs: longer fractions do not survive the JSON round trip to the last bit.
        let mut ms = |middle: f64| {
            (middle * self.slower * random.random_range(0.8..1.25) * 1000.0).round() / 1000.0
        };
        record.ok = true;
        record.connection_type = Some(self.kind.to_owned());
        record.setup_ms = Setup { total: Some(ms(20.0)), ..Setup::default() };
        record.first_picture_ms =
            FirstPicture { from_start: Some(ms(25.0)), from_join: Some(ms(15.0)) };
        let middle = ms(0.3) / self.slower;
        record.pings_sent = 40;
        record.pings_lost = self.lost;
        record.rtt = (0..40 - self.lost).map(|i| [i as f64 / 50.0, ms(middle)]).collect();
        record.keyframes = (0..self.keyframes)
            .map(|i| KeyframeRecord {
                bytes: 90_000 + i as u64,
                received: Some(true),
                intact: Some(i >= self.torn),
                latency_ms: Some(ms(50.0)),
                stages_ms: Stages { network: Some(ms(2.0)), ..Stages::default() },
                ..Default::default()
            })
            .collect();
        record
    }
}
