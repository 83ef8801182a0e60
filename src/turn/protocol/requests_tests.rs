//! Tests the requests and the error codes of RFC 8656, without sockets.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::auth::turn_rest::TurnSecrets;

use super::*;
use crate::turn::{
    PeerFilter, TurnConfig,
    config::TurnLimits,
    credentials::long_term_key,
    stats::{Counters, DropReason},
};

const SECRET: &str = "secret";
const PEER: &str = "127.0.0.1:9";

/// A client of a server without sockets.
struct Rig {
    server: Protocol<u16>,
    now: Now,
    tuple: FiveTuple,
    username: String,
    password: String,
    nonce: Vec<u8>,
    next_port: u16,
    transaction: u8,
    started: Instant,
}

type Attributes<'a> = &'a [(u16, &'a [u8])];

impl Rig {
    fn new(limits: TurnLimits) -> Self {
        let credentials =
            Arc::new(TurnSecrets { current: SECRET.into(), previous: Some("older".into()) });
        let config = TurnConfig { limits, ..TurnConfig::loopback(0, credentials) };
        let now = Now { instant: Instant::now(), wall: SystemTime::now() };
        let tuple = FiveTuple {
            transport: ClientTransport::Udp,
            client: "192.0.2.1:1000".parse().unwrap(),
            server: "127.0.0.1:3478".parse().unwrap(),
        };
        let mut rig = Self {
            server: Protocol::new(config, Arc::new(Counters::default()), now.instant),
            now,
            tuple,
            username: String::new(),
            password: String::new(),
            nonce: Vec::new(),
            next_port: 50_000,
            transaction: 0,
            started: now.instant,
        };
        rig.login(SECRET, "phone");
        rig
    }

    fn login(&mut self, secret: &str, id: &str) {
        let hour = Duration::from_hours(1);
        let secrets = TurnSecrets { current: secret.into(), previous: None };
        let now = self.now.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let made = secrets.mint(id, (now + hour).as_secs());
        (self.username, self.password) = (made.username, made.password);
        self.challenge();
    }

    fn challenge(&mut self) {
        let raw = Builder::new(Class::Request, method::ALLOCATE, [7; 12]).finish();
        let answer = self.raw(&raw).unwrap();
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.error_code(), Some(401));
        assert_eq!(answer.text(attr::REALM), Some("orion"));
        self.nonce = answer.get(attr::NONCE).unwrap().to_vec();
    }

    fn raw(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        match self.server.client_datagram(self.tuple, raw, self.now) {
            TurnAction::Reply(answer) | TurnAction::ReplyBy(answer, _) => Some(answer),
            TurnAction::Bind(pending) => {
                assert_eq!(pending.tuple, self.tuple);
                self.next_port += 2;
                let relay = (self.next_port, SocketAddr::from(([127, 0, 0, 1], self.next_port)));
                Some(self.server.allocated(*pending, Some(relay), self.now))
            }
            TurnAction::Drop | TurnAction::ToPeer { .. } => None,
        }
    }

    fn request(&mut self, method: u16, attributes: Attributes<'_>) -> Vec<u8> {
        self.transaction = self.transaction.wrapping_add(1);
        let mut builder = Builder::new(Class::Request, method, [self.transaction; 12]);
        for (kind, value) in attributes {
            builder = builder.attribute(*kind, value);
        }
        builder
            .attribute(attr::USERNAME, self.username.as_bytes())
            .attribute(attr::REALM, b"orion")
            .attribute(attr::NONCE, &self.nonce)
            .integrity(&long_term_key(&self.username, "orion", &self.password))
            .finish()
    }

    /// Sends a request and returns the code of its response, 0 for success; responses to an authenticated
    /// request are signed.
    fn ask(&mut self, method: u16, attributes: Attributes<'_>) -> u16 {
        let raw = self.request(method, attributes);
        let answer = self.raw(&raw).expect("a response");
        let answer = Message::parse(&answer).expect("a STUN response");
        let code = answer.error_code().unwrap_or(0);
        if !matches!(code, 401 | 438) {
            assert!(answer.verify(&long_term_key(&self.username, "orion", &self.password)));
        }
        assert_eq!(answer.class, if code == 0 { Class::Success } else { Class::Error });
        code
    }

    fn allocate(&mut self) -> u16 {
        self.ask(method::ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0])])
    }

    fn peer(&self, peer: &str) -> Vec<u8> {
        // The transaction ID of the next request is part of an IPv6 XOR address.
        let raw = Builder::new(Class::Request, 0, [self.transaction.wrapping_add(1); 12])
            .address(attr::XOR_PEER_ADDRESS, peer.parse().unwrap())
            .finish();
        raw[24..].to_vec()
    }

    fn permit(&mut self, peer: &str) -> u16 {
        let peer = self.peer(peer);
        self.ask(method::CREATE_PERMISSION, &[(attr::XOR_PEER_ADDRESS, &peer)])
    }

    fn bind(&mut self, number: u16, peer: &str) -> u16 {
        let peer = self.peer(peer);
        let [n0, n1] = number.to_be_bytes();
        self.ask(
            method::CHANNEL_BIND,
            &[(attr::CHANNEL_NUMBER, &[n0, n1, 0, 0]), (attr::XOR_PEER_ADDRESS, &peer)],
        )
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.now.wall += Duration::from_secs(seconds);
        self.server.expire(self.now);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.server.counters.snapshot(0).dropped[&reason]
    }

    fn refused(&self, reason: RejectReason) -> u64 {
        let stats = self.server.counters.snapshot(0);
        stats.refused.get(&reason).copied().unwrap_or(0)
    }
}

