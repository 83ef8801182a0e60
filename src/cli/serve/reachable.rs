//! The addresses at which other machines can reach a server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use crate::turn::IpNet;

/// Maximum number of addresses shown.
const MAX_ADDRESSES: usize = 8;

/// Addresses to print for a server on `listen`, best first and never empty: only `public` if it is given, otherwise
/// those of the interfaces it listens on.
#[must_use]
pub fn addresses(listen: IpAddr, public: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(public) = public {
        return vec![public];
    }
    if !listen.is_unspecified() {
        return vec![listen];
    }
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let found = found.into_iter().map(|interface| interface.ip()).collect();
    let mut usable = usable(found, listen.is_ipv6(), outbound_address());
    if usable.is_empty() {
        usable.push(Ipv4Addr::LOCALHOST.into());
    }
    usable
}

/// Networks that this machine is directly connected to, except loopback.
#[must_use]
pub fn networks() -> Vec<IpNet> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let net = |interface: if_addrs::Interface| {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.netmask.to_bits().count_ones(),
            if_addrs::IfAddr::V6(v6) => v6.netmask.to_bits().count_ones(),
        };
        IpNet::new(interface.ip(), prefix as u8).filter(|_| !interface.is_loopback())
    };
    found.into_iter().filter_map(net).collect()
}

/// The source address of packets to the internet; determined without sending one.
fn outbound_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): connecting a UDP socket only looks up the route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().map(|local: SocketAddr| local.ip()).filter(|ip| !ip.is_unspecified())
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The addresses in `found` that are usable on other machines, `first` first, IPv4 before IPv6. Link-local ones are
/// kept only if there are no others: for IPv6 they need a zone, which differs between machines.
fn usable(mut found: Vec<IpAddr>, v6: bool, first: Option<IpAddr>) -> Vec<IpAddr> {
    found.retain(|ip| !ip.is_loopback() && !ip.is_unspecified() && (v6 || ip.is_ipv4()));
    if !found.iter().all(is_link_local) {
        found.retain(|ip| !is_link_local(ip));
    }
    found.sort_by_key(|ip| (Some(*ip) != first, ip.is_ipv6()));
    let mut seen = std::collections::HashSet::new();
    found.retain(|ip| seen.insert(*ip));
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn usable_addresses_are_ordered() {
        let found = [
            "127.0.0.1",
            "::1",
            "2001:db8::5",
            "169.254.3.4",
            "fe80::1",
            "172.17.0.1",
            "192.168.1.20",
            "192.168.1.20",
        ];
        let first = "192.168.1.20".parse().ok();
        assert_eq!(
            usable(ips(&found), true, first),
            ips(&["192.168.1.20", "172.17.0.1", "2001:db8::5"])
        );
        assert_eq!(usable(ips(&found), false, None), ips(&["172.17.0.1", "192.168.1.20"]));
        let only = ["127.0.0.1", "169.254.3.4"];
        assert_eq!(usable(ips(&only), true, None), ips(&["169.254.3.4"]));
        assert_eq!(usable(ips(&["127.0.0.1", "::1"]), true, None), ips(&[]));
    }

    #[test]
    fn a_given_address_is_the_only_one_shown() {
        let public = "203.0.113.9".parse().ok();
        assert_eq!(addresses("0.0.0.0".parse().unwrap(), public), ips(&["203.0.113.9"]));
        assert_eq!(addresses("192.0.2.7".parse().unwrap(), None), ips(&["192.0.2.7"]));
        for shown in addresses("0.0.0.0".parse().unwrap(), None) {
            assert!(!shown.is_unspecified() && shown.is_ipv4(), "{shown}");
        }
    }
}
