//! Text output of the process: text from hostile servers, peers and files cannot control a terminal or a CI
//! runner; logs contain no secrets; an output pipe that is not read costs bounded memory; a configuration file
//! that happens to be in the working directory cannot redirect secrets.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use orion_peer::{signaling::client::token_client::TokenClient, text::printable::is_unprintable};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    self,
    client::IntoClientRequest,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::run::{Ended, HANG, Rig, follow, run, start};

/// Sets a terminal's title and color, starts a line with a CI runner command, reverses the writing direction.
const HOSTILE: &str = "HOSTILE\x1b]0;x\x07\x1b[31m\r\n::error::x ##[error]y\u{202e}\u{9b}31m";

/// A token with claims acceptable to the client, which cannot verify the signature.
fn token(header: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": "mac", "pairId": "demo", "exp": 99_999_999_999_u64});
    format!("{}.{}.c2ln", part(header), part(&claims))
}

/// Checks the output of a command against the rules. The hostile text must be in the output, otherwise nothing was
/// tested.
#[track_caller]
fn clean(what: &str, ended: &Ended) {
    let stdout = ended.stdout.join("\n");
    let text = format!("{}\n{stdout}", ended.stderr);
    assert!(text.contains("HOSTILE"), "{what}: the text is missing: {text:?}");
    clean_text(what, &text);
}

#[track_caller]
fn clean_text(what: &str, text: &str) {
    for line in text.split('\n') {
        assert!(!line.contains(is_unprintable), "{what}: {line:?}");
        assert!(!line.contains("##["), "{what}: {line:?}");
        let command = line.trim_start().strip_prefix("::").is_some_and(|rest| rest.contains("::"));
        assert!(!command, "{what}: {line:?}");
    }
}

/// Responds to each connection with `answer`, regardless of the request.
fn answers(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut request = [0; 8192];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&answer);
            });
        }
    });
    address
}

/// An HTTP response with this status and JSON body.
fn http(status: u16, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Nope\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.as_bytes().to_vec()].concat()
}

fn error_body() -> String {
    json!({"code": HOSTILE, "message": HOSTILE}).to_string()
}

#[test]
fn errors_of_the_token_api_are_only_displayed() {
    let dir = tempfile::tempdir().unwrap();
    for body in [error_body(), HOSTILE.to_owned()] {
        let url = format!("http://{}", answers(http(403, &body)));
        for json in [&[][..], &["--json"]] {
            let words = [&["token", "fetch", "--token-url", &url][..], json].concat();
            clean(&body, &run(dir.path(), &words));
        }
    }
    let answer = json!({"token": HOSTILE, "pairId": HOSTILE});
    let url = format!("http://{}", answers(http(200, &answer.to_string())));
    clean("a token", &run(dir.path(), &["token", "fetch", "--token-url", &url]));
}

#[test]
fn errors_of_the_upgrade_are_only_displayed() {
    let dir = tempfile::tempdir().unwrap();
    let token = token(&json!({"alg": "HS256"}));
    for body in [error_body(), HOSTILE.to_owned()] {
        let signal = format!("ws://{}", answers(http(403, &body)));
        for more in [&[][..], &["--json"], &["-vvv"]] {
            let words = ["recv", "--signal", &signal, "--token", &token, "--timeout", "5s"];
            clean(&body, &run(dir.path(), &[&words[..], more].concat()));
        }
    }
}

#[test]
fn reasons_of_close_frames_are_only_displayed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let signal = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut socket) = tungstenite::accept(stream.unwrap()) else { continue };
            let frame = CloseFrame { code: CloseCode::from(4403), reason: HOSTILE.into() };
            let _ = socket.close(Some(frame));
            while socket.read().is_ok() {}
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let token = token(&json!({"alg": "HS256"}));
    let words = ["recv", "--signal", &signal, "--token", &token, "--timeout", "3s"];
    clean("a close frame", &run(dir.path(), &words));
}

