//! `check`: our own server conforms to every rule, and a server with one fault violates exactly the rules it
//! should. Every rule is violated at least once.

mod fault;
mod faulty;
mod room;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use orion_peer::{
    auth::secret::Secret,
    check::{
        JSON_SCHEMA,
        junit::junit,
        level::Level,
        plan::{CheckConfig, Device, OtherPair, Selection, Timeouts},
        result::{CheckReport, Outcome},
        rules, run, text,
    },
    pairs::Pair,
    server::{Server, ServerConfig, TokenRates},
    signaling::server::limits::{Limits, Rate, Timings},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use self::{
    fault::{Fault, QUICK, Row, SLOW},
    faulty::{Faulty, POLICY, SECRET},
};
use crate::certificates::Certificates;

/// Number of servers checked concurrently.
const MAX_CONCURRENT: usize = 6;

fn timeouts() -> Timeouts {
    Timeouts {
        quiet: Duration::from_millis(300),
        handshake: Duration::from_secs(7),
        dead: Duration::from_secs(5),
        grace: Duration::from_secs(4),
        revocation: Duration::from_secs(2),
        restart: Duration::from_secs(5),
        ..Timeouts::default()
    }
}

fn device(id: &str) -> Device {
    Device { id: id.into(), login: Some(Secret::from("dev")) }
}

fn config(scheme: [&str; 2], addr: impl std::fmt::Display) -> CheckConfig {
    let [signal, token] = scheme;
    let signal = format!("{signal}://{addr}/api/signal").parse().unwrap();
    let token = format!("{token}://{addr}/api/auth/webrtc-token").parse().unwrap();
    let mut config = CheckConfig::new(signal, token, device("phone"), device("mac"));
    config.other = Some(OtherPair { pair: "p2".into(), device: device("phone2") });
    config.timeouts = timeouts();
    config
}

/// Runs a check, and asserts that its report matches the schema and can be shown.
async fn checked(config: CheckConfig) -> CheckReport {
    let report = run::run(config, &|_, _| {}, std::future::pending()).await.unwrap();
    let json = serde_json::to_value(&report).unwrap();
    let schema = serde_json::from_str(JSON_SCHEMA).unwrap();
    let validator =
        jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&json).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let page = text::text(&report);
    let xml = junit(&report);
    let document = roxmltree::Document::parse(&xml).unwrap();
    let cases = document.descendants().filter(|node| node.has_tag_name("testcase")).count();
    assert_eq!(cases, report.cases.len());
    for secret in ["eyJ", "typ host", "a=group", SECRET] {
        assert!(!page.contains(secret) && !xml.contains(secret), "{secret} in {page}");
    }
    report
}

/// Ids of the rules that are slow, or of those that are not.
fn of_speed(slow: bool) -> Vec<String> {
    rules::all().filter(|rule| rule.slow == slow).map(|rule| rule.id.to_owned()).collect()
}

fn ids(report: &CheckReport, outcome: Outcome) -> BTreeSet<&str> {
    report.with(outcome).map(|case| case.id.as_str()).collect()
}

/// How the violations of a fault differ from the expected ones; `None` when they do not.
async fn surprise(row: &Row, slow: bool) -> Option<String> {
    let (fault, only, broken) = *row;
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let tls = slow.then(|| TlsAcceptor::from(Arc::clone(&certificates.config)));
    let server = Faulty::start(fault, slow, tls).await;
    let scheme = if slow { ["wss", "https"] } else { ["ws", "http"] };
    let mut config = config(scheme, server.addr);
    if slow {
        config.trust = certificates.trust();
        let touch = |name: &str| Some(format!("touch '{}/{name}'", server.dir.path().display()));
        config.revoke_command = touch("revoke");
        config.restart_command = touch("restart");
        config.slow = true;
    }
    config.jwt_secret = Some(Secret::from(SECRET));
    config.issuer = Some(POLICY[0].into());
    config.audience = Some(POLICY[1].into());
    config.selection = Selection {
        only: Some(only.to_owned()).filter(|only| !only.is_empty()).into_iter().collect(),
        skip: of_speed(!slow),
    };
    let report = checked(config).await;
    let failed = ids(&report, Outcome::Fail);
    let not_run = ids(&report, Outcome::NotRun);
    let expected: BTreeSet<&str> = broken.iter().copied().collect();
    if failed == expected && not_run.is_empty() && !report.partial {
        return None;
    }
    let page = text::text(&report);
    Some(format!("{fault:?} violated {failed:?}, not {expected:?}; not run {not_run:?}\n{page}"))
}

