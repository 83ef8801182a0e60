//! `--stats`: one report per interval, with values as in W3C webrtc-stats.

use std::{collections::HashSet, fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use crate::run::{Rig, sha256};

fn reports(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("stats.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only object of a type in a report.
fn object<'r>(report: &'r Value, kind: &str) -> &'r Value {
    let mut found = report["report"].as_object().unwrap().values().filter(|o| o["type"] == kind);
    found.next().unwrap_or_else(|| panic!("no {kind}: {report:#}"))
}

/// Regression test: of 340 reports only 234 were written, never more than one per second.
#[test]
fn there_is_one_report_per_interval() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--stats", "recv", "--stats-interval", "250ms", "--once"]);
    let send = rig.send(
        "pattern:320x240",
        &["--stats", "send", "--stats-interval", "500ms", "--duration", "6s"],
    );
    send.end().well();
    recv.end().well();
    for (name, interval) in [("recv", 250.0), ("send", 500.0)] {
        let times: Vec<f64> =
            reports(&rig.path(name)).iter().map(|line| line["time"].as_f64().unwrap()).collect();
        let intervals = (times[times.len() - 1] - times[0]) / interval;
        assert!(intervals > 8.0, "{name}: {times:?}");
        let written = times.len() as f64 - 1.0;
        // A machine that stalls for longer than an interval misses one.
        assert!(written >= intervals * 0.8 && written <= intervals + 1.5, "{name}: {times:?}");
    }
}

/// A run that ends before the first interval has elapsed has statistics, too.
#[test]
fn a_short_run_has_a_report() {
    let rig = Rig::new();
    let few = ["--count", "1", "--stats", "recv", "--stats-interval", "1h"];
    let recv = rig.recv("frames", &few);
    rig.send("pattern:320x240", &["--count", "1"]).end().well();
    recv.end().well();
    let reports = reports(&rig.path("recv"));
    assert_eq!(reports.len(), 1, "{reports:?}");
    object(&reports[0], "inbound-rtp");
}

#[test]
fn values_match_w3c() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "8", "--stats", "recv"]);
    let few = ["--interval", "500ms", "--max-bytes", "5KB", "--stats", "send"];
    let send = rig.send("pattern:320x240", &few);
    recv.end().well();
    send.signal(rustix::process::Signal::INT);
    send.end().well();
    let last = |name: &str| reports(&rig.path(name)).pop().unwrap();
    let (sent, received) = (last("send"), last("recv"));
    let number = |stats: &Value, key: &str| {
        stats[key].as_u64().unwrap_or_else(|| panic!("{key}: {stats:#}"))
    };
    let outbound = object(&sent, "outbound-rtp");
    let frames = number(outbound, "framesSent");
    assert!(frames >= 3, "{outbound:#}");
    assert!(number(outbound, "framesEncoded") >= frames, "{outbound:#}");
    assert_eq!(number(outbound, "framesEncoded"), number(outbound, "keyFramesEncoded"));
    assert!((frames..52 * (frames + 1)).contains(&number(outbound, "qpSum")), "{outbound:#}");
    let inbound = object(&received, "inbound-rtp");
    assert!(number(inbound, "framesReceived") >= 3, "{inbound:#}");
    assert!(number(inbound, "framesDecoded") >= 2, "{inbound:#}");
    assert_eq!(number(inbound, "framesDecoded"), number(inbound, "keyFramesDecoded"));
    assert!(inbound["jitter"].as_f64().is_some_and(|jitter| jitter < 1.0), "{inbound:#}");
    for stats in [outbound, inbound] {
        assert_eq!((number(stats, "frameWidth"), number(stats, "frameHeight")), (320, 240));
    }
    assert_eq!(object(&sent, "transport")["tlsVersion"], "FEFD");
    for report in [&sent, &received] {
        no_values_are_invented(report["report"].as_object().unwrap());
    }
}

fn no_values_are_invented(report: &Map<String, Value>) {
    let ids: HashSet<&str> = report.keys().map(String::as_str).collect();
    for stats in report.values().filter(|stats| stats["type"] != "orion-liveness") {
        for (key, value) in stats.as_object().unwrap() {
            let empty =
                value.is_null() || value == "" || value.as_object().is_some_and(Map::is_empty);
            assert!(!empty, "{key} is empty: {stats:#}");
            // `dataChannelIdentifier` is a number.
            if key.ends_with("Id") && value.is_string() {
                assert!(ids.contains(value.as_str().unwrap()), "{key}: {stats:#}");
            }
        }
        if stats["type"] == "certificate" {
            let der = STANDARD.decode(stats["base64Certificate"].as_str().unwrap()).unwrap();
            let digest = sha256(&der).to_uppercase();
            let pairs: Vec<&str> =
                (0..digest.len()).step_by(2).map(|at| &digest[at..at + 2]).collect();
            assert_eq!(stats["fingerprint"], pairs.join(":"), "{stats:#}");
        }
        if let Some("remote-inbound-rtp" | "remote-outbound-rtp") = stats["type"].as_str() {
            assert!(stats.get("packetsReceived").is_none(), "{stats:#}");
            assert!(stats.get("packetsSent").is_none_or(|count| *count != 0), "{stats:#}");
            assert!(stats.get("roundTripTimeMeasurements").is_none_or(|n| *n != 0), "{stats:#}");
        }
    }
}
