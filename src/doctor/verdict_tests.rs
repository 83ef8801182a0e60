//! Verdicts for every profile and every kind of failure, without a network.

use std::time::SystemTime;

use super::*;
use crate::{
    doctor::{
        conclude,
        report::{Contacted, Server},
    },
    stun::discovery::Bounds,
};

fn nat_of(profile: &str) -> Nat {
    let profile: Profile = profile.parse().unwrap();
    if !profile.passes_udp() {
        return Nat { udp: Some(false), ..Nat::default() };
    }
    let ports = profile.layers.iter().find_map(|layer| match layer {
        Layer::Nat(nat) => Some(nat.ports),
        _ => None,
    });
    Nat {
        udp: Some(true),
        translated: Some(profile.translates()),
        mapping: profile.mapping().map(Bounds::exactly),
        filtering: Some(Bounds::exactly(
            profile.filtering().unwrap_or(Behaviour::EndpointIndependent),
        )),
        ports,
        ..Nat::default()
    }
}

fn server(transport: &'static str, turn: bool, works: bool) -> Server {
    Server {
        transport,
        turn,
        reachable: works,
        relayed: (turn && works).then(|| "203.0.113.1:5".parse().unwrap()),
        ..Server::default()
    }
}

fn judged(nat: Nat, servers: Vec<Server>, problems: Vec<Problem>) -> DoctorReport {
    let any = !servers.is_empty();
    let config = DoctorConfig::of(Vec::new());
    let mut report = DoctorReport::new(SystemTime::UNIX_EPOCH, Vec::new(), nat, servers);
    conclude(&mut report, &config, any, problems);
    report
}

fn all_turn(udp: bool) -> Vec<Server> {
    vec![
        server("udp", false, udp),
        server("udp", true, udp),
        server("tcp", true, true),
        server("tls", true, true),
    ]
}

#[test]
fn every_profile_is_named_and_with_turn_every_peer_can_be_reached() {
    for (profile, words) in [
        ("none", "No NAT and no firewall"),
        ("firewall", "a firewall (filtering address-and-port-dependent)"),
        ("fullcone", "a NAT (mapping endpoint-independent, filtering endpoint-independent)"),
        ("addr", "filtering address-dependent)"),
        ("port", "filtering address-and-port-dependent)"),
        ("sym", "a symmetric NAT (mapping address-and-port-dependent"),
        ("sym-sequential", "sequential ports"),
        ("udp-blocked", "blocks UDP"),
    ] {
        let report = judged(nat_of(profile), all_turn(profile != "udp-blocked"), Vec::new());
        assert_eq!(report.nat.profile.as_deref(), Some(profile));
        assert_eq!((report.verdict.class, report.verdict.exit), (Class::All, 0), "{profile}");
        assert!(report.verdict.text.contains(words), "{profile}: {}", report.verdict.text);
        assert!(report.verdict.text.contains("every peer can be reached"), "{profile}");
    }
    // For a stack of NATs, only its combined behavior is visible.
    let stacked = judged(nat_of("port+sym"), all_turn(true), Vec::new());
    assert_eq!(stacked.nat.profile.as_deref(), Some("sym"));
    let unnamed = judged(nat_of("adm-eif"), all_turn(true), Vec::new());
    assert_eq!(unnamed.nat.profile.as_deref(), Some("adm-eif"));
}

#[test]
fn direct_peers_match_theory() {
    let report = judged(nat_of("sym"), all_turn(true), Vec::new());
    assert_eq!(report.verdict.direct, ["none", "fullcone", "addr"]);
    assert!(report.verdict.text.contains(
        "only peers without NAT or behind a full-cone NAT or an address-restricted NAT can be \
         reached"
    ));
    assert!(report.verdict.text.contains("TURN over UDP, TCP and TLS works"));
}

