//! Tests the server log with hand-made datagrams.

use super::*;
use crate::stun::message::Builder;
use crate::tls::Trust;

const STUN: &str = "stun:ice.example:3478";
const TURN: &str = "turn:ice.example:3478?transport=udp";
const ENDPOINT: &str = "ice.example:3478";

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn server() -> SocketAddr {
    "192.0.2.1:3478".parse().unwrap()
}

fn local() -> SocketAddr {
    "10.0.0.2:5000".parse().unwrap()
}

fn log(urls: &[&str]) -> ServerLog {
    log_over(&[IceServer {
        urls: urls.iter().map(|&url| url.to_owned()).collect(),
        username: Some("phone".into()),
        credential: Some("hush".into()),
    }])
}

fn log_over(servers: &[IceServer]) -> ServerLog {
    ServerLog::new(servers, &StreamServers::new(servers, Trust::web(), None))
}

/// A log whose server's name is resolved.
fn resolved(urls: &[&str]) -> ServerLog {
    let mut log = log(urls);
    log.lookup_started(at(0), ENDPOINT);
    log.lookup_ended(ENDPOINT, Ok(vec![server()]));
    log
}

fn outcomes(log: &ServerLog) -> Vec<GatherOutcome> {
    log.results().into_iter().map(|result| result.outcome).collect()
}

fn request(method: u16, id: u8, username: Option<&str>) -> Vec<u8> {
    let request = Builder::new(Class::Request, method, [id; 12]);
    match username {
        Some(name) => request.attribute(attr::USERNAME, name.as_bytes()).finish(),
        None => request.finish(),
    }
}

fn refusal(method: u16, id: u8, code: u16) -> Vec<u8> {
    Builder::new(Class::Error, method, [id; 12])
        .error(code, "No\u{1b}pe")
        .attribute(attr::REALM, b"realm")
        .attribute(attr::NONCE, b"nonce")
        .finish()
}

fn allocated(id: u8) -> Vec<u8> {
    Builder::new(Class::Success, method::ALLOCATE, [id; 12])
        .address(attr::XOR_RELAYED_ADDRESS, "198.51.100.1:50000".parse().unwrap())
        .attribute(attr::LIFETIME, &600_u32.to_be_bytes())
        .finish()
}

fn mapped(id: u8) -> Vec<u8> {
    Builder::new(Class::Success, method::BINDING, [id; 12])
        .address(attr::XOR_MAPPED_ADDRESS, "203.0.113.9:7000".parse().unwrap())
        .finish()
}

/// Sends an Allocate request, gets challenged, and sends it again as `phone`.
fn request_allocation(log: &mut ServerLog, from: u64, id: u8) {
    assert!(log.sent(at(from), local(), server(), &request(method::ALLOCATE, id, None), None));
    assert!(log.received(at(from + 10), &refusal(method::ALLOCATE, id, 401)));
    let again = request(method::ALLOCATE, id + 1, Some("phone"));
    assert!(log.sent(at(from + 10), local(), server(), &again, None));
}

/// TURN over TCP is delayed in favor of UDP, and this delay does not count as the server's.
#[test]
fn a_deferred_connection_is_timed_from_its_start() {
    let mut log = resolved(&[TURN]);
    log.connection_deferred(local(), server());
    log.sent(at(5), local(), server(), &request(method::ALLOCATE, 1, None), None);
    log.sent(at(505), local(), server(), &request(method::ALLOCATE, 1, None), None);
    assert_eq!(outcomes(&log), [GatherOutcome::Unused]);
    log.connection_started(at(750), local(), server());
    log.received(at(752), &refusal(method::ALLOCATE, 1, 401));
    let again = request(method::ALLOCATE, 2, Some("phone"));
    log.sent(at(752), local(), server(), &again, None);
    log.received(at(753), &allocated(2));
    let result = &log.results()[0];
    assert_eq!((result.first_request, result.took), (Some(at(750)), Some(at(3))));
}