fn rig() -> Rig {
    Rig::new(TurnLimits::default())
}

#[test]
fn an_allocation_is_created_refreshed_and_removed() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.server.active(), 1);
    rig.pass(599);
    assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &900u32.to_be_bytes())]), 0);
    rig.pass(899);
    assert_eq!(rig.server.active(), 1);
    assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &0u32.to_be_bytes())]), 0);
    assert_eq!(rig.server.active(), 0);
    assert_eq!(rig.ask(method::REFRESH, &[]), 437);
}

#[test]
fn an_allocation_expires() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    rig.pass(600);
    assert_eq!(rig.server.active(), 0);
    assert_eq!(rig.permit(PEER), 437);
    assert!(rig.server.users.is_empty(), "the quota is released");
}

#[test]
fn lifetimes_are_bounded() {
    let mut rig = rig();
    for (asked, given) in [(1, 600), (900, 900), (86_400, 3600)] {
        let raw = rig.request(
            method::ALLOCATE,
            &[
                (attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]),
                (attr::LIFETIME, &u32::to_be_bytes(asked)),
            ],
        );
        let answer = rig.raw(&raw).unwrap();
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.number(attr::LIFETIME), Some(given));
        assert_eq!(answer.address(attr::XOR_MAPPED_ADDRESS), Some(rig.tuple.client));
        rig.server.remove(rig.tuple);
    }
}

#[test]
fn a_retransmitted_allocate_gets_the_same_response_and_a_new_one_437() {
    let mut rig = rig();
    let raw = rig.request(method::ALLOCATE, &[(attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0])]);
    let first = rig.raw(&raw).unwrap();
    assert_eq!(rig.raw(&raw), Some(first));
    assert_eq!(rig.allocate(), 437);
    assert_eq!(rig.server.active(), 1);
}

#[test]
fn bad_credentials_are_rejected() {
    let mut rig = rig();
    let good = rig.password.clone();
    rig.password = "wrong".into();
    assert_eq!(rig.allocate(), 401);
    rig.password = good;
    rig.username = "unknown".into();
    assert_eq!(rig.allocate(), 401);
    assert_eq!(rig.refused(RejectReason::Unauthorized), 2);
    rig.login("forged", "phone");
    assert_eq!(rig.allocate(), 401);
    rig.login("older", "phone");
    assert_eq!(rig.allocate(), 0, "a secret being rotated out is still valid");
}

#[test]
fn an_expired_name_cannot_extend_an_allocation_but_can_end_it() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    rig.now.wall += Duration::from_hours(1);
    assert_eq!(rig.ask(method::REFRESH, &[]), 401);
    assert_eq!(rig.permit(PEER), 0, "while the allocation exists");
    assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &[0; 4])]), 0);
    assert_eq!(rig.allocate(), 401);
}

#[test]
fn an_allocation_ends_a_minute_after_its_credentials_despite_refreshes() {
    let mut rig = rig();
    let hour = 3600_u32.to_be_bytes();
    assert_eq!(rig.allocate(), 0);
    let mut refreshed = 0;
    for _ in 0..400 {
        rig.pass(10);
        refreshed += u32::from(rig.ask(method::REFRESH, &[(attr::LIFETIME, &hour)]) == 0);
        if rig.server.active() == 0 {
            break;
        }
        // Nonces have the lifetime of these credentials.
        rig.challenge();
    }
    assert_eq!(refreshed, 359, "until the hour is over");
    let lived = rig.now.instant - rig.started;
    assert_eq!(lived, Duration::from_mins(61));
}