async fn surprises(rows: &[Row], slow: bool) -> String {
    let found = stream::iter(rows).map(|row| surprise(row, slow)).buffer_unordered(MAX_CONCURRENT);
    found.filter_map(std::future::ready).collect::<Vec<_>>().await.join("\n\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_violates_its_rules_and_no_other() {
    let surprises = surprises(&QUICK[..QUICK.len() / 2], false).await;
    assert!(surprises.is_empty(), "{surprises}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_further_fault_violates_its_rules_and_no_other() {
    let surprises = surprises(&QUICK[QUICK.len() / 2..], false).await;
    assert!(surprises.is_empty(), "{surprises}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_slow_fault_violates_its_rule_and_no_other() {
    let surprises = surprises(SLOW, true).await;
    assert!(surprises.is_empty(), "{surprises}");
}

#[test]
fn every_rule_is_violated_by_a_fault() {
    let broken: BTreeSet<&str> =
        [QUICK, SLOW].concat().iter().flat_map(|(_, _, broken)| *broken).copied().collect();
    let all: BTreeSet<&str> = rules::all().map(|rule| rule.id).collect();
    assert_eq!(broken, all);
}

#[tokio::test]
async fn a_server_with_only_the_bold_fields_passes_level_production() {
    let server = Faulty::start(Fault::Bare, false, None).await;
    let mut config = config(["ws", "http"], server.addr);
    config.level = Level::Production;
    config.jwt_secret = Some(Secret::from(SECRET));
    let report = checked(config.clone()).await;
    assert_eq!(ids(&report, Outcome::Fail), BTreeSet::new());
    assert!(report.pass && report.counts.passed > 25, "{:?}", report.counts);
    config.level = Level::Strict;
    config.selection.only = vec!["signal.*".into(), "token.401-*".into()];
    config.timeouts.answer = Duration::from_millis(500);
    let report = checked(config).await;
    let failed = ids(&report, Outcome::Fail);
    assert!(failed.contains("signal.hello") && failed.contains("token.401-no-login"), "{failed:?}");
}

/// Our own server with limits that a run reaches, and a known secret; `hasty` shortens the contract's long
/// timings.
async fn own(hasty: bool) -> ServerConfig {
    use orion_peer::auth::{
        jws::{Key, SigningKeys},
        jwt::{Policy, Verifier},
    };
    let mut config = ServerConfig::dev().await.unwrap();
    let key = Key::from_secret_or_pem(&Secret::from(SECRET)).unwrap();
    let policy = Policy { issuer: Some(POLICY[0].into()), audience: Some(POLICY[1].into()) };
    config.verifier = Verifier::new(SigningKeys::new(vec![key]).unwrap(), policy);
    let second = Pair::active("p2", "dev-user", "phone2", "mac2", 1);
    config.store.add(&second).await.unwrap();
    let rate = Rate::new(250, Duration::from_secs(1));
    config.token_rates = Some(TokenRates { per_address: rate, per_user: rate });
    config.signaling.limits = Limits { handshakes: Some(rate), ..Limits::for_one_machine() };
    if hasty {
        config.header_within = Duration::from_secs(1);
        config.signaling.timings = Timings {
            ping_every: Duration::from_secs(1),
            pong_within: Duration::from_secs(1),
            expiry_grace: Duration::from_secs(1),
            revocation_poll: Duration::from_millis(100),
            ..Timings::default()
        };
    }
    config
}

async fn conforms_to_every_rule(slow: bool, cannot_be_run: &[&str]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(own(slow).await, listener).await.unwrap();
    let mut config = config(["ws", "http"], server.local_addr());
    config.jwt_secret = Some(Secret::from(SECRET));
    config.issuer = Some(POLICY[0].into());
    config.audience = Some(POLICY[1].into());
    config.slow = slow;
    config.selection.skip = of_speed(!slow);
    let dir = tempfile::tempdir().unwrap();
    let asked = dir.path().join("revoke");
    config.revoke_command = Some(format!("touch '{}'", asked.display()));
    let store = Arc::clone(server.store());
    let revoking = tokio::spawn(async move {
        while !asked.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.revoke(&"demo".into(), 2).await.unwrap();
    });
    let report = checked(config).await;
    revoking.abort();
    let page = text::text(&report);
    assert_eq!(ids(&report, Outcome::Fail), BTreeSet::new(), "{page}");
    let cannot_be_run: BTreeSet<&str> = cannot_be_run.iter().copied().collect();
    assert_eq!(ids(&report, Outcome::NotRun), cannot_be_run, "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_server_conforms_to_every_rule() {
    conforms_to_every_rule(false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_server_conforms_to_every_slow_rule() {
    // The server has no TLS here, and a restart requires a separate process: see scripts/test.sh.
    conforms_to_every_rule(true, &["handshake.slow-tls", "close.1012-restart"]).await;
}

/// A server that answers every connection with the same bytes, or not at all.
async fn answering(bytes: Option<&'static [u8]>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut rest = [0; 4096];
                if let Some(bytes) = bytes {
                    let _ = stream.read(&mut rest).await;
                    let _ = stream.write_all(bytes).await;
                    return;
                }
                while matches!(stream.read(&mut rest).await, Ok(read) if read > 0) {}
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_server_that_hangs_resets_or_sends_garbage_violates_rules_but_does_not_end_the_run() {
    const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>";
    const TOKEN: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n{\"token\":\"\xff\0\",\"iceServers\":[[],7]}";
    const SWITCH: &[u8] =
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff{";
    let servers =
        [None, Some(&b""[..]), Some(b"\0\xff\0\xff"), Some(PAGE), Some(TOKEN), Some(SWITCH)];
    let cases = servers.into_iter().flat_map(|bytes| [(bytes, false), (bytes, true)]);
    stream::iter(cases)
        .for_each_concurrent(None, |(bytes, own_tokens)| async move {
            let mut config = config(["ws", "http"], answering(bytes).await);
            config.pair = Some("demo".into());
            if own_tokens {
                // Get as far as the WebSocket, regardless of the token API.
                (config.phone.login, config.mac.login) = (None, None);
                config.jwt_secret = Some(Secret::from(SECRET));
            }
            config.timeouts.answer = Duration::from_millis(100);
            config.timeouts.quiet = Duration::from_millis(20);
            let report = checked(config).await;
            assert!(!report.pass, "{bytes:?}: {:?}", report.counts);
            // A missing token or failing handshake is reported once, not once per rule; SWITCH accepts all.
            let max = if bytes == Some(SWITCH) { 70 } else { 30 };
            assert!((2..max).contains(&report.counts.failed), "{bytes:?}: {:?}", report.counts);
            assert!(report.counts.passed < 6, "{bytes:?}: {:?}", report.counts);
        })
        .await;
}

#[tokio::test]
async fn failed_prerequisites_are_reported_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::start(own(false).await, listener).await.unwrap();
    let mut usual = config(["ws", "http"], server.local_addr());
    usual.selection.only = vec!["token.*".into(), "handshake.*".into(), "signal.*".into()];

    let mut wrong_login = usual.clone();
    wrong_login.phone.login = Some(Secret::from("wrong"));
    let report = checked(wrong_login).await;
    assert_eq!(ids(&report, Outcome::Fail), BTreeSet::from(["token.200"]));
    let hello = report.cases.iter().find(|case| case.id == "signal.hello").unwrap();
    assert_eq!(hello.seen, "token.200 failed");

    let mut other_path = usual.clone();
    other_path.signal.set_path("/elsewhere");
    let report = checked(other_path).await;
    let failed = ids(&report, Outcome::Fail);
    assert!(failed.contains("handshake.101") && failed.len() < 8, "{failed:?}");
    let hello = report.cases.iter().find(|case| case.id == "signal.hello").unwrap();
    assert!(
        hello.seen.starts_with("the signaling server is not served at its URL"),
        "{}",
        hello.seen
    );

    let mut other_key = usual;
    (other_key.phone.login, other_key.mac.login) = (None, None);
    other_key.pair = Some("demo".into());
    other_key.jwt_secret = Some(Secret::from("another secret of thirty-two bytes"));
    let report = checked(other_key).await;
    let failed = ids(&report, Outcome::Fail);
    assert!(failed.contains("handshake.101") && failed.len() < 5, "{failed:?}");
    let hello = report.cases.iter().find(|case| case.id == "signal.hello").unwrap();
    assert_eq!(hello.seen, "handshake.101 failed");
}

#[tokio::test]
async fn a_stopped_run_is_reported_as_partial() {
    let addr = answering(None).await;
    let stop = tokio::time::sleep(Duration::from_millis(100));
    let report = run::run(config(["ws", "http"], addr), &|_, _| {}, stop).await.unwrap();
    assert!(report.partial && !report.pass);
    assert_eq!(report.cases.len(), rules::all().count());
}
