//! Servers with minimal setup: `serve --lan` in its own network namespace, pairs and login tokens without a database or
//! a login service, and the server's own page.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::{
    raw_http::request,
    run::{self, Ended, Running, follow},
};

const ORION_PEER: &str = env!("CARGO_BIN_EXE_orion-peer");

const SIGNING: &str = "0123456789abcdef0123456789abcdef";
const LOGIN: &str = "fedcba9876543210fedcba9876543210";

/// Sets up a single interface with an address, as on a local network.
const NETWORK: &str = "ip link set lo up && ip link add lan0 type veth peer name lan1 && \
    ip link set lan1 up && ip address add 192.0.2.7/24 dev lan0 && ip link set lan0 up && exec \"$@\"";

/// `serve` in its own network namespace.
struct Lan {
    dir: tempfile::TempDir,
    serve: Running,
}

impl Lan {
    fn start(words: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--", "sh", "-c", NETWORK, "sh"]);
        command.arg(ORION_PEER).args(["serve", "--lan"]).args(words);
        let serve = follow(words.join(" "), clean(command, dir.path()));
        Self { dir, serve }
    }

    /// Starts a command in the namespace.
    fn inside(&self, words: &[&str]) -> Running {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.serve.pid().to_string()]);
        command.args(["--user", "--preserve-credentials", "--net", "--", ORION_PEER]).args(words);
        follow(words.join(" "), clean(command, self.dir.path()))
    }

    fn run(&self, words: &[&str]) -> Ended {
        let mut running = self.inside(words);
        running.end_input();
        running.end()
    }
}

/// Clears the developer's environment, but keeps the programs that create the namespace.
fn clean(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).env_clear().env("HOME", dir);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// The commands that `serve` prints, as a shell would read them.
fn printed_commands(lines: &[String]) -> Vec<Vec<String>> {
    let text = lines.join("\n").replace("\\\n", " ");
    let commands = text.lines().filter_map(|line| line.strip_prefix("  orion-peer "));
    commands.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn a_phone_on_the_local_network_joins_in_one_step() {
    let lan = Lan::start(&["--json"]);
    let listening = lan.serve.event("listening", 1);
    lan.serve.says("to join from the phone");
    let pin = listening["tlsSha256"].as_str().unwrap().to_owned();
    let urls = listening["urls"].as_array().unwrap();
    assert_eq!(urls.len(), 1, "neither loopback nor link-local: {urls:?}");
    assert_eq!(urls[0]["signalUrl"], "wss://192.0.2.7:8787/api/signal");
    assert_eq!(urls[0]["pageUrl"], "https://192.0.2.7:8787/");
    assert_eq!(listening["turn"], "192.0.2.7:3478");
    let login = listening["lan"]["loginToken"].as_str().unwrap();
    let join = format!("https://192.0.2.7:8787/#device=phone&pair=demo&login={login}&pin={pin}");
    assert_eq!(listening["lan"]["joinUrl"], join.as_str());

    let printed = lan.serve.stderr_lines();
    for line in printed.iter().filter(|line| !line.contains('#')) {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.contains("127.0.0.1"), "{line:?}");
    }
    let commands = printed_commands(&printed);
    let [recv, send] = commands.as_slice() else { panic!("two commands expected: {printed:#?}") };
    let words = |command: &[String], more: &[&'static str]| -> Vec<String> {
        command.iter().cloned().chain(more.iter().map(ToString::to_string)).collect()
    };
    let recv = words(recv, &["--count", "1", "--json"]);
    let recv = lan.inside(&recv.iter().map(String::as_str).collect::<Vec<_>>());
    recv.says("joined the room");
    let send = words(send, &["--count", "1", "--interval", "100ms", "--json"]);
    let sent = lan.run(&send.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(sent.summary()["keyframes"]["sent"], 1);
    assert_eq!(recv.end().summary()["keyframes"]["verified"], 1);

    lan.serve.says("mac joined (pair demo) from 192.0.2.7");
    lan.serve.says("phone joined (pair demo) from 192.0.2.7");
    lan.serve.says("phone left after ");
    let joined = lan.serve.event("joined", 2);
    assert_eq!((&joined["deviceId"], &joined["client"]), (&"phone".into(), &"192.0.2.7".into()));
    assert!(lan.serve.event("left", 1)["afterS"].as_f64().is_some());
}

#[test]
fn nothing_is_accepted_without_a_token_on_the_local_network() {
    let lan = Lan::start(&["--json", "--qr"]);
    let listening = lan.serve.event("listening", 1);
    let pin = listening["tlsSha256"].as_str().unwrap();
    let login = listening["lan"]["loginToken"].as_str().unwrap();
    let fetch = |login: &str, more: &[&str]| {
        let signal =
            ["token", "fetch", "--signal", "wss://192.0.2.7:8787", "--access-token", login];
        lan.run(&[&signal[..], &["--device", "phone", "--json"], more].concat())
    };
    // The login token of the dev server is public.
    let refused = fetch("dev", &["--tls-pin", pin]);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("login token"), "{}", refused.stderr);
    lan.serve.says("rejected: bad login token");
    assert_eq!(lan.serve.event("refused", 1)["code"], "login-required");

    let unpinned = fetch(login, &[]);
    assert_eq!(
        unpinned.code,
        Some(1),
        "the certificate is not trusted without its pin: {}",
        unpinned.stderr
    );

    let fetched = fetch(login, &["--tls-pin", pin]);
    let answer = &fetched.well()[0];
    let servers = answer["iceServers"].to_string();
    assert!(servers.contains("turn:192.0.2.7:3478?transport=udp"), "{servers}");
    assert!(!servers.contains("0.0.0.0") && !servers.contains("127.0.0.1"), "{servers}");
    // Over loopback, the same server has another address, and so does its relay.
    let here = ["token", "fetch", "--signal", "wss://127.0.0.1:8787", "--tls-pin", pin, "--json"];
    let local = lan.run(&[&here[..], &["--access-token", login, "--device", "mac"]].concat());
    let servers = local.well()[0]["iceServers"].to_string();
    assert!(servers.contains("turn:127.0.0.1:3478?transport=udp"), "{servers}");
    assert!(lan.serve.stderr_lines().iter().any(|line| line.contains('\u{2588}')), "a QR code");
}

