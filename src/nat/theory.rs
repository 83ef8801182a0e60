//! Whether two peers behind given NATs can reach each other directly: ICE (RFC 8445 §6 and §7) played
//! through on symbols instead of packets. Ports have no numbers here, only what they depend on; every
//! peer sends to every address of the other that it knows, until nothing new is learnt.
//!
//! A direct pair needs, from one end: a check that passes the other's filter, sent to an address whose
//! answer comes back from that same address (§7.2.5.2.1 demands it) and passes the own filter.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::{Behaviour, Profile};

/// How two peers get together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// Without a relay.
    Direct,
    /// Through a TURN server.
    Relay,
    /// Not at all.
    None,
}

impl Path {
    /// As in JSON.
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

/// What the TURN servers around offer.
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

    /// No TURN server at all.
    pub const NONE: Self = Self { udp: false, stream: false };

    fn serve(self, profile: &Profile) -> bool {
        self.stream || (self.udp && profile.passes_udp())
    }
}

/// A host of the play: one of the peers, or the STUN server, each with an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    A,
    B,
    Stun,
}

/// An address as the internet sees it: the host's, and the port by what its mapping depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// One port for all.
    Only(Host),
    /// A port for each remote host.
    For(Host, Host),
    /// A port for each remote address: of that host, and which of its addresses.
    ForEach(Host, Host, u8),
}

impl Seen {
    fn host(self) -> Host {
        match self {
            Self::Only(host) | Self::For(host, _) | Self::ForEach(host, ..) => host,
        }
    }
}

/// One peer: what it lets through, and what it has learnt.
struct Side {
    host: Host,
    mapping: Option<Behaviour>,
    filtering: Option<Behaviour>,
    /// Addresses of the other side.
    known: BTreeSet<Seen>,
    /// Each mapping and the addresses it was used towards.
    sent: BTreeSet<(Seen, Seen)>,
}

impl Side {
    fn new(host: Host, profile: &Profile) -> Self {
        let mut side = Self {
            host,
            mapping: profile.mapping(),
            filtering: profile.filtering(),
            known: BTreeSet::new(),
            sent: BTreeSet::new(),
        };
        let stun = Seen::Only(Host::Stun);
        side.sent.insert((side.source(stun), stun));
        side
    }

    /// The address its packets to there come from.
    fn source(&self, to: Seen) -> Seen {
        match self.mapping {
            None | Some(Behaviour::EndpointIndependent) => Seen::Only(self.host),
            Some(Behaviour::AddressDependent) => Seen::For(self.host, to.host()),
            // The other side has few addresses: the one everybody sees, and those for each of ours.
            Some(Behaviour::AddressAndPortDependent) => {
                let which = match to {
                    Seen::Only(_) => 0,
                    Seen::For(_, of) | Seen::ForEach(_, of, _) => 1 + of as u8,
                };
                Seen::ForEach(self.host, to.host(), which)
            }
        }
    }

    /// Whether a packet from there to that mapping comes in.
    fn admits(&self, at: Seen, from: Seen) -> bool {
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

/// Whether a check of `x` to some address of `y` arrives and its answer does; what `y` learns of `x`
/// by checks that arrive is kept.
fn check(x: &Side, y: &mut Side) -> bool {
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
    let (mut a, mut b) = (Side::new(Host::A, a), Side::new(Host::B, b));
    let stun = Seen::Only(Host::Stun);
    a.known.insert(b.source(stun));
    b.known.insert(a.source(stun));
    // Each round may teach each side a few addresses; there are fewer than 16 of each.
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

/// How a peer behind `a` and one behind `b`, on networks of their own, get together by ICE with a STUN
/// server and these relays.
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

/// A relay of one side is enough when the other side's packets reach it by UDP.
fn relayed(a: &Profile, b: &Profile, relays: Relays) -> Path {
    let one_way = |x: &Profile, y: &Profile| relays.serve(x) && (y.passes_udp() || relays.serve(y));
    if one_way(a, b) || one_way(b, a) { Path::Relay } else { Path::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::profile::MATRIX;

    /// Measured with netfilter and with an in-process NAT, against coturn.
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
    fn theory_is_what_was_measured() {
        for (a, row) in MATRIX.iter().zip(MEASURED) {
            for (b, cell) in MATRIX.iter().zip(row.chars()) {
                let (pa, pb) = (a.parse().unwrap(), b.parse().unwrap());
                let path = if cell == 'D' { Path::Direct } else { Path::Relay };
                assert_eq!(expected(&pa, &pb, Relays::ALL), path, "{a} and {b}");
            }
        }
    }

    #[test]
    fn it_is_the_same_from_both_sides() {
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
    fn without_a_relay_that_fits_there_is_no_way() {
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
