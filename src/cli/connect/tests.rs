//! Tests of the connection flags: meaning and validation.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Words {
    #[command(flatten)]
    connect: ConnectArgs,
}

fn resolve(words: &str) -> Result<ConnectConfig, Failure> {
    let words = std::iter::once("x").chain(words.split_whitespace());
    Words::try_parse_from(words)
        .map_err(|error| Failure::usage(error.to_string(), ""))?
        .connect
        .resolve("phone", SystemTime::UNIX_EPOCH)
}

#[test]
fn the_default_is_the_dev_server() {
    let config = resolve("").unwrap();
    assert_eq!(config.signal.as_str(), "ws://127.0.0.1:8787/api/signal");
    let TokenSource::Api { url, access_token } = &config.token else { panic!("{config:?}") };
    assert_eq!(url.as_str(), "http://127.0.0.1:8787/api/auth/webrtc-token");
    assert_eq!(access_token.expose(), "dev");
    assert_eq!(config.device.as_str(), "phone");
    assert_eq!(config.pair, None);
    assert!(config.ice_servers.is_empty());
    assert_eq!(config.candidates.len(), 3);
    assert_eq!(config.network, [AddressFamily::Udp4, AddressFamily::Udp6]);
    assert_eq!(config.timeout, None);
}

#[test]
fn the_signaling_path_is_kept_and_the_token_api_is_on_the_same_host() {
    let config = resolve("--signal wss://o.example/sig?x=1 --access-token a --device mac").unwrap();
    assert_eq!(config.signal.as_str(), "wss://o.example/sig?x=1");
    let TokenSource::Api { url, .. } = &config.token else { panic!("{config:?}") };
    assert_eq!(url.as_str(), "https://o.example/api/auth/webrtc-token");
    assert_eq!(config.device.as_str(), "mac");
}

#[test]
fn the_dev_login_token_is_sent_to_loopback_only() {
    for host in ["localhost:1", "127.0.0.9", "[::1]:8787"] {
        assert!(resolve(&format!("--signal ws://{host}")).is_ok(), "{host}");
    }
    for host in ["192.168.0.2", "o.example", "localhost.example", "[::2]"] {
        let failure = resolve(&format!("--signal ws://{host}")).unwrap_err();
        assert!(failure.remedy.contains("--access-token"), "{failure}");
    }
    let elsewhere = resolve("--token-url https://o.example/t").unwrap_err();
    assert!(elsewhere.message.contains("o.example"), "{elsewhere}");
    assert!(resolve("--signal wss://o.example --token a.b.c").is_ok());
}

#[test]
fn wrong_flags_are_rejected_with_a_remedy() {
    for (words, in_message) in [
        ("--signal 127.0.0.1:8787", "--signal"),
        ("--signal http://127.0.0.1", "scheme `http`"),
        ("--signal ws://u:p@127.0.0.1", "user name"),
        ("--token-url ftp://x", "scheme `ftp`"),
        ("--device=", "--device"),
        ("--turn-username u", "--turn-username without"),
        ("--turn-credential c", "--turn-credential without"),
        ("--turn-secret s --turn-username u", "--turn-secret cannot be used together"),
        ("--ice-policy relay --candidates host", "--candidates"),
    ] {
        let failure = resolve(words).unwrap_err();
        assert!(failure.message.contains(in_message), "{words}: {failure}");
        assert!(!failure.remedy.is_empty(), "{words}");
        assert_eq!(failure.exit, 2, "{words}");
    }
    for (words, in_message) in [
        ("--network tcp", "where UDP is blocked"),
        ("--network udp5", "udp4 or udp6"),
        ("--candidates prflx", "cannot be selected"),
        ("--candidates all", "host, srflx"),
        ("--timeout soon", "500ms"),
        ("--turn-credential @/nowhere/at/all", "/nowhere/at/all"),
    ] {
        let failure = resolve(words).unwrap_err();
        assert!(failure.message.contains(in_message), "{words}: {failure}");
    }
}

#[test]
fn lists_keep_their_order_without_duplicates() {
    let config = resolve("--candidates relay,host,relay --network udp6 --timeout 1m").unwrap();
    assert_eq!(config.candidates, [CandidateType::Relay, CandidateType::Host]);
    assert_eq!(config.network, [AddressFamily::Udp6]);
    assert_eq!(config.timeout, Some(Duration::from_mins(1)));
}

#[test]
fn debug_output_of_the_flags_contains_no_secret() {
    let words = "--token hush --access-token hush --turn-username u --turn-credential hush \
                 --ice-server turn:t.example";
    let words = std::iter::once("x").chain(words.split_whitespace());
    let args = Words::try_parse_from(words).unwrap();
    let config = args.connect.resolve("phone", SystemTime::UNIX_EPOCH).unwrap();
    assert!(!format!("{args:?}{config:?}").contains("hush"));
}
