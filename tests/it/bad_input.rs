//! Failures outside the program: each run ends in bounded time with the right exit code, reports the stage
//! and a remedy, and loses no data that was received.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    auth::{
        jws::{Key, SigningKeys},
        jwt::mint,
        secret::Secret,
    },
    media::{
        encoder::{EncoderConfig, KeyframeEncoder},
        frame::Frame,
    },
    peer::{PeerConfig, PeerEvent, PeerRole},
    proto::{
        claims::Claims,
        control::{ControlMessage, Id, KeyframeInfo, Settings},
    },
    session::{Call, CallConfig, CallEvent},
    signaling::{client::ClientConfig, client::token_client::TokenClient},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message as WsFrame, client::IntoClientRequest};

use crate::run::{Ended, HANG, Rig, run, sample, serve, sha256, start};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A loopback URL on which nothing listens.
pub fn unused_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("ws://{}", listener.local_addr().unwrap())
}

pub fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

pub fn send(dir: &Path, source: &str) -> Ended {
    run(dir, &["send", "--json", "--signal", &unused_server(), "--source", source])
}

#[test]
fn unreadable_sources_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let photo = fs::read(sample("fig.jpg")).unwrap();
    fs::write(at("garbage.jpg"), b"no picture at all").unwrap();
    fs::write(at("empty.jpg"), b"").unwrap();
    fs::write(at("head.jpg"), &photo[..100]).unwrap();
    fs::write(at("empty.h264"), b"").unwrap();
    fs::write(at("garbage.h264"), [7; 1000]).unwrap();
    fs::write(at("garbage.y4m"), b"YUV4MPEG3 W1\n").unwrap();
    fs::write(at("wide.y4m"), b"YUV4MPEG2 W99999999 H99999999 F1:1\nFRAME\n").unwrap();
    fs::create_dir_all(at("nothing")).unwrap();
    fs::create_dir_all(at("dir.jpg.d")).unwrap();
    fs::create_dir_all(at("bad")).unwrap();
    fs::write(at("bad/a.jpg"), b"none").unwrap();
    for (source, names) in [
        ("missing.jpg", "missing.jpg"),
        ("garbage.jpg", "garbage.jpg"),
        ("empty.jpg", "empty.jpg"),
        ("head.jpg", "head.jpg"),
        ("empty.h264", "empty.h264"),
        ("garbage.h264", "garbage.h264"),
        ("garbage.y4m", "garbage.y4m"),
        ("wide.y4m", "wide.y4m"),
        ("nothing", "nothing"),
        ("bad", "bad"),
        ("missing/", "missing"),
        ("camera:99", "99"),
        ("-", "standard input"),
    ] {
        let error = send(dir.path(), source).failed(1, "source");
        assert!(message(&error).contains(names), "{source}: {error}");
    }
}

/// Writes a picture of this size that contains a color gradient.
fn png(path: &Path, width: u32, height: u32) {
    image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 7, y as u8 * 7, 90]))
        .save(path)
        .unwrap();
}

#[test]
fn pictures_of_unusual_sizes() {
    let rig = Rig::new();
    for (width, height) in [(1, 1), (15, 15), (15, 400), (3, 33)] {
        let name = format!("small-{width}x{height}.png");
        png(&rig.path(&name), width, height);
        // The source rejects the picture, or the encoder does not accept its size.
        let stage = if width < 2 { "source" } else { "video" };
        let error = send(rig.dir.path(), &name).failed(1, stage);
        let even = (width & !1).max(1);
        assert!(message(&error).contains(&format!("{even}x")), "{error}");
    }
    for (width, height) in [(17, 33), (16, 16), (101, 67), (641, 17)] {
        let name = format!("{width}x{height}.png");
        png(&rig.path(&name), width, height);
        let recv = rig.recv(&name.replace(".png", ""), &["--count", "1"]);
        rig.send(&name, &["--count", "1"]).end().well();
        let lines = recv.end().well();
        let keyframe = lines.iter().find(|line| line["kind"] == "keyframe").unwrap();
        assert_eq!(keyframe["verified"], true, "{name}: {lines:?}");
        for (side, was) in [("width", width), ("height", height)] {
            let side = keyframe[side].as_u64().unwrap();
            assert!(side.abs_diff(u64::from(was)) <= 1, "{name}: {lines:?}");
        }
        assert_eq!(keyframe["undecoded"], Value::Null, "{name}");
    }
}

