//! Predicts whether two peers behind given NATs can reach each other directly: a model of ICE (RFC 8445 §6
//! and §7) with symbols instead of packets. Ports are represented not by numbers but by what they depend
//! on. Each peer sends to every known address of the remote peer until no new addresses are learned.
//!
//! A direct pair requires that one peer sends a check that passes the remote filter, and that the response
//! comes from the address to which the check was sent (§7.2.5.2.1) and passes the peer's own filter.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{Behaviour, Profile};

/// The path between two peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// A connection without a relay.
    Direct,
    /// A connection through a TURN server.
    Relay,
    /// No connection.
    None,
}

impl Path {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// TURN transports that the available servers offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Relays {
    /// TURN over UDP.
    pub udp: bool,
    /// TURN over TCP or TLS.
    pub stream: bool,
}

impl Relays {
    /// Every transport.
    pub const ALL: Self = Self { udp: true, stream: true };

    /// No TURN server.
    pub const NONE: Self = Self { udp: false, stream: false };

    fn serve(self, profile: &Profile) -> bool {
        self.stream || (self.udp && profile.passes_udp())
    }
}

/// A host of the model: one of the peers or the STUN server, each with its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    A,
    B,
    Stun,
}

/// An address as seen from the internet: the host's address, and a port identified by what its mapping
/// depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MappedAddress {
    /// The same port for all remote addresses.
    Only(Host),
    /// A port per remote host.
    For(Host, Host),
    /// A port per remote address: the remote host and the index of its address.
    ForEach(Host, Host, u8),
}

impl MappedAddress {
    fn host(self) -> Host {
        match self {
            Self::Only(host) | Self::For(host, _) | Self::ForEach(host, ..) => host,
        }
    }
}

/// One peer: its NAT behavior and the addresses it has learned.
struct ModelPeer {
    host: Host,
    mapping: Option<Behaviour>,
    filtering: Option<Behaviour>,
    /// Known addresses of the remote peer.
    known: BTreeSet<MappedAddress>,
    /// Each mapping with the addresses to which it has sent.
    sent: BTreeSet<(MappedAddress, MappedAddress)>,
}

impl ModelPeer {
    fn new(host: Host, profile: &Profile) -> Self {
        let mut peer = Self {
            host,
            mapping: profile.mapping(),
            filtering: profile.filtering(),
            known: BTreeSet::new(),
            sent: BTreeSet::new(),
        };
        let stun = MappedAddress::Only(Host::Stun);
        peer.sent.insert((peer.source(stun), stun));
        peer
    }

    /// The source address of this peer's packets to `to`.
    fn source(&self, to: MappedAddress) -> MappedAddress {
        match self.mapping {
            None | Some(Behaviour::EndpointIndependent) => MappedAddress::Only(self.host),
            Some(Behaviour::AddressDependent) => MappedAddress::For(self.host, to.host()),
            // The remote peer has few addresses: a common one, or one for each of our addresses.
            Some(Behaviour::AddressAndPortDependent) => {
                let which = match to {
                    MappedAddress::Only(_) => 0,
                    MappedAddress::For(_, of) | MappedAddress::ForEach(_, of, _) => 1 + of as u8,
                };
                MappedAddress::ForEach(self.host, to.host(), which)
            }
        }
    }

    /// Whether a packet from `from` to the mapping `at` is admitted.
    fn admits(&self, at: MappedAddress, from: MappedAddress) -> bool {
        let mut used = self.sent.iter().filter(|(mapping, _)| *mapping == at).map(|(_, to)| *to);
        if self.mapping.is_none() && self.filtering.is_none() {
            return true;
        }
        match self.filtering {
            None | Some(Behaviour::EndpointIndependent) => used.next().is_some(),
            Some(Behaviour::AddressDependent) => used.any(|to| to.host() == from.host()),
            Some(Behaviour::AddressAndPortDependent) => used.any(|to| to == from),
        }
    }

    /// Sends a check to every known address.
    fn send(&mut self) {
        let checks: Vec<_> = self.known.iter().map(|&to| (self.source(to), to)).collect();
        self.sent.extend(checks);
    }
}