#[test]
fn pairs_and_login_tokens_need_no_database_and_no_login_service() {
    let dir = tempfile::tempdir().unwrap();
    let serve = run::start(
        dir.path(),
        &[
            "serve",
            "--json",
            "--no-turn",
            "--listen",
            "127.0.0.1:0",
            "--jwt-secret",
            SIGNING,
            "--login-secret",
            LOGIN,
            "--add-pair",
            "p1:iphone:macbook:user-1",
            "--add-pair",
            "p1:iphone:macbook:user-1",
        ],
    );
    let signal = serve.event("listening", 1)["signalUrl"].as_str().unwrap().to_owned();
    serve.says("pairs are kept in memory only");
    let mint = ["token", "mint", "--login", "--user", "user-1", "--login-secret", LOGIN];
    let minted = run::run(dir.path(), &mint);
    assert_eq!(minted.code, Some(0), "{}", minted.stderr);
    let login = minted.stdout[0].clone();
    let fetch = |login: &str| {
        let words = ["token", "fetch", "--signal", &signal, "--access-token", login, "--json"];
        run::run(dir.path(), &[&words[..], &["--device", "iphone"]].concat())
    };
    let fetched = fetch(&login);
    assert_eq!(fetched.well()[0]["pairId"], "p1");
    // Another user does not have this pair, and a token signed with another secret is rejected.
    let other = run::run(dir.path(), &["token", "mint", "--login", "--login-secret", LOGIN]);
    assert!(fetch(&other.stdout[0]).stderr.contains("no active pair"));
    let foreign = ["token", "mint", "--login", "--user", "user-1", "--login-secret", SIGNING];
    let foreign = run::run(dir.path(), &foreign);
    assert!(fetch(&foreign.stdout[0]).stderr.contains("signature"));

    let json = run::run(dir.path(), &[&mint[..], &["--json", "--lifetime", "2h"]].concat());
    let line: &Value = &json.well()[0];
    assert_eq!((&line["kind"], &line["user"]), (&"login-token".into(), &"user-1".into()));
    for (words, expected) in [
        (&["token", "mint", "--login"][..], "no secret to sign the login token with"),
        (&["token", "mint", "--login", "--login-secret", "short"], "--login-secret"),
        (&["token", "mint", "--device", "d", "--user", "u"], "--user requires --login"),
        (&["token", "mint", "--pair", "p", "--secret", SIGNING], "--device is missing"),
    ] {
        let ended = run::run(dir.path(), words);
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{words:?}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn the_servers_own_page_may_connect() {
    let dir = tempfile::tempdir().unwrap();
    let flags =
        ["serve", "--json", "--no-turn", "--listen", "127.0.0.1:0", "--jwt-secret", SIGNING];
    let more = ["--login-secret", LOGIN, "--add-pair", "p:i:m:u"];
    for (page, allowed) in [(true, 401), (false, 403)] {
        let page: &[&str] = if page { &["--page"] } else { &[] };
        let serve = run::start(dir.path(), &[&flags[..], &more, page].concat());
        let address = serve.event("listening", 1)["address"].as_str().unwrap().to_owned();
        let socket = async |origin: &str, host: &str| {
            let (origin, host) = (format!("Origin: {origin}"), format!("Host: {host}"));
            let headers = [
                host.as_str(),
                &origin,
                "Connection: Upgrade",
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
            ];
            request(address.parse().unwrap(), "GET /api/signal", &headers, "").await.status
        };
        // The request has no token; tokens are checked after the origin.
        assert_eq!(socket(&format!("http://{address}"), &address).await, allowed);
        assert_eq!(socket("http://evil.example", &address).await, 403);
        assert_eq!(socket(&format!("https://{address}"), &address).await, 403, "another scheme");
    }
}
