//! The main job: `serve`, `send` and `recv` as three processes over real sockets, and `demo`.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use orion_peer::report::schemas;
use rustix::process::Signal;
use serde_json::Value;

use crate::run::{HANG, Rig, Running, as_sent, run, sample, serve, sha256};

/// Fields of a line of `frames.jsonl`: those in the contract, and two more.
const FIELDS: [&str; 16] = [
    "seq",
    "file",
    "bytes",
    "width",
    "height",
    "rtpTimestamp",
    "captureTime",
    "receivedAt",
    "latencyMs",
    "packets",
    "retransmitted",
    "sha256",
    "verified",
    "candidateType",
    "clockOffsetMs",
    "connectionType",
];

fn journal(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("frames.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "the last line is incomplete");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that a directory of received keyframes is complete and matches its journal.
fn check_frames(dir: &Path) -> Vec<Value> {
    let lines = journal(dir);
    for (index, line) in lines.iter().enumerate() {
        let fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        for field in FIELDS {
            assert!(fields.contains(&field), "{field}: {line}");
        }
        assert_eq!(line["seq"], index + 1, "{line}");
        assert_eq!(line["file"], format!("{:06}.h264", index + 1));
        let data = fs::read(dir.join(line["file"].as_str().unwrap())).unwrap();
        assert_eq!(line["bytes"], data.len());
        assert_eq!(line["sha256"], sha256(&data));
        assert!(data.len() <= 100_000, "{line}");
        assert!(data.starts_with(&[0, 0, 0, 1, 0x67]), "no SPS in front: {line}");
        assert!(line["packets"].as_u64().unwrap() > 1_u64.min(data.len() as u64 / 1200), "{line}");
        let picture = image::open(dir.join(format!("{:06}.jpg", index + 1))).unwrap();
        assert_eq!(line["width"], picture.width());
        assert_eq!(line["height"], picture.height());
    }
    let names: HashSet<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2 * lines.len() + 1, "something is half-written: {names:?}");
    lines
}

/// Asserts that each line is valid against the schema.
#[track_caller]
fn valid(schema: &str, lines: &str) {
    let schema = serde_json::from_str(schema).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let wrong: Vec<String> =
            validator.iter_errors(&line).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(wrong.is_empty(), "{line}: {wrong:?}");
    }
}

fn verified(lines: &[Value]) {
    for line in lines {
        assert_eq!(line["verified"], true, "{line}");
        for field in ["captureTime", "receivedAt"] {
            assert!(line[field].as_f64().unwrap() > 1.7e9, "{line}");
        }
        assert!(line["latencyMs"].as_f64().unwrap() >= 0.0, "{line}");
    }
}

/// A y4m stream with this many frames.
fn y4m(width: usize, height: usize, frames: usize) -> Vec<u8> {
    let mut stream = format!("YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n").into_bytes();
    for frame in 0..frames {
        stream.extend_from_slice(b"FRAME\n");
        stream.extend(
            (0..width * height).map(|at| ((at % width) * 2 + at / width + frame * 16) as u8),
        );
        stream.extend(std::iter::repeat_n(128_u8, width.div_ceil(2) * height.div_ceil(2) * 2));
    }
    stream
}

/// Waits until `recv` has received this many more keyframes.
fn more_keyframes(recv: &Running, more: usize) {
    recv.event("keyframe", recv.events("keyframe").len() + more);
}

