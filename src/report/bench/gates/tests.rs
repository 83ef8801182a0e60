//! Tests of the gates.

use serde_json::json;

use super::*;
use crate::{
    report::bench::{
        compare::compare,
        samples::{Sample, named},
    },
    types::CandidateType::{Host, Relay, Srflx},
};

fn result() -> BenchResult {
    let sample = Sample { connections: 30, failed: 3, lost: 4, torn: 1, ..Sample::default() };
    let mut result = sample.result();
    result.rtt_ms.spread.p50 = Some(10.0);
    result.rtt_ms.spread.p95 = Some(50.0);
    result.rtt_ms.spread.p99 = Some(90.0);
    result.connections.setup_ms.total.p95 = Some(700.0);
    result.keyframes.latency_ms.p95 = Some(20.0);
    result.keyframes.stages_ms.network.p95 = Some(4.0);
    result.connections.first_picture_ms.from_start.p95 = Some(800.0);
    result.keyframes.spread_ms.max = Some(120.0);
    result
}

fn only(gates: &Gates, result: &BenchResult) -> GateResult {
    let checks = gates.check(result);
    assert_eq!(checks.len(), 1, "{checks:?}");
    checks.into_iter().next().unwrap()
}

/// A gate set to a limit.
type Set = fn(f64) -> Gates;

/// Every gate with a number, and the value [`result`] has for it.
fn numbers() -> Vec<(Set, &'static str, &'static str, f64)> {
    vec![
        (|v| Gates { min_success: Some(v), ..Gates::default() }, "min-success", "share", 0.9),
        (|v| Gates { max_rtt_p50: Some(v), ..Gates::default() }, "max-rtt-p50", "ms", 10.0),
        (|v| Gates { max_rtt_p95: Some(v), ..Gates::default() }, "max-rtt-p95", "ms", 50.0),
        (|v| Gates { max_rtt_p99: Some(v), ..Gates::default() }, "max-rtt-p99", "ms", 90.0),
        (|v| Gates { max_setup_p95: Some(v), ..Gates::default() }, "max-setup-p95", "ms", 700.0),
        (|v| Gates { max_ping_loss: Some(v), ..Gates::default() }, "max-ping-loss", "share", 0.1),
        (
            |v| Gates { min_keyframes_intact: Some(v), ..Gates::default() },
            "min-keyframes-intact",
            "share",
            0.5,
        ),
        (
            |v| Gates { max_frame_bytes: Some(v as u64), ..Gates::default() },
            "max-frame-bytes",
            "bytes",
            90_001.0,
        ),
        (
            |v| Gates { max_keyframe_latency_p95: Some(v), ..Gates::default() },
            "max-keyframe-latency-p95",
            "ms",
            20.0,
        ),
        (
            |v| Gates { max_keyframe_network_p95: Some(v), ..Gates::default() },
            "max-keyframe-network-p95",
            "ms",
            4.0,
        ),
        (
            |v| Gates { max_keyframe_spread: Some(v), ..Gates::default() },
            "max-keyframe-spread",
            "ms",
            120.0,
        ),
        (
            |v| Gates { max_first_picture_p95: Some(v), ..Gates::default() },
            "max-first-picture-p95",
            "ms",
            800.0,
        ),
    ]
}

#[test]
fn a_value_equal_to_its_limit_meets_it() {
    for (gates, name, unit, actual) in numbers() {
        let step = if unit == "bytes" { 1.0 } else { 0.001 };
        let least = name.starts_with("min");
        let [low, at, high] =
            [actual - step, actual, actual + step].map(|limit| only(&gates(limit), &result()));
        assert_eq!((low.pass, at.pass, high.pass), (least, true, !least), "{name}");
        assert_eq!((at.name.as_str(), at.unit.as_str()), (name, unit));
        assert_eq!((at.actual.as_f64(), at.limit.as_f64()), (Some(actual), Some(actual)), "{name}");
    }
    let bytes = only(&Gates { max_frame_bytes: Some(90_001), ..Gates::default() }, &result());
    assert_eq!((bytes.limit, bytes.actual), (json!(90_001), json!(90_001)), "no 90001.0");
}

