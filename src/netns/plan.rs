//! The configuration of a lab.

use std::path::PathBuf;

use crate::nat::{IpVersions, LinkSettings, Profile};

/// Maximum number of networks that peers can move to.
pub const MAX_OTHER_NETWORKS: usize = 6;

/// The network between a peer and the internet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NetworkPlan {
    /// NATs and firewalls.
    pub profile: Profile,
    /// The peer's own link, between the peer and the first NAT or firewall.
    pub link: LinkSettings,
    /// IP versions. IPv6 is never translated: a NAT acts as a firewall for IPv6 (RFC 6092).
    pub ip: IpVersions,
    /// MTU of the outermost hop in bytes; larger packets are silently dropped, as in a tunnel whose ICMP
    /// messages are lost.
    pub mtu: Option<u16>,
}

/// A lab to build.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabPlan {
    /// Network of peer A.
    pub a: NetworkPlan,
    /// Network of peer B.
    pub b: NetworkPlan,
    /// Both peers are behind the same machines, on two LANs isolated from each other; both have the same
    /// profile.
    pub shared: bool,
    /// Other networks that A and B can move to while the lab runs; at most six in total.
    pub other_networks: [Vec<NetworkPlan>; 2],
    /// Whether links can be changed while the lab runs, including links that are initially clear.
    pub changing: bool,
    /// Random seed of the links.
    pub seed: u64,
    /// Whether to create a user namespace even as root, where it is not needed.
    pub user_namespace: bool,
    /// The `orion-peer` executable to run inside; this program if `None`.
    pub orion_peer: Option<PathBuf>,
}

/// Where in a lab a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Location {
    /// At peer A.
    A,
    /// At peer B.
    B,
    /// On the internet, with the servers at 203.0.113.10 and .11.
    Internet,
}

impl Location {
    /// Index of the peer, 0 for A and 1 for B. The internet is not a peer, has no link and does not move.
    #[must_use]
    pub fn peer(self) -> usize {
        usize::from(self == Self::B)
    }
}

impl LabPlan {
    /// Whether any network has IPv6.
    #[must_use]
    pub fn has_v6(&self) -> bool {
        let other_networks = self.other_networks.iter().flatten();
        [&self.a, &self.b].into_iter().chain(other_networks).any(|network| network.ip.has_v6())
    }
}