#[test]
fn keyframes_are_delivered_between_three_processes() {
    let rig = Rig::new();
    for (picture, size) in [("fig.jpg", None), ("picos-de-europa.jpg", Some("800x600"))] {
        let (out, saved) = (format!("frames-{picture}"), format!("sent-{picture}"));
        let recv = rig.recv(&out, &["--count", "5"]);
        let mut words = vec!["--count", "5", "--save", &saved];
        words.extend(size.iter().flat_map(|size| ["--size", size]));
        let sent = rig.send(&sample(picture), &words).end();
        let received = recv.end();
        let (sent_lines, received_lines) = (sent.well(), received.well());

        let lines = check_frames(&rig.path(&out));
        assert_eq!(lines.len(), 5);
        verified(&lines);
        for (line, was_sent) in lines.iter().zip(journal(&rig.path(&saved))) {
            let file = line["file"].as_str().unwrap();
            let saved = fs::read(rig.path(&saved).join(file)).unwrap();
            assert_eq!(line["sha256"], sha256(&saved));
            for field in ["sha256", "bytes", "width", "height", "rtpTimestamp", "captureTime"] {
                assert_eq!(line[field], was_sent[field], "{field}");
            }
            assert_eq!(line["candidateType"], "host");
        }
        if size.is_some() {
            assert!(lines[0]["width"] == 800 || lines[0]["height"] == 600, "{}", lines[0]);
        }
        for (lines, role, counted) in
            [(sent_lines, "send", "sent"), (received_lines, "recv", "received")]
        {
            assert_eq!(lines.iter().filter(|line| line["kind"] == "keyframe").count(), 5);
            let summary = lines.last().unwrap();
            assert_eq!(summary["kind"], "summary");
            assert_eq!(summary["role"], role);
            assert_eq!(summary["connectionType"], "host");
            assert_eq!(summary["keyframes"][counted], 5);
            assert_eq!(summary["frameBytes"]["count"], 5);
            assert!(summary["rttMs"]["count"].as_u64().unwrap() > 0, "{summary}");
        }
        let bytes: u64 = lines.iter().map(|line| line["bytes"].as_u64().unwrap()).sum();
        assert!(received.summary()["videoBytes"]["received"].as_u64().unwrap() > bytes);
        assert_eq!(received.summary()["keyframes"]["verified"], 5);
        assert_eq!(received.summary()["keyframes"]["broken"], 0);
    }
}

#[test]
fn demo_works_on_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let picture = sample("seeding.jpg");
    let words = ["demo", "--json", "--source", &picture, "--interval", "0.2s", "--count", "3"];
    let lines = run(dir.path(), &words).well();
    assert_eq!(lines.last().unwrap()["keyframes"]["verified"], 3);
    let frames = check_frames(&dir.path().join("frames"));
    assert_eq!(frames.len(), 3);
    verified(&frames);
}

#[test]
fn an_h264_file_arrives_byte_for_byte() {
    let rig = Rig::new();
    let recv = rig.recv("first", &["--count", "3"]);
    rig.send("pattern:640x360", &["--count", "3", "--save", "sent"]).end().well();
    recv.end().well();
    let files: Vec<Vec<u8>> = (1..=3)
        .map(|number| fs::read(rig.path("sent").join(format!("{number:06}.h264"))).unwrap())
        .collect();
    assert_ne!(files[0], files[1], "the pattern does not move");
    fs::write(rig.path("all.h264"), files.concat()).unwrap();

    let recv = rig.recv("second", &["--count", "3"]);
    // Without --count, the run ends with the file.
    let sent = rig.send("all.h264", &[]).end();
    assert_eq!(sent.well().last().unwrap()["keyframes"]["sent"], 3);
    recv.end().well();
    let lines = check_frames(&rig.path("second"));
    verified(&lines);
    for (number, file) in files.iter().enumerate() {
        assert_eq!(lines[number]["sha256"], sha256(file));
    }
}

#[test]
fn y4m_is_read_from_a_file_and_from_stdin() {
    let rig = Rig::new();
    fs::write(rig.path("moving.y4m"), y4m(321, 241, 3)).unwrap();
    let recv = rig.recv("file", &["--count", "3"]);
    assert_eq!(rig.send("moving.y4m", &[]).end().well().last().unwrap()["keyframes"]["sent"], 3);
    recv.end().well();
    let recv = rig.recv("stdin", &["--count", "3"]);
    let mut send = rig.send("-", &[]);
    send.feed(&y4m(320, 240, 3));
    assert_eq!(send.end().well().last().unwrap()["keyframes"]["sent"], 3);
    recv.end().well();
    for (dir, width) in [("file", 320..=322), ("stdin", 320..=320)] {
        let lines = check_frames(&rig.path(dir));
        assert_eq!(lines.len(), 3);
        verified(&lines);
        assert!(width.contains(&lines[0]["width"].as_i64().unwrap()), "{}", lines[0]);
        assert_ne!(lines[0]["sha256"], lines[2]["sha256"]);
    }
}

