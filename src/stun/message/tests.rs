//! Tests with the vectors of RFC 5769 and with corrupted messages.

use super::*;

/// RFC 5769 §2.1: sample request with software, priority, tie-breaker, username, integrity
/// (short-term password `VOkJxbRl1RmTxUk/WvJxBt`) and fingerprint.
const SAMPLE_REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
    \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\
    \x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";

/// RFC 5769 §2.2: sample IPv4 response.
const SAMPLE_RESPONSE: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
    \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
    \x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// RFC 5769 §2.3: sample IPv6 response.
const SAMPLE_IPV6_RESPONSE: &[u8] = b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
    \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
    \x80\x28\x00\x04\xc8\xfb\x0b\x4c";

/// RFC 5769 §2.4: sample request with long-term authentication and a username in Katakana.
const SAMPLE_LONG_TERM: &[u8] = b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
    \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\x00\x14\x00\x0bexample.org\x00\
    \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";

const SAMPLE_PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

#[test]
fn rfc_5769_request() {
    let message = Message::parse(SAMPLE_REQUEST).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, method::BINDING));
    assert_eq!(message.text(attr::USERNAME), Some("evtj:h6vY"));
    assert!(message.verify(SAMPLE_PASSWORD));
    assert!(!message.verify(b"another"));
    assert_eq!(message.unknown(&[attr::USERNAME, attr::MESSAGE_INTEGRITY]), [attr::PRIORITY]);
}

#[test]
fn rfc_5769_response() {
    let message = Message::parse(SAMPLE_RESPONSE).unwrap();
    assert_eq!(message.class, Class::Success);
    assert_eq!(message.address(attr::XOR_MAPPED_ADDRESS), Some("192.0.2.1:32853".parse().unwrap()));
    assert!(message.verify(SAMPLE_PASSWORD));
}

#[test]
fn rfc_5769_ipv6_response() {
    let message = Message::parse(SAMPLE_IPV6_RESPONSE).unwrap();
    assert_eq!(message.class, Class::Success);
    assert_eq!(
        message.address(attr::XOR_MAPPED_ADDRESS),
        Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap())
    );
    assert!(message.verify(SAMPLE_PASSWORD));
}

#[test]
fn rfc_5769_long_term_request() {
    let message = Message::parse(SAMPLE_LONG_TERM).unwrap();
    let username = message.text(attr::USERNAME).unwrap();
    assert_eq!(username, "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}");
    assert_eq!(message.text(attr::REALM), Some("example.org"));
    assert_eq!(message.text(attr::NONCE), Some("f//499k954d6OL34oL9FSTvy64sA"));
    assert!(message.verify(&long_term_key(username, "example.org", "TheMatrIX")));
    assert!(!message.verify(&long_term_key(username, "example.org", "TheMatrix")));
}

#[test]
fn a_changed_bit_of_an_rfc_5769_sample_is_detected() {
    for sample in [SAMPLE_REQUEST, SAMPLE_RESPONSE, SAMPLE_IPV6_RESPONSE] {
        // Everything up to and including MESSAGE-INTEGRITY; FINGERPRINT follows it.
        for bit in 0..(sample.len() - 8) * 8 {
            let mut raw = sample.to_vec();
            raw[bit / 8] ^= 1 << (bit % 8);
            let good = Message::parse(&raw).is_some_and(|it| it.verify(SAMPLE_PASSWORD));
            assert!(!good, "bit {bit}");
        }
    }
}

#[test]
fn written_messages_can_be_read() {
    let transaction = *b"0123456789ab";
    for address in ["192.0.2.7:4000", "[2001:db8::1]:4001"] {
        let address = address.parse().unwrap();
        let raw = Builder::new(Class::Error, method::CHANNEL_BIND, transaction)
            .address(attr::XOR_PEER_ADDRESS, address)
            .error(486, "quota")
            .integrity(b"key")
            .fingerprint()
            .finish();
        let message = Message::parse(&raw).unwrap();
        assert_eq!((message.class, message.method), (Class::Error, method::CHANNEL_BIND));
        assert_eq!(message.address(attr::XOR_PEER_ADDRESS), Some(address));
        assert_eq!(message.error_code(), Some(486));
        assert!(message.verify(b"key"));
    }
}