#[test]
fn without_a_relay_some_peers_cannot_be_reached() {
    let report = judged(nat_of("port"), vec![server("udp", false, true)], Vec::new());
    assert_eq!((report.verdict.class, report.verdict.exit), (Class::Some, 3));
    assert_eq!(report.verdict.none, ["sym", "port+sym", "udp-blocked"]);
    assert_eq!(report.problems[0].code, "no-relay");
    assert!(report.problems[0].remedy.contains("--ice-server turn:"));
    let only_udp = vec![server("udp", true, true)];
    let report = judged(nat_of("port"), only_udp, Vec::new());
    assert_eq!((report.verdict.exit, report.verdict.none), (3, vec!["udp-blocked".to_owned()]));
    assert_eq!(report.problems[0].code, "no-relay-over-tcp");
}

#[test]
fn a_failing_server_is_an_error_unless_every_peer_can_be_reached_without_it() {
    let refused = || Problem::error("turn-401", None, "request rejected", "the password");
    let servers = vec![server("udp", false, true), server("udp", true, false)];
    let report = judged(nat_of("port"), servers, vec![refused()]);
    assert_eq!((report.verdict.class, report.verdict.exit), (Class::Some, 1));
    let report = judged(nat_of("port"), all_turn(true), vec![refused()]);
    assert_eq!(report.verdict.exit, 0);
    assert_eq!(report.problems[0].severity, Severity::Warning);
}

#[test]
fn no_response_at_all_is_not_reported_as_blocked_udp() {
    let servers = vec![server("udp", false, false), server("tcp", true, false)];
    let nat = Nat { udp: Some(false), ..Nat::default() };
    let report = judged(nat, servers, Vec::new());
    assert_eq!((report.nat.udp, report.nat.profile), (None, None));
    assert_eq!((report.verdict.class, report.verdict.exit), (Class::None, 1));
    let blocked = judged(
        nat_of("udp-blocked"),
        all_turn(false),
        vec![Problem::error("stun-silent", None, "", "")],
    );
    let severities: Vec<_> = blocked.problems.iter().map(|p| (&*p.code, p.severity)).collect();
    assert!(severities.contains(&("stun-silent", Severity::Warning)), "{severities:?}");
    assert!(severities.iter().any(|(code, _)| *code == "udp-blocked"), "{severities:?}");
}

#[test]
fn failing_signaling_takes_precedence() {
    let mut report =
        DoctorReport::new(SystemTime::UNIX_EPOCH, Vec::new(), nat_of("none"), all_turn(true));
    report.signaling = Some(Contacted::default());
    conclude(&mut report, &DoctorConfig::of(Vec::new()), true, Vec::new());
    assert_eq!((report.verdict.class, report.verdict.exit), (Class::None, 1));
    assert!(report.verdict.text.contains("signaling does not work"));
}

#[test]
fn the_stricter_bound_counts() {
    let between = Bounds {
        at_least: Behaviour::AddressDependent,
        at_most: Behaviour::AddressAndPortDependent,
    };
    let nat = Nat { mapping: Some(between), ..nat_of("port") };
    let report = judged(nat, all_turn(true), Vec::new());
    assert_eq!(report.nat.profile, None);
    assert_eq!(report.verdict.direct, ["none", "fullcone", "addr"]);
    assert!(report.verdict.text.contains("address-dependent or address-and-port-dependent"));
}

#[test]
fn the_json_matches_its_schema() {
    let json = serde_json::to_value(judged(nat_of("addr"), all_turn(true), Vec::new())).unwrap();
    assert_eq!(json["schema"], "orion-peer/doctor/1");
    assert_eq!(json["nat"]["mapping"]["is"], "endpoint-independent");
    assert_eq!(json["nat"]["filtering"]["is"], "address-dependent");
    assert_eq!(json["nat"]["profile"], "addr");
    assert_eq!(json["verdict"]["class"], "all");
    assert_eq!(json["verdict"]["relays"], serde_json::json!(["udp", "tcp", "tls"]));
    assert_eq!(json["servers"][1]["transport"], "udp");
}