#[test]
fn ctrl_c_ends_recv_cleanly() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send(&sample("fig.jpg"), &[]);
    recv.event("keyframe", 2);
    recv.signal(Signal::INT);
    let received = recv.end();
    received.well();
    let lines = check_frames(&rig.path("frames"));
    verified(&lines);
    assert_eq!(received.summary()["keyframes"]["received"], lines.len());
    send.says("the receiver said goodbye: stopped");
    // The sender waits without a peer, and also ends cleanly.
    send.signal(Signal::INT);
    assert_eq!(send.end().well().last().unwrap()["kind"], "summary");
}

#[test]
fn ctrl_c_ends_send_cleanly() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:640x360", &["--save", "sent"]);
    recv.event("keyframe", 2);
    send.signal(Signal::INT);
    let sent = send.end();
    assert_eq!(sent.well().last().unwrap()["kind"], "summary");
    assert_eq!(sent.summary()["keyframes"]["sent"], journal(&rig.path("sent")).len());
    recv.says("the sender said goodbye: stopped");
    recv.signal(Signal::TERM);
    recv.end().well();
    verified(&check_frames(&rig.path("frames")));
}

#[test]
fn ctrl_c_ends_a_sender_whose_source_is_silent() {
    let rig = Rig::new();
    let send = rig.send("-", &[]);
    send.says("joining");
    // The line is printed right before the process waits for signals.
    std::thread::sleep(Duration::from_millis(300));
    send.signal(Signal::INT);
    let sent = send.end();
    assert_eq!(sent.well().last().unwrap()["kind"], "summary");
    assert_eq!(sent.summary()["keyframes"]["sent"], 0);
}

#[test]
fn a_duration_ends_the_sender_even_after_the_receiver_has_left() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "2"]);
    let send = rig.send("pattern:320x240", &["--duration", "2s"]);
    recv.end().well();
    send.says("the receiver said goodbye: done");
    let sent = send.end();
    assert_eq!(sent.well().last().unwrap()["kind"], "summary");
    let count = sent.summary()["keyframes"]["sent"].as_u64().unwrap();
    assert!((2..=4).contains(&count), "{count}");
    assert_eq!(check_frames(&rig.path("frames")).len(), 2);
}

#[test]
fn commands_reach_the_sender_and_text_is_sent_in_both_directions() {
    let rig = Rig::new();
    let mut recv = rig.recv("frames", &[]);
    let mut send = rig.send("pattern:640x360", &["--interval", "1h"]);
    recv.event("keyframe", 1);

    recv.type_line("hello from the mac");
    assert_eq!(send.event("text", 1)["text"], "hello from the mac");
    send.type_line("grüße \u{1f44b} from the phone");
    assert_eq!(recv.event("text", 1)["text"], "grüße \u{1f44b} from the phone");
    // A request right after a keyframe would be ignored.
    std::thread::sleep(Duration::from_millis(400));
    recv.type_line("/keyframe");
    recv.event("keyframe", 2);

    recv.type_line("/set interval=200");
    send.says("set the interval to 200ms");
    recv.event("keyframe", 6);
    recv.type_line("/set max-bytes=20000 width=320 height=180");
    send.says("set the picture size to 320x180");
    let small = more_until(&recv, |frame| frame["width"] == 320);
    assert!(small["bytes"].as_u64().unwrap() <= 20_000, "{small}");
    assert_eq!(small["verified"], true);

    // A setting that cannot be applied is rejected with the reason.
    recv.type_line("/set interval=1");
    recv.says("the sender rejected a message: intervalMs must be");
    // A line that is not a valid command is sent as text.
    recv.type_line("/set interval=soon");
    assert_eq!(send.event("text", 2)["text"], "/set interval=soon");
    send.signal(Signal::INT);
    send.end().well();
}