/// Whether a check from `x` to some address of `y` arrives, and its response as well. Adds the addresses of
/// `x` that `y` learns from arriving checks.
fn check(x: &ModelPeer, y: &mut ModelPeer) -> bool {
    let mut good = false;
    for &to in &x.known {
        let from = x.source(to);
        if !y.admits(to, from) {
            continue;
        }
        y.known.insert(from);
        let answered_from = y.source(from);
        good |= answered_from == to && x.admits(from, answered_from);
    }
    good
}

fn is_direct(a: &Profile, b: &Profile) -> bool {
    if !a.passes_udp() || !b.passes_udp() {
        return false;
    }
    let (mut a, mut b) = (ModelPeer::new(Host::A, a), ModelPeer::new(Host::B, b));
    let stun = MappedAddress::Only(Host::Stun);
    a.known.insert(b.source(stun));
    b.known.insert(a.source(stun));
    // In each round, each peer may learn a few addresses; it has fewer than 16.
    for _ in 0..16 {
        a.send();
        b.send();
        let there = check(&a, &mut b);
        if there || check(&b, &mut a) {
            return true;
        }
    }
    false
}

/// The expected path between a peer behind `a` and one behind `b`, on separate networks, using ICE with a
/// STUN server and these relays.
#[must_use]
pub fn expected(a: &Profile, b: &Profile, relays: Relays) -> Path {
    if is_direct(a, b) {
        Path::Direct
    } else if relays.serve(a) || relays.serve(b) {
        relayed(a, b, relays)
    } else {
        Path::None
    }
}

/// One peer's relay suffices if the remote peer's packets reach it over UDP.
fn relayed(a: &Profile, b: &Profile, relays: Relays) -> Path {
    let one_way = |x: &Profile, y: &Profile| relays.serve(x) && (y.passes_udp() || relays.serve(y));
    if one_way(a, b) || one_way(b, a) { Path::Relay } else { Path::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::profile::MATRIX;

    /// Measured with netfilter and with an in-process NAT, with coturn as the server.
    const MEASURED: [&str; 9] = [
        "DDDDDDDDR",
        "DDDDDRDRR",
        "DDDDDDDDR",
        "DDDDDDDDR",
        "DDDDDRDRR",
        "DRDDRRRRR",
        "DDDDDRDRR",
        "DRDDRRRRR",
        "RRRRRRRRR",
    ];

    #[test]
    fn theory_matches_measurements() {
        for (a, row) in MATRIX.iter().zip(MEASURED) {
            for (b, cell) in MATRIX.iter().zip(row.chars()) {
                let (pa, pb) = (a.parse().unwrap(), b.parse().unwrap());
                let path = if cell == 'D' { Path::Direct } else { Path::Relay };
                assert_eq!(expected(&pa, &pb, Relays::ALL), path, "{a} and {b}");
            }
        }
    }

    #[test]
    fn the_prediction_is_symmetric() {
        let names = Behaviour::ALL
            .into_iter()
            .flat_map(|m| Behaviour::ALL.map(|f| format!("{}m-{}f", m.initials(), f.initials())));
        let all: Vec<Profile> = names.map(|name| name.parse().unwrap()).collect();
        for a in &all {
            for b in &all {
                let both = [expected(a, b, Relays::ALL), expected(b, a, Relays::ALL)];
                assert_eq!(both[0], both[1], "{a} and {b}");
            }
        }
    }

    #[test]
    fn without_a_suitable_relay_there_is_no_path() {
        let path =
            |a: &str, b: &str, relays| expected(&a.parse().unwrap(), &b.parse().unwrap(), relays);
        let udp = Relays { udp: true, stream: false };
        assert_eq!(path("sym", "sym", udp), Path::Relay);
        assert_eq!(path("sym", "sym", Relays::NONE), Path::None);
        assert_eq!(path("port", "port", Relays::NONE), Path::Direct);
        assert_eq!(path("udp-blocked", "none", udp), Path::None);
        assert_eq!(path("udp-blocked", "udp-blocked", Relays::ALL), Path::Relay);
    }
}