#[test]
fn stun_and_turn_on_one_port_are_distinguished() {
    let mut log = resolved(&[STUN, TURN]);
    assert_eq!(outcomes(&log), [GatherOutcome::Unused, GatherOutcome::Unused]);
    log.sent(at(5), local(), server(), &request(method::BINDING, 1, None), None);
    request_allocation(&mut log, 6, 2);
    log.received(at(17), &mapped(1));
    assert_eq!(log.settled(at(20)), Err(Some(at(5006))));
    log.received(at(30), &allocated(3));
    let results = log.results();
    assert_eq!(results[0].outcome, GatherOutcome::Reflexive("203.0.113.9:7000".parse().unwrap()));
    assert_eq!((results[0].first_request, results[0].took), (Some(at(5)), Some(at(12))));
    let relayed = "198.51.100.1:50000".parse().unwrap();
    let lifetime = Duration::from_mins(10);
    assert_eq!(results[1].outcome, GatherOutcome::Allocated { relayed, lifetime });
    assert_eq!((results[1].first_request, results[1].took), (Some(at(6)), Some(at(24))));
    assert_eq!((results[1].url.as_str(), results[1].username.as_deref()), (TURN, Some("phone")));
    assert_eq!(log.settled(at(31)), Ok(()));
    assert_eq!(log.failures(at(60_000)), []);
}

#[test]
fn a_rejected_login_is_reported_immediately_and_only_once() {
    let mut log = resolved(&[TURN]);
    request_allocation(&mut log, 0, 1);
    assert_eq!(log.failures(at(11)), [], "the first 401 is only the challenge");
    assert!(log.received(at(20), &refusal(method::ALLOCATE, 2, 401)));
    let failure = ServerFailure { url: TURN.into(), code: 401, text: "Nope".into() };
    assert_eq!(log.failures(at(20)), [failure]);
    assert_eq!(log.failures(at(20_000)), []);
    assert_eq!(log.settled(at(20)), Ok(()));
    let result = &log.results()[0];
    assert_eq!(result.code().as_deref(), Some("turn-401"));
    assert_eq!(result.outcome, GatherOutcome::Refused { code: 401, reason: "Nope".into() });
}

#[test]
fn other_errors_need_no_login() {
    for code in [300, 403, 486, 508] {
        let mut log = resolved(&[TURN]);
        log.sent(at(0), local(), server(), &request(method::ALLOCATE, 1, None), None);
        log.received(at(9), &refusal(method::ALLOCATE, 1, code));
        assert_eq!(log.failures(at(9))[0].code, code);
    }
    // A 401 without realm and nonce cannot be answered with credentials.
    let mut log = resolved(&[TURN]);
    log.sent(at(0), local(), server(), &request(method::ALLOCATE, 1, None), None);
    let bare = Builder::new(Class::Error, method::ALLOCATE, [1; 12]).error(401, "").finish();
    log.received(at(9), &bare);
    assert_eq!(log.failures(at(9))[0].code, 401);
}

#[test]
fn an_allocation_on_one_address_outweighs_an_error_on_another() {
    let mut log = resolved(&[TURN]);
    request_allocation(&mut log, 0, 1);
    request_allocation(&mut log, 0, 3);
    log.received(at(20), &allocated(2));
    log.received(at(21), &refusal(method::ALLOCATE, 4, 486));
    assert!(matches!(outcomes(&log)[0], GatherOutcome::Allocated { .. }));
    assert_eq!(log.failures(at(60_000)), []);
}

#[test]
fn silence_is_reported_after_five_seconds() {
    let mut log = resolved(&[STUN]);
    let binding = request(method::BINDING, 1, None);
    assert!(log.sent(at(100), local(), server(), &binding, None));
    assert!(
        !log.sent(at(600), local(), server(), &binding, None),
        "a retransmission is not reported"
    );
    assert_eq!(outcomes(&log), [GatherOutcome::Silent { requests: 2 }]);
    assert_eq!(log.failures(at(5099)), []);
    assert_eq!(log.settled(at(5099)), Err(Some(at(5100))));
    let failure = &log.failures(at(5100))[0];
    assert_eq!((failure.code, failure.text.as_str()), (701, "it did not answer 2 requests"));
    assert_eq!(log.settled(at(5100)), Ok(()));
    // A late answer is still an answer.
    log.received(at(7000), &mapped(1));
    assert!(matches!(outcomes(&log)[0], GatherOutcome::Reflexive(_)));
}