#[test]
fn no_setting_ends_the_call() {
    let rig = Rig::new();
    let mut recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &["--save", "sent"]);
    recv.event("keyframe", 1);
    let sizes = [(3840, 3840), (16, 16), (17, 17), (16, 3840), (3840, 16), (15, 4000), (160, 120)];
    for (width, height) in sizes {
        let said = recv.said();
        recv.type_line(&format!("/set width={width} height={height}"));
        let line = recv.says_after(said, "the sender ");
        if let Some(size) = line.split("sends pictures of ").nth(1) {
            // The pictures have the size in the answer, which is within the offered level (3.1).
            let (w, h) = size.trim().split_once('x').unwrap();
            let (w, h): (u64, u64) = (w.parse().unwrap(), h.parse().unwrap());
            assert!(w <= width && h <= height && w.min(h) >= 16, "{line}");
            assert!(w.div_ceil(16) * h.div_ceil(16) <= 3_600, "{line}");
            let frame = more_until(&recv, |frame| frame["width"] == w && frame["height"] == h);
            assert_eq!(frame["verified"], true, "{frame}");
        } else {
            assert!(line.contains("rejected a message: "), "{line}");
            assert!(width.min(height) < 20, "{width}x{height} is possible: {line}");
        }
        more_keyframes(&recv, 2);
    }
    assert_eq!(recv.events("keyframe").last().unwrap()["width"], 160);
    for set in ["interval", "max-bytes"] {
        for value in ["0", "1", "18446744073709551615"] {
            let said = recv.said();
            recv.type_line(&format!("/set {set}={value}"));
            recv.says_after(said, "the sender rejected a message: ");
        }
    }
    more_keyframes(&recv, 2);
    for running in [send, recv] {
        running.signal(Signal::INT);
        let ended = running.end();
        ended.well();
        assert_eq!(ended.summary()["keyframes"]["failed"], 0);
    }
}

/// Waits for a keyframe that satisfies a condition.
fn more_until(recv: &Running, is: impl Fn(&Value) -> bool) -> Value {
    let mut count = recv.events("keyframe").len();
    loop {
        count += 1;
        let frame = recv.event("keyframe", count);
        if is(&frame) {
            return frame;
        }
        assert!(count < 100, "no such keyframe");
    }
}

