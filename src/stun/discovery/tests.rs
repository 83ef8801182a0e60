//! Tests every mapping and filtering with a simulated NAT, in virtual time, with and without loss.

use std::time::{Duration, Instant};

use super::{
    lifetime::{Lifetime, Lives},
    simulated::{Middlebox, Network, PRIMARY, Servers},
    *,
};
use crate::nat::{Behaviour, Ports};
use Behaviour::{AddressAndPortDependent as Apd, EndpointIndependent as Ei};

fn find(middlebox: &Middlebox, servers: Servers, asked: &[&str]) -> (Findings, Duration) {
    let started = Instant::now();
    let mut now = started;
    let mut network = Network::new(middlebox.clone(), servers, SOCKETS, now);
    let asked: Vec<SocketAddr> = asked.iter().map(|server| server.parse().unwrap()).collect();
    let mut discovery = Discovery::new(&asked, 7, now);
    for (socket, local) in network.locals.iter().enumerate() {
        discovery.bound(socket, *local);
    }
    while let Some(due) = discovery.poll_timeout() {
        while let Some(sent) = discovery.poll_transmit(now) {
            network.send(now, sent.socket, sent.to, &sent.datagram);
        }
        let due = discovery.poll_timeout().unwrap_or(due);
        now = network.next().map_or(due, |next| next.min(due)).max(now);
        while let Some((socket, from, datagram)) = network.arrived(now) {
            discovery.handle_datagram(now, socket, from, &datagram);
        }
        discovery.handle_timeout(now);
    }
    (discovery.findings(), now - started)
}

fn nat(mapping: Behaviour, filtering: Behaviour) -> Middlebox {
    Middlebox { mapping: Some(mapping), filtering: Some(filtering), ..Middlebox::default() }
}

#[test]
fn every_mapping_and_filtering_is_found_even_if_packets_are_lost() {
    for mapping in Behaviour::ALL {
        for filtering in Behaviour::ALL {
            // If one datagram in three is lost in each direction, about half of the exchanges fail.
            for lose_every in [usize::MAX, 7, 3] {
                let nat = Middlebox { lose_every, ..nat(mapping, filtering) };
                let (found, took) = find(&nat, Servers::Full, &[PRIMARY]);
                let exact = (found.mapping.exact(), found.filtering.exact());
                assert_eq!(exact, (Some(mapping), Some(filtering)), "loss {lose_every}: {found:?}");
                assert_eq!(found.translated, Some(true));
                assert_eq!(found.filtering_test.obstacle(), None);
                assert!(took < Duration::from_secs(9), "{took:?}");
            }
        }
    }
}

#[test]
fn without_a_nat_only_the_firewall_is_visible() {
    let open = find(&Middlebox::default(), Servers::Full, &[PRIMARY]).0;
    assert_eq!((open.translated, open.filtering.exact()), (Some(false), Some(Ei)));
    assert_eq!((open.mapping.exact(), open.ports, open.hairpinning), (None, None, None));
    for filtering in Behaviour::ALL {
        let firewall = Middlebox { filtering: Some(filtering), ..Middlebox::default() };
        let found = find(&firewall, Servers::Full, &[PRIMARY]).0;
        assert_eq!((found.translated, found.filtering.exact()), (Some(false), Some(filtering)));
    }
}

