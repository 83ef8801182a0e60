//! `load` with the real binary: its measurements, and its errors when the server has a problem.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use orion_peer::load::JSON_SCHEMA;
use rustix::process::Signal;
use serde_json::Value;

use crate::run::{Ended, HANG, Running, run, serve, start};

const SECRET: &str = "a-secret-for-tests-of-load-only-0123";

/// Arguments for a short run.
const SMALL: [&str; 5] = ["--json", "load", "--idle", "0.1s", "--duration=0.5s"];

/// A short run with five rooms, unless `more` sets their number.
fn small(dir: &Path, more: &[&str]) -> Ended {
    let rooms: &[&str] = if more.contains(&"--rooms") { &[] } else { &["--rooms", "5"] };
    run(dir, &[&SMALL[..], rooms, more].concat())
}

/// The result, which is the only line and matches the schema.
#[track_caller]
fn result(ended: &Ended) -> Value {
    let lines = ended.json();
    assert_eq!(lines.len(), 1, "{lines:?}\n{}", ended.stderr);
    let validator = jsonschema::validator_for(&serde_json::from_str(JSON_SCHEMA).unwrap()).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&lines[0]).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "does not match schema.json: {wrong:?}");
    lines[0].clone()
}

/// A server to whose database `load` can add pairs.
fn server(dir: &Path, more: &[&str]) -> (Running, String) {
    let flags = ["--jwt-secret", SECRET, "--db", "pairs.db", "--no-turn"];
    let (server, address, _) =
        serve(dir, "127.0.0.1:0", "127.0.0.1:0", &[&flags[..], more].concat());
    (server, format!("ws://{address}"))
}

fn at<'a>(signal: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--signal", signal, "--jwt-secret", SECRET], more].concat()
}

#[test]
fn an_embedded_server_is_measured_and_its_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    for (more, tls) in [(&["--out", "load.json"][..], false), (&["--tls"], true)] {
        let words = [&SMALL[..], &["--rooms", "5"], more].concat();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_orion-peer"));
        command.args(&words).current_dir(dir.path()).env_clear().env("TMPDIR", &tmp);
        // Intended for another server, not for the embedded one.
        command.env("ORION_LISTEN", "192.0.2.1:1");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&result["sockets"]["opened"], &result["tls"]), (&10.into(), &tls.into()));
        let relay = &result["relay"];
        assert!(relay["sent"].as_u64().unwrap() > 10, "{relay}");
        assert_eq!((&relay["sent"], &relay["lost"]), (&relay["received"], &0.into()));
        assert_eq!(relay["latencyMs"]["count"], relay["received"]);
        assert!(result["memory"]["perSocket"].is_number(), "{result}");
        assert!(fs::read_dir(&tmp).unwrap().next().is_none(), "files were left");
    }
    let saved: Value =
        serde_json::from_slice(&fs::read(dir.path().join("load.json")).unwrap()).unwrap();
    assert_eq!(saved["schema"], "orion-peer/load/1");
}

#[test]
fn an_external_server_gets_the_pairs_and_its_process_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (server, signal) = server(dir.path(), &[]);
    let pid = server.pid().to_string();
    let words = at(&signal, &["--db", "pairs.db", "--server-pid", &pid, "--message-rate", "max"]);
    let ended = small(dir.path(), &words);
    // The maximum rate is higher than a server accepts from one socket.
    let result = result(&ended);
    assert_eq!(result["sockets"]["opened"], 10);
    assert!(result["cpu"]["microsPerHandshake"].is_number(), "{result}");
    // The pairs already exist now.
    let words = at(&signal, &["--db", "pairs.db", "--open-rate", "50", "--message-rate", "20/s"]);
    let again = small(dir.path(), &words);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_eq!(self::result(&again)["memory"], Value::Null);
}

#[test]
fn unmet_gates_exit_with_3() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--max-relay-p99", "0s", "--min-messages", "1/s", "--min-handshakes=1000000"];
    let ended = small(dir.path(), &words);
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: gate: "), "{}", ended.stderr);
    let result = result(&ended);
    let passed: Vec<&Value> =
        result["checks"].as_array().unwrap().iter().map(|check| &check["pass"]).collect();
    assert_eq!(passed, [false, false, true]);
}

