//! The addresses of this machine that can be host candidates.

use std::net::{IpAddr, Ipv4Addr};

/// Selects the addresses of this machine that can be host candidates; they are looked up on each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNetwork {
    /// Only addresses of this interface.
    pub interface: Option<String>,
    /// Include IPv4.
    pub v4: bool,
    /// Include IPv6.
    pub v6: bool,
    /// Include loopback.
    pub loopback: bool,
}

impl LocalNetwork {
    /// The current addresses, see [`local_addresses`].
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        local_addresses(self.interface.as_deref(), self.v4, self.v6, self.loopback)
    }
}

/// Addresses of this machine that can be host candidates: not link-local, and loopback only if `loopback` is set or
/// there is no other address.
#[must_use]
pub fn local_addresses(interface: Option<&str>, v4: bool, v6: bool, loopback: bool) -> Vec<IpAddr> {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => v4 && !ip.is_link_local() && !ip.is_unspecified(),
        IpAddr::V6(ip) => v6 && (ip.segments()[0] & 0xffc0) != 0xfe80 && !ip.is_unspecified(),
    };
    let mut outward = Vec::new();
    let mut looped = Vec::new();
    for found in if_addrs::get_if_addrs().unwrap_or_default() {
        let ip = found.ip();
        if interface.is_some_and(|name| name != found.name) || !usable(&ip) {
            continue;
        }
        if ip.is_loopback() { looped.push(ip) } else { outward.push(ip) }
    }
    // One loopback address is enough for two peers on one machine.
    looped.sort();
    looped.truncate(1);
    if looped.is_empty() && interface.is_none() && v4 {
        looped.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    if loopback || outward.is_empty() || interface.is_some() {
        outward.extend(looped);
    }
    outward
}
