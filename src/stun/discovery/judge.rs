//! Derives the behavior of a NAT, in the terms of RFC 4787, from the observations.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::nat::{Behaviour, Ports};

/// The range in which a behavior is known to lie. How narrow it is depends on the available servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The behavior is at least as strict as this.
    pub at_least: Behaviour,
    /// The behavior is at most as strict as this.
    pub at_most: Behaviour,
}

impl Bounds {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        at_least: Behaviour::EndpointIndependent,
        at_most: Behaviour::AddressAndPortDependent,
    };

    /// The range that contains only this behavior.
    #[must_use]
    pub fn exactly(behaviour: Behaviour) -> Self {
        Self { at_least: behaviour, at_most: behaviour }
    }

    /// The behavior, if it is known exactly.
    #[must_use]
    pub fn exact(self) -> Option<Behaviour> {
        (self.at_least == self.at_most).then_some(self.at_least)
    }

    /// Combines the results of two tests; if they contradict each other, the stricter one takes
    /// precedence.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let at_least = self.at_least.max(other.at_least);
        Self { at_least, at_most: self.at_most.min(other.at_most).max(at_least) }
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.exact(), *self) {
            (Some(behaviour), _) => f.write_str(behaviour.as_str()),
            (None, Self::UNKNOWN) => f.write_str("unknown"),
            (None, Self { at_least, at_most }) => write!(f, "{at_least} or {at_most}"),
        }
    }
}

/// The external address of one of our sockets, as seen by a server or peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// The server or peer that saw the address.
    pub server: SocketAddr,
    /// The external address.
    pub mapped: SocketAddr,
    /// Time until the answer, including retransmissions.
    pub took: Option<Duration>,
}

/// The outcome of a request that is to be answered from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// The request was never sent, or it is still open.
    NotMade,
    /// The answer came from the requested address.
    Arrived,
    /// No answer arrived.
    Silent,
    /// The server rejected the request or answered from the usual address.
    Ignored,
}

/// The observations of the filtering test (RFC 5780 §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilteringTest {
    /// A server with another address, and that address.
    pub other: Option<(SocketAddr, SocketAddr)>,
    /// Whether the other address answers requests sent to it directly. If it does not, silence is
    /// inconclusive.
    pub other_answers: bool,
    /// The outcome of the request for an answer from another address and port.
    pub both: Round,
    /// The outcome of the request for an answer from another port.
    pub port: Round,
}

impl FilteringTest {
    /// The filtering behavior, as far as the test shows it.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        match (self.both, self.port) {
            (Round::Arrived, _) => Bounds::exactly(EndpointIndependent),
            _ if !self.other_answers => Bounds::UNKNOWN,
            (Round::Silent, Round::Arrived) => Bounds::exactly(AddressDependent),
            (Round::Silent, Round::Silent) => Bounds::exactly(AddressAndPortDependent),
            _ => Bounds::UNKNOWN,
        }
    }

    /// Why the test is inconclusive; `None` if it is conclusive.
    #[must_use]
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.bounds().exact().is_some() {
            return None;
        }
        Some(match (self.other, self.other_answers) {
            (None, _) => "no server has another address (RFC 5780)",
            (Some(_), false) => "the server's other address does not answer",
            (Some(_), true) => "the server does not answer from its other address",
        })
    }
}

/// The findings of a [`super::Discovery`].
#[derive(Debug, Clone, PartialEq)]
pub struct Findings {
    /// The address of the socket of the mapping test.
    pub local: Option<SocketAddr>,
    /// The external address of that socket, as seen by each server that answered.
    pub observed: Vec<Observed>,
    /// Servers that did not answer.
    pub silent: Vec<SocketAddr>,
    /// Whether a NAT translates addresses; `None` if no server answered.
    pub translated: Option<bool>,
    /// The mapping behavior (RFC 4787 §4.1); unknown without a NAT.
    pub mapping: Bounds,
    /// The observations of the filtering test.
    pub filtering_test: FilteringTest,
    /// The filtering behavior (RFC 4787 §5) of the NAT or, without one, of a firewall.
    pub filtering: Bounds,
    /// Whether the NAT supports hairpinning (RFC 4787 §6); `None` without a NAT or if unknown.
    pub hairpinning: Option<bool>,
    /// The port allocation (RFC 4787 §4.2); `None` without a NAT or if too few ports were seen.
    pub ports: Option<Ports>,
}

