//! What a lab is to be.

use std::path::PathBuf;

use crate::nat::{IpVersions, Link, Profile};

/// What lies between a peer and the internet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// NATs and firewalls.
    pub profile: Profile,
    /// The peer's own link, between it and the first of them.
    pub link: Link,
    /// Its versions of IP. IPv6 is never translated: what translates IPv4 is a firewall for IPv6 (RFC 6092).
    pub ip: IpVersions,
    /// Largest packets on the outermost way, bytes; larger ones are dropped without a word, as in a tunnel
    /// whose messages of ICMP get lost.
    pub mtu: Option<u16>,
}

/// A lab to build.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabPlan {
    /// Of peer A.
    pub a: Network,
    /// Of peer B.
    pub b: Network,
    /// Both peers are behind the same machines, on two LANs that do not see each other; both have the
    /// same profile.
    pub shared: bool,
    /// Other networks that A and B can move to while it runs; at most six together.
    pub elsewhere: [Vec<Network>; 2],
    /// Links can be changed while it runs, those too that do nothing at first.
    pub changing: bool,
    /// Of what the links lose.
    pub seed: u64,
    /// Makes a user namespace even where it is not needed, as root.
    pub user_namespace: bool,
    /// `orion-peer` itself, for what runs inside; this program when it is not given.
    pub orion_peer: Option<PathBuf>,
}

/// Where in a lab a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// With peer A.
    A,
    /// With peer B.
    B,
    /// Among the servers, at 203.0.113.10 and .11.
    Internet,
}

impl Place {
    /// 0 is A, 1 is B; the servers are no peer, have no link and do not move.
    #[must_use]
    pub fn peer(self) -> usize {
        usize::from(self == Self::B)
    }
}

impl LabPlan {
    /// Whether any network has IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        let elsewhere = self.elsewhere.iter().flatten();
        [&self.a, &self.b].into_iter().chain(elsewhere).any(|network| network.ip.has_v6())
    }
}