#[test]
fn a_call_of_thirty_days_renews_its_credentials() {
    let mut rig = rig();
    let hour = 3600_u32.to_be_bytes();
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &hour)]), 0);
    for _ in 0..30 * 24 * 2 {
        rig.pass(1800);
        rig.login(SECRET, "phone");
        assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &hour)]), 0);
        assert_eq!(rig.permit(PEER), 0);
    }
    assert_eq!(rig.server.active(), 1);
    assert_eq!(rig.server.counters.snapshot(1).allocations_total, 1);
}

#[test]
fn old_and_foreign_nonces_are_stale() {
    let mut rig = rig();
    rig.pass(3600);
    assert_eq!(rig.ask(method::ALLOCATE, &[]), 438);
    rig.login(SECRET, "phone");
    assert_eq!(rig.allocate(), 0);
    rig.tuple.client.set_port(1001);
    assert_eq!(rig.allocate(), 438);
}

#[test]
fn an_integrity_without_a_username_is_a_bad_request() {
    let mut rig = rig();
    let raw = Builder::new(Class::Request, method::ALLOCATE, [1; 12]).integrity(b"k").finish();
    let answer = rig.raw(&raw).unwrap();
    assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(400));
}

#[test]
fn the_quota_counts_per_user_id_and_the_capacity_in_total() {
    let limits = TurnLimits { allocations: 3, allocations_per_user: 2, ..TurnLimits::default() };
    let mut rig = Rig::new(limits);
    let mut codes = Vec::new();
    for (port, id) in [(1, "phone"), (2, "phone"), (3, "phone"), (4, "mac"), (5, "tablet")] {
        rig.tuple.client.set_port(port);
        rig.pass(1);
        rig.login(SECRET, id);
        codes.push(rig.allocate());
    }
    assert_eq!(codes, [0, 0, 486, 0, 508]);
    assert_eq!((rig.refused(RejectReason::Quota), rig.refused(RejectReason::Capacity)), (1, 1));
}

#[test]
fn unsupported_requests_are_rejected_with_their_code() {
    let mut rig = rig();
    let udp: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]);
    let tcp: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
    for (attributes, code) in [
        (vec![], 400),
        (vec![tcp], 442),
        (vec![udp, (attr::REQUESTED_ADDRESS_FAMILY, &[2, 0, 0, 0][..])], 440),
        (vec![udp, (attr::EVEN_PORT, &[0x80][..])], 508),
        (vec![udp, (attr::RESERVATION_TOKEN, &[0; 8][..])], 508),
        (vec![udp, (attr::RESERVATION_TOKEN, &[0; 8][..]), (attr::EVEN_PORT, &[0][..])], 400),
        (vec![udp, (0x001A, &[][..])], 420),
        (vec![udp, (attr::EVEN_PORT, &[0][..])], 0),
    ] {
        assert_eq!(rig.ask(method::ALLOCATE, &attributes), code, "{attributes:?}");
    }
}

#[test]
fn denied_peers_are_forbidden() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.permit(PEER), 0);
    assert_eq!(rig.permit("8.8.8.8:53"), 0);
    for peer in ["10.0.0.1:9", "169.254.169.254:80", "0.0.0.0:9", "224.0.0.1:9"] {
        assert_eq!(rig.permit(peer), 403, "{peer}");
        assert_eq!(rig.bind(0x4000, peer), 403, "{peer}");
    }
    assert_eq!(rig.permit("[2001:db8::1]:9"), 443);
    assert_eq!(rig.bind(0x4000, "[::ffff:127.0.0.1]:9"), 443);
    assert_eq!(rig.refused(RejectReason::Forbidden), 8);
}

#[test]
fn one_denied_peer_fails_the_whole_request() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    let (good, bad) = (rig.peer(PEER), rig.peer("10.0.0.1:9"));
    let both: Attributes<'_> = &[(attr::XOR_PEER_ADDRESS, &good), (attr::XOR_PEER_ADDRESS, &bad)];
    assert_eq!(rig.ask(method::CREATE_PERMISSION, both), 403);
    let (peer, now) = (PEER.parse().unwrap(), rig.now.instant);
    assert_eq!(rig.server.peer_datagram(rig.tuple, peer, b"x", now), None);
}

