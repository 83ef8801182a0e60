//! Runs that cannot finish as requested: a source that is too short, a peer that leaves early, Ctrl-C, a closed terminal,
//! a directory or an address in use.

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use crate::run::{Ended, Rig, follow, run, start};

/// A stream with this many gray pictures.
fn stream(dir: &Path, frames: usize) -> String {
    let path = dir.join(format!("{frames}.y4m"));
    let frame = [&b"FRAME\n"[..], &[128; 64 * 64 * 3 / 2]].concat();
    let stream = [&b"YUV4MPEG2 W64 H64 F25:1 C420\n"[..], &frame.repeat(frames)].concat();
    std::fs::write(&path, stream).unwrap();
    path.display().to_string()
}

fn demo(dir: &Path, source: &str, more: &[&str]) -> Ended {
    let words = ["demo", "--json", "--source", source, "--interval", "100ms"];
    run(dir, &[&words[..], more].concat())
}

/// It used to wait for the other four keyframes until its timeout of 31 s, and then failed.
#[test]
fn demo_ends_with_its_source() {
    let dir = tempfile::tempdir().unwrap();
    let ended = demo(dir.path(), &stream(dir.path(), 1), &[]);
    ended.well();
    assert_eq!(ended.summary()["keyframes"]["received"], 1);
    assert!(ended.stderr.contains("the source has 1 picture"), "{}", ended.stderr);
    let ended = demo(dir.path(), &stream(dir.path(), 3), &["--out", "three", "--count", "4"]);
    ended.well();
    assert_eq!(ended.summary()["keyframes"]["received"], 3);
    assert!(dir.path().join("three/000003.jpg").exists());
    let ended = demo(dir.path(), &stream(dir.path(), 4), &["--out", "four", "--count", "4"]);
    ended.well();
    assert!(!ended.stderr.contains("the source has"), "{}", ended.stderr);
}

#[test]
fn demo_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["demo", "--json", "--source", "pattern:320x240", "--interval", "100ms"];
    let demo = start(dir.path(), &[&words[..], &["--count", "100000"]].concat());
    demo.event("keyframe", 2);
    demo.signal(Signal::INT);
    let error = demo.end().failed(130, "interrupted");
    assert_eq!(error["code"], "interrupted");
    assert!(error["message"].as_str().unwrap().contains("of 100000 keyframes"), "{error}");
}

/// `--once` ends with the first connection: successfully, or with an error if the count was not reached.
#[test]
fn a_peer_that_leaves_before_the_count_is_an_error() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "5", "--once"]);
    rig.send("pattern:320x240", &["--count", "2"]).end().well();
    let error = recv.end().failed(1, "video");
    assert_eq!(error["code"], "peer-left-early");
    assert!(error["message"].as_str().unwrap().contains("2 of 5 keyframes"), "{error}");

    let recv = rig.recv("frames", &["--count", "2", "--once"]);
    let error = rig.send("pattern:320x240", &["--count", "100", "--once"]).end().failed(1, "video");
    assert_eq!(error["code"], "peer-left-early");
    recv.end().well();

    let recv = rig.recv("frames", &["--once"]);
    rig.send("pattern:320x240", &["--count", "2"]).end().well();
    recv.end().well();
}

/// A closed terminal sends SIGHUP.
#[test]
fn sighup_ends_the_call_properly() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &[]);
    recv.event("keyframe", 1);
    send.signal(Signal::HUP);
    let ended = send.end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.summary();
    recv.says("the sender said goodbye");
    recv.signal(Signal::HUP);
    assert_eq!(recv.end().code, Some(0));
}

/// As under `nohup`, the process inherits from its parent that SIGHUP is ignored.
#[test]
fn an_ignored_sighup_stays_ignored() {
    let rig = Rig::new();
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_orion-peer")]);
    command.args(["recv", "--json", "--out", "frames", "--signal", &rig.signal]);
    command.current_dir(rig.dir.path()).env_clear().env("HOME", rig.dir.path());
    let recv = follow("recv under nohup".into(), command);
    let send = rig.send("pattern:320x240", &[]);
    recv.event("keyframe", 1);
    recv.signal(Signal::HUP);
    std::thread::sleep(Duration::from_millis(300));
    let so_far = recv.events("keyframe").len();
    recv.event("keyframe", so_far + 2);
    send.signal(Signal::INT);
    recv.signal(Signal::INT);
    assert_eq!((send.end().code, recv.end().code), (Some(0), Some(0)));
}

/// Two runs would give their keyframes the same numbers.
#[test]
fn only_one_run_can_use_a_directory() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &["--save", "sent"]);
    recv.event("keyframe", 1);
    for words in [
        &["recv", "--json", "--out", "frames"][..],
        &["demo", "--json", "--source", "pattern:320x240", "--out", "frames"],
        &["send", "--json", "--source", "pattern:320x240", "--save", "sent"],
    ] {
        let more: &[&str] = if words[0] == "demo" { &[] } else { &["--signal", &rig.signal] };
        let error = run(rig.dir.path(), &[words, more].concat()).failed(1, "output");
        assert!(
            error["message"].as_str().unwrap().contains("another run is already writing to"),
            "{error}"
        );
        assert!(error["remedy"].as_str().unwrap().contains("directory of its own"), "{error}");
    }
    recv.kill();
    let again = rig.recv("frames", &["--count", "1"]);
    again.end().well();
    send.kill();
}

#[test]
fn an_unavailable_address_is_reported_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (words, said) in [
        (&["recv", "--view", "192.0.2.77:0"][..], "no interface of this machine"),
        (&["serve", "--listen", &taken], "stop the other server on that port, or use another"),
        (&["serve", "--listen", "127.0.0.1:0", "--turn-listen", "192.0.2.77:0"], "no interface"),
        (
            &["serve", "--listen", "127.0.0.1:0", "--metrics-listen", &taken],
            "stop the other server",
        ),
    ] {
        let ended = run(dir.path(), &[words, &["--json"]].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {}", ended.stderr);
        let error = ended.json().pop().unwrap()["error"].clone();
        assert!(error["remedy"].as_str().unwrap().contains(said), "{words:?}: {error}");
    }
}
