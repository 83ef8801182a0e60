//! `orion-peer report` as a user runs it: saved results, compared, gated, and their errors.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use orion_peer::{
    report::bench::{
        BenchResult, collect,
        schema::{ConnectionRecord, Host, Keyframes, Resources, Rtt, SCHEMA, Setup},
    },
    stats::Histogram,
};
use serde_json::Value;

/// A result of 30 connections, with all times scaled by a factor.
fn result(slower: f64) -> BenchResult {
    let record = |index: u64| ConnectionRecord {
        index,
        ok: true,
        connection_type: Some("host".to_owned()),
        setup_ms: Setup {
            total: Some(slower * (20.0 + (index * 7 % 10) as f64)),
            ..Setup::default()
        },
        pings_sent: 20,
        rtt: (0..20)
            .map(|i| [i as f64, slower * (1.0 + ((index * 3 + i * 7) % 11) as f64 / 20.0)])
            .collect(),
        ..ConnectionRecord::default()
    };
    let records: Vec<ConnectionRecord> = (1..=30).map(record).collect();
    let rtt: Histogram = records.iter().flat_map(|r| &r.rtt).map(|[_, ms]| *ms).collect();
    BenchResult {
        schema: SCHEMA.to_owned(),
        version: "0.1.0".to_owned(),
        started_at: "2026-01-02T03:04:05Z".to_owned(),
        duration_s: 20.0,
        partial: false,
        ended: None,
        host: Host { os: "linux".to_owned(), arch: "x86_64".to_owned(), cpus: 2 },
        config: serde_json::Map::new(),
        connections: collect::connections(records),
        rtt_ms: Rtt { spread: rtt.spread(), sent: 600, lost: 0 },
        one_way_ms: None,
        keyframes: Keyframes::default(),
        resources: Resources::default(),
        not_measured: Vec::new(),
        comparison: None,
        checks: Vec::new(),
        pass: true,
    }
}

fn run(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
    command.arg("report").args(words).current_dir(dir).env_clear().env("HOME", dir);
    command.output().unwrap()
}

/// A directory with `old.json`, `same.json`, and `slow.json` that is 50 % slower.
fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, slower) in [("old", 1.0), ("same", 1.0), ("slow", 1.5)] {
        let text = serde_json::to_string(&result(slower)).unwrap();
        fs::write(dir.path().join(format!("{name}.json")), text).unwrap();
    }
    dir
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn results_are_shown_and_compared() {
    let dir = directory();
    let output = run(dir.path(), &["old.json"]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("30 of 30"), "{}", text(&output.stdout));
    let output = run(dir.path(), &["old.json", "slow.json"]);
    assert_eq!(code(&output), 0, "without a gate nothing fails: {}", text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("rtt-p50") && shown.contains("worse"), "{shown}");
}

#[test]
fn a_regression_is_exit_code_3() {
    let dir = directory();
    let gate = |file: &str, limit: &str, more: &[&str]| {
        run(dir.path(), &[&["old.json", file, "--max-regression", limit], more].concat())
    };
    assert_eq!(code(&gate("same.json", "10%", &[])), 0);
    assert_eq!(code(&gate("slow.json", "90%", &[])), 0);
    let output = gate("slow.json", "10%", &["--json"]);
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
    let stderr = text(&output.stderr);
    assert!(stderr.contains("`slow.json`: max-regression rtt-p50"), "{stderr}");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "the comparison and the error");
    assert_eq!(lines[0]["schema"], "orion-peer/report/1");
    assert_eq!(lines[0]["baseline"], "old.json");
    assert_eq!(lines[0]["pass"], false);
    let compared = &lines[0]["compared"][0];
    assert_eq!(compared["name"], "slow.json");
    assert_eq!(compared["comparison"]["maxRegression"], 0.1);
    let metrics = compared["comparison"]["metrics"].as_array().unwrap();
    let rtt = metrics.iter().find(|metric| metric["name"] == "rtt-p50").unwrap();
    assert_eq!(rtt["verdict"], "regressed");
    assert_eq!(lines[1]["error"]["exit"], 3);
}

#[test]
fn each_result_is_compared_with_the_first() {
    let dir = directory();
    let output = run(dir.path(), &["slow.json", "old.json", "same.json", "--json"]);
    let line: Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
    for compared in line["compared"].as_array().unwrap() {
        assert_eq!(compared["comparison"]["baseline"], serde_json::json!(["slow.json"]));
        let metrics = compared["comparison"]["metrics"].as_array().unwrap();
        assert!(metrics.iter().any(|metric| metric["verdict"] == "better"), "{metrics:?}");
    }
    let output = run(dir.path(), &["old.json", "--json"]);
    let line: Value = serde_json::from_str(text(&output.stdout).trim()).unwrap();
    assert_eq!(line["schema"], SCHEMA, "one result is the result itself");
}

#[test]
fn errors_are_exit_code_2_with_path_and_remedy() {
    let dir = directory();
    let old = fs::read_to_string(dir.path().join("old.json")).unwrap();
    for (name, content) in [
        ("half.json", &old[..old.len() / 2]),
        ("newer.json", &old.replace("bench/1", "bench/2")),
        ("page.json", "<html></html>"),
        ("empty.json", ""),
        ("stream.json", "{\"event\":\"start\"}\n{\"event\":\"connection\"}\n"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    for (words, expected) in [
        (&["gone.json"][..], &["`gone.json`", "check the path"][..]),
        (&["old.json", "half.json"], &["`half.json`", "is truncated"]),
        (&["newer.json"], &["`newer.json`", "newer orion-peer", "at least as new"]),
        (&["page.json"], &["`page.json`", "is not JSON"]),
        (&["empty.json"], &["`empty.json`", "is empty"]),
        (&["stream.json"], &["`stream.json`", "without a result"]),
        (&["."], &["is a directory"]),
        (&["old.json", "--max-regression", "10%"], &["at least two results", "OLD.json NEW.json"]),
        (&["old.json", "same.json", "--max-regression", "lots"], &["lots"]),
        (&[], &["<FILE>"]),
    ] {
        let output = run(dir.path(), words);
        assert_eq!(code(&output), 2, "{words:?}: {}", text(&output.stderr));
        for expected in expected {
            let stderr = text(&output.stderr);
            assert!(stderr.contains(expected), "{words:?}: no `{expected}` in {stderr}");
        }
    }
}