#[test]
fn statistics_and_dumps_are_written() {
    let rig = Rig::new();
    let watch = |name: &str| -> Vec<String> {
        let (stats, dump) = (format!("{name}-stats"), format!("{name}.json"));
        ["--stats", &stats, "--stats-interval", "100ms", "--dump", &dump].map(String::from).into()
    };
    let (for_recv, for_send) = (watch("recv"), watch("send"));
    let words = |words: &[String], more: [&'static str; 2]| -> Vec<String> {
        words.iter().cloned().chain(more.map(String::from)).collect()
    };
    let (for_recv, for_send) =
        (words(&for_recv, ["--count", "15"]), words(&for_send, ["--count", "15"]));
    let recv = rig.recv("frames", &for_recv.iter().map(String::as_str).collect::<Vec<_>>());
    let send =
        rig.send("pattern:320x240", &for_send.iter().map(String::as_str).collect::<Vec<_>>());
    let (said_send, said_recv) = (send.end().well(), recv.end().well());
    for said in [&said_send, &said_recv] {
        let text: Vec<String> = said.iter().map(ToString::to_string).collect();
        valid(schemas::LINES, &text.join("\n"));
    }
    for (said, kind) in [(&said_send, "first-keyframe-sent"), (&said_recv, "first-picture")] {
        let first: Vec<_> = said.iter().filter(|line| line["kind"] == kind).collect();
        let [first] = first.as_slice() else { panic!("{kind}: {said:?}") };
        let ms = |key: &str| first["ms"][key].as_f64().unwrap_or_else(|| panic!("{key}: {first}"));
        assert!(ms("fromStart") > ms("fromJoin") && ms("fromJoin") >= ms("fromPeer"), "{first}");
        let summary = said.iter().find(|line| line["kind"] == "summary").unwrap();
        assert_eq!(summary["firstPictureMs"], first["ms"]);
        let connected = said.iter().find(|line| line["kind"] == "connected").unwrap();
        let of = |key: &str, step: &str| connected[key][step].as_f64().unwrap();
        let steps = ["gathering", "ice", "dtls", "dataChannel"].map(|step| of("setupMs", step));
        let reached = of("reachedMs", "dataChannel");
        assert!((steps.iter().sum::<f64>() - reached).abs() < 0.05, "{connected}");
    }
    let sent = fs::read_to_string(rig.path("send-stats/keyframes.jsonl")).unwrap();
    assert_eq!(sent.lines().count(), 15, "{sent}");
    for line in sent.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{key}: {line}"));
        assert!(number("psnrDb") > 30.0 && number("ssim") > 0.8 && number("ssim") <= 1.0, "{line}");
        assert!(number("fill") <= 1.0 && number("fill") * number("maxBytes") > 1e3, "{line}");
        assert!(number("qp") <= 51.0 && number("passes") >= 1.0, "{line}");
        // Including the first keyframe, which was encoded before there was a receiver.
        for stage in ["captureAge", "convert", "encode", "packetize", "send"] {
            assert!(line["stagesMs"][stage].as_f64().is_some(), "{stage}: {line}");
        }
    }
    let received = fs::read_to_string(rig.path("recv-stats/keyframes.jsonl")).unwrap();
    let frames = fs::read_to_string(rig.path("frames/frames.jsonl")).unwrap();
    valid(schemas::KEYFRAMES, &sent);
    valid(schemas::KEYFRAMES, &received);
    valid(schemas::FRAMES, &frames);
    let lines = |text: &str| -> Vec<Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (sent, received) in lines(&sent).iter().zip(lines(&received)) {
        assert_eq!(sent["captureTime"], received["captureTime"]);
        let encode = sent["stagesMs"]["encode"].as_f64().unwrap();
        let latency = received["latencyMs"].as_f64().unwrap();
        assert!(latency >= encode, "encoding is a part of the latency: {latency} {encode}");
    }
    for (name, rtp) in [("recv", "inbound-rtp"), ("send", "outbound-rtp")] {
        let text = fs::read_to_string(rig.path(&format!("{name}-stats/stats.jsonl"))).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.len() >= 2, "{name}: {text}");
        // The summary's video bytes are the headers and payloads in `getStats`.
        let said = if name == "recv" { &said_recv } else { &said_send };
        let summary = said.iter().find(|line| line["kind"] == "summary").unwrap();
        let (way, keys) = match name {
            "recv" => ("received", ["bytesReceived", "headerBytesReceived"]),
            _ => ("sent", ["bytesSent", "headerBytesSent"]),
        };
        let streams = lines.last().unwrap()["report"].as_object().unwrap().values();
        let counted: u64 = streams
            .filter(|object| object["type"] == rtp)
            .flat_map(|object| keys.map(|key| object[key].as_u64().unwrap()))
            .sum();
        let video = summary["videoBytes"][way].as_u64().unwrap();
        // The summary is slightly newer.
        assert!(counted <= video && video < counted + counted / 2, "{counted} {video}");
        let mut kinds = HashSet::new();
        for line in &lines {
            assert!(line["time"].as_f64().unwrap() > 1.7e12, "{line}");
            for (id, object) in line["report"].as_object().unwrap() {
                assert_eq!(object["id"], *id);
                kinds.insert(object["type"].as_str().unwrap().to_owned());
            }
        }
        for kind in [rtp, "candidate-pair", "transport", "local-candidate", "data-channel"] {
            assert!(kinds.contains(kind), "{name} has no {kind}: {kinds:?}");
        }
        let dump = fs::read(rig.path(&format!("{name}.json"))).unwrap();
        let dump: Value = serde_json::from_slice(&dump).unwrap();
        assert!(dump["UserAgentData"].is_array() || dump["UserAgentData"].is_object(), "{dump}");
        let connections = dump["PeerConnections"].as_object().unwrap();
        let connection = connections.values().next().unwrap();
        check_like_an_importer(connection["stats"].as_object().unwrap());
        negotiation(name, connection);
    }
}