#[test]
fn a_truncated_y4m_delivers_its_complete_frames() {
    let rig = Rig::new();
    let frame = [&b"FRAME\n"[..], &[120; 64 * 48 * 3 / 2]].concat();
    let whole = [&b"YUV4MPEG2 W64 H48 F30:1\n"[..], &frame, &frame, &frame].concat();
    fs::write(rig.path("cut.y4m"), &whole[..whole.len() - 1000]).unwrap();
    let recv = rig.recv("frames", &[]);
    let sent = rig.send("cut.y4m", &[]).end();
    let error = sent.failed(1, "source");
    assert!(message(&error).contains("frame 3"), "{error}");
    assert_eq!(sent.summary()["keyframes"]["sent"], 2);
    recv.says("the sender said goodbye: failed");
    recv.signal(Signal::INT);
    let received = recv.end();
    received.well();
    assert_eq!(received.summary()["keyframes"]["verified"], 2);
}

#[test]
fn unwritable_directories_are_reported() {
    let rig = Rig::new();
    fs::write(rig.path("file"), b"").unwrap();
    for out in ["file", "file/below", "/proc/none"] {
        rig.recv(out, &[]).end().failed(1, "output");
        rig.send("pattern", &["--save", out]).end().failed(1, "output");
        rig.send("pattern", &["--stats", out]).end().failed(1, "output");
    }
    let error = rig.send("pattern", &["--dump", "file/dump"]).end().failed(1, "output");
    assert!(message(&error).contains("file/dump"), "{error}");
    rig.recv("frames", &["--dump", "/proc/none"]).end().failed(1, "output");
}

/// A small file system, unmounted on drop.
struct SmallDisk<'p>(&'p Path);

impl<'p> SmallDisk<'p> {
    fn mount(path: &'p Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(path)
            .status()
            .is_ok_and(|status| status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_keeps_what_was_received() {
    let rig = Rig::new();
    let path = rig.path("disk");
    let Some(disk) = SmallDisk::mount(&path, "300k") else {
        assert!(!rustix::process::getuid().is_root(), "root could not mount a tmpfs");
        eprintln!("SKIPPED a_full_disk_keeps_what_was_received: only root can mount a small disk");
        return;
    };
    let recv = rig.recv("disk/frames", &[]);
    let send = rig.send("pattern:640x360", &["--max-bytes", "30KB", "--save", "sent"]);
    let line = recv.says("trying again");
    assert!(line.contains("disk/frames") && line.contains("free some disk space"), "{line}");
    let written = recv.events("keyframe").len();
    std::thread::sleep(Duration::from_secs(1));
    recv.signal(Signal::INT);
    let received = recv.end();
    let error = received.failed(1, "output");
    assert!(message(&error).contains("disk/frames"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("disk space"), "{error}");
    assert_eq!(received.summary()["keyframes"]["received"], written, "the connection stays up");
    assert!(received.summary()["keyframes"]["unwritten"].as_u64().unwrap() > 1);
    send.signal(Signal::INT);
    send.end().well();

    let frames = disk.0.join("frames");
    let journal = fs::read_to_string(frames.join("frames.jsonl")).unwrap();
    assert!(journal.ends_with('\n'), "{journal}");
    let mut complete = 0;
    for line in journal.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let data = fs::read(frames.join(line["file"].as_str().unwrap())).unwrap();
        assert_eq!(line["sha256"], sha256(&data));
        assert_eq!(line["verified"], true);
        complete += 1;
    }
    assert!(complete >= 2, "{journal}");
    assert_eq!(received.summary()["keyframes"]["received"], complete);
    // No file under its final name is incomplete, not even those of the keyframe that did not fit.
    let sent: Vec<Vec<u8>> = fs::read_dir(rig.path("sent"))
        .unwrap()
        .map(|e| fs::read(e.unwrap().path()).unwrap())
        .collect();
    for entry in fs::read_dir(&frames).unwrap() {
        let path = entry.unwrap().path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("h264") => assert!(sent.contains(&fs::read(&path).unwrap()), "{path:?}"),
            Some("jpg") => assert_eq!(image::open(&path).unwrap().width(), 640),
            Some("jsonl") => {}
            other => panic!("unexpected {other:?} file: {path:?}"),
        }
    }
}

/// Asserts that every line of the journal has its complete file and that the numbers have no gaps; returns the number of
/// lines.
fn check_journal(frames: &Path) -> usize {
    let journal = fs::read_to_string(frames.join("frames.jsonl")).unwrap();
    assert!(journal.ends_with('\n'), "{journal}");
    for (index, line) in journal.lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["seq"], index + 1, "{line}");
        let data = fs::read(frames.join(line["file"].as_str().unwrap())).unwrap();
        assert_eq!(line["sha256"], sha256(&data));
        assert_eq!(line["verified"], true);
    }
    let count = journal.lines().count();
    // The access unit, its picture, and the journal.
    assert_eq!(fs::read_dir(frames).unwrap().count(), 2 * count + 1, "incomplete files");
    count
}