#[test]
fn the_slowest_first_picture_counts() {
    let gates = |limit| Gates { max_first_picture: Some(limit), ..Gates::default() };
    let mut all = Sample::default().result();
    let slowest = all.connections.first_picture_ms.from_start.max.unwrap();
    assert!(only(&gates(slowest), &all).pass);
    let late = only(&gates(slowest - 0.001), &all);
    assert!(!late.pass && late.actual == json!(slowest) && late.name == "max-first-picture");
    // A connection without a picture exceeds any limit.
    all.connections.attempted += 1;
    let without = only(&gates(1e9), &all);
    assert!(!without.pass, "{without:?}");
    assert!(without.note.unwrap().starts_with("1 of "));
    let none = only(&gates(1e9), &Sample { connections: 0, ..Sample::default() }.result());
    assert!(!none.pass && none.actual.is_null() && none.note.is_some());
}

#[test]
fn unmeasured_values_meet_no_gate() {
    let nothing = Sample { connections: 0, ..Sample::default() }.result();
    for (gates, name, ..) in numbers() {
        for limit in [0.0, 1e9] {
            let check = only(&gates(limit), &nothing);
            assert!(!check.pass && check.actual.is_null(), "{name}: {check:?}");
            assert!(check.note.is_some(), "{name}");
        }
    }
    let required = Gates { require_type: Some("host".parse().unwrap()), ..Gates::default() };
    let check = only(&required, &nothing);
    assert!(!check.pass && check.actual.is_null(), "{check:?}");
    assert!(Gates::default().check(&nothing).is_empty());
}

#[test]
fn notes_explain_the_numbers() {
    let gates = Gates {
        min_success: Some(0.99),
        max_rtt_p99: Some(1.0),
        min_keyframes_intact: Some(1.0),
        ..Gates::default()
    };
    let few = Sample { connections: 2, ..Sample::default() }.result();
    let notes: Vec<_> = gates.check(&few).into_iter().filter_map(|check| check.note).collect();
    assert_eq!(notes[0], "2 of 2; 95 % CI 34.24 % to 100 %");
    assert_eq!(notes[1], "with 80 values the p99 is the maximum");
    let mut silent = few;
    silent.keyframes.intact = None;
    let check = gates.check(&silent).pop().unwrap();
    assert!(check.note.unwrap().contains("does not report what arrived") && !check.pass);
}

#[test]
fn required_types_are_compared_with_the_types_found() {
    let of = |kinds: &[&str], required: &str| {
        let mut result = result();
        result.connections.by_type = kinds.iter().map(|kind| ((*kind).to_owned(), 2)).collect();
        let require_type = Some(required.parse().unwrap());
        only(&Gates { require_type, ..Gates::default() }, &result)
    };
    for (kinds, required, pass) in [
        (&["host"][..], "host", true),
        (&["host", "srflx"], "host", false),
        (&["srflx"], "srflx", true),
        (&["relay/udp", "relay/tls", "relay"], "relay", true),
        (&["relay/udp", "host"], "relay", false),
        (&["relay/tcp"], "relay/tcp", true),
        (&["relay/tcp"], "relay/tls", false),
        (&["relay"], "relay/udp", false),
        (&[], "relay", false),
    ] {
        let check = of(kinds, required);
        assert_eq!((check.pass, check.limit), (pass, json!(required)), "{kinds:?}");
        assert_eq!(check.note.is_none(), pass, "{kinds:?}");
    }
    assert_eq!(of(&["host", "srflx"], "host").actual, "host, srflx");
    let note = of(&["host", "srflx"], "host").note.unwrap();
    assert_eq!(note, "2 of 4 connections are host");
    assert!(of(&["relay"], "relay/udp").note.unwrap().contains("the peer's relay"));
    let error = "prflx".parse::<RequiredType>().unwrap_err().to_string();
    assert!(error.contains("`prflx`") && error.contains("relay/tls"), "{error}");
}

fn regression(old: &BenchResult, mut new: BenchResult, limit: f64) -> Vec<GateResult> {
    new.comparison = Some(compare(&[named("old", old.clone())], &new, Some(limit)));
    Gates { max_regression: Some(limit), ..Gates::default() }.check(&new)
}

#[test]
fn a_regression_gate_has_one_result_per_metric() {
    let old = Sample::default().result();
    let slow = Sample { seed: 2, slower: 2.0, ..Sample::default() }.result();
    let checks = regression(&old, slow, 0.1);
    let failed: Vec<_> = checks.iter().filter(|c| !c.pass).map(|c| c.name.as_str()).collect();
    let times = [
        "setup-p50",
        "setup-p95",
        "first-picture-p95",
        "rtt-p50",
        "rtt-p95",
        "keyframe-latency-p95",
        "keyframe-network-p95",
    ];
    assert_eq!(failed, times.map(|name| format!("max-regression {name}")));
    assert_eq!(checks.len(), 10);
    let note = checks[1].note.as_deref().unwrap();
    assert!(note.starts_with("worse by ") && note.ends_with("more than allowed"), "{note}");
    assert_eq!(checks[0].note.as_deref().unwrap().split(',').next(), Some("no change"));
    let again = Sample { seed: 3, ..Sample::default() }.result();
    assert!(regression(&old, again, 0.1).iter().all(|check| check.pass));
}