/// A session description without H.264 is rejected with a list of its codecs.
#[test]
fn names_of_codecs_are_only_displayed() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--once"]);
    let address = rig.signal.strip_prefix("ws://").unwrap();
    let url = format!("http://{address}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = TokenClient::new(&url, "dev", "phone".into(), None).unwrap();
    let token = runtime.block_on(client.fetch()).unwrap().token;
    let url = format!("{}/api/signal", rig.signal);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let stream = std::net::TcpStream::connect(address).unwrap();
    let mut phone = tungstenite::client(request, stream).unwrap().0;
    // Within a line of a description, the only possible line end is a lone carriage return.
    let codec = HOSTILE.replace("\r\n", "\r").replace('/', "");
    let sdp = format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
         a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n\
         a=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:96 {codec}/90000\r\n",
        ["AB"; 32].join(":")
    );
    let offer = json!({"t": "offer", "pairId": "demo", "sdp": sdp}).to_string();
    phone.send(tungstenite::Message::text(offer)).unwrap();
    clean("a codec", &recv.end());
}

#[test]
fn urls_of_ice_servers_are_only_displayed() {
    let answer = json!({
        "token": token(&json!({"alg": "HS256"})), "pairId": "demo",
        "iceServers": [{"urls": [format!("stun:{HOSTILE}"), "turn:127.0.0.1:1", "stun:127.0.0.1:1"]}],
    });
    let url = format!("http://{}", answers(http(200, &answer.to_string())));
    let signal = url.replace("http:", "ws:");
    let dir = tempfile::tempdir().unwrap();
    let words = ["doctor", "--signal", &signal, "--token-url", &url, "--timeout", "3s"];
    clean("doctor", &run(dir.path(), &words));
}

#[test]
fn key_ids_of_a_login_service_are_only_logged() {
    // The public key of RFC 7515, appendix A.3, twice with the same id, which causes a warning.
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": HOSTILE,
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let set = json!({"keys": [key, key]}).to_string();
    let jwks = format!("http://{}/jwks.json", answers(http(200, &set)));
    let dir = tempfile::tempdir().unwrap();
    let login = token(&json!({"alg": "ES256", "kid": HOSTILE}));
    for format in ["text", "json"] {
        let words = [
            "serve",
            "--json",
            "--no-turn",
            "--listen",
            "127.0.0.1:0",
            "--db",
            "p.db",
            "--jwt-secret",
        ];
        let more = [
            "0123456789abcdef0123456789abcdef",
            "--login-jwks",
            &jwks,
            "--login-issuer",
            "x",
            "-vvv",
        ];
        let words = [&words[..], &more, &["--log-format", format, "--drain", "0s"]].concat();
        let server = start(dir.path(), &words);
        let address = server.event("listening", 1)["address"].as_str().unwrap().to_owned();
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let body = json!({"deviceId": "phone"}).to_string();
        write!(
            stream,
            "POST /api/auth/webrtc-token HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\
             Authorization: Bearer {login}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).unwrap();
        server.says("a second key with this id");
        server.signal(Signal::INT);
        clean(format, &server.end());
    }
}

#[test]
fn names_of_devices_are_only_listed() {
    let dir = tempfile::tempdir().unwrap();
    // `pairs add` rejects such a name, but a store may also be written by other software.
    let add =
        ["serve", "pairs", "add", "--db", "p.db", "--user", "u", "--phone", "p", "--mac", "m"];
    assert_eq!(run(dir.path(), &add).code, Some(0));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = format!("sqlite://{}", dir.path().join("p.db").display());
        let pool = sqlx::SqlitePool::connect(&path).await.unwrap();
        let columns: Vec<String> =
            sqlx::query_scalar("SELECT name FROM pragma_table_info('device_pairs')")
                .fetch_all(&pool)
                .await
                .unwrap();
        let phone = columns.iter().find(|name| name.contains("ios")).unwrap();
        let update = format!("UPDATE device_pairs SET {phone} = ?");
        let update = sqlx::query(sqlx::AssertSqlSafe(update)).bind(HOSTILE);
        update.execute(&pool).await.unwrap();
        pool.close().await;
    });
    for json in [&[][..], &["--json"]] {
        let words = [&["serve", "pairs", "list", "--db", "p.db"][..], json].concat();
        clean("pairs list", &run(dir.path(), &words));
    }
}

