//! Example results for the tests of the formats.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    BenchResult, Named, collect,
    schema::{
        Comparison, ConnectionRecord, FirstPicture, Host, IceServerRecord, KeyframeRecord,
        Keyframes, MetricComparison, NotMeasured, OneWay, Resources, Rtt, SCHEMA, Setup, Verdict,
    },
};
use crate::{
    report::{
        delivery::{DeliveryReport, KeyframeDelivery},
        schema::{FailureRecord, GateResult},
    },
    stats::{
        Histogram, Spread, Stages,
        bottleneck::{Limit, Overall, PathRate},
    },
    types::Stage,
};

pub(super) fn named(name: &str, result: BenchResult) -> Named {
    Named { name: name.into(), result }
}

fn spread(values: &[f64]) -> Spread {
    values.iter().copied().collect::<Histogram>().spread()
}

/// Only the required fields: one connection, nothing measured on it.
pub(super) fn minimal() -> BenchResult {
    let record = ConnectionRecord { index: 1, ok: true, ..ConnectionRecord::default() };
    BenchResult {
        schema: SCHEMA.into(),
        version: "0.1.0".into(),
        started_at: "2026-11-22T10:00:00Z".into(),
        duration_s: 1.0,
        partial: false,
        ended: None,
        host: Host { os: "linux".into(), arch: "x86_64".into(), cpus: 2 },
        config: serde_json::Map::new(),
        connections: collect::connections(vec![record]),
        rtt_ms: Rtt::default(),
        one_way_ms: None,
        keyframes: Keyframes::default(),
        resources: Resources::default(),
        not_measured: Vec::new(),
        comparison: None,
        checks: Vec::new(),
        pass: true,
    }
}

/// A run in which no connection was attempted.
pub(super) fn empty() -> BenchResult {
    BenchResult { connections: collect::connections(Vec::new()), ..minimal() }
}

/// A run that ended half-way.
pub(super) fn partial() -> BenchResult {
    let ended = FailureRecord {
        stage: Stage::Signaling,
        code: "gone".into(),
        message: "the signaling server closed the connection".into(),
        remedy: "look at its log".into(),
    };
    BenchResult { partial: true, ended: Some(ended), pass: false, ..minimal() }
}

/// A run with something in every field.
pub(super) fn full() -> BenchResult {
    let mut records: Vec<_> = (1..=4).map(connection).collect();
    let failed = &mut records[3];
    (failed.ok, failed.connection_type) = (false, None);
    failed.setup_ms = Setup { gathering: Some(0.9), ..Setup::default() };
    failed.failure = Some(FailureRecord {
        stage: Stage::Ice,
        code: "no-pair".into(),
        message: "no pair worked".into(),
        remedy: "add a TURN server, or two".into(),
    });
    let keyframes: Vec<_> = records.iter().take(3).flat_map(|r| r.keyframes.clone()).collect();
    let rtt =
        Spread { p50: Some(0.344), p95: Some(0.529), ..spread(&[0.3, 0.344, 0.5, 0.529, 5.5]) };
    let check = |name: &str, limit: Value, actual: Value, unit: &str, pass, note: Option<&str>| {
        let (name, unit, note) = (name.to_owned(), unit.to_owned(), note.map(str::to_owned));
        GateResult { name, limit, actual, unit, pass, note }
    };
    let mut result = BenchResult {
        duration_s: 22.0,
        config: serde_json::from_value(json!({"mode": "embedded", "connections": 4})).unwrap(),
        connections: collect::connections(records),
        rtt_ms: Rtt { spread: rtt, sent: 6, lost: 1 },
        one_way_ms: Some(OneWay {
            out: spread(&[0.1, 0.2]),
            back: spread(&[0.2, 0.3]),
            offset_ms: Some(-12.5),
        }),
        keyframes: collect::keyframes(&keyframes, Some(99_000)),
        resources: Resources {
            cpu_seconds: Some(3.2),
            max_rss_bytes: Some(88_000_000),
            rss_bytes_per_connection: Some(1_200_000),
        },
        not_measured: vec![NotMeasured { what: "host.load".into(), why: "not asked".into() }],
        comparison: Some(comparison()),
        checks: vec![
            check("min-success", json!(0.99), json!(0.75), "share", false, Some("3 of 4")),
            check("max-rtt-p95", json!(100.0), json!(0.529), "ms", true, None),
            check("require-type", json!("host"), json!({"host": 3}), "type", true, None),
        ],
        pass: false,
        ..minimal()
    };
    result.keyframes.delivery = Some(delivery());
    result.connections.setup_ms.total.p50 = Some(24.0);
    result.connections.setup_ms.total.p95 = Some(33.0);
    result
}

const PATH: PathRate = PathRate { bits_per_second: 20_000_000, at_least: true };

