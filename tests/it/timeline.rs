//! Scenarios with a timeline, played by `lab --scenario`: `send`, `recv` and `serve` run as processes in
//! network namespaces, and events disturb them. The samples run in a separate step of `scripts/test.sh`.

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use crate::run::{Rig, follow, run, start};

/// Writes a scenario with two peers behind NATs and these lines of a timeline.
fn scenario(dir: &Path, head: &str, lines: &str) -> String {
    let text = format!("{head}\ntimeline = [{lines}]\n[a]\nnat = 'port'\n[b]\nnat = 'port'\n");
    let path = dir.join("x.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn media_continues_while_signaling_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let head = "picture = '320x240'\ninterval = '200ms'\nwithin = '5s'\nlost = 30";
    let file = scenario(dir.path(), head, "'at 1s: kill signaling for 2s', 'at 5s: address b'");
    let words = ["lab", "--json", "--scenario", &file, "--out", "out.json", "--logs", "logs"];
    let ended = run(dir.path(), &words);
    ended.well();
    let result = ended.json().remove(0);
    assert_eq!((&result["agree"], &result["total"]), (&1.into(), &1.into()), "{result}");
    let timeline = &result["timelines"][0];
    let outages = timeline["outages"].as_array().unwrap();
    assert_eq!(outages.len(), 2);
    assert_eq!((&outages[0]["lost"], &outages[0]["back"]), (&0.into(), &true.into()), "{timeline}");
    assert_eq!(outages[0]["untilS"], 3.0);
    assert!(timeline["sent"].as_u64().unwrap() > 20, "{timeline}");
    let schema: Value = serde_json::from_str(orion_peer::lab::matrix::schema::JSON_SCHEMA).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&result), "{result}");
    let written = fs::read_to_string(dir.path().join("out.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), result);
    let log = fs::read_to_string(dir.path().join("logs/x-send.log")).unwrap();
    assert!(log.contains("signaling: "), "{log}");
}

/// A peer is killed and not started again: the outage is marked, and the exit code is 3.
#[test]
fn an_outage_without_end_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let head = "picture = '320x240'\ninterval = '200ms'\nwithin = '1s'";
    let file = scenario(dir.path(), head, "'at 1s: kill a'");
    let ended = run(dir.path(), &["lab", "--scenario", &file]);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let shown = ended.stdout.join("\n");
    assert!(shown.contains("never !"), "{shown}");
    assert!(ended.stderr.contains("x: `kill a`: keyframes never resumed"), "{}", ended.stderr);
}

#[test]
fn errors_in_a_file_are_reported_before_anything_is_started() {
    let dir = tempfile::tempdir().unwrap();
    for (line, words) in [
        ("'at 1s: kil a'", "did you mean `kill signaling|turn|a|b`"),
        ("'at 2s: sleep a for 3s', 'at 1s: kill b'", "write events in order"),
        ("'at 1s: move a -> nowhere'", "unknown NAT profile"),
    ] {
        let file = scenario(dir.path(), "", line);
        let ended = run(dir.path(), &["lab", "--scenario", &file]);
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{line}: {}", ended.stderr);
    }
    let file = scenario(dir.path(), "", "'at 1s: address a'");
    for (flags, words) in [
        (["--turn", "udp"], "--turn cannot be used with timelines"),
        (["--html", "x.html"], "--html cannot be used with timelines"),
    ] {
        let ended = run(dir.path(), &[&["lab", "--scenario", &file], &flags[..]].concat());
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{}", ended.stderr);
    }
    let ended = run(dir.path(), &["lab", "--nat", "port,port", "--logs", "logs"]);
    assert!(
        ended.stderr.contains("--logs requires a scenario with a timeline"),
        "{}",
        ended.stderr
    );
}

/// After Ctrl-C, the values measured until then are shown.
#[test]
fn a_timeline_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let head = "picture = '320x240'\nduration = '10m'";
    let file = scenario(dir.path(), head, "'at 1s: address a', 'at 3m: address b'");
    let lab = start(dir.path(), &["lab", "--json", "--scenario", &file]);
    lab.says("1.0 s  address a");
    std::thread::sleep(Duration::from_secs(1));
    lab.signal(Signal::INT);
    let ended = lab.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: interrupted: "), "{}", ended.stderr);
    let result = ended.json().remove(0);
    assert_eq!(result["partial"], true);
    let outages = result["timelines"][0]["outages"].as_array().unwrap();
    assert_eq!(outages.len(), 1, "the second event did not happen: {result}");
}

/// The difference between the clocks of two machines does not affect latency, and tokens are renewed in time.
#[test]
fn the_clocks_of_two_machines_may_differ() {
    for (clock, offset) in [("+90s", -90e3), ("-3600s", 3600e3)] {
        let rig = Rig::new();
        let mut command = Command::new("faketime");
        // Timers use the real clock of the machine.
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").args(["-f", clock]);
        command.arg(env!("CARGO_BIN_EXE_orion-peer"));
        let words = ["recv", "--json", "--signal", &rig.signal, "--out", "frames", "--count", "8"];
        command.args(words).current_dir(rig.dir.path());
        let recv = follow(format!("{clock} recv"), command);
        let send = rig.send("pattern:320x240", &["--interval", "0.3s"]);
        let received = recv.end();
        received.well();
        send.signal(Signal::INT);
        send.end().well();
        let text = fs::read_to_string(rig.path("frames").join("frames.jsonl")).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Until the first pong, the offset of the clocks is unknown.
        let known = lines.iter().filter(|line| !line["clockOffsetMs"].is_null());
        let known: Vec<&Value> = known.collect();
        assert!(known.len() >= 4, "{text}");
        for line in known {
            let number = |name: &str| line[name].as_f64().unwrap();
            assert!((number("clockOffsetMs") - offset).abs() < 1000.0, "{line}");
            // An offset of an hour or a minute would exceed this.
            assert!((0.0..10_000.0).contains(&number("latencyMs")), "{line}");
        }
    }
}