#[test]
fn channels_are_checked() {
    let mut rig = rig();
    assert_eq!(rig.bind(0x4000, PEER), 437);
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.bind(0x3FFF, PEER), 400);
    assert_eq!(rig.bind(0x8000, PEER), 400);
    assert_eq!(rig.bind(0x4000, PEER), 0);
    assert_eq!(rig.bind(0x4000, "127.0.0.1:10"), 400);
    assert_eq!(rig.bind(0x4001, PEER), 400);
    assert_eq!(rig.ask(method::CHANNEL_BIND, &[]), 400);
    assert_eq!(rig.ask(method::CREATE_PERMISSION, &[]), 400);
}

#[test]
fn another_users_allocation_cannot_be_changed() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    rig.login(SECRET, "mac");
    assert_eq!(rig.ask(method::REFRESH, &[(attr::LIFETIME, &[0; 4])]), 441);
    assert_eq!(rig.server.active(), 1);
}

#[test]
fn data_needs_a_permission_in_both_directions() {
    let mut rig = rig();
    assert_eq!(rig.allocate(), 0);
    let peer: SocketAddr = PEER.parse().unwrap();
    let send = Builder::new(Class::Indication, method::SEND, [1; 12])
        .address(attr::XOR_PEER_ADDRESS, peer)
        .attribute(attr::DATA, b"hello")
        .finish();
    let (tuple, now) = (rig.tuple, rig.now);
    assert!(matches!(rig.server.client_datagram(tuple, &send, now), TurnAction::Drop));
    assert_eq!(rig.server.peer_datagram(tuple, peer, b"hi", now.instant), None);
    assert_eq!(rig.permit(PEER), 0);
    let TurnAction::ToPeer { peer: to, payload, .. } =
        rig.server.client_datagram(tuple, &send, now)
    else {
        panic!("not relayed")
    };
    assert_eq!((to, &send[payload]), (peer, &b"hello"[..]));
    let data = rig.server.peer_datagram(tuple, peer, b"hi", now.instant).unwrap();
    let data = Message::parse(&data).unwrap();
    assert_eq!((data.class, data.method), (Class::Indication, method::DATA));
    assert_eq!(data.get(attr::DATA), Some(&b"hi"[..]));
    assert_eq!(data.address(attr::XOR_PEER_ADDRESS), Some(peer));
    rig.pass(300);
    assert_eq!(rig.server.peer_datagram(tuple, peer, b"hi", rig.now.instant), None);
}

#[test]
fn channel_data_is_padded_on_tcp_only() {
    for (transport, expected) in [
        (ClientTransport::Udp, &b"\x40\x01\x00\x02hi"[..]),
        (ClientTransport::Tcp, b"\x40\x01\x00\x02hi\0\0"),
    ] {
        let mut rig = rig();
        rig.tuple.transport = transport;
        assert_eq!(rig.allocate(), 0);
        assert_eq!(rig.bind(0x4001, PEER), 0);
        let (tuple, now) = (rig.tuple, rig.now);
        let framed = rig.server.peer_datagram(tuple, PEER.parse().unwrap(), b"hi", now.instant);
        assert_eq!(framed.as_deref(), Some(expected));
        let action = rig.server.client_datagram(tuple, expected, now);
        let TurnAction::ToPeer { payload, .. } = action else { panic!("not relayed") };
        assert_eq!(payload, 4..6);
        let unbound = rig.server.client_datagram(tuple, b"\x40\x02\x00\x02hi", now);
        assert!(matches!(unbound, TurnAction::Drop));
        let short = rig.server.client_datagram(tuple, b"\x40\x01\x00\x03hi", now);
        assert!(matches!(short, TurnAction::Drop));
    }
}

#[test]
fn bandwidth_is_bounded_in_each_direction() {
    // 28 bytes of headers, 36 of a Data indication, and 12 of payload with padding.
    let mut rig = Rig::new(TurnLimits { bytes_per_second: Some(76), ..TurnLimits::default() });
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.permit(PEER), 0);
    let (tuple, peer) = (rig.tuple, PEER.parse().unwrap());
    let now = rig.now.instant;
    assert!(rig.server.peer_datagram(tuple, peer, &[0; 10], now).is_some());
    assert!(rig.server.peer_datagram(tuple, peer, &[0; 1], now).is_none());
    let later = now + Duration::from_secs(1);
    assert!(rig.server.peer_datagram(tuple, peer, &[0; 10], later).is_some());
    assert_eq!(rig.dropped(DropReason::Bandwidth), 1);
}