#[test]
fn writing_resumes_when_a_full_disk_has_space_again() {
    let rig = Rig::new();
    let path = rig.path("disk");
    let Some(_disk) = SmallDisk::mount(&path, "300k") else {
        assert!(!rustix::process::getuid().is_root(), "root could not mount a tmpfs");
        eprintln!(
            "SKIPPED writing_resumes_when_a_full_disk_has_space_again: only root can mount a small disk"
        );
        return;
    };
    let recv = rig.recv("disk/frames", &["--stats", "disk/stats", "--stats-interval", "100ms"]);
    let send = rig.send(
        "pattern:640x360",
        &["--max-bytes", "30KB", "--save", "disk/sent", "--stats", "disk/stats"],
    );
    recv.says("trying again");
    recv.says("cannot write statistics");
    send.says("trying again");
    let (written, sent) = (recv.events("keyframe").len(), send.events("keyframe").len());
    send.event("keyframe", sent + 5);
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&path).status();
    assert!(grown.unwrap().success());
    recv.says("output: back after");
    recv.says("--stats can be written again");
    // The keyframes that were waiting, and new ones.
    recv.event("keyframe", written + 10);
    send.says("output: back after");
    send.signal(Signal::INT);
    let sent = send.end();
    sent.well();
    recv.says("the sender said goodbye");
    recv.signal(Signal::INT);
    let received = recv.end();
    received.well();
    for ended in [&sent, &received] {
        assert_eq!(ended.summary()["keyframes"]["unwritten"], 0);
    }
    assert!(received.summary()["unwrittenStatistics"].as_u64().unwrap() > 0);
    let count = check_journal(&path.join("frames"));
    assert_eq!(received.summary()["keyframes"]["verified"], count);
    // No received keyframe is lost; the last one or two may not have been delivered yet.
    let saved = fs::read_to_string(path.join("sent/frames.jsonl")).unwrap().lines().count();
    assert_eq!(sent.summary()["keyframes"]["sent"], saved);
    assert!(count + 2 >= saved, "{count} of {saved}");
    for file in ["stats.jsonl", "stats-2.jsonl", "keyframes.jsonl", "keyframes-2.jsonl"] {
        let text = fs::read_to_string(path.join("stats").join(file)).unwrap();
        for line in text.lines() {
            serde_json::from_str::<Value>(line)
                .unwrap_or_else(|error| panic!("{file}: {error}: {line}"));
        }
    }
}

/// Changes the open file limit of a running command.
fn limit_files(running: &crate::run::Running, maximum: u64) {
    let pid = rustix::process::Pid::from_raw(running.pid() as i32).unwrap();
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let new = rustix::process::Rlimit { current: Some(maximum), ..limits };
    rustix::process::prlimit(Some(pid), rustix::process::Resource::Nofile, new).unwrap();
}