/// `ORION_LOG=trace` also logs the messages of crates, but no secrets.
#[test]
fn a_trace_of_a_call_contains_no_secret() {
    let rig = Rig::new();
    let traced = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
        command.args(words).args(["--json", "--signal", &rig.signal, "--access-token", "dev"]);
        command.current_dir(rig.dir.path()).env_clear().env("HOME", rig.dir.path());
        command.env("ORION_LOG", "trace,tungstenite=trace");
        follow(words.join(" "), command)
    };
    let recv = traced(&["recv", "--out", "frames", "--count", "2", "--dump", "recv.json"]);
    let send = traced(&[
        "send",
        "--source",
        "pattern:320x240",
        "--interval",
        "0.2s",
        "--count",
        "2",
        "--dump",
        "send.json",
    ]);
    let (sent, received) = (send.end(), recv.end());
    let mut secrets = Vec::new();
    for dump in ["send.json", "recv.json"] {
        let dump = fs::read_to_string(rig.path(dump)).unwrap();
        for (at, found) in dump.match_indices("a=ice-pwd:") {
            let rest = &dump[at + found.len()..];
            let end = rest.find(['\\', '"']).unwrap();
            secrets.push(rest[..end].to_owned());
        }
    }
    assert!(secrets.iter().any(|secret| secret.len() >= 22), "no ICE password in the dumps");
    for log in [&sent.stderr, &received.stderr] {
        assert!(log.contains("TRACE"), "nothing was traced: {log}");
        for secret in &secrets {
            assert!(!log.contains(secret), "an ICE password: {}", line_with(log, secret));
        }
        assert!(!log.contains("Bearer dev"), "{}", line_with(log, "Bearer dev"));
        for (at, _) in log.match_indices("eyJ") {
            let word = log[at..].split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
            let dots = word.take(1).next().unwrap().matches('.').count();
            assert!(dots < 2, "a token: {}", line_with(log, &log[at..at + 20]));
        }
    }
}

fn line_with<'l>(log: &'l str, words: &str) -> &'l str {
    log.lines().find(|line| line.contains(words)).unwrap_or_default()
}

/// Maximum memory growth of a `recv` whose stdout is not read, in bytes: the queue, and the usual growth during a
/// call.
const MAX_GROWN: u64 = 24_000_000;

fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