#[test]
fn the_total_bandwidth_is_bounded() {
    let limits = TurnLimits {
        // With 28 bytes of headers and 4 of ChannelData, ten bytes take 42 and five take 37.
        bytes_per_second: Some(2 * 37),
        total_bytes_per_second: Some(42 + 37),
        ..TurnLimits::default()
    };
    let mut rig = Rig::new(limits);
    let now = rig.now.instant;
    let peer: SocketAddr = PEER.parse().unwrap();
    let mut tuples = Vec::new();
    for port in [1, 2] {
        rig.tuple.client.set_port(port);
        rig.login(SECRET, "phone");
        assert_eq!(rig.allocate(), 0);
        assert_eq!(rig.bind(0x4001, PEER), 0);
        tuples.push(rig.tuple);
    }
    let ten = [&b"\x40\x01\x00\x0a"[..], &[0; 10]].concat();
    let mut passed = |tuple, raw: &[u8]| {
        let action = rig.server.client_datagram(tuple, raw, rig.now);
        matches!(action, TurnAction::ToPeer { .. })
    };
    assert!(passed(tuples[0], &ten));
    assert!(!passed(tuples[1], &ten), "its own bandwidth suffices, but not the total");
    assert!(
        rig.server.peer_datagram(tuples[0], peer, &[0; 10], now).is_some(),
        "the other direction"
    );
    assert!(rig.server.peer_datagram(tuples[1], peer, &[0; 5], now).is_some());
    assert!(rig.server.peer_datagram(tuples[1], peer, &[0; 5], now).is_none());
    assert_eq!(rig.dropped(DropReason::TotalBandwidth), 2);
    assert_eq!(rig.dropped(DropReason::Bandwidth), 0);
}

#[test]
fn relays_reach_each_other_but_no_other_port_of_the_server() {
    let mut rig = Rig::new(TurnLimits::default());
    let here = rig.server.config.relay_address;
    rig.server.config.peers = PeerFilter { own: vec![here], ..PeerFilter::default() };
    assert_eq!(rig.allocate(), 0);
    let first = *rig.server.relayed.iter().next().unwrap();
    rig.tuple.client.set_port(2);
    rig.login(SECRET, "mac");
    assert_eq!(rig.allocate(), 0);
    assert_eq!(rig.permit(&first.to_string()), 0);
    let mut reaches = |peer: SocketAddr| {
        let raw = Builder::new(Class::Indication, method::SEND, [1; 12])
            .address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, b"x")
            .finish();
        matches!(rig.server.client_datagram(rig.tuple, &raw, rig.now), TurnAction::ToPeer { .. })
    };
    assert!(reaches(first));
    assert!(!reaches(SocketAddr::new(here, 22)), "another service of the server");
    assert!(!reaches(SocketAddr::new(here, 3478)), "the listener itself");
    assert_eq!(rig.dropped(DropReason::OwnAddress), 2);
    let others: Vec<_> = rig.server.allocations.keys().copied().collect();
    for tuple in others.into_iter().filter(|tuple| tuple.client.port() != 2) {
        rig.server.remove(tuple);
    }
    let gone = Builder::new(Class::Indication, method::SEND, [1; 12])
        .address(attr::XOR_PEER_ADDRESS, first)
        .attribute(attr::DATA, b"x")
        .finish();
    let action = rig.server.client_datagram(rig.tuple, &gone, rig.now);
    assert!(matches!(action, TurnAction::Drop), "another process may own the port now");
    rig.server.config.peers.deny.push(format!("{here}").parse().unwrap());
    assert_eq!(rig.permit(&first.to_string()), 403);
}

proptest::proptest! {
    #[test]
    fn no_datagram_breaks_the_server(data in proptest::collection::vec(0u8.., 0..200)) {
        let mut rig = rig();
        let _ = rig.server.client_datagram(rig.tuple, &data, rig.now);
    }
}

#[test]
fn without_an_alternate_address_behavior_discovery_is_rejected() {
    let asking =
        |kind| Builder::new(Class::Request, method::BINDING, [8; 12]).attribute(kind, &[0; 4]);
    for kind in [attr::CHANGE_REQUEST, attr::RESPONSE_PORT] {
        let mut rig = Rig::new(TurnLimits::default());
        let answer = rig.raw(&asking(kind).finish()).unwrap();
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.error_code(), Some(420));
        assert_eq!(answer.get(attr::UNKNOWN_ATTRIBUTES), Some(&kind.to_be_bytes()[..]));
    }
    let mut rig = Rig::new(TurnLimits::default());
    let plain = Builder::new(Class::Request, method::BINDING, [8; 12]).finish();
    let answer = rig.raw(&plain).unwrap();
    assert_eq!(Message::parse(&answer).unwrap().get(attr::OTHER_ADDRESS), None);
}