#[test]
fn each_refusal_is_reported_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, signal) = server(dir.path(), &["--ip-rate", "4:1/min"]);
    // The pairs are unknown.
    let ended = small(dir.path(), &at(&signal, &["--rooms", "1"]));
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let unknown = result(&ended);
    assert_eq!(unknown["errors"][0]["code"], "http-403", "{unknown}");
    assert!(unknown["errors"][0]["remedy"].as_str().unwrap().contains("--db"), "{unknown}");
    // Another key.
    let words = ["--signal", &signal, "--jwt-secret", "another-secret-of-at-least-32-bytes"];
    let foreign = result(&small(dir.path(), &[&words[..], &["--rooms", "1"]].concat()));
    assert_eq!(foreign["errors"][0]["code"], "http-401", "{foreign}");
    // More than the server accepts from one address.
    let many = result(&small(dir.path(), &at(&signal, &["--db", "pairs.db"])));
    let limited = many["errors"].as_array().unwrap().iter().find(|e| e["code"] == "http-429");
    assert!(limited.unwrap()["remedy"].as_str().unwrap().contains("--ip-rate"), "{many}");
    // No server.
    let gone = small(dir.path(), &at("ws://127.0.0.1:1", &[]));
    assert_eq!(gone.code, Some(1), "{}", gone.stderr);
    assert_eq!(result(&gone)["sockets"]["failed"], 5);
}

#[test]
fn a_message_limit_of_the_server_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, signal) = server(dir.path(), &["--socket-rate", "5:1/s"]);
    let words = at(&signal, &["--db", "pairs.db", "--rooms", "1", "--message-rate", "30/s"]);
    let ended = small(dir.path(), &words);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["errors"][0]["code"], "rate-limited", "{result}");
    assert!(result["relay"]["lost"].as_u64().unwrap() > 0, "{result}");
}

#[test]
fn measurements_survive_ctrl_c_and_a_dying_server() {
    let dir = tempfile::tempdir().unwrap();
    let (server, signal) = server(dir.path(), &[]);
    let words = at(&signal, &["--db", "pairs.db", "--rooms", "3", "--duration", "1h"]);
    let long = [&["--json", "load", "--idle", "0s"][..], &words].concat();
    let waits = start(dir.path(), &long);
    opened(&waits, &signal, dir.path());
    waits.signal(Signal::INT);
    let ended = waits.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: interrupted: "), "{}", ended.stderr);
    assert_eq!(result(&ended)["partial"], true);

    let words = at(&signal, &["--db", "pairs.db", "--rooms", "3", "--duration", "3s"]);
    let short = [&["--json", "load", "--idle", "0s"][..], &words].concat();
    let loses = start(dir.path(), &short);
    opened(&loses, &signal, dir.path());
    server.kill();
    let ended = loses.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!(result["sockets"]["lost"], 3, "{result}");
}

/// Waits until the server has six sockets.
fn opened(running: &Running, signal: &str, dir: &Path) {
    let start = std::time::Instant::now();
    let six =
        || metrics(signal.strip_prefix("ws://").unwrap()).contains("\norion_signaling_sockets 6\n");
    while !six() {
        assert!(start.elapsed() < HANG, "no sockets in {}: {}", dir.display(), running.said());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn metrics(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn invalid_options_are_rejected_immediately() {
    let dir = tempfile::tempdir().unwrap();
    for (words, named) in [
        (&["--signal", "ws://127.0.0.1:1"][..], "--jwt-secret"),
        (&["--jwt-secret", SECRET], "--signal"),
        (&["--signal", "ws://127.0.0.1:1", "--jwt-secret", "short"], "--jwt-secret"),
        (&["--signal", "http://127.0.0.1:1", "--jwt-secret", SECRET], "--signal"),
        (&["--db", "pairs.db"], "--db"),
        (&["--message-size", "100"], "--message-size"),
        (&["--message-size", "65KiB"], "--message-size"),
        (&["--message-rate", "fast"], "--message-rate"),
        (&["--duration", "0"], "--duration"),
        (&["--rooms", "0"], "--rooms"),
        (&["--rooms", "20000"], "--source-address"),
        (&["--open-rate", "0"], "--open-rate"),
        (&["--tls", "--signal", "ws://127.0.0.1:1", "--jwt-secret", SECRET], "--tls"),
    ] {
        let ended = run(dir.path(), &[&["load"], words].concat());
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{words:?}: {}", ended.stderr);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}