/// Checks the whole negotiation in the log, in order.
fn negotiation(name: &str, connection: &Value) {
    let configuration = connection["rtcConfiguration"].as_str().unwrap();
    assert!(configuration.contains(r#""iceServers":[{"urls":["#), "{configuration}");
    assert!(!configuration.contains("credential"), "{configuration}");
    let log: Vec<(&str, &str)> = connection["updateLog"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["type"].as_str().unwrap(), entry["value"].as_str().unwrap()))
        .collect();
    let at = |kind: &str, begin: &str| {
        let found = log.iter().position(|(k, value)| *k == kind && value.starts_with(begin));
        found.unwrap_or_else(|| panic!("{name} has no {kind} {begin}: {log:#?}"))
    };
    let (first, second) = match name {
        "send" => ("setLocalDescription", "setRemoteDescription"),
        _ => ("setRemoteDescription", "setLocalDescription"),
    };
    let order = [
        at(first, "type: offer, sdp: v=0\r\n"),
        at(second, "type: answer, sdp: v=0\r\n"),
        at("connectionstatechange", "connected"),
        at("close", ""),
    ];
    assert!(order.is_sorted(), "{name}: {log:#?}");
    let [_, _, connected, closed] = order;
    for kind in ["icecandidate", "addIceCandidate"] {
        let candidate = at(kind, "sdpMid: 0, sdpMLineIndex: 0, candidate: candidate:");
        assert!(candidate < closed, "{name}: {log:#?}");
    }
    assert!(at("connectionstatechange", "connecting") < connected, "{name}: {log:#?}");
}

/// Follows the transport to the selected pair and its two candidates, and checks that all series of an
/// object are as long as its series of timestamps.
fn check_like_an_importer(stats: &serde_json::Map<String, Value>) {
    let series = |id: &str, name: &str| -> Vec<Value> {
        let one = &stats[&format!("{id}-{name}")];
        serde_json::from_str(one["values"].as_str().unwrap()).unwrap()
    };
    let last = |id: &str, name: &str| series(id, name).pop().unwrap();
    for (key, one) in stats {
        // Neither names nor properties contain a dash.
        let (id, property) = key.rsplit_once('-').unwrap();
        assert_eq!(series(id, property).len(), series(id, "timestamp").len(), "{key}");
        assert!(one["startTime"].as_str().unwrap().ends_with('Z'), "{key}: {one}");
    }
    let transport = stats.iter().find(|(_, one)| one["statsType"] == "transport").unwrap();
    let transport = transport.0.rsplit_once('-').unwrap().0;
    let pair = last(transport, "selectedCandidatePairId");
    let pair = pair.as_str().unwrap();
    assert_eq!(last(pair, "transportId"), transport);
    for (end, is_remote) in [("localCandidateId", false), ("remoteCandidateId", true)] {
        let candidate = last(pair, end);
        let candidate = candidate.as_str().unwrap();
        assert_eq!(last(candidate, "isRemote"), is_remote, "{candidate}");
        // A check may arrive before the candidate it was sent from (RFC 8445 §7.3.1.3).
        let kind = last(candidate, "candidateType");
        assert!(kind == "host" || is_remote && kind == "prflx", "{candidate}: {kind}");
    }
}

#[test]
fn a_receiver_that_crashed_gets_keyframes_again() {
    // In both orders of joining, because the sender's information about the receiver's socket differs.
    for receiver_first in [true, false] {
        let rig = Rig::new();
        let (recv, send) = if receiver_first {
            let recv = rig.recv("frames", &[]);
            recv.says("the sender is not there yet");
            (recv, rig.send("pattern:320x240", &[]))
        } else {
            let send = rig.send("pattern:320x240", &[]);
            send.says("the receiver is not there yet");
            (rig.recv("frames", &[]), send)
        };
        recv.event("keyframe", 2);
        recv.kill();
        let again = rig.recv("again", &["--count", "3"]);
        again.end().well();
        send.says("the receiver said goodbye: done");
        let lines = check_frames(&rig.path("again"));
        assert_eq!(lines.len(), 3);
        verified(&lines);
        send.signal(Signal::INT);
        let sent = send.end();
        sent.well();
        // Bytes of both connections are counted.
        let bytes = sent.summary()["videoBytes"]["sent"].as_u64().unwrap();
        let mean = sent.summary()["frameBytes"]["mean"].as_f64().unwrap() as u64;
        assert!(bytes >= mean * 4, "{}", sent.summary());
    }
}

#[test]
fn a_crashed_sender_can_be_replaced() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "6"]);
    let send = rig.send("pattern:320x240", &[]);
    recv.event("keyframe", 3);
    send.kill();
    let send = rig.send("pattern:320x240", &[]);
    let received = recv.end();
    received.well();
    let lines = check_frames(&rig.path("frames"));
    verified(&lines);
    let bytes: u64 = lines.iter().map(|line| line["bytes"].as_u64().unwrap()).sum();
    let counted = received.summary()["videoBytes"]["received"].as_u64().unwrap();
    assert!(counted > bytes, "{counted} of {bytes}: the first connection is not counted");
    send.signal(Signal::INT);
    send.end().well();
}