impl Findings {
    pub(super) fn new(
        local: Option<SocketAddr>,
        observed: Vec<Observed>,
        silent: Vec<SocketAddr>,
        filtering_test: FilteringTest,
        hairpinned: Option<bool>,
        ports: &[(u16, u16)],
    ) -> Self {
        let translated = match (local, observed.as_slice()) {
            (_, []) | (None, _) => None,
            (Some(local), all) => Some(all.iter().any(|seen| seen.mapped != local)),
        };
        let nat = translated == Some(true);
        let known = if nat { mapping(&observed) } else { Bounds::UNKNOWN };
        // If each remote endpoint has its own mapping, a failed attempt is inconclusive.
        let conclusive =
            |seen: &bool| *seen || known.exact() == Some(Behaviour::EndpointIndependent);
        Self {
            local,
            mapping: known,
            filtering: filtering_test.bounds(),
            hairpinning: hairpinned.filter(|seen| nat && conclusive(seen)),
            ports: if nat { port_allocation(ports) } else { None },
            observed,
            silent,
            translated,
            filtering_test,
        }
    }

    /// Whether any server answered over UDP.
    #[must_use]
    pub fn udp_answers(&self) -> bool {
        !self.observed.is_empty()
    }
}

/// The mapping behavior, from the external addresses of one socket as seen by several servers (RFC
/// 5780 §4.3). Servers with different addresses distinguish endpoint-independent mapping from the
/// rest; servers that differ only in their port distinguish address-dependent from
/// address-and-port-dependent mapping.
#[must_use]
pub fn mapping(observed: &[Observed]) -> Bounds {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    let mut known = Bounds::UNKNOWN;
    for (index, one) in observed.iter().enumerate() {
        for another in &observed[index + 1..] {
            let same = one.mapped == another.mapped;
            let at_most = |at_most| Bounds { at_most, ..Bounds::UNKNOWN };
            let at_least = |at_least| Bounds { at_least, ..Bounds::UNKNOWN };
            let seen = match (one.server.ip() == another.server.ip(), same) {
                (true, _) if one.server.port() == another.server.port() => continue,
                (true, true) => at_most(AddressDependent),
                (true, false) => at_least(AddressAndPortDependent),
                (false, true) => at_most(EndpointIndependent),
                (false, false) => at_least(AddressDependent),
            };
            known = known.and(seen);
        }
    }
    known
}

/// Maximum step between two ports that count as sequential: other hosts use ports too.
const MAX_STEP: u16 = 16;

