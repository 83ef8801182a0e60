//! Detects changes of this machine's addresses that require a connection to move.

use std::net::IpAddr;

use crate::peer::local_network::LocalNetwork;

/// A change of the network.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// An address is gone, and only loopback is left.
    Offline,
    /// An address is gone; these are the current ones.
    To(Vec<IpAddr>),
}

/// The addresses found by the last poll.
pub(super) struct NetworkWatch {
    network: LocalNetwork,
    known: Vec<IpAddr>,
    /// No address but loopback has been available since.
    offline: bool,
}

impl NetworkWatch {
    pub(super) fn new(network: LocalNetwork) -> Self {
        let known = network.addresses();
        Self { network, known, offline: false }
    }

    /// Whether there is no address but loopback.
    pub(super) fn is_offline(&self) -> bool {
        self.offline
    }

    /// Polls the addresses.
    pub(super) fn poll(&mut self) -> Option<Move> {
        let now = self.network.addresses();
        self.compare(now)
    }

    /// Only the removal of an address requires a move, and only once another address is available.
    fn compare(&mut self, now: Vec<IpAddr>) -> Option<Move> {
        let outward = |ip: &&IpAddr| !ip.is_loopback();
        let gone = self.known.iter().filter(outward).any(|ip| !now.contains(ip));
        let anywhere = now.iter().any(|ip| outward(&ip));
        let was_offline = self.offline;
        self.offline = (was_offline || gone) && !anywhere;
        self.known = now;
        match (was_offline || gone, anywhere) {
            (true, true) => Some(Move::To(self.known.clone())),
            (true, false) if !was_offline => Some(Move::Offline),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_removed_address_is_a_move_once_another_is_available() {
        let network = LocalNetwork { interface: None, v4: true, v6: true, loopback: true };
        let mut watch = NetworkWatch { network, known: ips("127.0.0.1 192.0.2.1"), offline: false };
        let to = |text| Some(Move::To(ips(text)));
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1")), None);
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1 2001:db8::1")), None, "one more");
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1")), to("127.0.0.1 192.0.2.1"));
        assert_eq!(watch.compare(ips("127.0.0.1")), Some(Move::Offline));
        assert!(watch.is_offline());
        assert_eq!(watch.compare(ips("127.0.0.1")), None, "already reported");
        assert_eq!(watch.compare(ips("127.0.0.1 198.51.100.7")), to("127.0.0.1 198.51.100.7"));
        assert!(!watch.is_offline());
        assert_eq!(watch.compare(ips("127.0.0.1 198.51.100.7")), None, "already moved");
        assert_eq!(watch.compare(ips("203.0.113.5")), to("203.0.113.5"));
    }
}