#[test]
fn names_without_an_address_are_reported_once_known() {
    let mut log = log(&[STUN, "stuns:ice.example", "stun:"]);
    let left_out = log.failures(at(0));
    assert_eq!(left_out.len(), 2, "unusable servers are known immediately");
    assert_eq!(left_out[0].text, "it is ignored: stuns: is not supported");
    assert_eq!(log.settled(at(0)), Err(None));
    log.lookup_started(at(0), ENDPOINT);
    assert_eq!(log.failures(at(4999)), []);
    log.lookup_ended(ENDPOINT, Err("no such name".into()));
    assert_eq!(log.failures(at(4999))[0].text, "its name cannot be resolved: no such name");
    assert_eq!(log.settled(at(4999)), Ok(()));
    log.lookup_ended(ENDPOINT, Ok(Vec::new()));
    assert!(matches!(&outcomes(&log)[0], GatherOutcome::Unresolved(why) if why.contains("no")));
}

#[test]
fn unusable_servers_are_reported_with_the_reason() {
    let urls = ["turn://t:3478", "TURNS:t?transport=UDP", "turn:t/path", "stun:2001:db8::1", ""];
    let mut log = log(&urls);
    assert!(log.is_empty(), "no answer is awaited");
    let reasons = ["slashes", "DTLS", "path", "brackets", "scheme"];
    let failures = log.failures(at(0));
    assert_eq!(failures.len(), urls.len());
    for (failure, reason) in failures.iter().zip(reasons) {
        assert!(failure.text.contains(reason), "{failure:?}");
        assert_eq!(failure.code, UNREACHABLE);
    }
    assert_eq!(log.failures(at(1)), [], "each is reported once");
    for result in log.results() {
        assert!(
            result.remedy(std::time::SystemTime::now(), None).contains("turns:HOST"),
            "{result:?}"
        );
    }
    let without = |username: Option<&str>, credential: Option<&str>| IceServer {
        urls: vec!["turn:t".into()],
        username: username.map(str::to_owned),
        credential: credential.map(str::to_owned),
    };
    for server in [without(None, None), without(Some("u"), None), without(Some("u"), Some(""))] {
        let text = &log_over(std::slice::from_ref(&server)).failures(at(0))[0].text;
        assert!(text.contains("credential"), "{text}");
    }
}

#[test]
fn requests_that_cannot_be_sent_do_not_count_as_silence() {
    let mut log = resolved(&[STUN]);
    let error = || Some("Network is unreachable".to_owned());
    log.sent(at(0), local(), server(), &request(method::BINDING, 1, None), error());
    assert_eq!(outcomes(&log), [GatherOutcome::Unreachable("Network is unreachable".into())]);
    // Another local address can send.
    log.sent(at(1), local(), server(), &request(method::BINDING, 2, None), None);
    assert_eq!(outcomes(&log), [GatherOutcome::Silent { requests: 1 }]);
}

#[test]
fn unrelated_datagrams_are_not_counted() {
    let mut log = resolved(&[STUN, TURN]);
    let elsewhere = "192.0.2.2:3478".parse().unwrap();
    assert!(!log.sent(at(0), local(), elsewhere, &request(method::BINDING, 1, None), None));
    // Connectivity checks, refreshes, media.
    assert!(!log.sent(at(0), local(), server(), &request(method::BINDING, 2, Some("a:b")), None));
    assert!(!log.sent(at(0), local(), server(), &request(method::REFRESH, 3, None), None));
    assert!(!log.sent(at(0), local(), server(), &[0x80; 100], None));
    assert!(!log.received(at(0), &mapped(9)));
    assert!(!log.received(at(0), &[]));
    // An answer to a different request, and a truncated one.
    log.sent(at(0), local(), server(), &request(method::BINDING, 4, None), None);
    assert!(!log.received(at(1), &allocated(4)));
    assert!(!log.received(at(1), &mapped(4)[..28]));
    assert!(log.received(at(1), &mapped(4)));
    assert!(!log.received(at(2), &refusal(method::BINDING, 4, 500)), "the first one counts");
    assert!(matches!(outcomes(&log)[..], [GatherOutcome::Reflexive(_), GatherOutcome::Unused]));
}

