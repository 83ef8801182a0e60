//! `--stats`: one report an interval.

use std::{fs, path::Path};

use serde_json::Value;

use crate::run::Rig;

fn reports(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("stats.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Of 340 reports 234 were written, and never more than one a second.
#[test]
fn there_is_one_report_an_interval() {
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