#[test]
fn keyframes_wait_for_file_descriptors() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--view", "127.0.0.1:0"]);
    let send = rig.send("pattern:320x240", &["--max-bytes", "10KB"]);
    recv.event("keyframe", 2);
    // Fewer than are already open: neither a file nor a connection can be opened.
    limit_files(&recv, 5);
    let line = recv.says("Too many open files");
    assert!(line.contains("ulimit -n"), "{line}");
    let page = recv.event("page", 1)["url"].as_str().unwrap().to_owned();
    let page: std::net::SocketAddr = page["http://".len()..].trim_end_matches('/').parse().unwrap();
    let waiting = std::net::TcpStream::connect(page).unwrap();
    let written = recv.events("keyframe").len();
    std::thread::sleep(Duration::from_secs(2));
    limit_files(&recv, 512);
    recv.says("output: back after");
    recv.event("keyframe", written + 10);
    // The page responds again, also to the client that connected in the meantime.
    for mut stream in [waiting, std::net::TcpStream::connect(page).unwrap()] {
        stream.set_read_timeout(Some(HANG)).unwrap();
        let request = format!("GET /mode HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    send.signal(Signal::INT);
    send.end().well();
    recv.says("the sender said goodbye");
    recv.signal(Signal::INT);
    let received = recv.end();
    received.well();
    assert_eq!(received.summary()["keyframes"]["unwritten"], 0);
    assert_eq!(received.summary()["keyframes"]["received"], check_journal(&rig.path("frames")));
}

#[test]
fn invalid_urls_and_conflicting_flags_are_usage_errors() {
    let dir = tempfile::tempdir().unwrap();
    for words in [
        &["recv", "--signal", "http://127.0.0.1:1"][..],
        &["recv", "--signal", "127.0.0.1:1"],
        &["recv", "--signal", "ws://"],
        &["recv", "--signal", "ws://u:p@127.0.0.1:1"],
        &["recv", "--signal", "ws://192.0.2.1"],
        &["recv", "--token-url", "ftp://127.0.0.1"],
        &["recv", "--count", "0"],
        &["send", "--source", "pattern", "--count", "0"],
        &["demo", "--source", "pattern", "--count", "0"],
        &["recv", "--device", ""],
        &["recv", "--ice-policy", "relay", "--candidates", "host"],
        &["recv", "--turn-username", "u"],
        &["recv", "--ice-server", "turn:127.0.0.1:1"],
        &["recv", "--ice-server", "http://127.0.0.1:1"],
        &["recv", "--interface", "none0"],
        &["serve", "--listen", "0.0.0.0:0"],
    ] {
        let ended = run(dir.path(), &[words, &["--json"][..]].concat());
        ended.failed(2, "config");
    }
    for words in [
        &["recv", "--format", "bmp"][..],
        &["recv", "--timeout", "soon"],
        &["send", "--source", "pattern", "--interval", "1ms"],
        &["send", "--source", "pattern", "--max-bytes", "10"],
        &["send", "--source", "pattern", "--size", "0x0"],
        &["send", "--source", "camera:x"],
        &["recv", "--no-such-flag"],
        &["recv", "--count", "-1"],
    ] {
        let ended = run(dir.path(), &[words, &["--json"][..]].concat());
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("try '--help'"), "{words:?}: {}", ended.stderr);
        assert_eq!(ended.json().last().unwrap()["error"]["exit"], 2, "{words:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "files were written");
}

/// Sends `answer` on every connection, for as long as the test runs; keeps connections open if it is empty.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            if answer.is_empty() {
                held.push(stream);
                continue;
            }
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
        }
    });
    format!("ws://{address}")
}

fn token(device: &str, pair: &str, secret: &str, exp_in: i64) -> String {
    let key = Key::from_secret_or_pem(&Secret::from(secret)).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = Claims {
        sub: device.into(),
        pair_id: pair.into(),
        exp: now.saturating_add_signed(exp_in),
        iat: Some(now.saturating_add_signed(exp_in) - 300),
        nbf: None,
        iss: None,
        aud: None,
        jti: None,
    };
    mint(&SigningKeys::new(vec![key]).unwrap(), &claims).unwrap()
}

#[test]
fn servers_of_another_protocol_are_reported() {
    const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 5\r\n\
        connection: close\r\n\r\nhello";
    const NOISE: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n";
    let dir = tempfile::tempdir().unwrap();
    let jwt = token("mac", "demo", SECRET, 300);
    let (page, noise, silent) = (answering(PAGE), answering(NOISE), answering(b""));
    let down = unused_server();
    let cases = [
        (&page, None, "token"),
        (&page, Some(&jwt), "signaling"),
        (&noise, None, "token"),
        (&noise, Some(&jwt), "signaling"),
        (&silent, None, "token"),
        (&silent, Some(&jwt), "signaling"),
        (&down, None, "token"),
        (&down, Some(&jwt), "signaling"),
    ];
    std::thread::scope(|scope| {
        for (url, jwt, stage) in cases {
            let dir = dir.path();
            scope.spawn(move || {
                let mut words = vec!["recv", "--json", "--signal", url];
                words.extend(jwt.iter().flat_map(|jwt| ["--token", jwt.as_str()]));
                let error = run(dir, &words).failed(1, stage);
                let address = url.trim_start_matches("ws://");
                assert!(message(&error).contains(address), "{error}");
            });
        }
    });
}

