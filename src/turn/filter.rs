//! Filters the peers that may be relayed to. An open relay gives its users access to the relay's own
//! network (RFC 8656 §21.2, §21.4), so everything that is not a public unicast address is rejected unless
//! explicitly allowed. An IPv6 address that embeds an IPv4 address (mapped, NAT64, 6to4, …) is treated like
//! the embedded one: allowing `64:ff9b::/96` does not give access to 127.0.0.1.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An address range in CIDR notation, `192.0.2.0/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// A range; `None` if `prefix` is longer than the address.
    #[must_use]
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let max_prefix = if address.is_ipv4() { 32 } else { 128 };
        if prefix <= max_prefix { Some(Self { address, prefix }) } else { None }
    }

    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(a: u16, b: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Whether `ip` is in the range.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                net.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Text that is neither an address nor `address/prefix`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a valid address range: expected 192.0.2.0/24, 2001:db8::/32 or a single address"
)]
pub struct IpNetError(pub String);

impl FromStr for IpNet {
    type Err = IpNetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || IpNetError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        Self::new(address, prefix).ok_or_else(wrong)
    }
}

/// Ranges rejected by default: the special-purpose registries of RFC 6890, multicast, and the forms of IPv6
/// that embed an IPv4 address (mapped, compatible, NAT64, 6to4, Teredo).
const DENIED: [IpNet; 28] = [
    IpNet::v4(0, 0, 0, 0, 8),
    IpNet::v4(10, 0, 0, 0, 8),
    IpNet::v4(100, 64, 0, 0, 10),
    IpNet::v4(127, 0, 0, 0, 8),
    // Link-local, including the clouds' metadata service at 169.254.169.254.
    IpNet::v4(169, 254, 0, 0, 16),
    IpNet::v4(172, 16, 0, 0, 12),
    IpNet::v4(192, 0, 0, 0, 24),
    IpNet::v4(192, 0, 2, 0, 24),
    IpNet::v4(192, 88, 99, 0, 24),
    IpNet::v4(192, 168, 0, 0, 16),
    // Alibaba Cloud's metadata service is inside 100.64/10; those of Azure and Oracle are not in private
    // ranges.
    IpNet::v4(168, 63, 129, 16, 32),
    IpNet::v4(192, 0, 0, 192, 32),
    IpNet::v4(198, 18, 0, 0, 15),
    IpNet::v4(198, 51, 100, 0, 24),
    IpNet::v4(203, 0, 113, 0, 24),
    IpNet::v4(224, 0, 0, 0, 4),
    IpNet::v4(240, 0, 0, 0, 4),
    // ::, ::1, IPv4-compatible and IPv4-mapped.
    IpNet::v6(0, 0, 32),
    IpNet::v6(0x64, 0xff9b, 32),
    IpNet::v6(0x100, 0, 64),
    IpNet::v6(0x2001, 0, 23),
    IpNet::v6(0x2001, 0xdb8, 32),
    IpNet::v6(0x2002, 0, 16),
    IpNet::v6(0x3fff, 0, 20),
    IpNet::v6(0xfc00, 0, 7),
    IpNet::v6(0xfe80, 0, 10),
    IpNet::v6(0xfec0, 0, 10),
    IpNet::v6(0xff00, 0, 8),
];

/// Decides which peer addresses a client may reach through the relay.
#[derive(Debug, Clone, Default)]
pub struct PeerFilter {
    /// Allows 127/8 and `::1`, for servers that only serve their own machine.
    pub allow_loopback: bool,
    /// Ranges allowed although they are special-purpose.
    pub allow: Vec<IpNet>,
    /// Ranges rejected although they are public; takes precedence over `allow`.
    pub deny: Vec<IpNet>,
    /// The server's own addresses, which are rejected, even if public, unless they are in `allow`.
    pub own: Vec<IpAddr>,
}

impl PeerFilter {
    /// Whether `peer` may be relayed to.
    #[must_use]
    pub fn allows(&self, peer: IpAddr) -> bool {
        let inner = match peer {
            IpAddr::V4(_) => Vec::new(),
            IpAddr::V6(ip) => embedded(ip),
        };
        self.admits(peer) && inner.into_iter().all(|ip| self.admits(ip.into()))
    }

    /// Whether `peer` is explicitly denied.
    #[must_use]
    pub fn denies(&self, peer: IpAddr) -> bool {
        self.deny.iter().any(|net| net.contains(peer))
    }

    fn admits(&self, peer: IpAddr) -> bool {
        let any = |nets: &[IpNet]| nets.iter().any(|net| net.contains(peer));
        if any(&self.deny) {
            return false;
        }
        (self.allow_loopback && peer.is_loopback())
            || any(&self.allow)
            || (!self.own.contains(&peer) && !any(&DENIED))
    }
}

