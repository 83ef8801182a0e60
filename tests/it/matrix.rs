//! The command `orion-peer lab`: one pair, a small matrix, scenario files, bad input, Ctrl-C.

use std::{collections::BTreeSet, fs, path::Path};

use orion_peer::lab::matrix::schema::JSON_SCHEMA;
use rustix::process::Signal;
use serde_json::Value;

use crate::run::{Ended, run, start};

/// The result, which is the only output on stdout.
#[track_caller]
fn result(ended: &Ended) -> Value {
    let mut lines = ended.json();
    assert_eq!(lines.len(), 1, "one line: {lines:?}\n{}", ended.stderr);
    let result = lines.remove(0);
    let validator = jsonschema::validator_for(&serde_json::from_str(JSON_SCHEMA).unwrap()).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&result).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(wrong.is_empty(), "violates schema.json: {wrong:?}");
    result
}

fn lab(dir: &Path, words: &str) -> Ended {
    let words: Vec<&str> = std::iter::once("lab").chain(words.split_whitespace()).collect();
    run(dir, &words)
}

#[test]
fn one_pair_is_described_in_sentences() {
    let dir = tempfile::tempdir().unwrap();
    let ended = lab(dir.path(), "--nat port,port");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let said = ended.stdout.join("\n");
    assert!(said.starts_with("Connected direct (srflx), as expected"), "{said}");
    for words in ["setup", "ICE", "RTT", "keyframe", "intact"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    for words in ["A: port: NAT with endpoint-independent mapping", "Expected: direct - each peer"]
    {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_pair_that_needs_a_relay_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    let ended = lab(dir.path(), "--nat sym,port --json --out lab.json --html lab.html");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = result(&ended);
    let cell = &result["cells"][0];
    assert_eq!((&cell["expected"], &cell["measured"]), (&"relay".into(), &"relay".into()));
    assert!(cell["type"].as_str().unwrap().starts_with("relay"), "{cell}");
    assert_eq!((&cell["agree"], &cell["keyframe"]["intact"]), (&true.into(), &1.into()));
    assert!(cell["rttMs"].as_f64().unwrap() > 0.0);
    let written: Value =
        serde_json::from_slice(&fs::read(dir.path().join("lab.json")).unwrap()).unwrap();
    assert_eq!(written, result);
    let page = fs::read_to_string(dir.path().join("lab.html")).unwrap();
    assert!(page.contains("<title>orion-peer lab: 1 of 1 as expected</title>"));
}

/// Flags, and the expected path and connection type.
struct Case {
    flags: &'static str,
    measured: &'static str,
    kind: &'static str,
}

#[test]
fn every_kind_of_path_is_found() {
    let dir = tempfile::tempdir().unwrap();
    for Case { flags, measured, kind } in [
        Case { flags: "--nat none,none", measured: "direct", kind: "host" },
        Case { flags: "--nat sym,none", measured: "direct", kind: "srflx" },
        Case { flags: "--nat sym,sym --turn none --timeout 2s", measured: "none", kind: "" },
        Case { flags: "--nat sym,sym --turn udp", measured: "relay", kind: "relay/udp" },
        Case { flags: "--nat udp-blocked,port --turn tcp", measured: "relay", kind: "relay/tcp" },
        Case { flags: "--nat udp-blocked,port --turn tls", measured: "relay", kind: "relay/tls" },
        Case { flags: "--same-nat --nat port:hairpin", measured: "direct", kind: "srflx" },
        Case { flags: "--same-nat --nat port --turn udp", measured: "relay", kind: "relay/udp" },
    ] {
        let ended = lab(dir.path(), &format!("{flags} --json"));
        assert_eq!(ended.code, Some(0), "{flags}: {}", ended.stderr);
        let result = result(&ended);
        let cell = &result["cells"][0];
        assert_eq!(cell["measured"], measured, "{flags}: {cell}");
        assert_eq!(cell["type"].as_str().unwrap_or_default(), kind, "{flags}");
        assert_eq!(cell["agree"], true, "{flags}: {cell}");
        if measured == "none" {
            assert!(!cell["reason"]["remedy"].as_str().unwrap().is_empty(), "{cell}");
        }
    }
}

#[test]
fn a_small_matrix_is_a_grid() {
    let dir = tempfile::tempdir().unwrap();
    let ended = lab(dir.path(), "--matrix --profiles none,sym,port --out lab.json --html lab.html");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let grid: Vec<String> = ended.stdout.iter().take(4).map(|l| l.trim_end().to_owned()).collect();
    let letters = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(letters(&grid[0]), "A \\ B none sym port");
    assert_eq!(letters(&grid[1]), "none D D D");
    assert_eq!(letters(&grid[2]), "sym D R R");
    assert_eq!(letters(&grid[3]), "port D R D");
    assert!(ended.stdout.join("\n").contains("9 of 9 pairs are as expected (simulated, seed 1"));
    let page = fs::read_to_string(dir.path().join("lab.html")).unwrap();
    assert_eq!(page.matches("class=\"tip\"").count(), 9);
}

#[test]
fn a_scenario_file_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "name = 'two'\nseed = 5\n[a]\nnat = 'sym'\ndelay = '20ms'\n[b]\nnat = 'home-router'\n";
    fs::write(dir.path().join("two.toml"), text).unwrap();
    let ended = lab(dir.path(), "--scenario two.toml --json");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let cell = &result(&ended)["cells"][0];
    assert_eq!((&cell["scenario"], &cell["b"]), (&"two".into(), &"home-router".into()));
    // 20 and 8 ms in each direction: no round trip can be shorter.
    assert!(cell["rttMs"].as_f64().unwrap() >= 56.0, "{cell}");
    assert_eq!(cell["link"]["a"]["delayMs"], 20.0);
}

#[test]
fn an_unexpected_result_is_exit_code_3() {
    let dir = tempfile::tempdir().unwrap();
    let text = "expect = 'relay'\n[a]\nnat = 'none'\n[b]\nnat = 'port'\n";
    fs::write(dir.path().join("wrong.toml"), text).unwrap();
    let ended = lab(dir.path(), "--scenario wrong.toml --json");
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!((&result["agree"], &result["total"]), (&0.into(), &1.into()));
    assert_eq!(result["cells"][0]["reason"]["code"], "not-relayed");
    assert!(ended.stderr.contains("expected relay, measured direct"), "{}", ended.stderr);
}

#[test]
fn invalid_input_is_reported_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "[a]\nnat = 'port'\ndelai = '3ms'\n").unwrap();
    for (words, said) in [
        ("", "no networks given"),
        ("--nat symetric,port", "did you mean `sym`"),
        ("--nat home-ruter", "Did you mean the network `home-router`"),
        ("--nat port+udp-blocked,port", "use `udp-blocked` alone"),
        ("--scenario bad.toml", "`bad.toml`, line 3: unknown field `delai`"),
        ("--scenario bad.toml", "did you mean `delay`"),
        ("--nat bad.toml,port", "`bad.toml`, line 1: unknown field `a`"),
        ("--matrix --nat port", "cannot be used together"),
    ] {
        let ended = lab(dir.path(), words);
        assert_eq!(ended.code, Some(2), "{words}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words}: {}", ended.stderr);
    }
}

