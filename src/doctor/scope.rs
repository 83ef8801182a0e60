//! Scopes of addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The scope of an address (RFC 6890).
pub(super) fn scope(ip: IpAddr) -> &'static str {
    match ip {
        ip if ip.is_loopback() => "loopback",
        IpAddr::V4(ip) if ip.is_link_local() => "link-local",
        IpAddr::V4(ip) if ip.is_private() => "private",
        IpAddr::V4(ip) if is_shared(ip) => "shared",
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "link-local",
        IpAddr::V6(ip) if ip.is_unique_local() => "private",
        _ => "public",
    }
}

/// 100.64.0.0/10, between carriers' NATs and their customers (RFC 6598).
fn is_shared(ip: Ipv4Addr) -> bool {
    ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64
}

/// Scope of the farthest of these servers, when none is on the internet.
pub(super) fn seen_from(servers: &[SocketAddr]) -> Option<&'static str> {
    let scopes: Vec<_> = servers.iter().map(|server| scope(server.ip())).collect();
    if scopes.is_empty() || scopes.contains(&"public") {
        return None;
    }
    let here = scopes.iter().all(|scope| *scope == "loopback");
    Some(if here { "this-machine" } else { "this-network" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_scope() {
        for (ip, expected) in [
            ("127.0.0.9", "loopback"),
            ("::1", "loopback"),
            ("192.168.1.2", "private"),
            ("10.0.0.1", "private"),
            ("172.31.0.1", "private"),
            ("172.32.0.1", "public"),
            ("100.64.0.1", "shared"),
            ("100.127.255.255", "shared"),
            ("100.128.0.1", "public"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("fd00::1", "private"),
            ("2001:db8::1", "public"),
            ("203.0.113.5", "public"),
        ] {
            assert_eq!(scope(ip.parse().unwrap()), expected, "{ip}");
        }
    }

    #[test]
    fn local_servers_do_not_see_nats_towards_the_internet() {
        let of = |all: &[&str]| {
            let all: Vec<_> = all.iter().map(|one| one.parse().unwrap()).collect();
            seen_from(&all)
        };
        assert_eq!(of(&["127.0.0.1:1", "[::1]:1"]), Some("this-machine"));
        assert_eq!(of(&["127.0.0.1:1", "192.168.0.1:1"]), Some("this-network"));
        assert_eq!(of(&["192.168.0.1:1", "203.0.113.1:1"]), None);
        assert_eq!(of(&[]), None);
    }
}