#[test]
fn attributes_of_behavior_discovery_can_be_read() {
    for address in ["192.0.2.7:4000", "[2001:db8::1]:4001"] {
        let address = address.parse().unwrap();
        let change = ChangeRequest { ip: true, port: false };
        let raw = Builder::new(Class::Request, method::BINDING, [9; 12])
            .plain_address(attr::OTHER_ADDRESS, address)
            .plain_address(attr::MAPPED_ADDRESS, address)
            .change_request(change)
            .finish();
        let message = Message::parse(&raw).unwrap();
        assert_eq!(message.plain_address(attr::OTHER_ADDRESS), Some(address));
        assert_eq!(message.mapped_address(), Some(address));
        assert_eq!(message.change_request(), Some(change));
        // RFC 5780 §7.2: 0x4 is "change IP", 0x2 "change port".
        assert_eq!(message.get(attr::CHANGE_REQUEST), Some(&[0, 0, 0, 4][..]));
    }
}

#[test]
fn corruption_is_detected() {
    // The type of FINGERPRINT is skipped: other types are ignored after MESSAGE-INTEGRITY.
    for at in (0..SAMPLE_REQUEST.len()).filter(|at| !(100..102).contains(at)) {
        let mut raw = SAMPLE_REQUEST.to_vec();
        raw[at] ^= 1;
        let intact = Message::parse(&raw).is_some_and(|m| m.verify(SAMPLE_PASSWORD));
        assert!(!intact, "byte {at}");
    }
    for length in 0..SAMPLE_REQUEST.len() {
        assert!(Message::parse(&SAMPLE_REQUEST[..length]).is_none());
    }
}

#[test]
fn attributes_after_the_integrity_are_ignored() {
    let raw = Builder::new(Class::Request, method::REFRESH, [0; 12])
        .integrity(b"key")
        .attribute(attr::LIFETIME, &[0; 4])
        .finish();
    let message = Message::parse(&raw).unwrap();
    assert!(message.verify(b"key"));
    assert_eq!(message.get(attr::LIFETIME), None);
}

#[test]
fn attributes_that_do_not_fit_are_omitted_and_never_truncated() {
    let build = |length: usize| {
        Builder::new(Class::Indication, method::DATA, [1; 12])
            .address(attr::XOR_PEER_ADDRESS, "[2001:db8::1]:9".parse().unwrap())
            .attribute(attr::DATA, &vec![7; length])
    };
    // 24 bytes of the address and 4 of the attribute's header: the maximum length is 65,532.
    for (length, fits) in [
        (65_504, true),
        (65_505, false),
        (65_507, false),
        (65_527, false),
        (65_535, false),
        (65_536, false),
        (65_540, false),
        (131_072, false),
    ] {
        assert_eq!(build(length).whole().is_some(), fits, "{length}");
        let raw = build(length).finish();
        let message = Message::parse(&raw).expect("always a complete message");
        let data = message.get(attr::DATA).map(<[u8]>::len);
        assert_eq!(data, fits.then_some(length));
    }
    // MESSAGE-INTEGRITY and FINGERPRINT are omitted if they exceed it.
    let full = || build(65_504);
    for more in [full().integrity(b"k"), full().fingerprint()] {
        let raw = more.finish();
        assert_eq!(Message::parse(&raw).unwrap().get(attr::DATA).map(<[u8]>::len), Some(65_504));
        assert!(!Message::parse(&raw).unwrap().verify(b"k"));
    }
    assert!(full().integrity(b"k").whole().is_none() && full().fingerprint().whole().is_none());
    let signed = build(65_504 - 32).integrity(b"k").fingerprint().whole().unwrap();
    assert!(Message::parse(&signed).unwrap().verify(b"k"));
}

#[test]
fn attributes_after_either_integrity_are_ignored() {
    for kind in [attr::MESSAGE_INTEGRITY, attr::MESSAGE_INTEGRITY_SHA256] {
        let raw = Builder::new(Class::Request, method::REFRESH, [1; 12])
            .attribute(attr::REALM, b"before")
            .attribute(kind, &[0; 20])
            .attribute(attr::NONCE, b"after")
            .fingerprint()
            .finish();
        let message = Message::parse(&raw).unwrap();
        assert_eq!((message.text(attr::REALM), message.get(attr::NONCE)), (Some("before"), None));
        assert!(message.has_fingerprint());
    }
}

#[test]
fn an_error_without_a_reason_has_the_standard_phrase() {
    let reason = |code, words| {
        let raw = Builder::new(Class::Error, method::ALLOCATE, [1; 12]).error(code, words).finish();
        Message::parse(&raw).unwrap().error_reason()
    };
    assert_eq!(reason(401, ""), "Unauthorized");
    assert_eq!(reason(401, "Go away"), "Go away");
    assert_eq!(reason(499, ""), "");
}
