//! `orion-peer bench` as a user runs it: alone, against another process, against plain peers, with gates and
//! baselines, and when things go wrong.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    process::{Command, Stdio},
};

use orion_peer::report::bench::JSON_SCHEMA;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::run::{Ended, Rig, run, start};

/// A small load: three connections, thirty pings, three small keyframes.
const SMALL: [&str; 12] = [
    "bench",
    "--json",
    "--connections",
    "3",
    "--pings",
    "30",
    "--ping-interval",
    "5ms",
    "--keyframes",
    "3",
    "--source",
    "pattern:320x180",
];

fn small(dir: &Path, more: &[&str]) -> Ended {
    run(dir, &[&SMALL[..], more].concat())
}

/// The result, which is the only output on stdout.
#[track_caller]
fn result(ended: &Ended) -> Value {
    let mut lines = ended.json();
    assert_eq!(lines.len(), 1, "one line: {lines:?}\n{}", ended.stderr);
    let result = lines.remove(0);
    assert_eq!(result["schema"], "orion-peer/bench/1");
    let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&result).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "does not match schema.json: {wrong:?}");
    result
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn without_a_server_everything_is_measured_and_no_file_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let ended = small(dir.path(), &[]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(files(dir.path()), Vec::<String>::new());
    assert_eq!((&result["pass"], &result["partial"]), (&json!(true), &json!(false)));
    let connections = &result["connections"];
    assert_eq!(connections["attempted"], 3);
    assert_eq!(connections["succeeded"], 3);
    assert_eq!(connections["successRate"], 1.0);
    assert_eq!(connections["byType"], json!({"host": 3}));
    assert_eq!(connections["ci95"][1], 1.0);
    for stage in ["signaling", "gathering", "ice", "dtls", "dataChannel", "firstKeyframe", "total"]
    {
        let spread = &connections["setupMs"][stage];
        assert_eq!(spread["count"], 3, "{stage}");
        for key in ["min", "mean", "p50", "p90", "p95", "p99", "p999", "max"] {
            assert!(spread[key].as_f64().unwrap() >= 0.0, "{stage} {key}: {spread}");
        }
    }
    for record in connections["records"].as_array().unwrap() {
        let setup = record["setupMs"].as_object().unwrap();
        let whole = setup["total"].as_f64().unwrap();
        let parts: f64 = setup
            .iter()
            .filter(|(name, _)| !["total", "firstKeyframe"].contains(&name.as_str()))
            .filter_map(|(_, value)| value.as_f64())
            .sum();
        assert!((whole - parts).abs() < 0.02, "stages add up: {setup:?}");
        assert_eq!(record["rtt"].as_array().unwrap().len(), 10);
        let servers = record["iceServers"].as_array().unwrap();
        assert!(servers.iter().any(|server| server["result"] == "reflexive"), "{servers:?}");
    }
    let first = &connections["firstPictureMs"];
    assert_eq!((&first["fromStart"]["count"], &first["fromJoin"]["count"]), (&json!(3), &json!(3)));
    for record in connections["records"].as_array().unwrap() {
        let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{record}"));
        let (setup, first) = (&record["setupMs"], &record["firstPictureMs"]);
        let sum = number(&setup["total"]) + number(&setup["firstKeyframe"]);
        assert!((number(&first["fromStart"]) - sum).abs() < 0.01, "{record}");
        assert!(number(&first["fromJoin"]) < number(&first["fromStart"]), "{record}");
        // Capture to complete covers everything, including the encoder.
        for keyframe in record["keyframes"].as_array().unwrap() {
            let stages = &keyframe["stagesMs"];
            let parts = ["captureAge", "convert", "encode", "packetize", "network"];
            let sum: f64 = parts.iter().map(|stage| number(&stages[stage])).sum();
            assert!((number(&keyframe["latencyMs"]) - sum).abs() < 0.01, "{keyframe}");
        }
    }
    assert_eq!((&result["rttMs"]["sent"], &result["rttMs"]["lost"]), (&json!(30), &json!(0)));
    assert_eq!(result["rttMs"]["count"], 30);
    let keyframes = &result["keyframes"];
    assert_eq!([&keyframes["sent"], &keyframes["received"], &keyframes["intact"]], [3, 3, 3]);
    assert_eq!(keyframes["overLimit"], 0);
    for key in ["bytes", "latencyMs", "encodeMs", "psnrDb", "ssim"] {
        assert_eq!(keyframes[key]["count"], 3, "{key}");
        assert!(keyframes[key]["min"].as_f64().unwrap() > 0.0, "{key}");
    }
    assert!(keyframes["psnrDb"]["min"].as_f64().unwrap() > 25.0);
    let ssim = keyframes["ssim"]["min"].as_f64().unwrap();
    assert!(ssim > 0.7 && ssim <= 1.0, "{ssim}");
    assert!(result["resources"]["cpuSeconds"].as_f64().unwrap() > 0.0);
    assert!(result["resources"]["maxRssBytes"].as_u64().unwrap() > 1_000_000);
}