/// The IPv4 addresses that packets to `ip` may reach: IPv4-mapped and -compatible (RFC 4291 §2.5.5), NAT64
/// (RFC 6052 §2.2, RFC 8215), 6to4 (RFC 3056), Teredo's server and client (RFC 4380 §4), ISATAP (RFC 5214
/// §6.1). There are several if the embedding is ambiguous.
fn embedded(ip: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bytes = ip.octets();
    let at = |indices: [usize; 4]| Ipv4Addr::from(indices.map(|index| bytes[index]));
    let last = at([12, 13, 14, 15]);
    let mut found = match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        [0, 0, 0, 0, 0, 0 | 0xffff, ..]
        | [0, 0, 0, 0, 0xffff, 0, ..]
        | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // The network may use any of RFC 6052's prefix lengths, so all are checked. A leading zero byte is
        // not part of an address but indicates another length.
        [0x64, 0xff9b, 1, ..] => [at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12])]
            .into_iter()
            .filter(|ip| ip.octets()[0] != 0)
            .chain([last])
            .collect(),
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from_bits(!last.to_bits())],
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        _ => Vec::new(),
    };
    if matches!(ip.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, ..]) {
        found.push(last);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(filter: &PeerFilter, peer: &str) -> bool {
        filter.allows(peer.parse().unwrap())
    }

    #[test]
    fn special_addresses_are_rejected_and_public_ones_are_not() {
        let filter = PeerFilter::default();
        for denied in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.192",
            "168.63.129.16",
            "198.19.0.1",
            "224.0.0.1",
            "239.255.255.250",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "2002:a00:1::1",
            "2001:0:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!allows(&filter, denied), "{denied}");
        }
        for public in [
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.167.255.255",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(allows(&filter, public), "{public}");
        }
    }

    #[test]
    fn exceptions_must_be_explicit() {
        let filter = PeerFilter {
            allow_loopback: true,
            allow: vec!["192.168.7.0/24".parse().unwrap(), "fd00::1".parse().unwrap()],
            deny: vec!["8.8.8.8".parse().unwrap(), "127.0.0.53".parse().unwrap()],
            own: Vec::new(),
        };
        for peer in ["127.0.0.1", "::1", "192.168.7.9", "fd00::1"] {
            assert!(allows(&filter, peer), "{peer}");
        }
        for peer in ["192.168.8.1", "8.8.8.8", "127.0.0.53", "fd00::2", "::ffff:127.0.0.1"] {
            assert!(!allows(&filter, peer), "{peer}");
        }
    }

    #[test]
    fn embedded_addresses_are_checked_against_the_same_lists() {
        let all_ipv6 = PeerFilter {
            allow: vec!["::/0".parse().unwrap()],
            deny: vec!["8.8.4.4".parse().unwrap()],
            ..PeerFilter::default()
        };
        // 10.1.2.3 or 127.0.0.1, and the denied 8.8.4.4, in each embedding.
        for inner in [
            "::ffff:10.1.2.3",
            "::10.1.2.3",
            "::ffff:0:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.1.2.3",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::10.1.2.3",
            "64:ff9b:1:a01:2:300::",
            "64:ff9b:1:a:1:203::",
            "64:ff9b:1:0:a:102:300:0",
            "2002:a01:203::1",
            "2002:7f00:1::",
            "2001:0:a01:203::",
            "2001:0:808:808::f5fe:fdfc",
            "2606:4700::5efe:10.1.2.3",
            "2606:4700::200:5efe:10.1.2.3",
            "::ffff:8.8.4.4",
            "64:ff9b::8.8.4.4",
            "2002:808:404::",
        ] {
            assert!(!allows(&all_ipv6, inner), "{inner}");
        }
        for inner in
            ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1", "2606:4700::1", "::1"]
        {
            assert!(allows(&all_ipv6, inner), "{inner}");
        }
    }

    #[test]
    fn own_addresses_are_rejected_unless_allowed() {
        let own = vec!["203.0.114.7".parse().unwrap(), "2606:4700::7".parse().unwrap()];
        let filter = PeerFilter { own: own.clone(), ..PeerFilter::default() };
        for peer in ["203.0.114.7", "2606:4700::7"] {
            assert!(!allows(&filter, peer), "{peer}");
        }
        assert!(allows(&filter, "203.0.114.8"));
        let named = PeerFilter { allow: vec!["203.0.114.7".parse().unwrap()], ..filter };
        assert!(allows(&named, "203.0.114.7"));
        assert!(!allows(&named, "2606:4700::7"));
    }

    #[test]
    fn ranges_round_trip() {
        for text in ["0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32", "::/0"] {
            assert_eq!(text.parse::<IpNet>().unwrap().to_string(), text);
        }
        for wrong in ["", "x", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "1.2.3.4/"] {
            assert!(wrong.parse::<IpNet>().is_err(), "{wrong}");
        }
        assert!("0.0.0.0/0".parse::<IpNet>().unwrap().contains("8.8.8.8".parse().unwrap()));
    }
}