/// The port allocation, from the local and external ports of sockets in the order they were opened.
#[must_use]
pub fn port_allocation(ports: &[(u16, u16)]) -> Option<Ports> {
    if ports.len() < 3 {
        return None;
    }
    let preserved = ports.iter().filter(|(local, mapped)| local == mapped).count();
    if preserved * 2 > ports.len() {
        return Some(Ports::Preserving);
    }
    let rising = |port: fn(u16) -> u16| {
        let steps = ports.windows(2).map(|pair| port(pair[1].1).wrapping_sub(port(pair[0].1)));
        steps.into_iter().all(|step| (1..=MAX_STEP).contains(&step))
    };
    // netfilter's `numgen` increments the port as stored in memory, in network byte order.
    let sequential = rising(|port| port) || rising(u16::swap_bytes);
    Some(if sequential { Ports::Sequential } else { Ports::Random })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Behaviour::{
        AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei,
    };

    fn seen(all: &[(&str, &str)]) -> Bounds {
        let observed: Vec<Observed> = all
            .iter()
            .map(|(server, mapped)| Observed {
                server: server.parse().unwrap(),
                mapped: format!("192.0.2.9:{mapped}").parse().unwrap(),
                took: None,
            })
            .collect();
        mapping(&observed)
    }

    #[test]
    fn mapping_is_known_as_far_as_the_servers_differ() {
        let between = |at_least, at_most| Bounds { at_least, at_most };
        for (all, known) in [
            (&[("1.1.1.1:1", "5")][..], Bounds::UNKNOWN),
            (&[("1.1.1.1:1", "5"), ("2.2.2.2:1", "5")], Bounds::exactly(Ei)),
            (&[("1.1.1.1:1", "5"), ("2.2.2.2:1", "6")], between(Ad, Apd)),
            (&[("1.1.1.1:1", "5"), ("1.1.1.1:2", "5")], between(Ei, Ad)),
            (&[("1.1.1.1:1", "5"), ("1.1.1.1:2", "6")], Bounds::exactly(Apd)),
            (&[("1.1.1.1:1", "5"), ("1.1.1.1:2", "5"), ("2.2.2.2:1", "6")], Bounds::exactly(Ad)),
            (&[("1.1.1.1:1", "5"), ("2.2.2.2:1", "6"), ("2.2.2.2:2", "7")], Bounds::exactly(Apd)),
        ] {
            assert_eq!(seen(all), known, "{all:?}");
        }
    }

    #[test]
    fn bounds_are_displayed_in_words() {
        assert_eq!(Bounds::exactly(Ad).to_string(), "address-dependent");
        assert_eq!(Bounds::UNKNOWN.to_string(), "unknown");
        let either = Bounds { at_least: Ei, at_most: Ad };
        assert_eq!(either.to_string(), "endpoint-independent or address-dependent");
        assert_eq!(Bounds::exactly(Ei).and(Bounds::exactly(Apd)), Bounds::exactly(Apd));
    }

    #[test]
    fn ports_are_preserved_sequential_or_random() {
        let ports = |mapped: [u16; 5]| {
            let all: Vec<_> = (0..5).map(|n| (5000 + 3 * n, mapped[usize::from(n)])).collect();
            port_allocation(&all)
        };
        assert_eq!(ports([5000, 5003, 5006, 5009, 5012]), Some(Ports::Preserving));
        assert_eq!(ports([5000, 5003, 40_000, 5009, 5012]), Some(Ports::Preserving));
        assert_eq!(ports([65_534, 65_535, 1, 4, 5]), Some(Ports::Sequential));
        let swapped = [40_000u16, 40_001, 40_003, 40_192, 40_193].map(u16::swap_bytes);
        assert_eq!(ports(swapped), Some(Ports::Random));
        let swapped = [40_191u16, 40_192, 40_193, 40_195, 40_196].map(u16::swap_bytes);
        assert_eq!(ports(swapped), Some(Ports::Sequential));
        assert_eq!(ports([9, 30_000, 4_000, 60_000, 17]), Some(Ports::Random));
        assert_eq!(port_allocation(&[(1, 1), (2, 2)]), None);
    }

    #[test]
    fn silence_of_a_nonexistent_server_is_not_filtering() {
        let test = FilteringTest {
            other: None,
            other_answers: false,
            both: Round::Silent,
            port: Round::Silent,
        };
        assert_eq!(test.bounds(), Bounds::UNKNOWN);
        assert!(test.obstacle().unwrap().contains("RFC 5780"));
        let alive = FilteringTest { other_answers: true, ..test };
        assert_eq!(alive.bounds(), Bounds::exactly(Apd));
        let ignored = FilteringTest { both: Round::Ignored, port: Round::Ignored, ..alive };
        assert_eq!(ignored.bounds(), Bounds::UNKNOWN);
    }
}