#[test]
fn silence_does_not_imply_a_nat() {
    let blocked = Middlebox { blocked: true, ..Middlebox::default() };
    let (found, took) = find(&blocked, Servers::Full, &[PRIMARY, "198.51.100.99:3478"]);
    assert!(!found.udp_answers());
    assert_eq!((found.translated, found.silent.len()), (None, 2));
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn several_plain_servers_reveal_the_mapping() {
    let two = [PRIMARY, "198.51.100.50:3478"];
    for (mapping, known) in [
        (Ei, Bounds::exactly(Ei)),
        (Apd, Bounds { at_least: Behaviour::AddressDependent, at_most: Apd }),
    ] {
        let found = find(&nat(mapping, Apd), Servers::Plain, &two).0;
        assert_eq!(found.mapping, known);
        assert_eq!(found.filtering, Bounds::UNKNOWN);
        assert!(found.filtering_test.obstacle().unwrap().contains("no server has another address"));
    }
    let exact = find(&nat(Apd, Apd), Servers::Plain, &[two[0], two[1], "198.51.100.50:443"]).0;
    assert_eq!(exact.mapping.exact(), Some(Apd));
    let alone = find(&nat(Ei, Ei), Servers::Plain, &[PRIMARY]).0;
    assert_eq!((alone.translated, alone.mapping), (Some(true), Bounds::UNKNOWN));
}

#[test]
fn a_server_whose_other_address_does_not_work_is_detected() {
    for (servers, words) in [
        (Servers::OtherIsSilent, "other address does not answer"),
        (Servers::Ignoring, "does not answer from its other address"),
    ] {
        let found = find(&nat(Ei, Ei), servers, &[PRIMARY]).0;
        assert_eq!(found.filtering, Bounds::UNKNOWN, "{servers:?}");
        assert!(found.filtering_test.obstacle().unwrap().contains(words), "{found:?}");
    }
}

#[test]
fn hairpinning_and_port_allocation_are_found() {
    for hairpinning in [true, false] {
        for filtering in Behaviour::ALL {
            let nat = Middlebox { hairpinning, lose_every: 5, ..nat(Ei, filtering) };
            let found = find(&nat, Servers::Full, &[PRIMARY]).0;
            assert_eq!(found.hairpinning, Some(hairpinning), "{filtering}");
        }
    }
    for (mapping, ports) in [
        (Ei, Ports::Preserving),
        (Ei, Ports::Random),
        (Apd, Ports::Random),
        (Apd, Ports::Sequential),
    ] {
        let found = find(&Middlebox { ports, ..nat(mapping, Apd) }, Servers::Full, &[PRIMARY]).0;
        assert_eq!(found.ports, Some(ports), "{mapping}");
    }
}

fn lifetime(timeout: u64, max: u64, servers: Servers) -> (Lives, Duration) {
    let started = Instant::now();
    let mut now = started;
    let nat = Middlebox { timeout: Duration::from_secs(timeout), lose_every: 9, ..nat(Apd, Apd) };
    let server = PRIMARY.parse().unwrap();
    let mut lifetime = Lifetime::new(server, Duration::from_secs(max), 3, now);
    let mut network = Network::new(nat, servers, lifetime.sockets(), now);
    while lifetime.poll_timeout().is_some() {
        while let Some(sent) = lifetime.poll_transmit(now) {
            network.send(now, sent.socket, sent.to, &sent.datagram);
        }
        let Some(due) = lifetime.poll_timeout() else { break };
        now = network.next().map_or(due, |next| next.min(due)).max(now);
        while let Some((socket, _, datagram)) = network.arrived(now) {
            lifetime.handle_datagram(now, socket, &datagram);
        }
        lifetime.handle_timeout(now);
    }
    (lifetime.result(), now - started)
}

#[test]
fn the_lifetime_lies_between_two_idle_times() {
    let s = Duration::from_secs;
    assert_eq!(lifetime(30, 120, Servers::Full).0, Lives::Between(s(29), s(35)));
    assert_eq!(lifetime(120, 300, Servers::Full).0, Lives::Between(s(119), s(150)));
    let (lives, took) = lifetime(300, 60, Servers::Full);
    assert_eq!(lives, Lives::AtLeast(s(60)));
    assert!(took < s(64), "{took:?}");
    let (unknown, took) = lifetime(300, 300, Servers::Plain);
    assert_eq!(unknown, Lives::Unknown);
    assert!(took < s(6), "it ends immediately: {took:?}");
}