fn wait_for_frames(dir: &Path, count: usize) -> usize {
    let limit = Instant::now() + HANG;
    loop {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let frames =
            entries.filter(|entry| entry.path().extension().is_some_and(|end| end == "h264"));
        let frames = frames.count();
        if frames >= count {
            return frames;
        }
        assert!(Instant::now() < limit, "only {frames} of {count} keyframes arrived");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_unread_output_costs_bounded_memory_and_no_keyframe() {
    let rig = Rig::new();
    let out = rig.path("frames");
    let mut recv = Command::new(env!("CARGO_BIN_EXE_orion-peer"))
        .args(["recv", "--json", "--out", "frames", "--format", "h264", "--signal", &rig.signal])
        .current_dir(rig.dir.path())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut send = rig.send("pattern:320x240", &[]);
    wait_for_frames(&out, 2);
    let before = memory(recv.id());
    // More than 30 MB, in texts of the maximum length.
    let text = "x".repeat(4_000);
    for _ in 0..8_000 {
        send.type_line(&text);
        std::thread::sleep(Duration::from_millis(1));
    }
    let frames = wait_for_frames(&out, 3);
    wait_for_frames(&out, frames + 5);
    let grown = memory(recv.id()).saturating_sub(before);
    // Now the output is read, and reports how much is missing.
    let mut lines = BufReader::new(recv.stdout.take().unwrap()).lines();
    let events = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let mut texts = 0;
    let mut left_out = None;
    for event in events {
        texts += u64::from(event["kind"] == "text");
        if event["kind"] == "left-out" {
            left_out = event["count"].as_u64();
            break;
        }
    }
    let pid = Pid::from_raw(i32::try_from(recv.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    for line in lines {
        line.unwrap();
    }
    assert_eq!(recv.wait().unwrap().code(), Some(0));
    send.kill();
    assert!(left_out > Some(0) && texts > 0, "{left_out:?} left out, {texts} texts");
    assert!(grown < MAX_GROWN, "{grown} bytes more");
}

/// Runs `token fetch` with a configuration file and variables.
fn fetch(file: &str, text: &str, variables: &[(&str, &str)], words: &[&str]) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(file), text).unwrap();
    fs::write(dir.path().join("own"), "hush").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
    command.args(["token", "fetch"]).args(words).current_dir(dir.path());
    command.env_clear().env("HOME", dir.path()).envs(variables.iter().copied());
    follow(format!("token fetch with {text}"), command).end()
}

#[test]
fn a_file_in_the_working_directory_cannot_redirect_secrets() {
    let elsewhere = tempfile::NamedTempFile::new().unwrap();
    fs::write(elsewhere.path(), "hush").unwrap();
    let secret = [("ORION_ACCESS_TOKEN", "hush")];
    let there = "token-url = 'http://orion-peer.invalid'";
    let refused = |what: &str, ended: &Ended, key: &str| {
        assert_eq!(ended.code, Some(2), "{what}: {}", ended.stderr);
        for words in [&format!("`{key}` in `./orion-peer.toml`"), "--access-token", "--config"] {
            assert!(ended.stderr.contains(words), "{what}: no {words}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("hush"), "{what}: {}", ended.stderr);
    };
    // The lookup of the name fails: exit code 1.
    let asked = |what: &str, ended: &Ended| {
        assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains("orion-peer.invalid"), "{what}: {}", ended.stderr);
    };
    let file = "orion-peer.toml";
    refused("a variable", &fetch(file, there, &secret, &[]), "token-url");
    refused("a flag", &fetch(file, there, &[], &["--access-token", "hush"]), "token-url");
    let signal = "[token.fetch]\nsignal = 'wss://orion-peer.invalid'";
    refused("over TLS, in a section", &fetch(file, signal, &secret, &[]), "signal");
    let reading = format!("{there}\naccess-token = '@{}'", elsewhere.path().display());
    refused("a file elsewhere", &fetch(file, &reading, &[], &[]), "token-url");
    let pin = format!("tls-pin = ['{}']", "5f".repeat(32));
    let words = ["--token-url", "https://orion-peer.invalid"];
    refused("a certificate", &fetch(file, &pin, &secret, &words), "tls-pin");

    asked("named", &fetch("mine.toml", there, &secret, &["--config", "mine.toml"]));
    asked("named, with the usual name", &fetch(file, there, &secret, &["--config", file]));
    let variables = [secret[0], ("ORION_CONFIG", file)];
    asked("named by a variable", &fetch(file, there, &variables, &[]));
    asked("all in one file", &fetch(file, &format!("{there}\naccess-token = 'hush'"), &[], &[]));
    let own = format!("{there}\naccess-token = '@own'");
    asked("a secret in the same directory", &fetch(file, &own, &[], &[]));
    let words = ["--token-url", "http://orion-peer.invalid"];
    asked("overridden", &fetch(file, "token-url = 'http://192.0.2.1'", &secret, &words));
    let here = fetch(file, "token-url = 'http://127.0.0.1:1'", &secret, &[]);
    assert_eq!(here.code, Some(1), "this machine: {}", here.stderr);
}