#[test]
fn media_continues_while_the_server_restarts() {
    let mut rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &[]);
    recv.event("keyframe", 2);
    let (lines_recv, lines_send) = (recv.said(), send.said());
    rig.server.signal(Signal::TERM);
    let address = rig.signal.trim_start_matches("ws://").to_owned();
    recv.says("signaling: ");
    send.says("signaling: ");
    // There is no server at all; media does not need one.
    more_keyframes(&recv, 3);
    let (server, ..) = serve(rig.dir.path(), &address, &rig.turn, &[]);
    let old = std::mem::replace(&mut rig.server, server);
    old.end().well();
    // The peer that is back first sees the remote peer join.
    let back = |process: &Running, from: usize| process.said_after(from, "is in the room");
    let limit = Instant::now() + HANG;
    while !back(&recv, lines_recv) && !back(&send, lines_send) {
        assert!(Instant::now() < limit, "the peers did not join again");
        std::thread::sleep(Duration::from_millis(10));
    }
    more_keyframes(&recv, 3);
    // A goodbye is relayed by the new server.
    send.signal(Signal::INT);
    let sent = send.end();
    sent.well();
    recv.says("the sender said goodbye: stopped");
    recv.signal(Signal::INT);
    recv.end().well();
    let mut frames = check_frames(&rig.path("frames"));
    as_sent(&frames, &sent.events("keyframe"));
    frames.retain(|frame| !frame["verified"].is_null());
    verified(&frames);
}

#[test]
fn relay_only_calls_use_the_embedded_turn_server() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "4", "--ice-policy", "relay"]);
    let send = rig.send(&sample("fig.jpg"), &["--count", "4", "--ice-policy", "relay"]);
    let (sent, received) = (send.end(), recv.end());
    sent.well();
    received.well();
    let lines = check_frames(&rig.path("frames"));
    verified(&lines);
    for line in &lines {
        assert_eq!(line["candidateType"], "relay", "{line}");
    }
    for summary in [sent.summary(), received.summary()] {
        assert_eq!(summary["connectionType"], "relay/udp", "{summary}");
    }
    assert_eq!(received.summary()["keyframes"]["broken"], 0);
}

#[test]
fn a_wrong_turn_secret_is_reported_with_a_remedy() {
    let rig = Rig::new();
    let url = format!("turn:{}", rig.turn);
    let send =
        rig.send(&sample("fig.jpg"), &["--ice-server", &url, "--turn-secret", "not-the-servers"]);
    let line = send.says(&format!("ICE server {url}: 401 "));
    assert!(line.contains("check the secret or password"), "{line}");
    send.kill();
}
