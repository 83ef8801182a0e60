//! Bottlenecks in the delivery of keyframes, and how they are reported: a sender that paces on a fast path, and a
//! slow path with a queue.

use orion_peer::report::bench::JSON_SCHEMA;
use serde_json::Value;

use crate::run::{Rig, run, sample};

/// Sends four keyframes of nearly 100 KB over one connection, and a ping every 20 ms.
fn bench(more: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let fig = sample("fig.jpg");
    let load = [
        "bench",
        "--json",
        "--connections",
        "1",
        "--warmup",
        "0",
        "--keyframes",
        "4",
        "--interval",
        "1.2s",
        "--pings",
        "240",
        "--ping-interval",
        "20ms",
        "--source",
        &fig,
    ];
    let ended = run(dir.path(), &[&load[..], more].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let result = ended.json().remove(0);
    let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
    assert!(jsonschema::is_valid(&schema, &result), "{result:#}");
    result["keyframes"].clone()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key}: {value:#}"))
}

#[test]
fn a_pacing_sender_is_the_bottleneck_on_loopback() {
    let keyframes = bench(&["--pace", "1Mbit"]);
    let delivery = &keyframes["delivery"];
    assert_eq!((&delivery["limitedBy"], &delivery["sure"]), (&"sender".into(), &true.into()));
    let rate = number(delivery, "bitsPerSecond");
    assert!((0.8e6..1.1e6).contains(&rate), "{delivery:#}");
    // The rate of loopback was not observed.
    assert_eq!(delivery["path"]["atLeast"], true, "{delivery:#}");
    assert!(number(&delivery["path"], "bitsPerSecond") < 1.2e6, "{delivery:#}");
    assert_eq!(delivery["findings"][0]["code"], "sender-limited");
    assert!(number(&keyframes["spreadMs"], "p50") > 700.0, "{keyframes:#}");
}

#[test]
fn a_slow_path_with_a_queue_is_the_bottleneck() {
    let link = ["--rate", "2Mbit", "--queue", "256KB", "--delay", "20ms", "--pace", "off"];
    let delivery = &bench(&link)["delivery"];
    assert_eq!((&delivery["limitedBy"], &delivery["sure"]), (&"path".into(), &true.into()));
    assert_eq!(delivery["path"]["atLeast"], false, "{delivery:#}");
    let path = number(&delivery["path"], "bitsPerSecond");
    assert!((1.7e6..2.1e6).contains(&path), "{delivery:#}");
    let least = number(delivery, "leastMs");
    assert!(least < number(delivery, "spreadMs") * 1.1 && least > 350.0, "{delivery:#}");
    assert_eq!(delivery["findings"][0]["code"], "path-limited");
}

/// `recv` pings once a second; its keyframes are far enough apart for some of them to be idle.
#[test]
fn recv_reports_the_bottleneck() {
    let rig = Rig::new();
    let fig = sample("fig.jpg");
    let recv = rig.recv("frames", &["--count", "6"]);
    let paced = ["--pace", "1Mbit", "--interval", "1.7s", "--count", "6"];
    let send = rig.send(&fig, &paced);
    let (_, ended) = (send.end().well(), recv.end());
    ended.well();
    for keyframe in ended.json().iter().filter(|line| line["kind"] == "keyframe") {
        assert!(number(keyframe, "receiveMs") > 700.0, "{keyframe}");
        assert!((0.9..=1.0).contains(&number(keyframe, "fill")), "{keyframe}");
        assert_eq!(keyframe["maxBytes"], 100_000);
        let delivery = &keyframe["delivery"];
        assert!((0.8e6..1.1e6).contains(&number(delivery, "bitsPerSecond")), "{keyframe}");
    }
    let summary = ended.summary();
    let delivery = &summary["delivery"];
    assert_eq!((&delivery["limitedBy"], &delivery["of"]), (&"sender".into(), &6.into()));
    assert!(number(delivery, "firstAfterMs") > 500.0, "{delivery:#}");
    // The rate itself is not checked, because the machine may be busy.
    let finding = "delivery: the sender's pace limits keyframes to ";
    let more = "it is unknown how much more the path carries";
    for text in [finding, more, "  limited by  the sender's pace"] {
        assert!(ended.stderr.contains(text), "no {text:?} in\n{}", ended.stderr);
    }
}