#[test]
fn rejected_tokens_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("secret"), SECRET).unwrap();
    let more =
        ["--jwt-secret", "@secret", "--db", "pairs.db", "--add-pair", "demo:phone:mac:someone"];
    let (_server, address, _) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &more);
    let signal = format!("ws://{address}");
    let recv =
        |token: &str| run(dir.path(), &["recv", "--json", "--signal", &signal, "--token", token]);
    let other = "another secret of thirty-two bytes and more";
    for (jwt, stage, names) in [
        (token("mac", "demo", SECRET, -3600), "token", "expired"),
        (token("mac", "demo", other, 300), "token", "401"),
        (token("tablet", "demo", SECRET, 300), "signaling", "403"),
        (token("mac", "another", SECRET, 300), "signaling", "403"),
        (token("mac", "demo", SECRET, 300), "room", "did not join"),
        ("not.a.jwt".into(), "token", ""),
        ("x".into(), "token", ""),
    ] {
        let ended = if stage == "room" {
            let words = ["recv", "--json", "--signal", &signal, "--token", &jwt, "--timeout", "1s"];
            run(dir.path(), &words)
        } else {
            recv(&jwt)
        };
        let error = ended.failed(1, stage);
        assert!(message(&error).contains(names), "{names}: {error}");
        assert!(!ended.stderr.contains(&jwt) || jwt.len() < 20, "the token is printed");
    }
    // A modified signature.
    let mut forged = token("mac", "demo", SECRET, 300);
    let last = forged.pop().unwrap();
    forged.insert(forged.len() - 5, if last == 'A' { 'B' } else { 'A' });
    recv(&forged).failed(1, "token");
    // A third device at the token API of a dev server.
    let rig = Rig::new();
    let error = rig.recv("frames", &["--device", "tablet"]).end().failed(1, "token");
    assert!(message(&error).contains("403"), "{error}");
    let error = rig.recv("frames", &["--pair", "another"]).end().failed(1, "token");
    assert!(message(&error).contains("403"), "{error}");
    let error = rig.recv("frames", &["--access-token", "forged"]).end().failed(1, "token");
    assert!(message(&error).contains("401"), "{error}");
}

#[test]
fn a_peer_that_never_joins_is_reported() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--timeout", "1s"]);
    let error = recv.end().failed(1, "room");
    assert!(message(&error).contains("1s"), "{error}");
    let error = rig.send("pattern", &["--timeout", "1s"]).end().failed(1, "room");
    assert!(message(&error).contains("did not join"), "{error}");
    let demo = ["demo", "--json", "--source", "camera:99"];
    run(rig.dir.path(), &demo).failed(1, "source");
}

#[test]
fn a_sender_that_stops_sending_is_reported() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--timeout", "1s"]);
    let send = rig.send("pattern:320x240", &["--interval", "1h"]);
    let received = recv.end();
    let error = received.failed(1, "video");
    assert!(message(&error).contains("no keyframe arrived"), "{error}");
    assert_eq!(received.summary()["keyframes"]["verified"], 1);
    send.signal(Signal::INT);
    send.end().well();
}

#[test]
fn a_second_recv_of_the_same_device_takes_over() {
    let rig = Rig::new();
    let first = rig.recv("first", &[]);
    let send = rig.send("pattern:320x240", &[]);
    first.event("keyframe", 2);
    let second = rig.recv("second", &["--count", "2"]);
    let first = first.end();
    let error = first.failed(1, "signaling");
    assert!(message(&error).contains("4502"), "{error}");
    assert!(error["remedy"].as_str().unwrap().contains("same device"), "{error}");
    assert!(first.summary()["keyframes"]["verified"].as_u64().unwrap() >= 2);
    let second = second.end();
    second.well();
    assert_eq!(second.summary()["keyframes"]["verified"], 2);
    send.signal(Signal::INT);
    send.end().well();
}

/// A runtime for the test peers.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(HANG, work).await.expect("the test peer hangs") })
}

fn http(rig: &Rig) -> String {
    rig.signal.replace("ws://", "http://")
}