#[test]
fn a_missing_comparison_does_not_pass() {
    let old = Sample::default().result();
    let none = Gates { max_regression: Some(0.1), ..Gates::default() };
    let check = only(&none, &old);
    assert!(!check.pass && check.note.unwrap().contains("no baseline"));
    // All connections failed: values that the baseline has are missing, which
    // must not pass.
    let failed = Sample { failed: 30, ..Sample::default() }.result();
    let checks = regression(&old, failed, 0.1);
    assert!(checks.iter().all(|check| !check.pass), "{checks:?}");
    // Too few samples are not a failure, but are noted.
    let few = Sample { connections: 5, ..Sample::default() }.result();
    let checks = regression(&old, few.clone(), 0.1);
    assert!(checks.iter().all(|check| check.pass), "{checks:?}");
    assert!(checks[1].note.as_deref().unwrap().contains("not enough samples"));
    // No comparable metric at all is a failure.
    let mut empty = old.clone();
    empty.connections.attempted = 0;
    empty.connections.records.clear();
    let checks = regression(&empty, few, 0.1);
    assert_eq!(checks[0].name, "max-regression");
    assert!(!checks[0].pass);
}

fn measured() -> Measured {
    Measured {
        pings: true,
        keyframes: true,
        ice_policy_relay: false,
        candidates: Vec::new(),
        budget_bytes: Some(100_000),
    }
}

#[test]
fn contradictions_name_both_flags() {
    let required =
        |text: &str| Gates { require_type: Some(text.parse().unwrap()), ..Gates::default() };
    let rtt = Gates { max_rtt_p95: Some(1.0), ..Gates::default() };
    let intact = Gates { min_keyframes_intact: Some(1.0), ..Gates::default() };
    let small = Gates { max_frame_bytes: Some(50_000), ..Gates::default() };
    let relay = Measured { ice_policy_relay: true, ..measured() };
    let only = |candidates: &[_]| Measured { candidates: candidates.to_vec(), ..measured() };
    for (gates, what, expected) in [
        (&rtt, Measured { pings: false, ..measured() }, ["--max-rtt-p95", "--pings 0"]),
        (
            &intact,
            Measured { keyframes: false, ..measured() },
            ["--min-keyframes-intact", "--keyframes 0"],
        ),
        (&small, measured(), ["--max-frame-bytes 50.0 KB", "--max-bytes"]),
        (&required("host"), relay.clone(), ["--require-type host", "--ice-policy relay"]),
        (&required("srflx"), relay.clone(), ["--require-type srflx", "--ice-policy relay"]),
        (&required("relay"), only(&[Host]), ["--require-type relay", "--candidates host"]),
        (&required("relay/tls"), only(&[Host, Srflx]), ["relay/tls", "--candidates host,srflx"]),
        (&required("host"), only(&[Srflx, Relay]), ["host", "--candidates srflx,relay"]),
        (&required("srflx"), only(&[Relay]), ["srflx", "--candidates relay"]),
    ] {
        let (message, remedy) =
            gates.contradiction(&what).unwrap_or_else(|| panic!("{expected:?}"));
        assert!(expected.iter().all(|text| message.contains(text)), "{message}");
        assert!(!remedy.is_empty());
    }
    for (gates, what) in [
        (&rtt, measured()),
        (&rtt, Measured { keyframes: false, ..measured() }),
        (&required("relay/udp"), relay),
        (&required("srflx"), only(&[Host])),
        (&required("host"), only(&[Host, Relay])),
        (&small, Measured { budget_bytes: None, ..measured() }),
        (&small, Measured { budget_bytes: Some(50_000), ..measured() }),
        (&Gates { max_rtt_p50: Some(9.0), max_rtt_p95: Some(5.0), ..Gates::default() }, measured()),
        (&Gates::default(), Measured { pings: false, keyframes: false, ..measured() }),
    ] {
        assert_eq!(gates.contradiction(&what), None, "{gates:?} {what:?}");
    }
}