#[test]
fn stdout_has_a_table_and_the_requested_files_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut words: Vec<&str> = SMALL.iter().copied().filter(|word| *word != "--json").collect();
    words.extend(["--out", "b.json", "--html", "b.html", "--markdown", "b.md"]);
    words.extend(["--junit", "b.xml", "--csv", "b.csv", "--stats", "stats", "--one-way"]);
    words.extend(["--stats-interval", "50ms"]);
    let ended = run(dir.path(), &words);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let table = ended.stdout.join("\n");
    assert!(table.contains("3 of 3") && table.contains("host") && !table.contains('{'), "{table}");
    let all = ["b.csv", "b.html", "b.json", "b.md", "b.xml", "stats"];
    assert_eq!(files(dir.path()), all);
    let saved = fs::read_to_string(dir.path().join("b.json")).unwrap();
    let saved: Value = serde_json::from_str(&saved).unwrap();
    assert_eq!(saved["oneWayMs"]["out"]["count"], 30);
    // One process, one clock.
    assert!(saved["oneWayMs"]["offsetMs"].as_f64().unwrap().abs() < 50.0);
    let stats = fs::read_to_string(dir.path().join("stats/stats.jsonl")).unwrap();
    let kinds = ["candidate-pair", "local-candidate", "transport", "data-channel", "outbound-rtp"];
    for kind in kinds {
        assert!(stats.contains(&format!(r#""type":"{kind}""#)), "no {kind}");
    }
    let read = run(dir.path(), &["report", "b.json", "--json"]);
    assert_eq!(read.well().len(), 1, "its own result can be read back");
}

#[test]
fn relay_only_is_relayed_and_required() {
    let dir = tempfile::tempdir().unwrap();
    let ended = small(dir.path(), &["--ice-policy", "relay", "--require-type", "relay"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let relayed = result(&ended);
    assert_eq!(relayed["connections"]["byType"], json!({"relay/udp": 3}));
    assert_eq!(relayed["checks"][0]["name"], "require-type");
    assert_eq!(relayed["checks"][0]["pass"], true);
    let ended = small(dir.path(), &["--require-type", "relay"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let direct = result(&ended);
    assert_eq!((&direct["checks"][0]["pass"], &direct["pass"]), (&json!(false), &json!(false)));
    assert!(ended.stderr.contains("require-type"), "{}", ended.stderr);
}

#[test]
fn connections_may_be_concurrent_and_at_a_rate() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["bench", "--json", "--connections", "24", "--parallel", "6", "--rate", "40/s"];
    let load = ["--pings", "48", "--keyframes", "24", "--source", "pattern:160x96"];
    let ended = run(dir.path(), &[&words[..], &load].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["connections"]["succeeded"], 24);
    assert_eq!(result["keyframes"]["intact"], 24);
    let indices = result["connections"]["records"].as_array().unwrap().iter();
    let indices: Vec<u64> = indices.map(|record| record["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (1..=24).collect::<Vec<u64>>());
}

#[test]
fn a_duration_takes_precedence_over_counts() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["bench", "--json", "--connections", "1", "--warmup", "0", "--duration", "1s"];
    let load = ["--interval", "200ms", "--ping-interval", "20ms", "--source", "pattern:160x96"];
    let ended = run(dir.path(), &[&words[..], &load].concat());
    let result = result(&ended);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // A busy machine sends fewer, but never more than fit.
    let sent = result["rttMs"]["sent"].as_u64().unwrap();
    assert!((2..=51).contains(&sent), "{sent}");
    let keyframes = result["keyframes"]["sent"].as_u64().unwrap();
    assert!((2..=6).contains(&keyframes), "{keyframes}");
}

#[test]
fn the_remote_peer_may_be_another_process() {
    let rig = Rig::new();
    let responder =
        start(rig.dir.path(), &["bench", "--respond", "--json", "--signal", &rig.signal]);
    responder.event("joined", 1);
    let ended = small(rig.dir.path(), &["--signal", &rig.signal, "--warmup", "0", "--one-way"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["connections"]["byType"], json!({"host": 3}));
    let keyframes = &result["keyframes"];
    assert_eq!([&keyframes["sent"], &keyframes["received"], &keyframes["intact"]], [3, 3, 3]);
    assert_eq!(keyframes["latencyMs"]["count"], 3);
    assert_eq!(result["oneWayMs"]["back"]["count"], 30);
    let missing = result["notMeasured"].as_array().unwrap();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0]["what"], "keyframes.spreadMs, keyframes.delivery");
    responder.event("ended", 3);
    responder.signal(Signal::INT);
    let lines = responder.end().well();
    let intact: u64 = lines.iter().filter_map(|line| line["intact"].as_u64()).sum();
    assert_eq!(intact, 3);
}

#[test]
fn a_plain_receiver_is_measured_as_far_as_possible() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    recv.says("joined the room");
    let ended = small(rig.dir.path(), &["--signal", &rig.signal, "--warmup", "0"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["connections"]["succeeded"], 3);
    assert_eq!(result["rttMs"]["count"], 30);
    assert_eq!(result["keyframes"]["sent"], 3);
    assert_eq!(result["keyframes"]["received"], Value::Null);
    let why = result["notMeasured"].to_string();
    assert!(why.contains("keyframes.received") && why.contains("--respond"), "{why}");
    recv.event("keyframe", 3);
    recv.signal(Signal::INT);
    let summary = recv.end().summary();
    assert_eq!(summary["keyframes"]["verified"], 3, "{summary}");
}

#[test]
fn a_plain_sender_is_measured_from_the_receiving_end() {
    let rig = Rig::new();
    let send = rig.send("pattern:320x180", &["--interval", "30s"]);
    let words = ["bench", "--json", "--signal", &rig.signal, "--role", "recv", "--warmup", "0"];
    let load = ["--connections", "3", "--pings", "30", "--keyframes", "6"];
    let ended = run(rig.dir.path(), &[&words[..], &load].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["connections"]["succeeded"], 3);
    assert_eq!(result["keyframes"]["sent"], Value::Null);
    assert_eq!(result["keyframes"]["intact"], 6);
    assert_eq!(result["keyframes"]["latencyMs"]["count"], 6, "its pongs carry its clock");
    assert_eq!(result["connections"]["setupMs"]["firstKeyframe"]["count"], 3);
    drop(send);
}

#[test]
fn wrong_turn_credentials_are_reported_immediately() {
    let rig = Rig::new();
    let turn = format!("turn:{}", rig.turn);
    let words = ["--ice-server", &turn, "--turn-secret", "not the right secret at all"];
    let more = ["--ice-policy", "relay", "--warmup", "0", "--timeout", "1h"];
    let ended = small(rig.dir.path(), &[&words[..], &more].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = result(&ended);
    let failure = &result["connections"]["failures"][0];
    assert_eq!(failure["stage"], "gathering");
    assert_eq!(failure["code"], "turn-401");
    assert_eq!(failure["count"], 3);
    assert!(failure["message"].as_str().unwrap().contains(&rig.turn), "{failure}");
    assert!(failure["remedy"].as_str().unwrap().contains("secret"), "{failure}");
    let server = &result["connections"]["records"][0]["iceServers"][0];
    assert_eq!((&server["result"], &server["code"]), (&json!("refused"), &json!(401)));
    assert!(ended.stderr.contains("error: gathering: 3 of 3 connections failed"));
}

#[test]
fn a_silent_turn_server_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let turn = format!("turn:{}", silent.local_addr().unwrap());
    let words = ["bench", "--json", "--connections", "1", "--warmup", "0", "--timeout", "1h"];
    let ice = ["--ice-server", &turn, "--turn-secret", "s", "--ice-policy", "relay"];
    let ended = run(dir.path(), &[&words[..], &ice].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let failure = result(&ended)["connections"]["failures"][0].clone();
    assert_eq!([&failure["stage"], &failure["code"]], ["gathering", "turn-silent"]);
}

#[test]
fn an_empty_room_and_an_absent_server_are_distinguished() {
    let rig = Rig::new();
    let words = ["--signal", &rig.signal, "--timeout", "1s", "--warmup", "0"];
    let ended = small(rig.dir.path(), &words);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let failure = result(&ended)["connections"]["failures"][0].clone();
    assert_eq!([&failure["stage"], &failure["code"]], ["room", "peer-absent"]);
    assert!(failure["remedy"].as_str().unwrap().contains("--respond"), "{failure}");
    let Rig { server, dir, signal, .. } = rig;
    server.kill();
    let ended = small(dir.path(), &["--signal", &signal, "--out", "b.json"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let gone = result(&ended);
    assert_eq!(gone["connections"]["attempted"], 3);
    assert_eq!(gone["connections"]["successRate"], 0.0);
    assert_eq!(gone["connections"]["failures"][0]["count"], 3);
    let saved = fs::read_to_string(dir.path().join("b.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&saved).unwrap(), gone, "also written when it fails");
}

#[test]
fn measurements_survive_a_server_that_stops_halfway() {
    let rig = Rig::new();
    let responder =
        start(rig.dir.path(), &["bench", "--respond", "--json", "--signal", &rig.signal]);
    responder.event("joined", 1);
    let words = ["bench", "--json-stream", "--signal", &rig.signal, "--connections", "40"];
    let load = ["--pings", "400", "--keyframes", "0", "--timeout", "5s", "--min-success", "99%"];
    let bench = start(rig.dir.path(), &[&words[..], &load].concat());
    bench.event("connection", 3);
    let Rig { server, dir, .. } = rig;
    server.kill();
    let ended = bench.end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let lines = ended.json();
    let end = &lines[lines.len() - 1];
    assert_eq!(end["event"], "end");
    let connections = &end["data"]["connections"];
    assert_eq!(connections["attempted"], 40);
    assert!(connections["succeeded"].as_u64().unwrap() >= 3);
    let stage = connections["failures"][0]["stage"].as_str().unwrap();
    assert!(["token", "signaling"].contains(&stage), "{connections}");
    drop((responder, dir));
}

#[test]
fn a_responder_that_dies_fails_its_connection() {
    let rig = Rig::new();
    let responder =
        start(rig.dir.path(), &["bench", "--respond", "--json", "--signal", &rig.signal]);
    responder.event("joined", 1);
    let words = ["bench", "--json-stream", "--signal", &rig.signal, "--connections", "1"];
    let load =
        ["--warmup", "0", "--pings", "700", "--keyframes", "2", "--source", "pattern:320x180"];
    let more = ["--stats-interval", "200ms"];
    let bench = start(rig.dir.path(), &[&words[..], &load, &more].concat());
    bench.event("stats", 2);
    responder.kill();
    let ended = bench.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let end = ended.json().pop().unwrap();
    let failure = &end["data"]["connections"]["failures"][0];
    assert_eq!([&failure["stage"], &failure["code"]], ["ice", "lost"], "{failure}");
    assert_eq!(end["data"]["pass"], false);
}

#[test]
fn a_very_short_connection_is_judged_correctly() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["bench", "--json", "--connections", "25", "--pings", "0", "--keyframes", "0"];
    let ended = run(dir.path(), &[&words[..], &["--require-type", "host"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stdout.join("\n"));
}

#[test]
fn ctrl_c_halfway_reports_the_measurements_so_far() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["bench", "--json-stream", "--connections", "1000", "--pings", "5000"];
    let bench = start(dir.path(), &[&words[..], &["--keyframes", "0", "--out", "b.json"]].concat());
    // One of them is for warm-up.
    bench.event("connection", 3);
    bench.signal(Signal::INT);
    let ended = bench.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: interrupted: "), "{}", ended.stderr);
    let lines = ended.json();
    assert_eq!(lines[0]["event"], "start");
    let result = &lines[lines.len() - 1]["data"];
    assert_eq!((&result["partial"], &result["pass"]), (&json!(true), &json!(false)));
    assert_eq!([&result["ended"]["stage"], &result["ended"]["code"]], ["interrupted"; 2]);
    let connections = &result["connections"];
    let attempted = connections["attempted"].as_u64().unwrap();
    assert!((2..1000).contains(&attempted), "{attempted}");
    assert_eq!(
        connections["succeeded"], attempted,
        "interrupted connections do not count as failed"
    );
    let saved = fs::read_to_string(dir.path().join("b.json")).unwrap();
    assert_eq!(&serde_json::from_str::<Value>(&saved).unwrap(), result);
}

#[test]
fn unmet_gates_exit_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let met = ["--min-success", "99%", "--max-rtt-p95", "20s", "--max-setup-p95", "20s"];
    let also = ["--min-keyframes-intact", "100%", "--max-frame-bytes", "100KB"];
    let ended = small(dir.path(), &[&met[..], &also].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let checks = result(&ended)["checks"].clone();
    assert_eq!(checks.as_array().unwrap().len(), 5);
    assert!(checks.as_array().unwrap().iter().all(|check| check["pass"] == true), "{checks}");
    let ended = small(dir.path(), &["--max-setup-p95", "1us", "--max-rtt-p95", "1us"]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: gate: not met: "), "{}", ended.stderr);
    let checks = result(&ended)["checks"].clone();
    for check in checks.as_array().unwrap() {
        assert_eq!(check["pass"], false, "{check}");
        let name = check["name"].as_str().unwrap();
        assert!(ended.stderr.contains(name), "{name} is not named: {}", ended.stderr);
    }
}

/// Scales every time of a saved result by a factor.
fn faster(result: &mut Value, factor: f64) {
    let scale = |value: &mut Value| {
        if let Some(time) = value.as_f64() {
            *value = json!(time * factor);
        }
    };
    for record in result["connections"]["records"].as_array_mut().unwrap() {
        record["setupMs"].as_object_mut().unwrap().values_mut().for_each(scale);
        record["rtt"].as_array_mut().unwrap().iter_mut().for_each(|rtt| scale(&mut rtt[1]));
    }
}

#[test]
fn a_baseline_is_compared_with_and_gated() {
    let dir = tempfile::tempdir().unwrap();
    let load = [
        "bench",
        "--json",
        "--connections",
        "12",
        "--pings",
        "240",
        "--ping-interval",
        "2ms",
        "--keyframes",
        "0",
    ];
    let ended = run(dir.path(), &[&load[..], &["--out", "old.json"]].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    // Two runs on a busy machine differ, but not by a factor of 100.
    let gate = ["--baseline", "old.json", "--max-regression", "10000%"];
    let ended = run(dir.path(), &[&load[..], &gate].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let compared = result(&ended);
    assert_eq!(compared["comparison"]["baseline"][0], "old.json");
    let metrics = compared["comparison"]["metrics"].as_array().unwrap();
    let names: Vec<&str> = metrics.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"rtt-p50") && names.contains(&"setup-p50"), "{names:?}");
    let mut old: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("old.json")).unwrap()).unwrap();
    faster(&mut old, 0.01);
    fs::write(dir.path().join("fast.json"), old.to_string()).unwrap();
    let gate = ["--baseline", "fast.json", "--max-regression", "10%"];
    let ended = run(dir.path(), &[&load[..], &gate].concat());
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let regressed = result(&ended);
    let metrics = regressed["comparison"]["metrics"].as_array().unwrap();
    let of = |name: &str| metrics.iter().find(|m| m["name"] == name).unwrap();
    assert_eq!(of("rtt-p50")["verdict"], "regressed");
    assert_eq!(of("setup-p50")["verdict"], "regressed");
}

#[test]
fn a_github_actions_step_gets_annotations() {
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
        .args(SMALL)
        .args(["--max-rtt-p95", "1us"])
        .current_dir(dir.path())
        .env_clear()
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_STEP_SUMMARY", dir.path().join("summary.md"))
        .env("GITHUB_OUTPUT", dir.path().join("output"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(3));
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.lines().any(|line| line.starts_with("::error ")), "{stderr}");
    let summary = fs::read_to_string(dir.path().join("summary.md")).unwrap();
    assert!(summary.contains("max-rtt-p95") && summary.contains('|'), "{summary}");
    let output = fs::read_to_string(dir.path().join("output")).unwrap();
    assert!(output.lines().any(|line| line == "pass=false"), "{output}");
    serde_json::from_slice::<Value>(&ended.stdout).unwrap();
}

#[test]
fn contradictory_options_are_rejected_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("other.json"), r#"{"schema":"orion-peer/bench/9"}"#).unwrap();
    fs::write(dir.path().join("no.json"), "no json").unwrap();
    let absent = ["--signal", "ws://127.0.0.1:1"];
    let cases: [(&[&str], &str); 26] = [
        (&["--connections", "0"], "--connections"),
        (&["--parallel", "0"], "--parallel"),
        (&["--rate", "0Mbit"], "rate"),
        (&["--ping-size", "10"], "--ping-size"),
        (&["--ping-interval", "0"], "--ping-interval"),
        (&["--interval", "1us"], "--interval"),
        (&["--duration", "0"], "--duration"),
        (&["--pings", "0", "--max-rtt-p95", "1s"], "--max-rtt-p95"),
        (&["--keyframes", "0", "--min-keyframes-intact", "100%"], "--min-keyframes-intact"),
        (&["--keyframes", "0", "--max-frame-bytes", "100KB"], "--max-frame-bytes"),
        (&["--ice-policy", "relay", "--require-type", "host"], "--require-type"),
        (&["--candidates", "host", "--require-type", "relay"], "--require-type"),
        (&["--max-frame-bytes", "50KB"], "--max-frame-bytes"),
        (&["--require-type", "carrier-pigeon"], "carrier-pigeon"),
        (&["--min-success", "101%"], "101%"),
        (&["--ice-policy", "relay", "--ice-server", "stun:127.0.0.1:1"], "TURN"),
        (&["--max-regression", "10%"], "--baseline"),
        (&["--baseline", "missing.json"], "missing.json"),
        (&["--baseline", "no.json"], "no.json"),
        (&["--baseline", "other.json"], "orion-peer/bench/9"),
        (&["--respond"], "--signal"),
        (&["--role", "recv"], "--signal"),
        (&["--device", "mac"], "--signal"),
        (&["--token-url", "http://127.0.0.1:1"], "--signal"),
        (&[absent[0], absent[1], "--parallel", "2"], "--parallel"),
        (&["--out", "a.json", "--html", "a.json"], "a.json"),
    ];
    for (words, named) in cases {
        let ended = run(dir.path(), &[&["bench", "--json"], words].concat());
        assert_eq!(ended.code, Some(2), "{words:?}\n{}", ended.stderr);
        assert!(ended.stderr.contains(named), "{words:?} does not name {named}: {}", ended.stderr);
        assert!(ended.json().pop().is_some_and(|line| line["error"]["exit"] == 2), "{words:?}");
    }
    let ended = run(dir.path(), &["bench", "--json", "--out", "no/where.json"]);
    ended.failed(1, "output");
    assert_eq!(files(dir.path()), ["no.json", "other.json"]);
}

#[test]
fn an_unreadable_source_still_gives_a_result() {
    let dir = tempfile::tempdir().unwrap();
    let ended = run(dir.path(), &["bench", "--json", "--source", "missing.jpg"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["ended"]["stage"], "source");
    assert_eq!(result["connections"]["attempted"], 0);
    assert_eq!(result["connections"]["successRate"], Value::Null);
    assert!(ended.stderr.contains("missing.jpg"), "{}", ended.stderr);
}