fn delivery() -> DeliveryReport {
    let ms = Duration::from_millis;
    let overall = Overall {
        of: 3,
        limit: Limit::Sender,
        count: 3,
        sure: true,
        spread: ms(818),
        rate: Some(980_000),
        path: Some(PATH),
        least: Some(ms(42)),
        repair: Duration::ZERO,
        libwebrtc: true,
        bytes: 98_800,
        pixels: Some(1280 * 720),
    };
    DeliveryReport::new(&overall, Some(99_000), Some(ms(15_500)))
}

fn connection(index: u64) -> ConnectionRecord {
    let size = 98_000 + index * 400;
    let keyframe = KeyframeRecord {
        at_s: index as f64 + 0.2,
        bytes: size,
        packets: Some(85),
        received: Some(true),
        intact: Some(index != 2),
        latency_ms: Some(31.5),
        encode_ms: Some(30.0),
        psnr_db: Some(40.5),
        ssim: Some(0.96),
        stages_ms: Stages { encode: Some(30.0), network: Some(1.4), ..Stages::default() },
        spread_ms: Some(818.0),
        delivery: Some(KeyframeDelivery {
            bits_per_second: Some(980_000),
            path: Some(PATH),
            least_ms: Some(42.0),
            limited_by: Limit::Sender,
            sure: true,
        }),
    };
    let mut setup = Setup::<()>::default().map(|()| Some(1.0 + index as f64));
    (setup.dns, setup.total) = (Some(0.001), Some(22.0 + index as f64));
    ConnectionRecord {
        index,
        at_s: index as f64,
        ok: true,
        connection_type: Some("host".into()),
        local: Some("host".into()),
        remote: Some("host".into()),
        setup_ms: setup,
        first_picture_ms: FirstPicture {
            from_start: Some(23.0 + 2.0 * index as f64),
            from_join: Some(19.0 + index as f64),
        },
        pings_sent: 2,
        pings_lost: 1,
        rtt: vec![[index as f64 + 0.1, 0.344]],
        keyframes: vec![keyframe],
        ice_servers: vec![IceServerRecord {
            url: "turn:127.0.0.1:3478?transport=udp".into(),
            result: "refused".into(),
            code: Some(401),
            reason: Some("Unauthorized".into()),
            ms: Some(1.2),
        }],
        failure: None,
    }
}

fn comparison() -> Comparison {
    let metric = |name: &str, values: [Option<f64>; 3], interval, verdict| MetricComparison {
        name: name.into(),
        unit: "ms".into(),
        baseline: values[0],
        current: values[1],
        change: values[2],
        interval,
        verdict,
    };
    Comparison {
        baseline: vec!["old.json".into()],
        method: "bootstrap over connections, 95 %".into(),
        max_regression: Some(0.25),
        metrics: vec![
            metric(
                "rtt-p95",
                [Some(0.385), Some(0.529), Some(0.374)],
                Some([0.26, 0.5]),
                Verdict::Regressed,
            ),
            metric(
                "setup-p50",
                [Some(24.5), Some(24.0), Some(-0.02)],
                Some([-0.2, 0.15]),
                Verdict::Same,
            ),
            metric("keyframe-latency-p95", [None, Some(31.5), None], None, Verdict::Unknown),
        ],
    }
}

/// [`full`] with text that is special to terminals, XML, HTML, Markdown, spreadsheets and the Actions runner wherever a
/// file can contain text, and with absurd numbers.
pub(super) fn hostile() -> BenchResult {
    let text = "]]>\u{1b}[2J\u{0}\u{fffe}</td>&amp;|`x`<img src=x>\r\n::error::%0A@orion #1 \
                =1+1,\"'\u{202e} https://example.org";
    let mut json = serde_json::to_value(full()).unwrap();
    poison(&mut json, text);
    let mut result: BenchResult = serde_json::from_value(json).unwrap();
    result.connections.by_type.insert(text.repeat(20), u64::MAX);
    result.config.insert(text.repeat(20), json!({text: [text, null, true, 1e300]}));
    result.rtt_ms.spread.max = Some(1e300);
    result.rtt_ms.sent = u64::MAX;
    result.duration_s = 1e300;
    result
}

/// Appends `text` to every string except those from a fixed set.
fn poison(value: &mut Value, text: &str) {
    match value {
        Value::String(old) => old.push_str(text),
        Value::Array(items) => items.iter_mut().for_each(|item| poison(item, text)),
        Value::Object(map) => {
            let fixed = ["stage", "verdict", "unit", "limitedBy"];
            map.iter_mut()
                .filter(|(k, _)| !fixed.contains(&k.as_str()))
                .for_each(|(_, v)| poison(v, text));
        }
        _ => {}
    }
}
