//! `-v` and `-vv` show what an app developer needs, without output from dependencies.

use rustix::process::Signal;

use crate::run::{Rig, run};

/// The stderr output of a `send` of three keyframes at this verbosity.
fn log(verbosity: &str) -> String {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let ended = rig.send("pattern:320x240", &["--count", "3", verbosity]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    recv.signal(Signal::INT);
    recv.end().well();
    ended.stderr
}

fn has_no_noise(log: &str) {
    for line in log.lines() {
        let target = line.split_whitespace().nth(2).unwrap_or_default();
        let is_event = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]
            .contains(&line.split_whitespace().nth(1).unwrap_or_default());
        assert!(!is_event || target.starts_with("orion_peer"), "{line}");
    }
}

#[test]
fn v_shows_signaling_states_and_the_selected_pair() {
    let log = log("-v");
    has_no_noise(&log);
    for words in [
        "signaling message sent message_type=\"offer\" bytes=",
        "signaling message received message_type=\"answer\" bytes=",
        "signaling message sent message_type=\"ice\" bytes=",
        "peer connection: connected",
        "ICE: connected",
        "selected pair: host ",
    ] {
        assert!(log.contains(words), "no `{words}`:\n{log}");
    }
    for words in ["a=ice-ufrag", "candidate:", "control message"] {
        assert!(!log.contains(words), "`{words}` is for -vv:\n{log}");
    }
}

#[test]
fn vv_shows_descriptions_candidates_and_control_messages_without_credentials() {
    let log = log("-vv");
    has_no_noise(&log);
    for words in [
        "local offer: v=0",
        "remote answer: a=setup:",
        "local candidate: candidate:",
        "remote candidate: candidate:",
        "control message sent: {\"t\":\"ping\"",
        "control message received: {\"t\":\"pong\"",
        "control message sent: {\"t\":\"keyframe\"",
    ] {
        assert!(log.contains(words), "no `{words}`:\n{log}");
    }
    let passwords: Vec<&str> = log.lines().filter(|line| line.contains("a=ice-pwd:")).collect();
    assert!(passwords.len() >= 2, "{log}");
    assert!(passwords.iter().all(|line| line.ends_with("a=ice-pwd:…")), "{passwords:?}");
    assert!(!log.contains("credential"), "{log}");
}

/// The only message about an unreachable server is the error.
#[test]
fn an_error_at_startup_is_not_preceded_by_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let words = ["send", "--source", "pattern:320x240", "--signal", "ws://127.0.0.1:1"];
        let ended = run(dir.path(), &words);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    }
}