/// A device of the pair that the test controls.
pub fn test_peer(rig: &Rig, device: &str, role: PeerRole) -> Call {
    let tokens = TokenClient::new(&http(rig), "dev", device.into(), None).unwrap();
    let mut peer = PeerConfig::new(role);
    peer.addresses.retain(std::net::IpAddr::is_loopback);
    Call::start(CallConfig::new(ClientConfig::new(&rig.signal, Arc::new(tokens)), peer))
}

/// Waits until the test peer's control channel is open.
pub async fn open(link: &mut Call) {
    loop {
        match link.next().await {
            CallEvent::Peer(PeerEvent::ControlOpen) => return,
            CallEvent::Failed(error) | CallEvent::Refused(error) => panic!("{error}"),
            _ => {}
        }
    }
}

/// Invalid messages: too long, or malformed for their `t`.
fn garbage() -> Vec<ControlMessage> {
    let number = |value: f64| serde_json::Number::from_f64(value).unwrap();
    vec![
        ControlMessage::Text { id: Id::Number(1), text: "x".repeat(70_000) },
        // NaN becomes `null` in JSON, where a number is required.
        ControlMessage::Keyframe(KeyframeInfo {
            sent_at: None,
            seq: u64::MAX,
            rtp_timestamp: 0,
            capture_time: f64::NAN,
            bytes: u64::MAX,
            sha256: "\u{0}".repeat(1000),
            width: u32::MAX,
            height: 0,
        }),
        ControlMessage::Unknown,
        ControlMessage::Pong { id: Id::Text("unrequested".into()), ts: number(-1e300), at: None },
        ControlMessage::Ack {
            id: None,
            error: Some("\u{1b}[31mred\u{7}".into()),
            width: None,
            height: None,
        },
        ControlMessage::Text {
            id: Id::Text(String::new()),
            text: "\u{1b}]0;title\u{7}\r\n".into(),
        },
        ControlMessage::Set {
            id: None,
            settings: Settings {
                interval_ms: Some(u64::MAX),
                max_bytes: Some(u64::MAX),
                width: Some(u32::MAX),
                height: Some(0),
            },
        },
    ]
}

#[test]
fn garbage_and_a_flood_do_not_stop_recv() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--count", "2"]);
    block_on(async {
        let mut link = test_peer(&rig, "phone", PeerRole::Sender);
        open(&mut link).await;
        let peer = link.peer().unwrap();
        // The responses of the peer must be read.
        let drain = tokio::spawn(async move {
            loop {
                let event = link.next().await;
                if matches!(event, CallEvent::Bye(..)) {
                    link.close("test").await;
                    return;
                }
            }
        });
        for message in garbage() {
            // A message over the channel's size limit is rejected before it is sent.
            let _ = peer.send_control(&message).await;
        }
        for number in 0..3000 {
            let text = ControlMessage::Text { id: Id::Number(number), text: "flood ".repeat(20) };
            peer.send_control(&text).await.unwrap();
            if number % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let mut encoder = KeyframeEncoder::new(EncoderConfig::default()).unwrap();
        for shade in [40, 200] {
            let frame =
                Frame::from_i420(320, 240, &vec![shade; 320 * 240 * 3 / 2], SystemTime::now())
                    .unwrap();
            let unit = encoder.encode(&frame).unwrap().access_unit;
            peer.send_access_unit(&unit).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        drain.await.unwrap();
    });
    let received = recv.end();
    let lines = received.well();
    let texts: Vec<&Value> = lines.iter().filter(|line| line["kind"] == "text").collect();
    assert!(texts.len() > 100, "{}", texts.len());
    for text in [&received.stderr, &received.stdout.join("\n")] {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "a terminal would execute it");
    }
    assert_eq!(lines.last().unwrap()["keyframes"]["received"], 2);
    for frame in lines.iter().filter(|line| line["kind"] == "keyframe") {
        assert_eq!(frame["verified"], Value::Null, "the sender announced no hash: {frame}");
        assert_eq!(frame["undecoded"], Value::Null);
    }
}

