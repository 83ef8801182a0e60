//! Whether this machine's addresses have changed so that a connection has to move.

use std::net::IpAddr;

use crate::peer::config::LocalNetwork;

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// An address is gone, and there is no other but loopback.
    Nowhere,
    /// An address is gone; these are there now.
    To(Vec<IpAddr>),
}

/// The addresses that were there at the last look.
pub(super) struct NetworkWatch {
    network: LocalNetwork,
    known: Vec<IpAddr>,
    /// There has been nowhere to go since.
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

    /// Looks again.
    pub(super) fn look(&mut self) -> Option<Move> {
        let now = self.network.addresses();
        self.compare(now)
    }

    /// An address more is no reason to move, one that is gone is; but not before there is another.
    fn compare(&mut self, now: Vec<IpAddr>) -> Option<Move> {
        let outward = |ip: &&IpAddr| !ip.is_loopback();
        let gone = self.known.iter().filter(outward).any(|ip| !now.contains(ip));
        let anywhere = now.iter().any(|ip| outward(&ip));
        let was_offline = self.offline;
        self.offline = (was_offline || gone) && !anywhere;
        self.known = now;
        match (was_offline || gone, anywhere) {
            (true, true) => Some(Move::To(self.known.clone())),
            (true, false) if !was_offline => Some(Move::Nowhere),
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
    fn an_address_that_goes_is_a_move_once_there_is_another() {
        let network = LocalNetwork { interface: None, v4: true, v6: true, loopback: true };
        let mut watch = NetworkWatch { network, known: ips("127.0.0.1 192.0.2.1"), offline: false };
        let to = |text| Some(Move::To(ips(text)));
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1")), None);
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1 2001:db8::1")), None, "one more");
        assert_eq!(watch.compare(ips("127.0.0.1 192.0.2.1")), to("127.0.0.1 192.0.2.1"));
        assert_eq!(watch.compare(ips("127.0.0.1")), Some(Move::Nowhere));
        assert!(watch.is_offline());
        assert_eq!(watch.compare(ips("127.0.0.1")), None, "told already");
        assert_eq!(watch.compare(ips("127.0.0.1 198.51.100.7")), to("127.0.0.1 198.51.100.7"));
        assert!(!watch.is_offline());
        assert_eq!(watch.compare(ips("127.0.0.1 198.51.100.7")), None, "moved already");
        assert_eq!(watch.compare(ips("203.0.113.5")), to("203.0.113.5"));
    }
}