#[test]
fn an_unwritable_result_is_reported_before_the_measurement() {
    let dir = tempfile::tempdir().unwrap();
    let ended = lab(dir.path(), "--nat port --out nowhere/lab.json --json");
    assert_eq!(ended.code, Some(1));
    let lines = ended.json();
    assert_eq!(lines.len(), 1, "no result: {lines:?}");
    assert!(lines[0]["error"]["message"].as_str().unwrap().contains("--out"), "{lines:?}");
}

#[test]
fn the_list_contains_profiles_and_networks() {
    let dir = tempfile::tempdir().unwrap();
    let ended = lab(dir.path(), "list --json");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let names: BTreeSet<String> =
        ended.json().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
    for name in ["port", "sym", "udp-blocked", "home-router", "lte-symmetric", "satellite"] {
        assert!(names.contains(name), "{names:?}");
    }
    let text = lab(dir.path(), "list").stdout.join("\n");
    assert!(text.contains("eim-eif to apdm-apdf") && text.contains("home-router"), "{text}");
}

#[test]
fn ctrl_c_keeps_completed_pairs() {
    let dir = tempfile::tempdir().unwrap();
    // Three pairs connect; the last, without a relay, runs until its timeout.
    let words = ["lab", "--matrix", "--profiles", "none,sym", "--turn", "none", "--timeout", "60s"];
    let words = [&words[..], &["--parallel", "4", "--json", "--out", "lab.json"]].concat();
    let running = start(dir.path(), &words);
    running.says("3/4 ");
    running.signal(Signal::INT);
    let ended = running.end();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    assert!(ended.stderr.contains("error: interrupted: "), "{}", ended.stderr);
    let result = result(&ended);
    assert_eq!((&result["partial"], &result["total"]), (&true.into(), &4.into()));
    let cells = result["cells"].as_array().unwrap();
    assert!(cells.len() == 3 && cells.iter().all(|cell| cell["measured"] == "direct"), "{cells:?}");
    assert!(ended.stderr.contains("stopped: "), "{}", ended.stderr);
}