#[test]
fn garbage_and_a_flood_of_requests_do_not_speed_up_send() {
    let rig = Rig::new();
    let send = rig.send("pattern:320x240", &["--interval", "1h"]);
    block_on(async {
        let mut link = test_peer(&rig, "mac", PeerRole::Receiver);
        open(&mut link).await;
        let peer = link.peer().unwrap();
        let drain = tokio::spawn(async move {
            while !matches!(link.next().await, CallEvent::Bye(..)) {}
            link.close("test").await;
        });
        for message in garbage() {
            let _ = peer.send_control(&message).await;
        }
        for _ in 0..40 {
            for _ in 0..50 {
                let request = ControlMessage::KeyframeRequest { reason: None };
                peer.send_control(&request).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        let last = ControlMessage::Text { id: Id::Number(9), text: "the last".into() };
        while !send.events("text").iter().any(|text| text["text"] == "the last") {
            peer.send_control(&last).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        send.signal(Signal::INT);
        drain.await.unwrap();
    });
    let sent = send.end();
    let lines = sent.well();
    let times: Vec<f64> = lines
        .iter()
        .filter(|line| line["kind"] == "keyframe")
        .map(|line| line["captureTime"].as_f64().unwrap())
        .collect();
    assert!(times.len() >= 2, "no request was honored: {}", sent.stderr);
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 0.29), "{times:?}");
    assert!(!sent.stderr.contains("set the interval"), "{}", sent.stderr);
    assert!(!sent.stderr.contains('\u{1b}'));
}

/// A bare WebSocket in the pair's room.
async fn socket(
    rig: &Rig,
    device: &str,
) -> tokio_tungstenite::WebSocketStream<tokio::net::TcpStream> {
    let tokens = TokenClient::new(&http(rig), "dev", device.into(), None).unwrap();
    let jwt = tokens.fetch().await.unwrap().token;
    let mut request = format!("{}/api/signal", rig.signal).into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
    let stream =
        tokio::net::TcpStream::connect(rig.signal.trim_start_matches("ws://")).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

const VP8_OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 98\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\n\
    a=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:00:\
00:00:00:00:00:00:00:00:00\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:98 VP9/90000\r\n";

#[test]
fn an_offer_without_h264_is_rejected_with_the_codecs_it_has() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    recv.says("joined the room");
    let refused = block_on(async {
        let mut phone = socket(&rig, "phone").await;
        let mut say = async |message: Value| {
            phone.send(WsFrame::text(message.to_string())).await.unwrap();
        };
        // An unknown type is answered by the server, not relayed, and the socket stays open.
        say(json!({"t": "later", "pairId": "demo", "what": 1})).await;
        say(json!({"t": "ice", "pairId": "demo", "candidate": null})).await;
        say(json!({"t": "ice", "pairId": "demo", "candidate": {"candidate": "garbage"}})).await;
        say(json!({"t": "answer", "pairId": "demo", "sdp": "an answer to nothing"})).await;
        say(json!({"t": "offer", "pairId": "demo", "sdp": VP8_OFFER})).await;
        let (mut unknown, mut bye) = (false, false);
        while !(unknown && bye) {
            let Some(Ok(WsFrame::Text(text))) = phone.next().await else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            unknown |= message["t"] == "error" && message["code"] == "unknown-type";
            bye |= message["t"] == "bye";
        }
        recv.end()
    });
    let error = refused.failed(1, "video");
    for codec in ["H.264", "VP8", "VP9"] {
        assert!(message(&error).contains(codec), "{error}");
    }
}

#[test]
fn invalid_descriptions_are_rejected() {
    for sdp in ["", "v=0\r\n", "\u{0}\u{1}garbage", &VP8_OFFER.replace("VP8", "H264")[..300]] {
        let rig = Rig::new();
        let recv = rig.recv("frames", &[]);
        recv.says("joined the room");
        let refused = block_on(async {
            let mut phone = socket(&rig, "phone").await;
            let offer = json!({"t": "offer", "pairId": "demo", "sdp": sdp});
            phone.send(WsFrame::text(offer.to_string())).await.unwrap();
            recv.end()
        });
        assert_eq!(refused.code, Some(1), "{sdp}: {}", refused.stderr);
        assert!(refused.stderr.contains("\n  try: "), "{sdp}: {}", refused.stderr);
    }
}

#[test]
fn a_port_in_use_is_reported() {
    let rig = Rig::new();
    let address = rig.signal.trim_start_matches("ws://");
    let second = start(rig.dir.path(), &["serve", "--json", "--listen", address]).end();
    let error = second.failed(1, "server");
    assert!(message(&error).contains(address), "{error}");
}