#[test]
fn a_login_for_another_url_does_not_count() {
    let login = |name: &str| IceServer {
        urls: vec![TURN.into()],
        username: Some(name.into()),
        credential: Some("hush".into()),
    };
    let mut log = log_over(&[login("phone"), login("mac")]);
    log.lookup_started(at(0), ENDPOINT);
    log.lookup_ended(ENDPOINT, Ok(vec![server()]));
    request_allocation(&mut log, 0, 1);
    log.received(at(20), &allocated(2));
    assert!(matches!(outcomes(&log)[..], [GatherOutcome::Allocated { .. }, GatherOutcome::Unused]));
}

#[test]
fn ipv6_literals_get_brackets() {
    assert_eq!(bracketed("2001:db8::1:3478"), "[2001:db8::1]:3478");
    for good in ["[2001:db8::1]:3478", "192.0.2.1:3478", ENDPOINT] {
        assert_eq!(bracketed(good), good);
    }
}

const TLS: &str = "turns:ice.example";

/// A log with a server behind a stand-in address.
fn over_tls() -> (ServerLog, SocketAddr) {
    let mut log = log(&[TLS]);
    let (name, stand_in) = ("relay-1.invalid:5349", "240.0.0.1:5349".parse().unwrap());
    log.lookup_started(at(0), name);
    log.lookup_ended(name, Ok(vec![stand_in]));
    (log, stand_in)
}

#[test]
fn a_failed_connection_is_reported_immediately_under_its_own_url() {
    let (mut log, stand_in) = over_tls();
    log.sent(at(1), local(), stand_in, &request(method::ALLOCATE, 1, None), None);
    let error = DialError::Expired("ice.example".into());
    assert_eq!(log.connection_failed(at(9), local(), stand_in, error.clone()), None);
    let failure = &log.failures(at(9))[0];
    assert_eq!((failure.url.as_str(), failure.code), (TLS, 701));
    assert!(failure.text.contains("the certificate of ice.example"), "{}", failure.text);
    let result = &log.results()[0];
    assert_eq!(result.outcome, GatherOutcome::NotConnected(error));
    assert_eq!(result.code().as_deref(), Some("turn-tls-expired"));
    assert_eq!(result.took, Some(at(8)));
    assert_eq!(log.settled(at(9)), Ok(()));
}

#[test]
fn a_connection_from_another_local_address_is_awaited() {
    let (mut log, stand_in) = over_tls();
    let other: SocketAddr = "127.0.0.1:5001".parse().unwrap();
    let no_route = |address| DialError::Unreachable { address, reason: "no route".into() };
    // The failure may be known before the request.
    log.connection_failed(at(1), other, stand_in, no_route(stand_in));
    log.sent(at(1), other, stand_in, &request(method::ALLOCATE, 1, None), None);
    log.sent(at(1), local(), stand_in, &request(method::ALLOCATE, 2, None), None);
    assert_eq!(log.failures(at(2)), []);
    assert_eq!(outcomes(&log), [GatherOutcome::Silent { requests: 1 }]);
    log.connection_failed(at(3), local(), stand_in, DialError::Refused(stand_in));
    assert_eq!(outcomes(&log), [GatherOutcome::NotConnected(DialError::Refused(stand_in))]);
    assert_eq!(log.failures(at(3)).len(), 1);
}

#[test]
fn the_loss_of_an_allocation_is_reported() {
    let (mut log, stand_in) = over_tls();
    let ended = || DialError::Ended { address: server(), reason: "closed".into() };
    log.sent(at(1), local(), stand_in, &request(method::ALLOCATE, 1, None), None);
    log.received(at(2), &allocated(1));
    let other = "10.0.0.3:5000".parse().unwrap();
    assert_eq!(log.connection_failed(at(3), other, stand_in, ended()), None);
    let lost = log.connection_failed(at(3), local(), stand_in, ended()).unwrap();
    assert_eq!(lost.url, TLS);
    assert!(lost.text.contains("its relayed address is lost"), "{}", lost.text);
    assert!(
        matches!(outcomes(&log)[..], [GatherOutcome::Allocated { .. }]),
        "it had been allocated"
    );
}
