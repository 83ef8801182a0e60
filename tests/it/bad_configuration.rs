//! `serve` with invalid settings: rejected at startup, with the name of the setting and a remedy, before it creates or
//! listens on anything.

use std::fs;

use crate::run::run;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Arguments after `serve --listen 127.0.0.1:0`, and a word that the error must contain.
const WRONG: [(&str, &str); 67] = [
    ("--jwt-secret short", "32"),
    ("--jwt-secret @nofile", "--jwt-secret"),
    ("--jwt-secret SECRET", "--db"),
    ("--jwt-previous-secret SECRET", "--jwt-secret"),
    ("--jwt-keys /nowhere --db p.db", "--jwt-keys"),
    ("--jwt-jwks ftp://x", "--jwt-jwks"),
    ("--jwt-secret SECRET --db https://x.supabase.co", "--db-key"),
    ("--jwt-secret SECRET --db http://x.example --db-key k", "https://"),
    ("--jwt-secret SECRET --db mysql://x", "--db"),
    ("--jwt-secret SECRET --db p.db --db-cache 31s", "--db-cache"),
    ("--jwt-secret SECRET --db p.db --db-cache abc", "--db-cache"),
    ("--db postgres://u@h/d", "ORION_JWT_SECRET"),
    ("--login-jwks ftp://x", "--login-jwks"),
    ("--login-jwks https://x/y --jwt-secret SECRET --db p.db", "--login-issuer"),
    ("--login-issuer https://x", "--login-jwks"),
    ("--login-secret SECRET --jwt-jwks https://x/j --db p.db", "--jwt-secret"),
    ("--allow-origin https://a.example/", "--allow-origin"),
    ("--allow-origin HTTPS://A.example", "--allow-origin"),
    ("--allow-origin a.example", "--allow-origin"),
    ("--allow-origin https://*.example", "--allow-origin"),
    ("--allow-origin https://a.example:443", "--allow-origin"),
    ("--tls-cert a.pem", "--tls-key"),
    ("--tls-key a.pem", "--tls-cert"),
    ("--tls-cert a.pem --tls-key b.pem", "a.pem"),
    ("--tls-self-signed --tls-cert a.pem --tls-key b.pem", "--tls-self-signed"),
    ("--max-message 65KiB", "--max-message"),
    ("--max-message 1", "--max-message"),
    ("--max-sockets 0", "--max-sockets"),
    ("--max-connections 0", "--max-connections"),
    ("--max-body 1", "--max-body"),
    ("--queue-messages 0", "--queue-messages"),
    ("--queue-bytes 1", "--queue-bytes"),
    ("--socket-rate off", "--socket-rate"),
    ("--socket-rate 0:1/s", "--socket-rate"),
    ("--ip-rate 5", "--ip-rate"),
    ("--pair-rate 1:1/day", "--pair-rate"),
    ("--user-rate 1", "--user-rate"),
    ("--token-ip-rate 1:0/s", "--token-ip-rate"),
    ("--token-user-rate x", "--token-user-rate"),
    ("--header-timeout 0", "--header-timeout"),
    ("--tls-timeout 1d", "--tls-timeout"),
    ("--body-timeout soon", "--body-timeout"),
    ("--trusted-proxy 10.0.0.0/33", "--trusted-proxy"),
    ("--proxy-header forwarded", "--trusted-proxy"),
    ("--metrics-listen 127.0.0.1", "--metrics-listen"),
    ("--drain 1d", "--drain"),
    ("--log-format xml", "--log-format"),
    ("--bus http://x", "--bus"),
    ("--bus-password x", "--bus"),
    ("--bus redis://127.0.0.1:1 --bus-ca ca.pem", "--bus-ca"),
    ("--ice-server foo", "--ice-server"),
    ("--ice-server turn:x:1", "--ice-credential"),
    ("--ice-username u", "--ice-credential"),
    ("--twilio-account AC1", "--twilio-secret"),
    ("--twilio-ttl 1h", "--twilio-ttl"),
    ("--twilio-ttl 5h", "--twilio-account"),
    ("--twilio-url https://x", "--twilio-account"),
    ("--ice-username u --ice-credential c", "turn:HOST"),
    ("--turn-ttl 5s", "--turn-ttl"),
    ("--token-ttl 6m", "--token-ttl"),
    ("--turn-quota many", "--turn-quota"),
    ("--turn-quota 5", "--no-turn"),
    ("--turn-secret SECRET", "--no-turn"),
    ("--turn-listen 127.0.0.1", "IP:PORT"),
    ("--metrics-listen localhost:1", "IP:PORT"),
    ("--add-pair p:a:a", "two different devices"),
    ("--issuer=", "--issuer"),
];

#[test]
fn errors_about_invalid_settings_name_them_and_leave_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for (words, named) in WRONG {
        let more = words.replace("SECRET", SECRET);
        let mut line = vec!["serve", "--listen", "127.0.0.1:0", "--no-turn"];
        line.extend(more.split(' '));
        let ended = run(dir.path(), &line);
        let said = &ended.stderr;
        if ended.code != Some(2) || !said.contains(named) || said.contains("listening") {
            wrong.push(format!("{words}: {:?}, `{named}` expected: {said}", ended.code));
        }
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().flatten().collect();
        if !left.is_empty() {
            wrong.push(format!("{words}: {left:?} was created"));
            for file in left {
                fs::remove_file(file.path()).unwrap();
            }
        }
        assert!(!said.contains(SECRET), "{words}: {said}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn settings_in_the_file_are_checked_like_flags() {
    let dir = tempfile::tempdir().unwrap();
    for (text, named) in [
        ("[serve]\nmax-sockets = 0\n", "max-sockets"),
        ("[serve]\nmax-socket = 5\n", "max-sockets"),
        ("[serve]\nip-rate = \"5\"\n", "ip-rate"),
        ("[serve]\nbus = \"http://x\"\n", "bus"),
        ("[serve]\ntls-cert = \"a.pem\"\n", "tls-key"),
    ] {
        fs::write(dir.path().join("orion-peer.toml"), text).unwrap();
        let ended = run(dir.path(), &["serve", "--listen", "127.0.0.1:0", "--no-turn"]);
        assert_eq!(ended.code, Some(2), "{text}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{text}: {}", ended.stderr);
    }
}

#[test]
fn listing_pairs_does_not_create_a_missing_store() {
    let dir = tempfile::tempdir().unwrap();
    for line in [&["list"][..], &["revoke", "p"]] {
        let line = [&["serve", "pairs"], line, &["--db", "typo.db"]].concat();
        let ended = run(dir.path(), &line);
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains("pair store `typo.db` does not exist"), "{}", ended.stderr);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn check_reports_an_unreachable_server_in_its_junit_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("c.xml"), "from the previous run").unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/api/signal", listener.local_addr().unwrap());
    drop(listener);
    let ended = run(dir.path(), &["check", "--signal", &url, "--junit", "c.xml", "--json"]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let line: serde_json::Value = serde_json::from_str(&ended.stdout.join("")).unwrap();
    assert_eq!(line["error"]["code"], "unreachable", "{line}");
    let written = fs::read_to_string(dir.path().join("c.xml")).unwrap();
    let document = roxmltree::Document::parse(&written).unwrap();
    let error = document.descendants().find(|node| node.has_tag_name("error")).unwrap();
    assert!(error.attribute("message").unwrap().contains("cannot connect"), "{written}");
}
